"""The rewind buffer: earlier moments of a game, for going back in time.

A state is a frame source's ``get_state()``: a flat dictionary of arrays, from which ``set_state`` continues exactly.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

import gymnasium
import numpy as np

State = dict[str, np.ndarray]

BUDGET = 256 * 2**20
"""Bytes of states that are kept: at 20 ticks a second some eight minutes of the neural keep, four of the arena."""
EVERY = 20
"""Ticks from one kept state to the next."""


class RewindBuffer:
    """Earlier moments of a game, as many as ``budget`` bytes of states hold, and the actions since its room's start.

    A state follows from the one before it and an action: one state in ``EVERY`` is kept, and the states between are
    computed again when they are needed. Call ``start`` at the start of a room, ``tick`` after each step and ``change``
    after any other change of the game's state; ``back`` sets the game to the moment before the present. Of a game
    without ``get_state``, or with no ``budget``, it keeps the actions alone.
    """

    def __init__(self, game: gymnasium.Env, budget: int = BUDGET):
        self._game, self._budget = game.unwrapped, budget
        self.keeps_states = budget > 0 and hasattr(self._game, "get_state")
        self._distinct: dict[bytes, np.ndarray] = {}  # actions: an hour repeats few
        self._segments: deque[_Segment] = deque()
        self._bytes = self._moments = 0

    def __len__(self) -> int:
        """How many moments one can go back."""
        return max(0, self._moments - 1)

    @property
    def actions(self) -> list[np.ndarray] | None:
        """The actions int8 [keys] that led from the room's start to the present; None after a ``change``."""
        return self._actions if self._is_traceable else None

    def start(self, actions: Sequence[np.ndarray] | None = ()) -> None:
        """Keep nothing but the present, to which ``actions`` led from the room's start; None: not known."""
        self._actions, self._is_traceable = list(actions or ()), actions is not None
        self._segments.clear()
        self._bytes = self._moments = 0
        self._keep()

    def change(self) -> None:
        """The state was changed, and not by a step."""
        self._is_traceable = False
        self._keep()

    def tick(self, action: np.ndarray) -> None:
        """The game was stepped with ``action`` int8 [keys]."""
        self._actions.append(self._distinct.setdefault(action.tobytes(), action.copy()))
        if not self.keeps_states:
            return
        for segment in self._newest():
            segment.replayed.clear()
        present = self._segments[-1]
        if present.ticks == EVERY - 1:
            self._keep()
        else:
            present.ticks += 1
            self._moments += 1

    def back(self) -> bool:
        """Forget the present and set the game to the moment before it; False where there is none.

        Each call also replays a tick of the segment before, so that no moment waits for a whole segment.
        """
        if not len(self):
            return False
        present = self._segments[-1]
        if present.ticks:
            present.ticks -= 1
            del present.replayed[present.ticks :]
        else:
            self._bytes -= self._segments.pop().bytes
        self._moments -= 1
        present, *before = self._newest()
        del self._actions[present.start + present.ticks :]
        self._replay(present, EVERY)
        for segment in before:
            self._replay(segment, 1)
        self._game.set_state(present.newest)
        return True

    def _keep(self) -> None:
        """Keep the present, sharing the arrays that equal those of the last kept state; drop the oldest over budget."""
        if not self.keeps_states:
            return
        last = self._segments[-1].state if self._segments else {}
        state = {n: last[n] if _equal(array, last.get(n)) else array for n, array in self._game.get_state().items()}
        size = sum(array.nbytes for name, array in state.items() if array is not last.get(name))
        self._segments.append(_Segment(state, size, len(self._actions)))
        self._bytes, self._moments = self._bytes + size, self._moments + 1
        while self._bytes > self._budget and len(self._segments) > 1:
            oldest = self._segments.popleft()
            self._bytes, self._moments = self._bytes - oldest.bytes, self._moments - 1 - oldest.ticks

    def _newest(self) -> list[_Segment]:
        """The present's segment and the one before it, where there is one."""
        return [self._segments[-1 - i] for i in range(min(2, len(self._segments)))]

    def _replay(self, segment: _Segment, ticks: int) -> None:
        """Compute up to ``ticks`` more of the segment's states again."""
        first = segment.start + len(segment.replayed)
        actions = self._actions[first : min(first + ticks, segment.start + segment.ticks)]
        if actions:
            self._game.set_state(segment.newest)
        for action in actions:
            self._game.step(action)
            segment.replayed.append(self._game.get_state())


@dataclass
class _Segment:
    """A kept state, how many actions led to it, how many ticks follow it, and their states as far as replayed."""

    state: State
    bytes: int
    start: int
    ticks: int = 0
    replayed: list[State] = field(default_factory=list)

    @property
    def newest(self) -> State:
        return self.replayed[-1] if self.replayed else self.state


def _equal(array: np.ndarray, other: np.ndarray | None) -> bool:
    return other is not None and array.dtype == other.dtype and np.array_equal(array, other)
