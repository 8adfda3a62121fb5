"""A screen that is a web page: sends frames to all viewers and receives the keys of the one who plays.

A slow viewer never slows the game: for each only the newest frame waits to be sent.
"""

from __future__ import annotations

import json
import queue
import struct
import threading
import time
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

import cv2
import numpy as np

from game.play.keyboard import ARROWS, REWIND, Event
from game.play.screen import Hud
from game.serve.server import Server

COMMANDS = ("p", "n", "home", "r", "f5", "f9", "f11", "f12", "t")
"""Keys of the commands that a page may give: none that ends the game or needs the window."""
HEADER = struct.Struct("<II")
"""Before each PNG: the number of the newest key event that it is the first to show, 0 for none; and the tick."""
KEPT = 10_000  # latencies
VIEWER_WAIT = 0.1  # seconds that a poll waits while nobody is connected


@dataclass(frozen=True)
class Message:
    """A message of the page: a numbered key event, or after how many milliseconds such a key was seen to act."""

    key: str = ""
    down: bool = False
    number: int = 0
    seen_ms: float | None = None


class Page:
    """The page as a Screen. ``latencies_ms``: key to photon by the clock of the player's browser, network included.

    keys: the world's; also: more keys to report. Raises OSError where ``host`` and ``port`` cannot be listened on.
    """

    def __init__(self, keys: tuple[str, ...], title: str, host: str, port: int, also: Iterable[str] = ()):
        self.latencies_ms: deque[float] = deque(maxlen=KEPT)
        self._allowed = {*keys, *COMMANDS, REWIND, *ARROWS, *also}
        self._events: queue.SimpleQueue[tuple[Event, int]] = queue.SimpleQueue()
        self._numbers: dict[float, int] = {}  # {arrival: number} of events that no frame showed yet
        self._ticks = 0
        self._has_viewers = threading.Event()
        hello = {"keys": keys, "also": list(also), "commands": COMMANDS, "rewind": REWIND, "title": title}
        self._server = Server(host, port, hello, self._receive, self._count)
        self.address = self._server.address

    def poll(self) -> list[Event]:
        """The player's events; while nobody is connected, the game waits."""
        if not self._has_viewers.is_set():
            self._has_viewers.wait(VIEWER_WAIT)
        events = []
        while not self._events.empty():
            event, number = self._events.get()
            self._numbers[event.at] = number
            events.append(event)
        return events

    def show(self, frame: np.ndarray, hud: Hud) -> None:
        self._ticks += 1
        shown = max(hud.answers, default=0.0)
        newest = self._numbers.get(shown, 0)
        self._numbers = {at: number for at, number in self._numbers.items() if at > shown}
        _, png = cv2.imencode(".png", frame[..., ::-1], [cv2.IMWRITE_PNG_COMPRESSION, 1])
        self._server.publish(HEADER.pack(newest, self._ticks % 2**32) + png.tobytes(), json.dumps(_words(hud)))

    def latency(self) -> str:
        """The latencies so far, in words."""
        if not self.latencies_ms:
            return "not measured, no key was pressed"
        p50, p95 = np.percentile(self.latencies_ms, [50, 95])
        return f"p50 {p50:.0f} ms, p95 {p95:.0f} ms, {len(self.latencies_ms)} keys"

    def close(self) -> None:
        self._server.close()

    def _receive(self, text: str | None) -> bool:
        """Handle a message of the player, None when the player left; False for a message that no page sends."""
        if text is None:
            self._events.put((Event("blur", at=time.perf_counter()), 0))
            return True
        message = _parse(text)
        if message is None or (message.seen_ms is None and message.key not in self._allowed):
            return False
        if message.seen_ms is not None:
            self.latencies_ms.append(message.seen_ms)
            return True
        self._events.put((Event("down" if message.down else "up", message.key, time.perf_counter()), message.number))
        return True

    def _count(self, viewers: int) -> None:
        (self._has_viewers.set if viewers else self._has_viewers.clear)()


def _parse(text: str) -> Message | None:
    """The message in a text; None where there is none."""
    try:
        fields = json.loads(text)
        if "seen" in fields:
            return Message(seen_ms=float(fields["seen"])) if 0 <= float(fields["seen"]) < 60_000 else None
        key, down, number = fields["key"], fields["down"], fields["number"]
    except (KeyError, TypeError, ValueError, RecursionError):
        return None
    is_valid = isinstance(key, str) and isinstance(down, bool) and type(number) is int and 0 < number < 2**32
    return Message(key, down, number) if is_valid else None


def _words(hud: Hud) -> dict:
    """What the page shows beside the frame."""
    return {
        "place": hud.place,
        "score": hud.scored,
        "rate": hud.rate,
        "figures": {"runs": hud.runs or "the real game", "tick, ms": hud.tick_ms and round(hud.tick_ms, 1)},
        "held": [] if hud.held is None else np.flatnonzero(hud.held).tolist(),
        "notice": "Paused: P goes on" if hud.paused else hud.notice,
        "recording": hud.recording is not None,
        "rewound": hud.rewound,
    }
