"""Keyboard events in, held keys and commands out. Knows no window and no pygame: events are data.

A tick reads the keyboard once, but a person may press and let go between two ticks. So a key
counts as held for a tick when it is down at the sample or was pressed at any time since the last one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

COMMANDS = {
    "escape": "quit",
    "p": "pause",
    "n": "next_room",
    "home": "restart",
    "r": "record",
    "h": "hud",
    "f": "fullscreen",
    "f1": "help",
    "f3": "research",
    "f5": "save",
    "f9": "load",
    "tab": "draw",
    "t": "teleport",
    "g": "pin",
    "u": "undo",
    "v": "reference",
    "b": "branch",
    "return": "swap",
    "f11": "film",
    "f12": "picture",
}

REWIND = "backspace"
"""While it is held, time runs backwards."""

ARROWS = {"up": "w", "left": "a", "down": "s", "right": "d"}
"""What an arrow key stands for where a world is walked with letters and has no arrows of its own."""


@dataclass(frozen=True)
class Event:
    """One thing the window reports. ``at`` is when it reached us, in seconds of perf_counter.

    kind: "down", "up", "blur" (the window lost the keyboard), "quit" (its close button), or the mouse's: "press",
    "erase" (with its right button), "drag", "hover" (no button is down), "wheel" (key: "up" or "down"), "let_go",
    "drop" (a file).
    """

    kind: str
    key: str = ""  # a name as pygame and the world's YAML write it: "w", "left", "space"; of a drop, the file
    at: float = 0.0
    where: tuple[float, float] = (0.0, 0.0)  # on the map canvas, in units of its side; on the menu, of its height
    over: tuple[float, float] = (-1.0, -1.0)  # the frame, in units of its sides


@dataclass(frozen=True)
class Sample:
    """What one tick is computed with.

    action: int8 [keys], 1 for held. arrivals: when each event that this action shows first reached us.
    """

    action: np.ndarray
    arrivals: tuple[float, ...] = ()


class Keyboard:
    """Held keys of a world, with taps kept, and the player's commands.

    ``feed`` takes events as they come, ``sample`` gives a tick its action, ``commands`` what else was asked;
    ``rewinding`` says whether time is to run backwards.
    Where a world uses a command's key itself, the world has it. Arrows walk where letters do (``ARROWS``);
    ``stands_for``: other keys for the world's, before all else.
    """

    def __init__(self, keys: Sequence[str], stands_for: Mapping[str, str] | None = None):
        self.keys = tuple(keys)
        arrows = {} if set(ARROWS) & set(keys) else {k: v for k, v in ARROWS.items() if v in keys}
        self._stands_for = arrows | dict(stands_for or {})
        self.rewinding = False
        self._held: set[str] = set()
        self._tapped: set[str] = set()
        self._arrivals: list[float] = []
        self._commands: list[str] = []

    def feed(self, events: Iterable[Event]) -> None:
        for event in events:
            event = replace(event, key=self._stands_for.get(event.key, event.key))
            if event.kind == "down":
                self._down(event)
            elif event.kind == "up":
                self._up(event)
            elif event.kind == "blur":
                self._held.clear()  # the releases will go to another window; without this, keys stick
                self.rewinding = False
            elif event.kind == "quit":
                self._commands.append("close")
            elif event.kind == "drop":
                self._commands.append("drop")

    def sample(self) -> Sample:
        """The action of this tick. Forgets the taps and the arrivals: they belong to this tick alone."""
        down = self._held | self._tapped
        action = np.array([key in down for key in self.keys], dtype=np.int8)
        arrivals, self._arrivals = tuple(self._arrivals), []
        self._tapped.clear()
        return Sample(action, arrivals)

    def new_room(self, seed: int) -> None:
        """Play starts afresh: what was tapped before does not count. Keys that are down stay down."""
        self._tapped.clear()
        self._arrivals = []

    def commands(self) -> list[str]:
        """The commands asked for since the last call, in order."""
        asked, self._commands = self._commands, []
        return asked

    def _down(self, event: Event) -> None:
        if event.key in self.keys:
            if event.key not in self._held:  # else it is the system's key repeat
                self._arrivals.append(event.at)
            self._held.add(event.key)
            self._tapped.add(event.key)
        elif event.key in COMMANDS:
            self._commands.append(COMMANDS[event.key])
        elif event.key == REWIND:
            self.rewinding = True

    def _up(self, event: Event) -> None:
        if event.key == REWIND:
            self.rewinding = False
        if event.key not in self._held:
            return
        self._held.discard(event.key)
        if event.key not in self._tapped:  # a tap's own release changes nothing that this tick shows
            self._arrivals.append(event.at)
