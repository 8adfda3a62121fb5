"""Drift: how much further from the real game a generated one is after minutes than it was after seconds.

The distance is the sliced Wasserstein distance (Bonneel et al. 2015) over latents, between all frames of a window (of
all rooms) and real frames of the same rooms under *other* keys: a game that repeats the real one frame by frame has a
distance too, because windows differ, and that is the baseline.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from world_model.evaluate.evaluation_context import EvaluationContext, Measures, label
from world_model.evaluate.metrics import Measure, quantiles

RESAMPLES = 200
DIRECTIONS = 64


def drift(context: EvaluationContext) -> Measures:
    """``drift_distance_X`` at every moment X, and ``drift_ratio_X`` to the first moment, with the real game's own."""
    suite = context.suite

    def projected(frames: np.ndarray) -> np.ndarray:
        """Frames uint8 [n, H, W, 3] -> their latents along each direction [n, DIRECTIONS]."""
        latents = context.neural.runtime.encode(frames).reshape(len(frames), -1).astype(np.float32)
        return latents @ _directions(latents.shape[1])

    rooms = context.watch(context.rooms, "drift, real")
    real = [projected(context.play_real(room, _other_keys(context, room))) for room in rooms]
    reference = quantiles(np.concatenate(real))
    first, windows = suite.seconds[0], {}
    for index, paired in enumerate(context.watch(context.rollouts, "drift, generated")):
        for second in filter(paired.has, (*suite.seconds, *suite.late_seconds)):
            pair = paired.window(second)
            for look, frames in (("", pair.made), ("@real", pair.real)):
                windows.setdefault((second, look), {})[index] = projected(frames)
    found = {}
    for (second, look), late in windows.items():
        found[f"drift_distance_{label(second)}{look}"] = _resampled(reference, late, None)
        if second != first:
            start = {index: windows[first, look][index] for index in late}
            found[f"drift_ratio_{label(second)}{look}"] = _resampled(reference, late, start)
    return found


@lru_cache(maxsize=1)
def _directions(size: int) -> np.ndarray:
    """Random directions of length 1 in the space of latents, float32 [C h w, DIRECTIONS], always the same."""
    drawn = np.random.default_rng(0).standard_normal((size, DIRECTIONS), np.float32)
    return drawn / np.linalg.norm(drawn, axis=0)


def _other_keys(context: EvaluationContext, room: int) -> np.ndarray:
    return context.keys(room, context.suite.reference_ticks // 2, salt=1)


def _resampled(reference: np.ndarray, late: dict[int, np.ndarray], start: dict[int, np.ndarray] | None) -> Measure:
    """Distance of ``late`` to the reference's quantiles, over that of ``start`` where given; resampled by rooms."""
    rooms = list(late)

    def distance(windows, picked) -> float:
        return float(np.abs(quantiles(np.concatenate([windows[room] for room in picked])) - reference).mean())

    def value(picked) -> float:
        return distance(late, picked) / (1 if start is None else max(distance(start, picked), 1e-9))

    random = np.random.default_rng(0)
    low, high = np.percentile([value(random.choice(rooms, len(rooms))) for _ in range(RESAMPLES)], [2.5, 97.5])
    return Measure(value(rooms), float(low), float(high), sum(map(len, late.values())))
