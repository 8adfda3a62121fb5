"""The viewer of recordings: frame by frame, with the keys, a timeline to drag along, and damaged frames marked.

Shows only what was recorded, without the game and its weights; ``--verify`` computes it again.
"""

from __future__ import annotations

import threading
import time

import numpy as np

from game.play.keyboard import Event
from game.play.screen import Hud, Screen, Timeline
from world_model.episode import EpisodeError, Session

KEYS = ("space", "left", "right", "end", "page up", "page down", "j")
HELP = "Space plays, left and right step, Page a second, J next damage, or drag the line"
TOGGLES = {"h": "visible", "f": "fullscreen", "f3": "research"}
HOLD = 0.35  # seconds that a step's key is held before it repeats
MARGIN = 0.045  # on both sides of the timeline, in frame widths
LINE = 0.85  # frame heights; a press below this is on the timeline


class Viewer:
    """``run`` shows a session on a screen until the person leaves. Raises EpisodeError for one without frames."""

    def __init__(self, session: Session, screen: Screen):
        if not len(session):
            raise EpisodeError(
                f"{session.path}: no frame of it can be read; {'; '.join(session.damage) or 'it has none'}"
            )
        self.session, self.screen = session, screen
        self.at, self.playing = 0, True
        try:
            self._anchors = session.anchors
        except EpisodeError:
            self._anchors = None  # damaged; the rest can be viewed
        self._running, self._dragging = True, False
        self._hud = {"visible": True, "fullscreen": False, "research": False}
        self._stepping: tuple[int, float] | None = None  # frames a step, and when its key went down
        self._damaged: list[int] = []
        self._actions = {
            "escape": self._leave,
            "space": self._pause,
            "p": self._pause,
            "f1": lambda: self._jump(self.at),  # the keys are told of while it stands still
            "j": self._to_damage,
        }
        self._steps = {"left": -1, "right": 1, "page up": -session.meta.fps, "page down": session.meta.fps}

    def run(self) -> None:
        threading.Thread(target=self._find_damage, daemon=True).start()
        while self._running:
            next_frame = time.perf_counter() + 1 / self.session.meta.fps
            for event in self.screen.poll():
                self._obey(event)
            self._repeat()
            self.screen.show(*self._current())
            time.sleep(max(0.0, next_frame - time.perf_counter()))
            if self.playing:
                self._go(self.at + 1)
                self.playing = self.at < len(self.session) - 1

    def _find_damage(self) -> None:
        """Decode the whole session once, on a thread and with a file handle of its own."""
        for frames in Session.open(self.session.path).damaged():
            self._damaged += frames.tolist()

    def _current(self) -> tuple[np.ndarray, Hud]:
        meta, notice = self.session.meta, "" if self.playing else HELP
        try:
            frame = self.session.frames(self.at, self.at + 1)[0]
        except EpisodeError as error:
            frame, notice = np.zeros((meta.height, meta.width, 3), np.uint8), str(error)
        timeline = Timeline(self.at, len(self.session), meta.fps, tuple(self._damaged))
        hud = Hud(
            title=meta.world,
            place=self.session.path.name,
            keys=meta.keys,
            anchors=self._anchors,
            fps=meta.fps,
            held=self.session.actions[self.at],
            timeline=timeline,
            notice=notice,
            **self._hud,
        )
        return frame, hud

    def _obey(self, event: Event) -> None:
        if event.kind == "quit":
            self._leave()
        elif event.kind == "down":
            self._press(event.key)
        elif event.kind in ("up", "blur"):
            self._stepping = None
        elif event.kind == "press" and event.over[1] > LINE:
            self._dragging = True
        elif event.kind == "let_go":
            self._dragging = False
        if self._dragging and event.kind in ("press", "drag"):
            share = (event.over[0] - MARGIN) / (1 - 2 * MARGIN)
            self._jump(round(share * (len(self.session) - 1)))

    def _press(self, key: str) -> None:
        if key in self._steps:
            self._stepping = self._steps[key], time.perf_counter()
            self._jump(self.at + self._steps[key])
        elif key in ("home", "end"):
            self._jump(0 if key == "home" else len(self.session))
        elif key in TOGGLES:
            name = TOGGLES[key]
            self._hud[name] = not self._hud[name]
        elif key in self._actions:
            self._actions[key]()

    def _repeat(self) -> None:
        """Step again while a step's key is held."""
        if self._stepping and time.perf_counter() - self._stepping[1] > HOLD:
            self._go(self.at + self._stepping[0])

    def _go(self, frame: int) -> None:
        self.at = min(max(frame, 0), len(self.session) - 1)

    def _jump(self, frame: int) -> None:
        self.playing = False
        self._go(frame)

    def _leave(self) -> None:
        self._running = False

    def _pause(self) -> None:
        """Stop, or play on; at the end, from the start."""
        self.playing = not self.playing
        if self.playing and self.at == len(self.session) - 1:
            self.at = 0

    def _to_damage(self) -> None:
        """Jump to the next damaged frame; after the last, to the first."""
        damaged = sorted(self._damaged)
        if damaged:
            self._jump(next((frame for frame in damaged if frame > self.at), damaged[0]))
