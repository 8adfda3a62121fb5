"""Saved moments: a frame source's ``get_state()`` and the provenance that it belongs to, in a safetensors file."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

State = dict[str, np.ndarray]

SAVES = Path("saves")
HEADER = "rollplay"
SAME = ("source", "world", "checkpoint")
"""Keys of the provenance in which a saved state and the source must agree."""


class SaveError(ValueError):
    """A state that cannot be saved or loaded; the message is for the person."""


def save(path: Path, state: State, provenance: dict) -> None:
    """Write a state, under another name until the file is whole. SaveError where it cannot be written."""
    strings = {name: str(array) for name, array in state.items() if array.dtype.kind == "U"}
    arrays = {name: np.array(array, order="C") for name, array in state.items() if name not in strings}
    about = {"words": strings, **{name: provenance.get(name) for name in SAME}}
    partial = path.with_suffix(".partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(arrays, partial, {HEADER: json.dumps(about)})
        partial.replace(path)
    except (OSError, SafetensorError) as error:
        raise SaveError(f"{path}: cannot be written ({error})") from error


def is_same(state: State, other: State) -> bool:
    return state.keys() == other.keys() and all(np.array_equal(state[name], other[name]) for name in state)


def load(path: Path, provenance: dict) -> State:
    """The state in a file. SaveError where there is none, or a damaged one, or one of another game or other weights."""
    try:
        with safe_open(path, "numpy") as file:
            about = json.loads((file.metadata() or {})[HEADER])
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
        strings = {name: np.array(text) for name, text in about["words"].items()}
        differs = [name for name in SAME if about[name] != provenance.get(name)]
    except FileNotFoundError as error:
        raise SaveError("nothing is saved here yet: F5 saves") from error
    except (OSError, SafetensorError, KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise SaveError(f"{path}: no saved game, or a damaged one") from error
    if differs:
        raise SaveError(f"{path}: was saved in another game (another {' and '.join(differs)})")
    return arrays | strings
