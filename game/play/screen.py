"""What a player is shown, as data, and a screen without a display. The window is in ``window.py``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from game.draw.map_canvas import Box, MapCanvas
from game.play.keyboard import Event

MENU_PAGE, MENU_ROW = 5, 0.14
"""Entries on a page of the menu, and the height of a row in units of the panel's height."""


@dataclass(frozen=True)
class Entry:
    """A world in the menu. about: a line of text; picture: uint8 [H, W, 3], None until there is one; drawable: whether
    its map can be drawn."""

    name: str
    about: str
    picture: np.ndarray | None
    drawable: bool = False


@dataclass(frozen=True)
class Menu:
    """The worlds to choose from, a page of them visible, and the number of the selected one."""

    entries: tuple[Entry, ...]
    chosen: int

    def rows(self) -> list[tuple[int, Box]]:
        """The numbers of the visible entries, and their boxes in units of the panel's height."""
        first = self.chosen // MENU_PAGE * MENU_PAGE
        numbers = range(first, min(first + MENU_PAGE, len(self.entries)))
        return [(n, Box(0, 0.12 + MENU_ROW * (n - first), 1, MENU_ROW)) for n in numbers]

    def at(self, x: float, y: float) -> int | None:
        """The number of the entry at (x, y) of the panel."""
        return next((number for number, box in self.rows() if box.holds(x, y)), None)


@dataclass(frozen=True)
class Timeline:
    """The viewer's place in a recording: frame ``at`` of ``length``, and the frames known to be damaged."""

    at: int
    length: int
    fps: int
    damaged: tuple[int, ...] = ()


@dataclass(frozen=True)
class Hud:
    """Everything that is drawn on and beside a frame. Figures are None until they are measured."""

    title: str = ""
    place: str = ""
    keys: tuple[str, ...] = ()
    meanings: Mapping[str, str] = field(default_factory=dict)  # of keys, in words
    held: np.ndarray | None = None  # int8 [keys]
    anchors: np.ndarray | None = None  # uint8 [n, H, W, 3]
    present: int | None = None  # where the anchors are a map, the number of the one on the screen
    runs: str = ""  # what computes the frames, and on what
    fps: float | None = None
    slow_of: float | None = None  # the wanted frames a second, where they are not reached
    tick_ms: float | None = None
    key_to_photon_ms: float | None = None
    recording: float | None = None  # seconds so far; None while not recording
    answers: tuple[float, ...] = ()  # arrivals of the key events that this frame is the first to show, seconds
    collapse: str | None = None  # the kind of the picture's collapse, if one was detected
    reprimes: int = 0  # how often the game was primed again after a collapse
    score: float | None = None  # sum of the episode's rewards; None in a game without any
    rewound: float | None = None  # seconds gone back so far; None while time runs forwards
    behind: float = 0.0  # seconds that one can still go back
    canvas: MapCanvas | None = None  # the map being drawn, instead of the panel
    timeline: Timeline | None = None  # of a recording, over the frame
    menu: Menu | None = None  # instead of the panel
    beside: tuple[str, np.ndarray] | None = None  # whose frame stands beside, and that frame, uint8 [H, W, 3]
    notice: str = ""
    paused: bool = False
    visible: bool = True
    fullscreen: bool = False
    help: bool = False
    research: bool = False  # show the researcher's figures, too
    drawable: bool = False  # the map can be drawn

    @property
    def rate(self) -> str:
        """The frames a second, in words."""
        now = "–" if self.fps is None else f"{self.fps:.0f}"
        return f"{now} frames a second" if self.slow_of is None else f"slow: {now} of {self.slow_of:g} frames a second"

    @property
    def scored(self) -> str:
        """The score, in words; "" where there is none."""
        return "" if self.score is None else f"score {round(self.score, 2) + 0:,.10g}"


class Screen(Protocol):
    """Shows frames and returns events. ``show`` returns when the frame is visible."""

    def poll(self) -> list[Event]: ...

    def show(self, frame: np.ndarray, hud: Hud) -> None: ...

    def close(self) -> None: ...


class Headless:
    """A screen without a display and without events."""

    def poll(self) -> list[Event]:
        return []

    def show(self, frame: np.ndarray, hud: Hud) -> None:
        self.frame = frame

    def close(self) -> None:
        pass
