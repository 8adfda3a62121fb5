"""Does the generated picture still live? Four ways a neural game dies, seen on its frames while it is played.

    frozen     nothing moves, though keys are held that move
    blurred    edges far softer than those of the sinks
    snapped    in one tick the picture jumped to a sink, from somewhere else; not where the sinks are a map, and
               who walks from room to room jumps so
    saturated  colours at both ends of the scale, or contrast lost or blown against the sinks

Nothing here knows a world: what is sharp, colourful and far is measured on the sink frames, and which keys move is
learned while the picture lives. A bare wall at arm's length, a walk into a corner or a dark room are no collapse; what
cannot be told apart from them at one glance (a still or an empty picture) needs evidence: so many different sets of
keys without any effect that a living game would hardly ever show it.

A finding is a pure function of the sinks, the frames and the keys, so replays find the same at the same tick.
"""

from __future__ import annotations

import math
from dataclasses import astuple, dataclass

import cv2
import numpy as np
from pydantic import Field

from world_model.config import Strict

KINDS = ("frozen", "blurred", "snapped", "saturated")
ORDER = ("snapped", "saturated", "frozen", "blurred")  # which is named when several hold: the more telling first
SMALL, FINE, COARSE = 32, 64, 16  # cells a side: for likeness and motion, for edges, for what edges rise between
SELDOM = 4  # ticks from one look at the grain to the next: it is half of the cost
EDGES = 1 / 200  # share of the gradients, the steepest, that stand for the edges
SETS = 256  # sets of keys whose effect is learned; a world of more than 8 keys shares entries


class Thresholds(Strict):
    """All are ratios to the sinks, counts of ticks, or odds. Figures in brackets: 20 walks of a minute through as
    many rooms of the real arena by five bots."""

    moved: float = Field(0.03, gt=0, description="change that counts as motion, of the sinks' own deviation")
    run: int = Field(3, gt=0, description="ticks that keys get to show an effect; a response takes one or two")
    flash: float = Field(0.3, gt=0, description="change that even of an empty picture is life: the lights go on")
    odds: float = Field(9.0, gt=0, description="-log of the chance that a living game ignores all these keys")
    sets: int = Field(4, gt=0, description="different sets of keys that it takes at least: a corner ignores three")
    bare: int = Field(120, gt=0, description="ticks, besides, that nothing is to see [a bare wall, all keys tried: 70]")
    soft: float = Field(0.45, gt=0, lt=1, description="edge steepness that is blurred [living: 0.6 to 1.7]")
    flat: float = Field(0.1, gt=0, lt=1, description="contrast below which nothing is to see [bare walls: 0]")
    blown: float = Field(3.0, gt=1, description="contrast that no view of the place has [living: at most 2.2]")
    clipped: float = Field(0.12, gt=0, lt=1, description="values at either end, beyond the sinks' [living: 0.03]")
    burnt: float = Field(0.6, gt=0, lt=1, description="values at one end that leave nothing to see [living: 0.29]")
    like: float = Field(0.9, gt=0, lt=1, description="likeness to a sink that is that sink")
    unlike: float = Field(
        0.25, gt=0, lt=1, description="likeness of two places [one tick of a turn: 0.3; a switch: 0.7]"
    )
    lasting: int = Field(20, gt=0, description="ticks before a sign is a collapse: a glance at something odd is none")


@dataclass(frozen=True)
class Grain:
    """What takes every pixel to see, and lasts longer than a few ticks when it is a sign."""

    edge: float  # steepness of the edges, of the grey range that they rise between
    dark: float  # share of values at the lower end
    bright: float  # and at the upper


@dataclass(frozen=True, eq=False)
class Look:
    """What one picture shows."""

    small: np.ndarray  # float32 [SMALL, SMALL, 3]
    unit: np.ndarray  # what stands where in it, as a vector of length 1: hardly changed by light, quickly by a turn
    contrast: float  # deviation over brightness, so that the light does not matter
    grain: Grain


class Collapse:
    """Watches one episode: ``look`` at every frame shown; ``kind`` is what it found last, None while all is well.

    sinks: uint8 [n, H, W, 3], the sink frames; is_map: they are all the places that there are. ``restart`` after the
    picture was put elsewhere on purpose.
    """

    def __init__(self, sinks: np.ndarray, thresholds: Thresholds | None = None, is_map: bool = False):
        self.thresholds, self._is_map = thresholds or Thresholds(), is_map
        self._sinks = [_look(sink, _grain(sink)) for sink in sinks]
        self._units = np.stack([sink.unit for sink in self._sinks])
        deviations = [float(np.abs(sink.small - sink.small.mean((0, 1))).mean()) for sink in self._sinks]
        self._deviation = max(float(np.mean(deviations)), 1.0)
        self._ends = [max(getattr(sink.grain, end) for sink in self._sinks) for end in ("dark", "bright")]
        self._edge = max(float(np.mean([sink.grain.edge for sink in self._sinks])), 1e-3)
        self._contrasts = [sink.contrast for sink in self._sinks]
        self._runs = np.zeros((SETS, 2), np.float32)  # of each set of keys: runs that moved the picture, all runs
        self._healthy = self._sinks[0].small
        self.restart()

    def restart(self) -> None:
        """Forget the signs and the frame before; what was learned of the keys stays."""
        self._scores = dict.fromkeys(("snapped", "saturated", "blurred"), 0.0)
        self._still: np.ndarray | None = None  # the picture that has not been left since
        self._before: np.ndarray | None = None
        self._tried = np.zeros(SETS, np.float32)  # runs of each set of keys that did nothing since
        self._surprise = 0.0
        self._due, self._grain = 0, self._sinks[0].grain  # ticks until the next look at the grain; the last one
        self._bare = 0  # ticks for which there has been nothing to see
        self._set, self._ticks, self._moved = 0, 0, False
        self.kind: str | None = None

    def look(self, frame: np.ndarray, held: np.ndarray) -> str | None:
        """``frame`` uint8 [H, W, 3], shown under ``held`` int8 [keys]; the kind of collapse, or None."""
        if self._due == 0:
            self._grain, self._due = _grain(frame), SELDOM
        self._due -= 1
        look = _look(frame, self._grain)
        blank = self._blank(look)
        moved = self._left_behind(look.small)
        signs = {"snapped": self._snapped(look), "saturated": self._harsh(look), "blurred": self._soft(look)}
        if blank or not moved:
            del signs["blurred"]  # an empty picture has no edges; and a soft view that is stared at is one view
        self._weigh(signs)
        alive = moved > self.thresholds.flash if blank else moved > 0
        self._bare = self._bare + 1 if blank and not alive else 0
        self._follow(alive, held)
        self.kind = self._named()
        if self.kind is None and not blank and not any(signs.values()):
            self._healthy = look.small
        self._before = look.unit
        return self.kind

    def nearest_sink(self) -> int:
        """Index of the sink that looks most like the last healthy frame."""
        return int(np.argmax([_broad(sink.small) @ _broad(self._healthy) for sink in self._sinks]))

    def get_state(self) -> dict[str, np.ndarray]:
        """Everything the next findings depend on, besides the sinks."""
        nothing = np.empty(0, np.float32)
        return {
            "runs": self._runs.copy(),
            "tried": self._tried.copy(),
            "healthy": self._healthy.copy(),
            "still": nothing if self._still is None else self._still.copy(),
            "before": nothing if self._before is None else self._before.copy(),
            "scores": np.array([self._scores[kind] for kind in sorted(self._scores)]),
            "run": np.array([self._set, self._ticks, self._moved, self._bare], np.int64),
            "grain": np.array([*astuple(self._grain), self._due]),
            "surprise": np.array(self._surprise),
            "kind": np.array(self.kind or ""),
        }

    def set_state(self, state: dict[str, np.ndarray]) -> None:
        """Continue from ``get_state``'s answer, exactly."""
        self._runs, self._tried, self._healthy = (state[name].copy() for name in ("runs", "tried", "healthy"))
        self._still, self._before = (state[name].copy() if state[name].size else None for name in ("still", "before"))
        self._scores = dict(zip(sorted(self._scores), state["scores"].tolist(), strict=True))
        self._set, self._ticks, self._moved, self._bare = (int(value) for value in state["run"])
        *grain, due = state["grain"].tolist()
        self._grain, self._due = Grain(*grain), int(due)
        self._surprise, self.kind = float(state["surprise"]), str(state["kind"]) or None

    def _blank(self, look: Look) -> bool:
        """Nothing to see: a bare wall, a black room, or a picture that has died."""
        limits = self.thresholds
        burnt = max(look.grain.dark - self._ends[0], look.grain.bright - self._ends[1]) > limits.burnt
        return burnt or look.contrast < limits.flat * float(np.mean(self._contrasts))

    def _soft(self, look: Look) -> bool:
        return look.grain.edge < self.thresholds.soft * self._edge

    def _harsh(self, look: Look) -> bool:
        clipped = min(look.grain.dark - self._ends[0], look.grain.bright - self._ends[1]) > self.thresholds.clipped
        return clipped or look.contrast > self.thresholds.blown * max(self._contrasts)

    def _snapped(self, look: Look) -> bool:
        """Now a sink, and a tick ago neither this picture nor anything like that sink."""
        if self._before is None or self._is_map:
            return False
        likeness = self._units @ look.unit
        sink = int(np.argmax(likeness))
        limits = self.thresholds
        left = max(float(look.unit @ self._before), float(self._units[sink] @ self._before))
        return bool(likeness[sink] > limits.like and left < limits.unlike)

    def _weigh(self, signs: dict[str, bool]) -> None:
        """Running means of the signs over ``lasting`` ticks; a jump is over in one, so it counts in full at once."""
        for kind, sign in signs.items():
            self._scores[kind] += (sign - self._scores[kind]) / self.thresholds.lasting
        if signs["snapped"]:
            self._scores["snapped"] = 1.0

    def _left_behind(self, small: np.ndarray) -> float:
        """How far the picture has come from the still one, of the sinks' deviation; 0 where it stands still."""
        if self._still is None:
            self._still = small
        change = float(np.abs(small - self._still).mean()) / self._deviation
        if change <= self.thresholds.moved:
            return 0.0
        self._still = small
        return change

    def _follow(self, alive: bool, held: np.ndarray) -> None:
        """Which keys did nothing? A set of keys counts once, however long and often it is held: there may be a wall.

        What did nothing is learned only when the picture lives again: a dead one says nothing of the keys.
        """
        if alive:
            self._runs[:, 1] += self._tried
            self._surprise, self._tried[:] = 0.0, 0
        keys = int(held.astype(np.int64) @ (1 << np.arange(len(held)))) % SETS
        if keys != self._set:
            self._set, self._ticks, self._moved = keys, 0, False
        self._ticks += 1
        self._moved |= alive
        if keys and self._ticks == self.thresholds.run:
            self._judge(keys)

    def _judge(self, keys: int) -> None:
        """These keys have had their time: they moved the picture, or they are evidence against it."""
        if self._moved:
            self._runs[keys] += 1
            return
        if not self._tried[keys]:
            self._surprise += min(-math.log(1 - self._chance(keys)), self.thresholds.odds / self.thresholds.sets)
        self._tried[keys] += 1

    def _chance(self, keys: int) -> float:
        """That this set of keys moves the picture: Laplace's rule, with all sets as the prior of each."""
        moved, all_runs = self._runs.sum(0)
        usual = (moved + 3) / (all_runs + 4)
        return float((self._runs[keys, 0] + 2 * usual) / (self._runs[keys, 1] + 2))

    def _named(self) -> str | None:
        """The kind that holds. One that is on stays until its score has clearly fallen."""
        found = {kind: score > (0.3 if kind == self.kind else 0.6) for kind, score in self._scores.items()}
        dead = self._surprise >= self.thresholds.odds
        found["saturated"] |= dead and self._bare >= self.thresholds.bare
        found["frozen"] = dead and not self._bare
        return next((kind for kind in ORDER if found[kind]), None)


def _grain(frame: np.ndarray) -> Grain:
    frame = np.ascontiguousarray(frame)
    levels = _histogram(frame) / frame.size
    return Grain(_edge(frame), float(levels[:3].sum()), float(levels[253:].sum()))


def _look(frame: np.ndarray, grain: Grain) -> Look:
    frame = np.ascontiguousarray(frame)
    small = _shrunk(frame, SMALL).astype(np.float32)
    centred = small - small.mean((0, 1))
    light = np.log(small + 8)
    around = min(9, *light.shape[:2])
    return Look(
        small=small,
        unit=_unit(light - cv2.blur(light, (around, around))),
        contrast=float(np.sqrt(np.square(centred).mean())) / (float(small.mean()) + 4),
        grain=grain,
    )


def _unit(values: np.ndarray) -> np.ndarray:
    return values.ravel() / (float(np.linalg.norm(values)) + 1e-3)


def _broad(small: np.ndarray) -> np.ndarray:
    """Where it is light and where dark, as a vector of length 1: two views of one place are alike in it."""
    light = np.log(small + 8)
    return _unit(light - light.mean((0, 1)))


def _edge(frame: np.ndarray) -> float:
    """How steep the steepest steps from cell to cell are, of the range of the coarse picture; blur lowers it,
    darkness and haze do not. Colours count one by one: two walls may differ in colour and be of one grey."""
    fine = _shrunk(frame, FINE)
    counts = _histogram(cv2.absdiff(fine[1:], fine[:-1])) + _histogram(cv2.absdiff(fine[:, 1:], fine[:, :-1]))
    wanted = EDGES * counts.sum()
    steepest = np.diff(np.minimum(np.cumsum(counts[::-1]), wanted), prepend=0)  # how many of 255, 254, ... to take
    coarse = _shrunk(fine, COARSE).reshape(-1, 3)
    span = int((coarse.max(0) - coarse.min(0)).max())
    return float(steepest @ np.arange(255, -1, -1)) / wanted / (span + 1)


def _histogram(picture: np.ndarray) -> np.ndarray:
    """How often each value occurs, [256]."""
    return cv2.calcHist([picture.reshape(len(picture), -1)], [0], None, [256], [0, 256]).ravel()


def _shrunk(picture: np.ndarray, cells: int) -> np.ndarray:
    height, width = picture.shape[:2]
    size = (min(cells, width), min(cells, height))
    return picture if size == (width, height) else cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
