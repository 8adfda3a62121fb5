"""What is measured: a neural game, the real one, and the walks that both take."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import gymnasium
import numpy as np

from world_model.config import Config
from world_model.metrics import Measure, sticky_keys
from world_model.neural_game import NeuralGame

Measures = dict[str, Measure]
SECONDS = (10, 60)


@dataclass
class Subject:
    """What is measured: the neural game, the real one, and the rooms they meet in (seeds of the real game)."""

    neural: NeuralGame
    real: gymnasium.Env
    rooms: list[int]

    @property
    def config(self) -> Config:
        return self.neural.config

    def meet(self, room: int) -> np.ndarray:
        """Put both games at the start of a room; returns the real first frame."""
        frame, _ = self.real.reset(seed=room)
        self.neural.reset(seed=room, options={"anchors": self.real.unwrapped.anchors()})
        return frame

    def play_real(self, room: int, keys: np.ndarray) -> np.ndarray:
        """Real frames [T + 1, H, W, 3] of a room under keys [T, k]; the first is the reset frame."""
        frame, _ = self.real.reset(seed=room)
        return np.stack([frame, *(self.real.step(key)[0] for key in keys)])

    def play_neural(self, keys: np.ndarray) -> np.ndarray:
        """Generated frames [T, H, W, 3] under keys [T, k], from where the game is."""
        return np.stack([self.neural.step(key)[0] for key in keys])

    @cached_property
    def journeys(self) -> list[tuple[int, np.ndarray, np.ndarray]]:
        """(room, keys, real frames) of one long walk in each room."""
        ticks = (max(SECONDS) + 2) * self.config.world.fps
        walks = [(room, sticky_keys(room, ticks, self.config.action_size)) for room in self.rooms]
        return [(room, keys, self.play_real(room, keys)) for room, keys in walks]
