"""What is measured: a neural game, the real one, and the rollouts that both take, made once for all measures."""

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
"""Figures by name. ``name@baseline`` is what a baseline (real, floor, copy_last, teacher) scores at ``name``."""
HALF_WINDOW = 2
"""Seconds on either side of a moment that a window round it holds."""


class NotMeasured(Exception):
    """A measure that cannot be taken of this world; the message says why."""


@dataclass(frozen=True)
class Suite:
    """How much is measured: lengths in seconds of play, counts in rooms, frames or steps.

    A rollout is kept whole up to ``seconds[-1]``; of what follows, only windows round ``late_seconds`` and a glimpse
    every ``late_glimpse`` seconds, for an hour of frames fits no memory.
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
    """Frames of both games at the same ticks of the same keys, uint8 [n, H, W, 3] each."""

    real: np.ndarray
    made: np.ndarray


@dataclass(frozen=True, eq=False)
class PairedRollout:
    """One long rollout of both games from the start of a room.

    keys int8 [T, k]; real [T + 1, H, W, 3], the first is the reset frame; made [T, H, W, 3]: ``made[t]`` and
    ``real[t + 1]`` are what ``keys[t]`` led to; told: what the real game said beside each of ``real``. late: windows by
    their second; glimpses: two successive frames by the second at which the later one was shown.
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

    def seconds(self) -> list[int]:
        """The moments that have a glimpse."""
        return sorted(self.glimpses)


@dataclass
class EvaluationContext:
    """What is measured: the neural game, the real one, and the rooms they meet in (seeds of the real game)."""

    neural: NeuralGame
    real: gymnasium.Env
    rooms: list[int]
    suite: Suite = QUICK
    teacher: Any = None
    watch: Callable[[Iterable, str], Iterable] = lambda items, what: items
    """Shows progress: (items, what is done with each) -> the same items."""

    @property
    def config(self) -> Config:
        return self.neural.config

    def meet(self, room: int) -> np.ndarray:
        """Put both games at the start of a room; returns the real frame that is shown."""
        return self._meet(room)[0]

    def begin(self, room: int) -> tuple[np.ndarray, dict]:
        """Put the real game at the start of a room: frames [n, H, W, 3] up to what is shown, and what it says of that.

        A game without anchors stands still for as long as a start scene of it is (``scenes.py``): its first frames are
        the sinks, and those after them fill the context.
        """
        frame, infos = self.real.reset(seed=room)
        frames, roll, still = [frame], self.config.rolling, np.zeros(self.config.action_size, np.int8)
        ahead = 0 if self._anchored else roll.sink_frames + (roll.recent_blocks + 1) * roll.frames_per_block - 1
        for _ in range(ahead):
            frame, *_, infos = self.real.step(still)
            frames.append(frame)
        return np.stack(frames), infos

    @property
    def _anchored(self) -> bool:
        return hasattr(self.real.unwrapped, "anchors")

    def _meet(self, room: int) -> tuple[np.ndarray, dict]:
        frames, infos = self.begin(room)
        sinks = 0 if self._anchored else self.config.rolling.sink_frames
        anchors = self.real.unwrapped.anchors() if self._anchored else frames[:sinks]
        self.neural.reset(seed=room, options={"anchors": anchors, "frames": frames[sinks:]})
        return frames[-1], infos

    def play_real(self, room: int, keys: np.ndarray) -> np.ndarray:
        """Real frames [T + 1, H, W, 3] of a room under keys [T, k]; the first is what it begins with."""
        frames, _ = self.begin(room)
        return np.stack([frames[-1], *(self.real.step(key)[0] for key in keys)])

    def play_neural(self, keys: np.ndarray) -> np.ndarray:
        """Generated frames [T, H, W, 3] under keys [T, k], from where the game is."""
        return np.stack([self.neural.step(key)[0] for key in keys])

    def keys(self, room: int, ticks: int, salt: int = 0) -> np.ndarray:
        """Keys int8 [ticks, k] for a rollout in a room; another ``salt``, another rollout."""
        return sticky_keys(room + 1_000_003 * (self.suite.seed + salt), ticks, self.config.action_size)

    @cached_property
    def rollouts(self) -> list[PairedRollout]:
        """One long rollout in each room, made once and shared by every measure."""
        rooms = self.watch(list(enumerate(self.rooms)), "walking")
        return [self._paired(room, self.suite.late_seconds if i < self.suite.late_rooms else ()) for i, room in rooms]

    def _paired(self, room: int, late: tuple[int, ...]) -> PairedRollout:
        fps, whole = self.config.world.fps, (self.suite.seconds[-1] + HALF_WINDOW) * self.config.world.fps
        keys = self.keys(room, max([whole, *((second + HALF_WINDOW) * fps for second in late)]))
        first, info = self._meet(room)
        real, made, infos, glimpses = [first], [], [info], {}
        windows = {second: ([], []) for second in late}
        before = (real[0], real[0])
        for tick, key in enumerate(keys):
            frame, *_, info = self.real.step(key)
            pair = frame, self.neural.step(key)[0]
            second, part = divmod(tick + 1, fps)
            if tick < whole:
                real.append(pair[0])
                made.append(pair[1])
                infos.append(info)
            for middle, window in windows.items():
                if -HALF_WINDOW * fps <= tick - middle * fps < HALF_WINDOW * fps:
                    window[0].append(pair[0])
                    window[1].append(pair[1])
            if part == 0 and second and (tick < whole or second % self.suite.late_glimpse == 0):
                glimpses[second] = Pair(np.stack([before[0], pair[0]]), np.stack([before[1], pair[1]]))
            before = pair
        kept = {second: Pair(*map(np.stack, window)) for second, window in windows.items()}
        return PairedRollout(room, keys[:whole], np.stack(real), np.stack(made), fps, infos, kept, glimpses)
