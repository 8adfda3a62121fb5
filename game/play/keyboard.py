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
"""The letter that an arrow key stands for in a world that has these letters and no arrow keys."""


@dataclass(frozen=True)
class Event:
    """An event of the window. ``at`` is when it arrived, in seconds of perf_counter.

    kind: "down", "up", "blur" (the window lost the keyboard), "quit" (its close button), or the mouse's: "press",
    "erase" (with its right button), "drag", "hover" (no button is down), "wheel" (key: "up" or "down"), "let_go",
    "drop" (a file).
    """

    kind: str
    key: str = ""  # a name as pygame and the world's YAML write it: "w", "left", "space"; of a drop, the file
    at: float = 0.0
    where: tuple[float, float] = (0.0, 0.0)  # on the map canvas, in units of its side; on the menu, of its height
    over: tuple[float, float] = (-1.0, -1.0)  # on the frame, in units of its sides


@dataclass(frozen=True)
class Sample:
    """What one tick is computed with.

    action: int8 [keys], 1 for held. arrivals: when the events arrived that this action is the first to show.
    """

    action: np.ndarray
    arrivals: tuple[float, ...] = ()


class Keyboard:
    """Held keys of a world, taps included, and the player's commands.

    ``feed`` takes events, ``sample`` returns the action of a tick, ``commands`` the commands since the last call;
    ``rewinding``: whether the rewind key is down.
    keys: the world's; a command whose key is one of them cannot be given. stands_for: other keys for the world's,
    {key: key of the world}; it goes before ARROWS and the commands. rest: ticks for which a held key does nothing after
    its first, so that in a turn-based game a press is one turn.
    """

    def __init__(self, keys: Sequence[str], stands_for: Mapping[str, str] | None = None, rest: int = 0):
        self.keys = tuple(keys)
        arrows = {} if set(ARROWS) & set(keys) else {k: v for k, v in ARROWS.items() if v in keys}
        self._stands_for = arrows | dict(stands_for or {})
        self._rest = rest
        self.rewinding = False
        self._held: dict[str, int] = {}  # the ticks that have seen it held
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
                self._held.clear()  # another window gets the key releases; without this, keys would stick
                self.rewinding = False
            elif event.kind in ("quit", "drop"):
                self._commands.append({"quit": "close", "drop": "drop"}[event.kind])

    def sample(self) -> Sample:
        """The action of this tick; taps and arrivals count for one tick only."""
        down = self._tapped | {key for key, ticks in self._held.items() if not 0 < ticks <= self._rest}
        self._held = {key: ticks + 1 for key, ticks in self._held.items()}
        action = np.array([key in down for key in self.keys], dtype=np.int8)
        arrivals, self._arrivals = tuple(self._arrivals), []
        self._tapped.clear()
        return Sample(action, arrivals)

    def new_room(self, seed: int) -> None:
        """Forget taps from before the room's start. Keys that are down stay down."""
        self._tapped.clear()
        self._arrivals = []

    def commands(self) -> list[str]:
        """The commands since the last call, in order."""
        commands, self._commands = self._commands, []
        return commands

    def _down(self, event: Event) -> None:
        if event.key in self.keys:
            if event.key not in self._held:  # else it is the system's key repeat
                self._arrivals.append(event.at)
                self._held[event.key] = 0
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
        del self._held[event.key]
        if event.key not in self._tapped:  # a tap's own release changes nothing that this tick shows
            self._arrivals.append(event.at)
