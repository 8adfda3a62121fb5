"""The reference game: the real game beside a neural one, in the same room and under the same keys."""

from __future__ import annotations

from collections.abc import Iterable

import gymnasium
import numpy as np

from game.play.rewind import RewindBuffer
from game.worlds.sources import is_over, optional
from world_model.config import with_module
from world_model.play.real_game import open_game
from world_model.play.runtime import WorldError


class ReferenceGame:
    """The real game of a neural game. ``follow`` brings it to where the neural game is; then ``step`` it with the same
    actions, and take it ``back`` with the neural game.

    frame: uint8 [H, W, 3]; is_over: its episode has ended, and it cannot be stepped. Raises WorldError where there is
    no real game, or none of this room.
    """

    def __init__(self, neural: gymnasium.Env):
        config = getattr(neural.unwrapped, "config", None)
        if config is None:
            raise WorldError("This is the real game")
        self._neural, self._game = neural, open_game(with_module(config.world, config.name))
        self._rewind_buffer, self.is_over = RewindBuffer(self._game), False

    def follow(self, actions: Iterable[np.ndarray] | None) -> None:
        """Begin the neural game's room and step through ``actions``, all since its start; None: they are not known."""
        scene = str(optional(self._neural, "provenance", {}).get("scene"))
        self.frame = self._game.reset(seed=int(scene))[0] if scene.isdecimal() else None
        if self.frame is None or not np.array_equal(optional(self._game, "anchors"), optional(self._neural, "anchors")):
            raise WorldError("There is no real game of this map")
        if actions is None:
            raise WorldError("The real game cannot follow to this moment; Home begins this room again")
        self._rewind_buffer.start()
        self.is_over = False
        for action in actions:
            if self.is_over:
                raise WorldError("The real game's episode is over under these keys; Home begins this room again")
            self.step(action)

    def step(self, action: np.ndarray) -> None:
        self.frame, _, *ends, _ = self._game.step(action)
        self.is_over = is_over(self._game, *ends)
        self._rewind_buffer.tick(action)

    def back(self) -> bool:
        """One tick back; False where this game had not begun yet."""
        has_moment = self._rewind_buffer.back()
        self.frame = self._game.render()
        return has_moment
