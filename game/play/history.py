"""The past of a game that a person plays, and what runs beside it: the reference game, or a branch."""

from __future__ import annotations

from pathlib import Path

import gymnasium
import numpy as np

from game.play.branch import Branch
from game.play.keyboard import Event
from game.play.reference_game import ReferenceGame
from game.play.rewind import BUDGET, RewindBuffer
from game.play.saves import SAVES, SaveError, State, is_same, load, save
from game.worlds.sources import optional


class History:
    """Going back, saved moments, the reference game and the branch of a source; of the last two, one at a time.

    can_rewind: whether moments are kept, for a source that has ``get_state``. Call ``start`` at the start of a room,
    ``tick`` after each step, ``change`` after any other change of the source's state. What it raises is for the player.
    """

    def __init__(self, source: gymnasium.Env, keys: tuple[str, ...], title: str, can_rewind: bool):
        self._source, self._keys, self._title = source, keys, title
        self._rewind_buffer = RewindBuffer(source, BUDGET if can_rewind else 0)
        self.reference: ReferenceGame | None = None
        self.branch: Branch | None = None
        self._saved: State = {}

    @property
    def can_rewind(self) -> bool:
        return self._rewind_buffer.keeps_states

    @property
    def moments(self) -> int:
        """How many ticks one can go back."""
        return len(self._rewind_buffer)

    @property
    def beside(self) -> tuple[str, np.ndarray] | None:
        """What to show beside the source's frame: whose frame, and the frame uint8 [H, W, 3]."""
        if self.reference is not None:
            return "the real game", self.reference.frame
        return ("another future", self.branch.frame) if self.branch is not None else None

    def start(self) -> None:
        """The source was reset. WorldError where the reference game has no such room; it is closed then."""
        self.branch, reference, self.reference = None, self.reference, None
        self._rewind_buffer.start()
        if reference is not None:
            reference.follow(())
            self.reference = reference

    def step_beside(self, action: np.ndarray) -> None:
        """Step what is beside the source with ``action`` int8 [keys]. At the end of its episode it is closed."""
        for game in filter(None, (self.reference, self.branch)):
            game.step(action)
            if game.is_over:
                self.close()

    def tick(self, action: np.ndarray) -> None:
        """Remember a step of the source."""
        self._rewind_buffer.tick(action)

    def change(self) -> None:
        """The source has another state, and not by a step."""
        self.close()
        self._rewind_buffer.change()

    def close(self) -> None:
        """Show nothing beside the source."""
        self.reference = self.branch = None

    def back(self) -> bool:
        """Set the source, and the reference game with it, to the moment before; False where none is kept."""
        self.branch = None
        if not self._rewind_buffer.back():
            return False
        if self.reference is not None and not self.reference.back():
            self.reference = None
        return True

    def listen(self, events: list[Event]) -> list[Event]:
        """The events that are not for the branch."""
        return events if self.branch is None else self.branch.listen(events)

    def save(self) -> Path:
        self.need_states()
        state = self._source.unwrapped.get_state()
        save(self._file, state, optional(self._source, "provenance", {}))
        self._saved = state
        return self._file

    def load(self) -> None:
        """Set the source to the saved moment."""
        self.need_states()
        try:
            state = load(self._file, optional(self._source, "provenance", {}))
            if is_same(state, self._saved):  # a game that can only be copied is in memory and in no file
                state = self._saved
            self._source.unwrapped.set_state(state)
        except (AttributeError, KeyError, TypeError, ValueError) as error:  # not a state of this source
            raise SaveError(str(error)) from error
        self.change()

    def open_reference(self, reference: ReferenceGame) -> None:
        """Show the real game beside the source, brought to its present by the actions since the room's start."""
        reference.follow(self._rewind_buffer.actions)
        self.reference, self.branch = reference, None

    def next_branch(self) -> str:
        """Open a branch; or steer it with the arrows; or, once it is steered, close it. Words for the player."""
        self.need_states()
        if self.branch is None:
            self.branch, self.reference = Branch(self._source, self._keys), None
            steers = "; B: the arrows steer the second" if self.branch.can_be_steered else ""
            return f"Two futures of this moment under the same keys{steers}; Enter takes it"
        if self.branch.can_be_steered:
            self.branch.steer()
            return "Letters steer the first future, arrows the second; Enter takes it"
        self.branch = None
        return ""

    def swap(self) -> np.ndarray:
        """Let the source go on as the branch, and the branch as the source; the frame to show, uint8 [H, W, 3]."""
        if self.branch is None:
            raise SaveError("There is one future; B begins another")
        frame = self.branch.swap()
        self._rewind_buffer.start(None if self.branch.is_steered else self._rewind_buffer.actions)
        return frame

    @property
    def _file(self) -> Path:
        kind = optional(self._source, "provenance", {}).get("source", "game")
        return SAVES / f"{self._title or 'game'}-{kind.replace('/', '-')}.safetensors"

    def need_states(self) -> None:
        """SaveError, in words for the player, where no moment can be kept."""
        if not hasattr(self._source.unwrapped, "get_state"):
            raise SaveError("This game cannot be copied, and so not go back, be saved, loaded or branched")
        if not self.can_rewind:
            raise SaveError("Only a game that a person plays can go back, be saved, loaded and branched")
