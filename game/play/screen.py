"""What a player is shown, as data, and the screen that shows nothing. The window is in ``window.py``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from game.draw.map_canvas import Box, MapCanvas
from game.play.keyboard import Event

MENU_PAGE, MENU_ROW = 5, 0.14
"""Entries of the menu that are seen at a time, and a row's height in units of the panel's."""


@dataclass(frozen=True)
class Entry:
    """A world in the menu: its name, a line about it, its picture, uint8 [H, W, 3], once there is one, and whether its
    map can be drawn."""

    name: str
    about: str
    picture: np.ndarray | None
    drawable: bool = False


@dataclass(frozen=True)
class Menu:
    """The worlds that can be chosen, and the number of the one that would be. A page of them is seen at a time."""

    entries: tuple[Entry, ...]
    chosen: int

    def rows(self) -> list[tuple[int, Box]]:
        """The numbers of the entries that are seen, and their places in units of the panel's height."""
        first = self.chosen // MENU_PAGE * MENU_PAGE
        numbers = range(first, min(first + MENU_PAGE, len(self.entries)))
        return [(n, Box(0, 0.12 + MENU_ROW * (n - first), 1, MENU_ROW)) for n in numbers]

    def at(self, x: float, y: float) -> int | None:
        """The number of the entry under a place of the panel."""
        return next((number for number, box in self.rows() if box.holds(x, y)), None)


@dataclass(frozen=True)
class Timeline:
    """Where in a recording one is: frame ``at`` of ``length``, and the frames known to be damaged."""

    at: int
    length: int
    fps: int
    damaged: tuple[int, ...] = ()


@dataclass(frozen=True)
class Hud:
    """Everything drawn on and beside a frame. Figures are None until they are known."""

    title: str = ""
    place: str = ""
    keys: tuple[str, ...] = ()
    held: np.ndarray | None = None  # int8 [keys]
    anchors: np.ndarray | None = None  # uint8 [n, H, W, 3]
    present: int | None = None  # where the anchors are a map, the one that is on the screen
    runs: str = ""  # what computes the frames, and on what
    fps: float | None = None
    slow_of: float | None = None  # the frames a second that were wanted, where they are not reached
    tick_ms: float | None = None
    key_to_photon_ms: float | None = None
    recording: float | None = None  # seconds so far; None while not recording
    answers: tuple[float, ...] = ()  # when the key events came that this frame shows for the first time
    collapse: str | None = None  # what became of the picture; None while it lives, and where nobody looks
    reprimes: int = 0  # how often it was begun again
    rewound: float | None = None  # seconds gone back while the key is held; None while time runs forwards
    behind: float = 0.0  # seconds that one can still go back
    canvas: MapCanvas | None = None  # instead of the panel: the map, being drawn
    timeline: Timeline | None = None  # over the frame: of a recording that is looked at
    menu: Menu | None = None  # instead of the panel: worlds to choose from
    beside: tuple[str, np.ndarray] | None = None  # another frame, uint8 [H, W, 3], and whose it is
    notice: str = ""
    paused: bool = False
    visible: bool = True
    fullscreen: bool = False
    help: bool = False
    research: bool = False  # the panel has the researcher's figures, too
    drawable: bool = False  # the map can be drawn

    @property
    def rate(self) -> str:
        """The frames a second, in words."""
        now = "–" if self.fps is None else f"{self.fps:.0f}"
        return f"{now} frames a second" if self.slow_of is None else f"slow: {now} of {self.slow_of:g} frames a second"


class Screen(Protocol):
    """Where frames go and events come from. ``show`` returns when the frame is out."""

    def poll(self) -> list[Event]: ...

    def show(self, frame: np.ndarray, hud: Hud) -> None: ...

    def close(self) -> None: ...


class Headless:
    """A screen without a display: no events come, and a frame is out when it is handed over."""

    def poll(self) -> list[Event]:
        return []

    def show(self, frame: np.ndarray, hud: Hud) -> None:
        self.frame = frame

    def close(self) -> None:
        pass
