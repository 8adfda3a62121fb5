"""A screen that is a web page: frames out to whoever watches, keys in from the one who plays.

A slow viewer never slows the game: each has one place for the newest frame, and what it has not fetched is replaced.
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
"""The player's commands that a page may give; none that ends the game, and none that draws in a window."""
HEADER = struct.Struct("<II")
"""Before each PNG: the number of the newest key event that it shows for the first time, 0 for none; and the tick."""
KEPT = 10_000  # latencies
LONELY = 0.1  # seconds to wait for somebody to come, before looking at the game again


@dataclass(frozen=True)
class Told:
    """What a message of the page says: a key that went down or up, numbered, or when such a key was seen to act."""

    key: str = ""
    down: bool = False
    number: int = 0
    seen_ms: float | None = None


class Page:
    """The page as a Screen. ``latencies_ms`` are key to photon, on the player's own clock, the network's way included.

    keys: the world's; also: others that it tells of. Raises OSError where ``host`` and ``port`` cannot be listened on.
    """

    def __init__(self, keys: tuple[str, ...], title: str, host: str, port: int, also: Iterable[str] = ()):
        self.latencies_ms: deque[float] = deque(maxlen=KEPT)
        self._allowed = {*keys, *COMMANDS, REWIND, *ARROWS, *also}
        self._events: queue.SimpleQueue[tuple[Event, int]] = queue.SimpleQueue()
        self._numbers: dict[float, int] = {}  # of events that no frame answered yet; touched by the game's thread alone
        self._ticks = 0
        self._watched = threading.Event()
        hello = {"keys": keys, "also": list(also), "commands": COMMANDS, "rewind": REWIND, "title": title}
        self._server = Server(host, port, hello, self._heard, self._count)
        self.address = self._server.address

    def poll(self) -> list[Event]:
        """What the player did; while nobody is there, the game waits."""
        if not self._watched.is_set():
            self._watched.wait(LONELY)
        found = []
        while not self._events.empty():
            event, number = self._events.get()
            self._numbers[event.at] = number
            found.append(event)
        return found

    def show(self, frame: np.ndarray, hud: Hud) -> None:
        self._ticks += 1
        answered = max(hud.answers, default=0.0)
        newest = self._numbers.get(answered, 0)
        self._numbers = {at: number for at, number in self._numbers.items() if at > answered}
        _, png = cv2.imencode(".png", frame[..., ::-1], [cv2.IMWRITE_PNG_COMPRESSION, 1])
        self._server.publish(HEADER.pack(newest, self._ticks % 2**32) + png.tobytes(), json.dumps(_words(hud)))

    def latency(self) -> str:
        """The figures so far, in words."""
        if not self.latencies_ms:
            return "not measured, no key was pressed"
        middle, most = np.percentile(self.latencies_ms, [50, 95])
        return f"p50 {middle:.0f} ms, p95 {most:.0f} ms, {len(self.latencies_ms)} keys"

    def close(self) -> None:
        self._server.close()

    def _heard(self, text: str | None) -> bool:
        """A message of the player, None when the player left; whether it was one that a page sends."""
        if text is None:
            self._events.put((Event("blur", at=time.perf_counter()), 0))
            return True
        told = _told(text)
        if told is None or (told.seen_ms is None and told.key not in self._allowed):
            return False
        if told.seen_ms is not None:
            self.latencies_ms.append(told.seen_ms)
            return True
        self._events.put((Event("down" if told.down else "up", told.key, time.perf_counter()), told.number))
        return True

    def _count(self, viewers: int) -> None:
        (self._watched.set if viewers else self._watched.clear)()


def _told(text: str) -> Told | None:
    """A message, or None for what is none."""
    try:
        said = json.loads(text)
        if "seen" in said:
            return Told(seen_ms=float(said["seen"])) if 0 <= float(said["seen"]) < 60_000 else None
        key, down, number = said["key"], said["down"], said["number"]
    except (KeyError, TypeError, ValueError, RecursionError):
        return None
    fits = isinstance(key, str) and isinstance(down, bool) and type(number) is int and 0 < number < 2**32
    return Told(key, down, number) if fits else None


def _words(hud: Hud) -> dict:
    """What the page writes beside the frame."""
    return {
        "place": hud.place,
        "rate": hud.rate,
        "figures": {"runs": hud.runs or "the real game", "tick, ms": hud.tick_ms and round(hud.tick_ms, 1)},
        "held": [] if hud.held is None else np.flatnonzero(hud.held).tolist(),
        "notice": "Paused: P goes on" if hud.paused else hud.notice,
        "recording": hud.recording is not None,
        "rewound": hud.rewound,
    }
