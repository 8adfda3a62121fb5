"""The page's server: one document and one WebSocket, for those who know the token; the first plays, others watch."""

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
MESSAGE_BYTES = 512
"""Bytes of the longest message; a longer one ends the connection."""
TOKEN_WAIT = 10.0
"""Seconds for a visitor to send the token."""
REFUSED, MISUSED = 4401, 4400
"""Close codes: a wrong token; a message that no page sends."""
VIEWERS = 100


class Viewer:
    """A connection and what is still to be sent: the newest frame, the newest words, and every message of ``queue``."""

    def __init__(self, socket: WebSocket):
        self.socket = socket
        self.frame: bytes | None = None
        self.words: str | None = None
        self.queue: list[str] = []
        self.has_news = asyncio.Event()

    def offer(self, frame: bytes | None, words: str | None) -> None:
        """Replace what was not sent yet."""
        self.frame, self.words = frame or self.frame, words or self.words
        self.has_news.set()

    def enqueue(self, words: str) -> None:
        """Send ``words`` in any case."""
        self.queue.append(words)
        self.has_news.set()

    async def send(self) -> None:
        """Send all that waits, as fast as this viewer takes it, until the connection ends."""
        with suppress(WebSocketDisconnect, RuntimeError):
            while True:
                await self.has_news.wait()
                self.has_news.clear()
                texts, frame = [*self.queue, *([self.words] if self.words else [])], self.frame
                self.queue, self.words, self.frame = [], None, None
                for text in texts:
                    await self.socket.send_text(text)
                if frame is not None:
                    await self.socket.send_bytes(frame)


class Server:
    """Serves from a thread of its own until ``close``. ``publish`` a frame and words to everybody.

    hello: the first message to a page. receive: called with each message of the player, and with None when the player
    leaves; False ends the connection. count: called with the number of viewers. ``address`` has the token behind #,
    which browsers never send: so no log has it.
    """

    def __init__(self, host: str, port: int, hello: dict, receive: Callable[[str | None], bool],
                 count: Callable[[int], None]):  # fmt: skip
        self._hello, self._receive, self._count = hello, receive, count
        self._token = secrets.token_urlsafe(18)
        self._viewers: list[Viewer] = []
        self._last: tuple[bytes | None, str | None] = None, None
        routes = [Route("/", lambda request: FileResponse(DOCUMENT)), WebSocketRoute("/game", self._visit)]
        config = uvicorn.Config(Starlette(routes=routes), log_level="critical", lifespan="off", ws="websockets-sansio",
                                ws_max_size=MESSAGE_BYTES, timeout_graceful_shutdown=1)  # fmt: skip
        self._server = uvicorn.Server(config)
        self._socket = _listening(host, port)
        shown = f"[{host}]" if ":" in host else host
        self.address = f"http://{shown}:{self._socket.getsockname()[1]}/#{self._token}"
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="page", daemon=True)
        self._thread.start()

    def publish(self, frame: bytes, words: str) -> None:
        """Offer a frame and words to every viewer; returns at once."""
        with suppress(RuntimeError):  # the loop has ended
            self._loop.call_soon_threadsafe(self._offer, frame, words)

    def close(self) -> None:
        self._server.should_exit = True
        self._thread.join(timeout=5)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._server.serve([self._socket]))

    def _offer(self, frame: bytes, words: str) -> None:
        new_words, self._last = words if words != self._last[1] else None, (frame, words)
        for viewer in self._viewers:
            viewer.offer(frame, new_words)

    async def _visit(self, socket: WebSocket) -> None:
        await socket.accept()
        if not await self._admit(socket):
            return
        viewer = Viewer(socket)
        self._viewers.append(viewer)
        viewer.enqueue(json.dumps(self._hello))
        viewer.offer(*self._last)
        self._tell_roles()
        sends = asyncio.create_task(viewer.send())
        try:
            await self._listen(viewer)
        except (WebSocketDisconnect, RuntimeError):
            pass  # the viewer left
        finally:
            sends.cancel()
            self._remove(viewer)

    async def _admit(self, socket: WebSocket) -> bool:
        try:
            shown = await asyncio.wait_for(socket.receive_text(), TOKEN_WAIT)
        except (TimeoutError, WebSocketDisconnect, KeyError):
            shown = ""
        is_welcome = secrets.compare_digest(shown.encode(), self._token.encode()) and len(self._viewers) < VIEWERS
        if not is_welcome:
            with suppress(RuntimeError, WebSocketDisconnect):
                await socket.close(REFUSED)
        return is_welcome

    async def _listen(self, viewer: Viewer) -> None:
        """Receive messages; only those of the player count."""
        while True:
            try:
                text = await viewer.socket.receive_text()
            except KeyError:  # bytes instead of text
                text = ""
            if viewer is self._viewers[0] and not self._receive(text):
                await viewer.socket.close(MISUSED)
                return

    def _remove(self, viewer: Viewer) -> None:
        is_player = viewer is self._viewers[0]
        self._viewers.remove(viewer)
        if is_player:
            self._receive(None)
        self._tell_roles()

    def _tell_roles(self) -> None:
        """Tell every viewer whether it plays: the one who is here longest does."""
        for place, viewer in enumerate(self._viewers):
            viewer.enqueue(json.dumps({"plays": place == 0, "watching": len(self._viewers) - 1}))
        self._count(len(self._viewers))


def _listening(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen()  # connections wait here until the server's thread runs
    except (OSError, OverflowError) as error:
        listener.close()
        raise OSError(f"cannot serve on {host}:{port} ({error})") from error
    return listener
