"""Does the generated picture still live? Four ways a neural game dies, seen on its frames while it is played.

    snapped    in one tick the picture jumped to a sink, from somewhere else; not where the sinks are a map, and
               who walks from room to room jumps so
    saturated  colours at both ends of the scale, or contrast lost or blown against the sinks
    blurred    edges far softer than those of the sinks
    frozen     nothing moves, though keys are held that moved it

Nothing here knows a world: what is sharp, colourful and far is measured on the sinks. A bare wall, a corner or a dark
room are no collapse: a still or an empty picture is one only after several different sets of keys without any effect.
A finding is a pure function of the sinks, the frames and the keys, so replays find the same at the same tick.
"""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np

from world_model.play.maps import nearest

KINDS = ("snapped", "saturated", "blurred", "frozen")  # several may hold: the first is named
CELLS, FINE, COARSE = 32, 64, 16  # cells a side: for likeness and motion, for edges, for what edges rise between
LASTING = 20  # ticks before a sign is a collapse: a glance at something odd is none
KEYSETS, RUN, IDLE = (
    256,
    3,
    5,
)  # sets of keys told apart; ticks that one gets to show an effect; how many must show none
BARE = 120  # ticks, besides, for which there is nothing to see
# Of the sinks' own; in brackets what 20 walks of a minute through the real arena have.
MOVED, FLASH = 0.03, 0.3  # change, of the deviation, that is motion; that is motion even of an empty picture
SOFT, FLAT, BLOWN = (
    0.45,
    0.1,
    3.0,
)  # steepness of edges [.6 to 1.7]; contrast with nothing to see, of no real view [2.2]
CLIPPED, BURNT = 0.12, 0.6  # values at both ends, beyond the sinks' [.03]; at one end, with nothing left to see [.29]
LIKE, UNLIKE = 0.9, 0.25  # likeness to a sink that is that sink; of two places [one tick of a turn: .3; a switch: .7]


class Look(NamedTuple):
    """What one picture shows."""

    small: np.ndarray  # float32 [CELLS, CELLS, 3]
    detail: np.ndarray  # what stands where, as a vector of length 1: hardly changed by light, quickly by a turn
    contrast: float  # deviation over brightness
    edge: float  # steepness of the steepest edges, of the range of the coarse picture
    ends: np.ndarray  # shares [2] of values at the lower and at the upper end


class Collapse:
    """Watches one episode: ``look`` at every frame shown; ``kind`` is what it found last, None while all is well.

    sinks: uint8 [n, H, W, 3], the sink frames; is_map: they are all the places that there are. ``restart`` after the
    picture was put elsewhere on purpose.
    """

    def __init__(self, sinks: np.ndarray, is_map: bool = False):
        small, self._details, contrast, edge, ends = (np.stack(part) for part in zip(*map(_look, sinks), strict=True))
        self._sinks, self._is_map = small, is_map
        self._deviation = max(float(np.abs(small - small.mean((1, 2), keepdims=True)).mean()), 1.0)
        self._contrasts, self._edge, self._ends = contrast, max(float(edge.mean()), 1e-3), ends.max(0)
        self._healthy = small[0]
        self._lively = np.ones(KEYSETS, bool)  # sets of keys that moved the picture when they were last held
        self.restart()

    def restart(self) -> None:
        """Forget the signs and the frame before; what was learned of the keys stays."""
        self._scores = np.zeros(3)  # running means of the signs of KINDS[:3]
        self._still = np.full_like(self._healthy, np.nan)  # the picture that has not been left since
        self._before = np.full_like(self._details[0], np.nan)
        self._idle = np.zeros(KEYSETS, bool)  # lively sets that did nothing since the picture moved
        self._keys, self._ticks, self._moved, self._bare = 0, 0, False, 0
        self.kind: str | None = None

    def look(self, frame: np.ndarray, held: np.ndarray) -> str | None:
        """``frame`` uint8 [H, W, 3], shown under ``held`` int8 [keys]; the kind of collapse, or None."""
        look = _look(frame)
        beyond = look.ends - self._ends
        blank = beyond.max() > BURNT or look.contrast < FLAT * self._contrasts.mean()
        change = float(np.abs(look.small - self._still).mean()) / self._deviation
        still = change <= MOVED
        if not still:
            self._still = look.small
        alive = not still and (change > FLASH or not blank)
        self._follow(alive, held)
        self._bare = self._bare + 1 if blank and not alive else 0
        harsh = beyond.min() > CLIPPED or look.contrast > BLOWN * self._contrasts.max()
        soft = look.edge < SOFT * self._edge
        signs = np.array([self._snapped(look), harsh, soft], float)
        if blank or still:
            signs[2] = self._scores[2]  # an empty picture has no edges; and a soft view that is stared at is one view
        self._scores += (signs - self._scores) / LASTING
        self._scores[0] = max(self._scores[0], signs[0])  # a jump is over in one tick
        self.kind = self._named()
        if self.kind is None and not (blank or signs.any()):
            self._healthy = look.small
        self._before = look.detail
        return self.kind

    def nearest_sink(self) -> int:
        """Index of the sink that looks most like the last healthy frame."""
        return nearest(self._healthy, self._sinks)

    def get_state(self) -> dict[str, np.ndarray]:
        """Everything the next findings depend on, besides the sinks."""
        arrays = {name: getattr(self, f"_{name}").copy() for name in STATE}
        run = np.array([self._keys, self._ticks, self._moved, self._bare], np.int64)
        return arrays | {"run": run, "kind": np.array(self.kind or "")}

    def set_state(self, state: dict[str, np.ndarray]) -> None:
        """Continue from ``get_state``'s answer, exactly. Raises ValueError for what is none."""
        own = self.get_state()
        for name in STATE:
            if state[name].shape != own[name].shape or state[name].dtype != own[name].dtype:
                raise ValueError(f"{name} is {state[name].dtype} {list(state[name].shape)}")
            setattr(self, f"_{name}", state[name].copy())
        self._keys, self._ticks, self._moved, self._bare = (int(value) for value in state["run"])
        self.kind = str(state["kind"]) or None

    def _snapped(self, look: Look) -> bool:
        """Now a sink, and a tick ago neither this picture nor anything like that sink."""
        likeness = self._details @ look.detail
        sink = int(likeness.argmax())
        left = max(look.detail @ self._before, self._details[sink] @ self._before)
        return not self._is_map and bool(likeness[sink] > LIKE and left < UNLIKE)

    def _follow(self, alive: bool, held: np.ndarray) -> None:
        """Which keys did nothing? A set of keys counts once, however long and often it is held: there may be a wall.

        What did nothing is believed of the keys only when the picture lives again: a dead one says nothing of them.
        """
        if alive:
            self._lively &= ~self._idle
            self._idle[:] = False
        keys = int(held.astype(np.int64) @ (1 << np.arange(len(held)))) % KEYSETS
        if keys != self._keys:
            self._keys, self._ticks, self._moved = keys, 0, False
        self._ticks += 1
        self._moved |= alive
        if keys and self._moved:
            self._lively[keys] = True
        elif keys and self._ticks == RUN:
            self._idle[keys] = self._lively[keys]

    def _named(self) -> str | None:
        """The kind that holds. One that is on stays until its score has clearly fallen."""
        found = [score > (0.3 if kind == self.kind else 0.6) for kind, score in zip(KINDS, self._scores, strict=False)]
        dead = self._idle.sum() >= IDLE
        found[1] |= dead and self._bare >= BARE
        found.append(dead and not self._bare)
        return next((kind for kind, holds in zip(KINDS, found, strict=True) if holds), None)


STATE = ("lively", "idle", "healthy", "still", "before", "scores")


def _look(frame: np.ndarray) -> Look:
    small = _shrunk(frame, CELLS).astype(np.float32)
    light = np.log(small + 8)
    around = min(9, *light.shape[:2])
    detail = (light - cv2.blur(light, (around, around))).ravel()
    contrast = float((small - small.mean((0, 1))).std()) / (float(small.mean()) + 4)
    ends = np.array([np.count_nonzero(frame < 3), np.count_nonzero(frame > 252)]) / frame.size
    return Look(small, detail / (np.linalg.norm(detail) + 1e-3), contrast, _edge(frame), ends)


def _edge(frame: np.ndarray) -> float:
    """How steep the steepest 200th of the steps from cell to cell are, of the range of the coarse picture; blur lowers
    it, darkness and haze do not. Colours count one by one: two walls may differ in colour and be of one grey."""
    fine, coarse = _shrunk(frame, FINE), _shrunk(frame, COARSE)
    steps = np.concatenate([cv2.absdiff(fine[1:], fine[:-1]).ravel(), cv2.absdiff(fine[:, 1:], fine[:, :-1]).ravel()])
    most = max(1, len(steps) // 200)
    span = np.ptp(coarse.reshape(-1, 3).astype(np.int16), axis=0).max()
    return float(np.partition(steps, -most)[-most:].mean()) / (float(span) + 1)


def _shrunk(picture: np.ndarray, cells: int) -> np.ndarray:
    size = (min(cells, picture.shape[1]), min(cells, picture.shape[0]))
    return cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
