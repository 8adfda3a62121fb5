"""Time as a person may turn it: the states behind the present, and saved ones that outlive the program.

A state is a frame source's ``get_state()``: a flat dictionary of arrays, from which ``set_state`` continues exactly.
"""

from __future__ import annotations

import json
from collections import deque
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

State = dict[str, np.ndarray]

BUDGET = 512 * 2**20
"""Bytes of states that are kept: at 20 ticks a second some fifty seconds of the neural keep, eleven of the arena."""
SAVES = Path("saves")
HEADER = "rollplay"
SAME = ("source", "world", "checkpoint")
"""What a source says of itself that a saved state of it must agree with."""


class SaveError(ValueError):
    """A state that cannot be saved or gone back to; the message is for the person."""


class Past:
    """The newest states, as many as ``budget`` bytes hold. ``push`` the present, ``back`` to the one before it."""

    def __init__(self, budget: int = BUDGET):
        self._budget, self._bytes = budget, 0
        self._states: deque[tuple[State, int]] = deque()

    def __len__(self) -> int:
        """How many ticks one can go back."""
        return max(0, len(self._states) - 1)

    def push(self, state: State) -> None:
        """Keep ``state``, sharing with the one before what did not change; the oldest make room."""
        newest = self._states[-1][0] if self._states else {}
        kept = {name: newest[name] if _equal(array, newest.get(name)) else array for name, array in state.items()}
        new = sum(array.nbytes for name, array in kept.items() if array is not newest.get(name))
        self._states.append((kept, new))
        self._bytes += new
        while self._bytes > self._budget and len(self._states) > 1:
            self._bytes -= self._states.popleft()[1]

    def back(self) -> State | None:
        """Forget the present; the state before it, which is the present now. None where there is no more."""
        if not len(self):
            return None
        self._bytes -= self._states.pop()[1]
        return self._states[-1][0]

    def clear(self) -> None:
        self._states.clear()
        self._bytes = 0


def save(path: Path, state: State, provenance: dict) -> None:
    """Write a state and whose it is; complete before it gets its name. SaveError for a disk that will not have it."""
    words = {name: str(array) for name, array in state.items() if array.dtype.kind == "U"}
    arrays = {name: np.array(array, order="C") for name, array in state.items() if name not in words}
    about = {"words": words, **{name: provenance.get(name) for name in SAME}}
    partial = path.with_suffix(".partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(arrays, partial, {HEADER: json.dumps(about)})
        partial.replace(path)
    except (OSError, SafetensorError) as error:
        raise SaveError(f"{path}: cannot be written ({error})") from error


def load(path: Path, provenance: dict) -> State:
    """The state in a file. SaveError for none, a damaged one, and one of another game or of other weights."""
    try:
        with safe_open(path, "numpy") as file:
            about = json.loads((file.metadata() or {})[HEADER])
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
        words = {name: np.array(text) for name, text in about["words"].items()}
        differs = [name for name in SAME if about[name] != provenance.get(name)]
    except FileNotFoundError as error:
        raise SaveError("nothing is saved here yet: F5 saves") from error
    except (OSError, SafetensorError, KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise SaveError(f"{path}: no saved game, or a damaged one") from error
    if differs:
        raise SaveError(f"{path}: was saved in another game (another {' and '.join(differs)})")
    return arrays | words


def _equal(array: np.ndarray, other: np.ndarray | None) -> bool:
    return other is not None and array.dtype == other.dtype and np.array_equal(array, other)
