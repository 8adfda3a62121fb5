"""What a player is shown, as data, and the screen that shows nothing. The window is in ``window.py``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from game.draw.board import Board
from game.play.keyboard import Event


@dataclass(frozen=True)
class Entry:
    """A world in the menu: its name, a line about it, and its picture, uint8 [H, W, 3], once there is one."""

    name: str
    about: str
    picture: np.ndarray | None


@dataclass(frozen=True)
class Menu:
    """The worlds that can be chosen, and the number of the one that would be."""

    entries: tuple[Entry, ...]
    chosen: int


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
    fps: float | None = None
    tick_ms: float | None = None
    key_to_photon_ms: float | None = None
    recording: float | None = None  # seconds so far; None while not recording
    answers: tuple[float, ...] = ()  # when the key events came that this frame shows for the first time
    collapse: str | None = None  # what became of the picture; None while it lives, and where nobody looks
    reprimes: int = 0  # how often it was begun again
    rewound: float | None = None  # seconds gone back while the key is held; None while time runs forwards
    behind: float = 0.0  # seconds that one can still go back
    board: Board | None = None  # instead of the panel: the map, being drawn
    timeline: Timeline | None = None  # over the frame: of a recording that is looked at
    menu: Menu | None = None  # instead of the panel: worlds to choose from
    beside: tuple[str, np.ndarray] | None = None  # another frame, uint8 [H, W, 3], and whose it is
    notice: str = ""
    paused: bool = False
    visible: bool = True
    fullscreen: bool = False
    help: bool = False


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
