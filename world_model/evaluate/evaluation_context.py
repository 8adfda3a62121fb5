"""The evaluation context: a neural game, the real one, and paired rollouts of both, made once for all measures."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import gymnasium
import numpy as np

from world_model.config import Config
from world_model.evaluate.metrics import Measure, sticky_keys
from world_model.play.neural_game import NeuralGame

Measures = dict[str, Measure]
"""Measures by name. ``name@baseline`` is ``name`` of a baseline (real, floor, copy_last, teacher)."""
HALF_WINDOW = 2
"""Seconds on either side of a moment that its window covers."""


class NotMeasured(Exception):
    """A measure that this world does not allow; the message says why."""


@dataclass(frozen=True)
class Suite:
    """How much is measured: lengths in seconds of play, counts in rooms, frames or steps.

    Rollouts keep all frames up to ``seconds[-1]``; later, to save memory, only windows round ``late_seconds`` and two
    frames (a glimpse) every ``late_glimpse`` seconds.
    """

    name: str
    rooms: int = 4
    trained_rooms: int = 2
    seconds: tuple[int, ...] = (10, 30, 60)
    late_seconds: tuple[int, ...] = ()
    late_rooms: int = 0
    late_glimpse: int = 10
    next_frames: int = 96
    rollout_ticks: int = 64
    teacher_frames: int = 16
    teacher_steps: int = 24
    kept_seconds: int = 20
    longest_loop: int = 400
    identity_rooms: int = 16
    reference_ticks: int = 1200
    seed: int = 0


QUICK = Suite("quick")
FULL = Suite(
    "full",
    rooms=8,
    trained_rooms=8,
    late_seconds=(600, 3600),
    late_rooms=4,
    next_frames=384,
    teacher_frames=96,
    kept_seconds=60,
)
SUITES = {suite.name: suite for suite in (QUICK, FULL)}


def label(second: int) -> str:
    """A moment's name: 60 -> "60s", 600 -> "10min"."""
    return f"{second}s" if second <= 60 else f"{second // 60}min"


@dataclass(frozen=True, eq=False)
class Pair:
    """Frames of the real and the neural game at the same ticks under the same keys, uint8 [n, H, W, 3] each."""

    real: np.ndarray
    made: np.ndarray


@dataclass(frozen=True, eq=False)
class PairedRollout:
    """One long rollout of both games from the start of a room.

    keys int8 [T, k]; real [T + 1, H, W, 3], the first is the reset frame; made [T, H, W, 3], the neural game's:
    ``made[t]`` and ``real[t + 1]`` are the frames after ``keys[t]``; infos: the real game's ``info`` of each of
    ``real``. late: windows by their second; glimpses: two successive frames by the second of the later one.
    """

    room: int
    keys: np.ndarray
    real: np.ndarray
    made: np.ndarray
    fps: int
    infos: list[dict] = field(default_factory=list)
    late: dict[int, Pair] = field(default_factory=dict)
    glimpses: dict[int, Pair] = field(default_factory=dict)

    def has(self, second: int) -> bool:
        """Whether the rollout has a window at a moment."""
        return second in self.late or (second + HALF_WINDOW) * self.fps <= len(self.made)

    def window(self, second: int) -> Pair:
        """The frames within HALF_WINDOW of a moment."""
        if second in self.late:
            return self.late[second]
        span = slice((second - HALF_WINDOW) * self.fps, (second + HALF_WINDOW) * self.fps)
        return Pair(self.real[1:][span], self.made[span])


class Still(gymnasium.Wrapper):
    """A game whose episode, once it is ``over``, stays as it is until it is reset."""

    over = False

    def reset(self, **how):
        self.over = False
        return self.env.reset(**how)

    def step(self, action):
        if not self.over:
            self._last = self.env.step(action)
            self.over = self._last[2] or self._last[3]
        return self._last


@dataclass
class EvaluationContext:
    """The neural game, the real one, and the rooms (seeds of the real game) in which they are compared: until the real
    game's episode ends there."""

    neural: NeuralGame
    real: gymnasium.Env
    rooms: list[int]
    suite: Suite = QUICK
    teacher: Any = None
    progress: Callable[[Iterable, str], Iterable] = lambda items, what: items
    """Shows progress: (items, description) -> the same items."""

    def __post_init__(self):
        self.real = Still(self.real)

    @property
    def config(self) -> Config:
        return self.neural.config

    def reset(self, room: int) -> tuple[np.ndarray, dict]:
        """Put both games at the start of a room; returns the real game's frame [H, W, 3] and its ``info``."""
        frames, info = self.reset_real(room)
        anchors, sinks = self._anchors(), 0
        if anchors is None:
            sinks = self.config.rolling.sink_frames
            anchors = frames[:sinks]
        self.neural.reset(seed=room, options={"anchors": anchors, "frames": frames[sinks:]})
        return frames[-1], info

    def reset_real(self, room: int) -> tuple[np.ndarray, dict]:
        """Put the real game at the start of a room: frames [n, H, W, 3], the last is shown, and the ``info`` of that.

        A game without anchors first takes as many ticks without keys as its start scenes have (``scenes.py``): its
        first frames are the sinks, and those after them fill the context.
        """
        frame, info = self.real.reset(seed=room)
        frames, roll, no_keys = [frame], self.config.rolling, np.zeros(self.config.action_size, np.int8)
        filled = roll.sink_frames + (roll.recent_blocks + 1) * roll.frames_per_block
        for _ in range(filled - 1 if self._anchors() is None else 0):
            frame, *_, info = self.real.step(no_keys)
            frames.append(frame)
        return np.stack(frames), info

    def _anchors(self) -> np.ndarray | None:
        """The real game's pictures of the room it is in, uint8 [n, H, W, 3]; None where it has none."""
        return self.real.unwrapped.anchors() if hasattr(self.real.unwrapped, "anchors") else None

    def play_real(self, room: int, keys: np.ndarray) -> np.ndarray:
        """Real frames [T + 1, H, W, 3] of a room under keys [T, k]; the first is the room's first."""
        frames, _ = self.reset_real(room)
        return np.stack([frames[-1], *(self.real.step(key)[0] for key in keys)])

    def play_neural(self, keys: np.ndarray) -> np.ndarray:
        """Generated frames [T, H, W, 3] under keys [T, k], from the neural game's present state."""
        return np.stack([self.neural.step(key)[0] for key in keys])

    def round_trip(self, frames: np.ndarray) -> np.ndarray:
        """Frames encoded and decoded by the codec: the best that a model of its latents can do."""
        return self.neural.runtime.decode(self.neural.runtime.encode(frames))

    def keys(self, room: int, ticks: int, salt: int = 0) -> np.ndarray:
        """Keys int8 [ticks, k] for a rollout in a room; another ``salt`` gives other keys."""
        return sticky_keys(room + 1_000_003 * (self.suite.seed + salt), ticks, self.config.action_size)

    @cached_property
    def rollouts(self) -> list[PairedRollout]:
        """One long rollout in each room, made once and shared by every measure."""
        rooms = self.progress(list(enumerate(self.rooms)), "rollouts")
        return [self._paired(room, self.suite.late_seconds if i < self.suite.late_rooms else ()) for i, room in rooms]

    def _paired(self, room: int, late: tuple[int, ...]) -> PairedRollout:
        fps, suite = self.config.world.fps, self.suite
        whole = (suite.seconds[-1] + HALF_WINDOW) * fps
        keys = self.keys(room, max([whole, *((second + HALF_WINDOW) * fps for second in late)]))
        windows = {s: range((s - HALF_WINDOW) * fps + 1, (s + HALF_WINDOW) * fps + 1) for s in late}
        seconds = [s for s in range(1, len(keys) // fps + 1) if s * fps <= whole or s % suite.late_glimpse == 0]
        glimpses = {second: range(second * fps - 1, second * fps + 1) for second in seconds}
        kept = set(range(whole + 1)).union(*windows.values(), *glimpses.values())
        first, info = self.reset(room)
        frames, infos, made = {0: (first, first)}, [info], first  # real and generated, by the ticks before them
        for tick, key in enumerate(keys, 1):
            made = made if self.real.over else self.neural.step(key)[0]
            real, *_, info = self.real.step(key)
            if tick in kept:
                frames[tick] = real, made
            if tick <= whole:
                infos.append(info)

        def pair(ticks: range) -> Pair:
            return Pair(*map(np.stack, zip(*(frames[tick] for tick in ticks), strict=True)))

        everything = pair(range(whole + 1))
        parts = ({second: pair(ticks) for second, ticks in spans.items()} for spans in (windows, glimpses))
        return PairedRollout(room, keys[:whole], everything.real, everything.made[1:], fps, infos, *parts)
