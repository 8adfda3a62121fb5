"""A branch: a second future of one moment, under the same keys as the first, or under the arrow keys."""

from __future__ import annotations

import gymnasium
import numpy as np

from game.play.keyboard import ARROWS, Event, Keyboard
from game.worlds.sources import is_over
from world_model.play.neural_game import NeuralGame


class Branch:
    """A second future of a source's present. ``step`` it with the action that the source was stepped with.

    frame: uint8 [H, W, 3]; is_over: its episode has ended, and it cannot be stepped. ``steer`` lets the arrow keys
    steer it, ``listen`` takes their events, ``swap`` exchanges it with the source's own future. Both run on the one
    source, by ``get_state`` and ``set_state``. A neural game goes on with another noise seed here: with the same one,
    the same keys would make the same frames.
    """

    def __init__(self, source: gymnasium.Env, keys: tuple[str, ...]):
        self._source, self._keys = source.unwrapped, keys
        self._keyboard: Keyboard | None = None
        self._state, self.frame = self._source.get_state(), self._source.render()
        self.is_over = False
        if isinstance(self._source, NeuralGame):
            self._state["seed"] = self._state["seed"] ^ np.uint64(1)

    @property
    def can_be_steered(self) -> bool:
        """Whether the world leaves the arrow keys free, and ``steer`` was not called yet."""
        letters = set(ARROWS.values()) <= set(self._keys) and not set(ARROWS) & set(self._keys)
        return letters and not self.is_steered

    @property
    def is_steered(self) -> bool:
        return self._keyboard is not None

    def steer(self) -> None:
        self._keyboard = Keyboard(self._keys)

    def listen(self, events: list[Event]) -> list[Event]:
        """Take the events that steer the branch; the others are returned."""
        if self._keyboard is None:
            return events
        self._keyboard.feed(event for event in events if event.key in ARROWS or event.kind == "blur")
        # a release is for both: the key may have gone down before the branch was steered
        return [event for event in events if event.key not in ARROWS or event.kind == "up"]

    def step(self, action: np.ndarray) -> None:
        first = self._source.get_state()
        self._source.set_state(self._state)
        held = action if self._keyboard is None else self._keyboard.sample().action
        self.frame, _, *ends, _ = self._source.step(held)
        self.is_over = is_over(self._source, *ends)
        self._state = self._source.get_state()
        self._source.set_state(first)

    def swap(self) -> np.ndarray:
        """Let the source go on as the second future, and the branch as the first; the frame to show."""
        first, frame = self._source.get_state(), self._source.render()
        self._source.set_state(self._state)
        self._state, frame, self.frame = first, self.frame, frame
        return frame
