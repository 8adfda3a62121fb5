"""Keys and action vectors: one bit for each key, in the order of the world's key list. Pure functions."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

KEEP_KEYS = ("w", "a", "s", "d", "space", "e")
ARENA_KEYS = ("w", "a", "s", "d", "left", "right", "space", "e")


def to_action(pressed: Iterable[str], keys: Sequence[str] = ARENA_KEYS) -> np.ndarray:
    """The int8 vector [len(keys)] with a 1 for every name in ``pressed``. ValueError for a name not in keys."""
    action = np.zeros(len(keys), np.int8)
    for name in pressed:
        if name not in keys:
            raise ValueError(f"key {name!r} is not one of this world's keys: {' '.join(keys)}")
        action[list(keys).index(name)] = 1
    return action
