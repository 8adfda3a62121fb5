"""The real game beside the neural one: the same place, the same keys."""

from __future__ import annotations

from collections.abc import Iterable

import gymnasium
import numpy as np

from game.play.rewind import RewindBuffer
from game.worlds.sources import asked
from world_model.play.real_game import open_game
from world_model.play.runtime import WorldError


class ReferenceGame:
    """The real game of a neural one. ``follow`` it from where that one began, ``step`` it with the same keys, and take
    it ``back`` with it; False where it was not there yet.

    frame: uint8 [H, W, 3]. Raises WorldError where there is no real game, or none of this place.
    """

    def __init__(self, neural: gymnasium.Env):
        config = getattr(neural.unwrapped, "config", None)
        if config is None:
            raise WorldError("This is the real game")
        self._neural, self._game = neural, open_game(config.world)
        self._rewind_buffer = RewindBuffer(self._game)

    def follow(self, played: Iterable[np.ndarray] | None) -> None:
        """To where the keys of every tick since the neural game began lead; None where they are not known."""
        place = str(asked(self._neural, "provenance", {}).get("scene"))
        self.frame = self._game.reset(seed=int(place))[0] if place.isdecimal() else None
        if self.frame is None or not np.array_equal(asked(self._game, "anchors"), asked(self._neural, "anchors")):
            raise WorldError("There is no real game of this map")
        if played is None:
            raise WorldError("The real game cannot follow to this moment; Home begins this room again")
        self._rewind_buffer.clear()
        self._rewind_buffer.begin()
        for action in played:
            self.step(action)

    def step(self, action: np.ndarray) -> None:
        self.frame = self._game.step(action)[0]
        self._rewind_buffer.tick(action)

    def back(self) -> bool:
        there = self._rewind_buffer.back()
        self.frame = self._game.render()
        return there

    def close(self) -> None:
        self._game.close()
