"""Two futures of one moment: the game goes on twice, under the same keys, or the second under the arrows."""

from __future__ import annotations

import gymnasium
import numpy as np

from game.play.keyboard import ARROWS, Event, Keyboard
from world_model.play.neural_game import NeuralGame


class Branch:
    """A second future of a source's present. ``step`` it with the keys that the first one got.

    frame: uint8 [H, W, 3]. ``steer`` gives it the arrows, ``listen`` its share of what is pressed, ``swap`` makes it
    the first. The futures take turns on one game, by ``get_state`` and ``set_state``. A neural one goes on with the
    noise of another seed, or else the same keys would make the same frames.
    """

    def __init__(self, source: gymnasium.Env, keys: tuple[str, ...]):
        self._source, self._keys = source.unwrapped, keys
        self._keyboard: Keyboard | None = None
        self._state, self.frame = self._source.get_state(), self._source.render()
        if isinstance(self._source, NeuralGame):
            self._state["seed"] = self._state["seed"] ^ np.uint64(1)

    @property
    def can_be_steered(self) -> bool:
        """Whether it could have the arrows, and has not."""
        letters = set(ARROWS.values()) <= set(self._keys) and not set(ARROWS) & set(self._keys)
        return letters and not self.is_steered

    @property
    def is_steered(self) -> bool:
        return self._keyboard is not None

    def steer(self) -> None:
        self._keyboard = Keyboard(self._keys)

    def listen(self, events: list[Event]) -> list[Event]:
        """What is left of the events for the first future."""
        if self._keyboard is None:
            return events
        self._keyboard.feed(event for event in events if event.key in ARROWS or event.kind == "blur")
        return [event for event in events if event.key not in ARROWS or event.kind == "up"]  # it may have been held

    def step(self, action: np.ndarray) -> None:
        first = self._source.get_state()
        self._source.set_state(self._state)
        self.frame = self._source.step(action if self._keyboard is None else self._keyboard.sample().action)[0]
        self._state = self._source.get_state()
        self._source.set_state(first)

    def swap(self) -> np.ndarray:
        """The second future is the game's from now on, and the first the second; the frame to show."""
        first, frame = self._source.get_state(), self._source.render()
        self._source.set_state(self._state)
        self._state, frame, self.frame = first, self.frame, frame
        return frame
