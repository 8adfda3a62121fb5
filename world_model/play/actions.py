"""Actions, as every game takes them: one bit a key."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def checked(actions, keys: Sequence[str], *batch: int) -> np.ndarray:
    """``actions`` as int64 [*batch, keys]. ValueError unless it has this shape and every number is 0 or 1."""
    actions = np.asarray(actions)
    if actions.shape != (*batch, len(keys)):
        raise ValueError(f"actions of shape {actions.shape}; expected {(*batch, len(keys))}: one bit a key")
    if not np.isin(actions, (0, 1)).all():
        raise ValueError(f"an action holds 0 or 1 for each of {' '.join(keys)}, nothing else")
    return actions.astype(np.int64)
