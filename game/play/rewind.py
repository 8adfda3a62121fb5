"""The moments behind a game's present, for going back in time.

A state is a frame source's ``get_state()``: a flat dictionary of arrays, from which ``set_state`` continues exactly.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

import gymnasium
import numpy as np

State = dict[str, np.ndarray]

BUDGET = 256 * 2**20
"""Bytes of states that are kept: at 20 ticks a second some eight minutes of the neural keep, four of the arena."""
EVERY = 20
"""Moments from one kept state to the next."""


class RewindBuffer:
    """The moments behind a game's present, as many as ``budget`` bytes of states hold.

    A tick follows from the state before it and its keys: one state in ``EVERY`` is kept, with the keys of the ticks
    since, and going back makes the states between again. ``tick`` after each tick, ``begin`` after any other change of
    the game; ``back`` sets it to the moment before the present.
    """

    def __init__(self, game: gymnasium.Env, budget: int = BUDGET):
        self._game, self._budget = game.unwrapped, budget
        self.clear()

    def __len__(self) -> int:
        """How many moments one can go back."""
        return max(0, self._moments - 1)

    def begin(self) -> None:
        """Keep the present, sharing with the state kept last what did not change; the oldest make room."""
        last = self._segments[-1].state if self._segments else {}
        state = {n: last[n] if _equal(array, last.get(n)) else array for n, array in self._game.get_state().items()}
        new = sum(array.nbytes for name, array in state.items() if array is not last.get(name))
        self._segments.append(_Segment(state, new))
        self._bytes, self._moments = self._bytes + new, self._moments + 1
        while self._bytes > self._budget and len(self._segments) > 1:
            oldest = self._segments.popleft()
            self._bytes, self._moments = self._bytes - oldest.bytes, self._moments - 1 - len(oldest.actions)

    def tick(self, action: np.ndarray) -> None:
        """The game was stepped with ``action`` int8 [keys]."""
        for segment in self._newest():
            segment.replayed.clear()
        present = self._segments[-1]
        if len(present.actions) == EVERY - 1:
            self.begin()
        else:
            present.actions.append(action.copy())
            self._moments += 1

    def back(self) -> bool:
        """Forget the present and set the game to the moment before it; False where there is none.

        Each call also replays a tick of the segment before, so that no moment waits for a whole one.
        """
        if not len(self):
            return False
        present = self._segments[-1]
        if present.actions:
            present.actions.pop()
            del present.replayed[len(present.actions) :]
        else:
            self._bytes -= self._segments.pop().bytes
        self._moments -= 1
        present, *before = self._newest()
        self._replay(present, EVERY)
        for segment in before:
            self._replay(segment, 1)
        self._game.set_state(present.newest)
        return True

    def clear(self) -> None:
        self._segments: deque[_Segment] = deque()
        self._bytes = self._moments = 0

    def _newest(self) -> list[_Segment]:
        """The present's segment and the one before it, where there is one."""
        return [self._segments[-1 - i] for i in range(min(2, len(self._segments)))]

    def _replay(self, segment: _Segment, ticks: int) -> None:
        """Make up to ``ticks`` more of the segment's states again."""
        actions = segment.actions[len(segment.replayed) :][:ticks]
        if actions:
            self._game.set_state(segment.newest)
        for action in actions:
            self._game.step(action)
            segment.replayed.append(self._game.get_state())


@dataclass
class _Segment:
    """A kept state, the actions of the ticks after it, and the states that these made, as far as they are replayed."""

    state: State
    bytes: int
    actions: list[np.ndarray] = field(default_factory=list)
    replayed: list[State] = field(default_factory=list)

    @property
    def newest(self) -> State:
        return self.replayed[-1] if self.replayed else self.state


def _equal(array: np.ndarray, other: np.ndarray | None) -> bool:
    return other is not None and array.dtype == other.dtype and np.array_equal(array, other)
