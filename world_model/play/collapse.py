"""A detector of collapsed pictures. It looks at every frame of a neural game, and finds four kinds:

    snapped    within one tick the picture became a sink, and was unlike it before. Not where the sinks are a map: there
               every change of rooms looks so
    saturated  many values at both ends of the scale, or contrast far below or above that of the sinks
    blurred    edges far softer than those of the sinks
    frozen     no motion, under keys that moved the picture before

All thresholds are relative to the sinks; nothing is specific to a world. A still or an empty picture (a bare wall, a
corner, a dark room) is a collapse only after several sets of keys without effect. What is found is a function of the
sinks, the frames and the keys, so replays find the same at the same tick.
"""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np

from world_model.play.maps import nearest

KINDS = ("snapped", "saturated", "blurred", "frozen")  # of several that hold, the first is reported
CELLS, FINE, COARSE = 32, 64, 16  # side in cells of the picture for likeness and motion, for edges, for their range
LASTING = 20  # ticks that the running mean of a sign reaches back
KEYSETS = 256  # sets of keys that are distinguished
RUN, IDLE = 3, 5  # ticks in which a set of keys must have an effect; sets without one that make a collapse
BARE = 120  # ticks for which the picture must also be empty, to be saturated
# Relative to the sinks; in brackets the extremes of 20 one-minute sessions in the real arena.
MOVED, FLASH = 0.03, 0.3  # change, in deviations, that counts as motion; in an empty picture
SOFT = 0.45  # steepness of edges below which a picture is blurred [.6 to 1.7]
FLAT, BLOWN = 0.1, 3.0  # contrast below which a picture is empty; above which it is saturated [2.2]
CLIPPED, BURNT = 0.12, 0.6  # more values at both ends than this: saturated [.03]; at one end: empty [.29]
LIKE, UNLIKE = 0.9, 0.25  # likeness of equal places; of different ones [one tick of a turn: .3; a switch of lights: .7]


class Features(NamedTuple):
    """Features of one picture."""

    small: np.ndarray  # float32 [CELLS, CELLS, 3]
    detail: np.ndarray  # unit vector of local log brightness: hardly changed by light, quickly by a turn
    contrast: float  # deviation over brightness
    edge: float  # steepness of the steepest edges, relative to the range of the coarse picture
    ends: np.ndarray  # shares [2] of values at the lower and at the upper end


class Collapse:
    """The detector for one episode: ``look`` at every frame shown; ``kind`` is the last result, None without collapse.

    sinks: uint8 [n, H, W, 3], the sink frames; is_map: they are the whole map. ``restart`` when the picture was
    replaced on purpose.
    """

    def __init__(self, sinks: np.ndarray, is_map: bool = False):
        of_sinks = zip(*map(_features, sinks), strict=True)
        small, self._details, contrast, edge, ends = (np.stack(part) for part in of_sinks)
        self._sinks, self._is_map = small, is_map
        self._deviation = max(float(np.abs(small - small.mean((1, 2), keepdims=True)).mean()), 1.0)
        self._contrasts, self._edge, self._ends = contrast, max(float(edge.mean()), 1e-3), ends.max(0)
        self._healthy = small[0]
        self._lively = np.ones(KEYSETS, bool)  # sets of keys that moved the picture when last held
        self.restart()

    def restart(self) -> None:
        """Forget the signs and the last frame; what was learned of the keys stays."""
        self._scores = np.zeros(3)  # running means of the signs of KINDS[:3]
        self._still = np.full_like(self._healthy, np.nan)  # the picture (small) at the last motion
        self._before = np.full_like(self._details[0], np.nan)  # detail of the last frame
        self._idle = np.zeros(KEYSETS, bool)  # lively sets without effect since the last motion
        self._keys, self._ticks, self._moved, self._bare = 0, 0, False, 0
        self.kind: str | None = None

    def look(self, frame: np.ndarray, held: np.ndarray) -> str | None:
        """``frame`` uint8 [H, W, 3], shown under ``held`` int8 [keys]; the kind of collapse, or None."""
        features = _features(frame)
        beyond = features.ends - self._ends
        blank = beyond.max() > BURNT or features.contrast < FLAT * self._contrasts.mean()
        change = float(np.abs(features.small - self._still).mean()) / self._deviation
        still = change <= MOVED
        if not still:
            self._still = features.small
        moved = not still and (change > FLASH or not blank)
        self._learn_keys(moved, held)
        self._bare = self._bare + 1 if blank and not moved else 0
        harsh = beyond.min() > CLIPPED or features.contrast > BLOWN * self._contrasts.max()
        soft = features.edge < SOFT * self._edge
        signs = np.array([self._snapped(features), harsh, soft], float)
        if blank or still:
            signs[2] = self._scores[2]  # an empty picture has no edges, and a still one is no new evidence
        self._scores += (signs - self._scores) / LASTING
        self._scores[0] = max(self._scores[0], signs[0])  # a jump is over in one tick
        self.kind = self._kind_of_scores()
        if self.kind is None and not (blank or signs.any()):
            self._healthy = features.small
        self._before = features.detail
        return self.kind

    def nearest_sink(self) -> int:
        """Index of the sink that looks most like the last healthy frame."""
        return nearest(self._healthy, self._sinks)

    def get_state(self) -> dict[str, np.ndarray]:
        """Everything that the next results depend on, besides the sinks."""
        arrays = {name: getattr(self, f"_{name}").copy() for name in STATE}
        run = np.array([self._keys, self._ticks, self._moved, self._bare], np.int64)
        return arrays | {"run": run, "kind": np.array(self.kind or "")}

    def set_state(self, state: dict[str, np.ndarray]) -> None:
        """Continue exactly from a result of ``get_state``. Raises ValueError for anything else."""
        own = self.get_state()
        for name in STATE:
            if state[name].shape != own[name].shape or state[name].dtype != own[name].dtype:
                raise ValueError(f"{name} is {state[name].dtype} {list(state[name].shape)}")
            setattr(self, f"_{name}", state[name].copy())
        self._keys, self._ticks, self._moved, self._bare = (int(value) for value in state["run"])
        self.kind = str(state["kind"]) or None

    def _snapped(self, features: Features) -> bool:
        """Whether the picture is a sink and the last frame was unlike both."""
        likeness = self._details @ features.detail
        sink = int(likeness.argmax())
        before = max(features.detail @ self._before, self._details[sink] @ self._before)
        return not self._is_map and bool(likeness[sink] > LIKE and before < UNLIKE)

    def _learn_keys(self, moved: bool, held: np.ndarray) -> None:
        """Note which sets of keys have no effect, each once however long it is held: there may be a wall. It is learned
        of the keys only when the picture moves again, because in a collapse no key has an effect."""
        if moved:
            self._lively &= ~self._idle
            self._idle[:] = False
        keys = int(held.astype(np.int64) @ (1 << np.arange(len(held)))) % KEYSETS
        if keys != self._keys:
            self._keys, self._ticks, self._moved = keys, 0, False
        self._ticks += 1
        self._moved |= moved
        if keys and self._moved:
            self._lively[keys] = True
        elif keys and self._ticks == RUN:
            self._idle[keys] = self._lively[keys]

    def _kind_of_scores(self) -> str | None:
        """The first kind that holds; the present one holds down to a lower score."""
        holds = [score > (0.3 if kind == self.kind else 0.6) for kind, score in zip(KINDS, self._scores, strict=False)]
        no_effect = self._idle.sum() >= IDLE
        holds[1] |= no_effect and self._bare >= BARE
        holds.append(no_effect and not self._bare)
        return next((kind for kind, held in zip(KINDS, holds, strict=True) if held), None)


STATE = ("lively", "idle", "healthy", "still", "before", "scores")


def _features(frame: np.ndarray) -> Features:
    small = _shrunk(frame, CELLS).astype(np.float32)
    light = np.log(small + 8)
    around = min(9, *light.shape[:2])
    detail = (light - cv2.blur(light, (around, around))).ravel()
    contrast = float((small - small.mean((0, 1))).std()) / (float(small.mean()) + 4)
    ends = np.array([np.count_nonzero(frame < 3), np.count_nonzero(frame > 252)]) / frame.size
    return Features(small, detail / (np.linalg.norm(detail) + 1e-3), contrast, _edge(frame), ends)


def _edge(frame: np.ndarray) -> float:
    """Mean of the steepest 200th of the steps from cell to cell, relative to the range of the coarse picture: blur
    lowers it, darkness and haze do not. Each colour counts: walls of two colours may have the same grey."""
    fine, coarse = _shrunk(frame, FINE), _shrunk(frame, COARSE)
    steps = np.concatenate([cv2.absdiff(fine[1:], fine[:-1]).ravel(), cv2.absdiff(fine[:, 1:], fine[:, :-1]).ravel()])
    most = max(1, len(steps) // 200)
    span = np.ptp(coarse.reshape(-1, 3).astype(np.int16), axis=0).max()
    return float(np.partition(steps, -most)[-most:].mean()) / (float(span) + 1)


def _shrunk(picture: np.ndarray, cells: int) -> np.ndarray:
    size = (min(cells, picture.shape[1]), min(cells, picture.shape[0]))
    return cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
