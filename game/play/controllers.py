"""Controllers in place of a person's keyboard: a bot, or the actions of a recording."""

from __future__ import annotations

import time

import gymnasium
import numpy as np

from game.play.keyboard import Sample
from game.worlds.bots import make_bot
from world_model.episode import Session


class Remembered(gymnasium.Wrapper):
    """A frame source that keeps its last observation and info, for a bot to look at."""

    last: tuple[np.ndarray, dict] = (np.empty(0), {})

    def reset(self, **options):
        self.last = self.env.reset(**options)
        return self.last

    def step(self, action):
        answer = self.env.step(action)
        self.last = answer[0], answer[4]
        return answer


class BotController:
    """A bot. Its key events are stamped at a random instant since the last sample, as a person's would be: stamped at
    the sample, they would make the latency look better than it is."""

    def __init__(self, name: str, source: Remembered, keys: tuple[str, ...], seed: int):
        self.name, self._source, self._keys = name, source, keys
        self._random = np.random.default_rng(seed)
        self.new_room(seed)

    def new_room(self, seed: int) -> None:
        self._bot = make_bot(self.name, seed, self._keys)
        self._held = np.zeros(len(self._keys), np.int8)
        self._sampled = time.perf_counter()

    def sample(self) -> Sample:
        action = self._bot.act(*self._source.last)
        changed, self._held = (action != self._held).any(), action
        last, self._sampled = self._sampled, time.perf_counter()
        arrival = self._random.uniform(last, self._sampled)
        return Sample(action, (arrival,) if changed else ())


class RecordedController:
    """The actions of a session, one a tick."""

    def __init__(self, session: Session):
        self._actions, self._at = session.actions, 0

    def new_room(self, seed: int) -> None:
        self._at = 0

    def sample(self) -> Sample:
        self._at += 1
        return Sample(self._actions[self._at])
