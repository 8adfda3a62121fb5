"""The server behind the page: one document, one WebSocket; a token lets in, the first who comes plays, others watch."""

from __future__ import annotations

import asyncio
import json
import secrets
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import uvicorn
from starlette.applications import Starlette
from starlette.responses import FileResponse
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

DOCUMENT = Path(__file__).with_name("page.html")
MOST = 512
"""Bytes of a message that anybody may send; longer ones end the connection."""
PATIENCE = 10.0
"""Seconds for a visitor to show the token."""
REFUSED, MISUSED = 4401, 4400
"""Why a connection was closed: a wrong token; a message that no page sends."""
VIEWERS = 100


class Viewer:
    """One who watches, and what is still to be sent: the newest frame, the newest words, and all that is ``kept``."""

    def __init__(self, socket: WebSocket):
        self.socket = socket
        self.frame: bytes | None = None
        self.words: str | None = None
        self.kept: list[str] = []
        self.wakes = asyncio.Event()

    def offer(self, frame: bytes | None, words: str | None) -> None:
        """In place of what was not sent yet."""
        self.frame, self.words = frame or self.frame, words or self.words
        self.wakes.set()

    def keep(self, words: str) -> None:
        """To be sent whatever comes."""
        self.kept.append(words)
        self.wakes.set()

    async def send(self) -> None:
        """All that there is, as fast as this viewer takes it."""
        with suppress(WebSocketDisconnect, RuntimeError):
            while True:
                await self.wakes.wait()
                self.wakes.clear()
                texts, frame = [*self.kept, *([self.words] if self.words else [])], self.frame
                self.kept, self.words, self.frame = [], None, None
                for text in texts:
                    await self.socket.send_text(text)
                if frame is not None:
                    await self.socket.send_bytes(frame)


class Server:
    """Serves from a thread of its own until ``close``. ``publish`` a frame and words to everybody.

    hello: what a page is told first. heard: called with each message of the player and with None when the player
    leaves; False ends the connection. count: called with the number of viewers. ``address`` holds the token behind #,
    which browsers never send: no log has it.
    """

    def __init__(self, host: str, port: int, hello: dict, heard: Callable[[str | None], bool],
                 count: Callable[[int], None]):  # fmt: skip
        self._hello, self._heard, self._count = hello, heard, count
        self._token = secrets.token_urlsafe(18)
        self._viewers: list[Viewer] = []
        self._last: tuple[bytes | None, str | None] = None, None
        routes = [Route("/", lambda request: FileResponse(DOCUMENT)), WebSocketRoute("/game", self._visit)]
        config = uvicorn.Config(Starlette(routes=routes), log_level="critical", lifespan="off", ws_max_size=MOST,
                                ws="websockets-sansio", timeout_graceful_shutdown=1)  # fmt: skip
        self._server = uvicorn.Server(config)
        self._listens = _listening(host, port)
        shown = f"[{host}]" if ":" in host else host
        self.address = f"http://{shown}:{self._listens.getsockname()[1]}/#{self._token}"
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="page", daemon=True)
        self._thread.start()

    def publish(self, frame: bytes, words: str) -> None:
        """Returns at once; who has not fetched the frame before never will."""
        with suppress(RuntimeError):  # the loop has ended
            self._loop.call_soon_threadsafe(self._offer, frame, words)

    def close(self) -> None:
        self._server.should_exit = True
        self._thread.join(timeout=5)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._server.serve([self._listens]))

    def _offer(self, frame: bytes, words: str) -> None:
        news, self._last = words if words != self._last[1] else None, (frame, words)
        for viewer in self._viewers:
            viewer.offer(frame, news)

    async def _visit(self, socket: WebSocket) -> None:
        await socket.accept()
        if not await self._let_in(socket):
            return
        viewer = Viewer(socket)
        self._viewers.append(viewer)
        viewer.keep(json.dumps(self._hello))
        viewer.offer(*self._last)
        self._tell_roles()
        sends = asyncio.create_task(viewer.send())
        try:
            await self._listen(viewer)
        except (WebSocketDisconnect, RuntimeError):
            pass  # gone, which is no error
        finally:
            sends.cancel()
            self._gone(viewer)

    async def _let_in(self, socket: WebSocket) -> bool:
        try:
            shown = await asyncio.wait_for(socket.receive_text(), PATIENCE)
        except (TimeoutError, WebSocketDisconnect, KeyError):
            shown = ""
        welcome = secrets.compare_digest(shown.encode(), self._token.encode()) and len(self._viewers) < VIEWERS
        if not welcome:
            with suppress(RuntimeError, WebSocketDisconnect):
                await socket.close(REFUSED)
        return welcome

    async def _listen(self, viewer: Viewer) -> None:
        """Take the messages of the one who plays; those who watch may send none that counts."""
        while True:
            try:
                text = await viewer.socket.receive_text()
            except KeyError:  # bytes instead of text
                text = ""
            if viewer is self._viewers[0] and not self._heard(text):
                await viewer.socket.close(MISUSED)
                return

    def _gone(self, viewer: Viewer) -> None:
        played = viewer is self._viewers[0]
        self._viewers.remove(viewer)
        if played:
            self._heard(None)
        self._tell_roles()

    def _tell_roles(self) -> None:
        """The one who has been here longest plays."""
        for place, viewer in enumerate(self._viewers):
            viewer.keep(json.dumps({"plays": place == 0, "watching": len(self._viewers) - 1}))
        self._count(len(self._viewers))


def _listening(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listens = socket.socket(family, socket.SOCK_STREAM)
    try:
        listens.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listens.bind((host, port))
        listens.listen()  # who comes before the thread runs waits
    except (OSError, OverflowError) as error:
        listens.close()
        raise OSError(f"cannot serve on {host}:{port} ({error})") from error
    return listens
