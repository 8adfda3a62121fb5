"""Control: whether a key change shows in the frame, and after how many frames."""

from __future__ import annotations

import numpy as np

from world_model.evaluate.evaluation_context import EvaluationContext, Measures, NotMeasured
from world_model.evaluate.metrics import measure, obeyed

CHANGES, LEAD, AFTER = 12, 10, 4
"""Key changes in each room; frames played before a change and after it."""


def onset(context: EvaluationContext) -> Measures:
    """The share of key changes that show within 1, 2 and 4 frames; from no key and from another key."""
    firsts, groups = [], []
    for room in context.rooms:
        for before, after in _changes(context.config.action_size, room):
            first = _first_obeyed(context, room, before, after)
            if first is not None:
                firsts.append(first)
                groups.append(room)
    if not firsts:
        raise NotMeasured("no key change shows in the real game")
    firsts = np.array(firsts)
    names = {"onset_first_frame_share": 1, "onset_two_frames_share": 2, "onset_four_frames_share": 4}
    return {name: measure(firsts <= frames, groups) for name, frames in names.items()}


def _changes(keys: int, seed: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Pairs of actions [k], before and after: every key from none, and some keys from others."""
    random, one = np.random.default_rng(seed), np.eye(keys, dtype=np.int8)
    pairs = [(np.zeros(keys, np.int8), key) for key in one]
    swaps = [random.choice(keys, 2, replace=False) for _ in range(CHANGES - keys if keys > 1 else 0)]
    return pairs + [(one[a], one[b]) for a, b in swaps]


def _first_obeyed(context: EvaluationContext, room: int, before: np.ndarray, after: np.ndarray) -> float | None:
    """Frames from a key change to the first that shows it, infinite if none of AFTER does; None where the real game
    does not show it either (a wall is in the way)."""
    held, changed = np.tile(before, (LEAD + AFTER, 1)), np.tile(after, (AFTER, 1))
    real_without = context.play_real(room, held)[-AFTER:]
    real = context.play_real(room, np.concatenate([held[:LEAD], changed]))[-AFTER:]
    if np.array_equal(real, real_without):
        return None
    context.reset(room)
    context.play_neural(held[:LEAD])
    state = context.neural.get_state()
    made_without = context.play_neural(held[LEAD:])
    context.neural.set_state(state)
    shows = obeyed(context.play_neural(changed), made_without, real, real_without)
    return float(np.argmax(shows) + 1) if shows.any() else np.inf
