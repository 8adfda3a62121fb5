"""Drift: the distance of generated frames from real play after minutes, and its ratio to that after seconds.

The distance is the sliced Wasserstein distance (Bonneel et al. 2015) between the latents of all frames of a window (of
all rooms) and those of real frames of the same rooms under *other* keys. The real game under the window's own keys has
a distance too, because windows differ; that is the baseline ``@real``.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from world_model.evaluate.evaluation_context import EvaluationContext, Measures, label
from world_model.evaluate.metrics import Measure, quantiles

RESAMPLES = 200
DIRECTIONS = 64


def drift(context: EvaluationContext) -> Measures:
    """``drift_distance_X`` at every moment X and ``drift_ratio_X``, its ratio to the first moment's distance."""
    suite = context.suite

    def projected(frames: np.ndarray) -> np.ndarray:
        """Frames uint8 [n, H, W, 3] -> their latents along each direction [n, DIRECTIONS]."""
        latents = context.neural.runtime.encode(frames).reshape(len(frames), -1).astype(np.float32)
        return latents @ _directions(latents.shape[1])

    rooms = context.progress(context.rooms, "drift, real")
    ticks = suite.reference_ticks // 2
    real = [projected(context.play_real(room, context.keys(room, ticks, salt=1))) for room in rooms]
    reference = quantiles(np.concatenate(real))
    first, windows = suite.seconds[0], {}
    for index, paired in enumerate(context.progress(context.rollouts, "drift, generated")):
        for second in filter(paired.has, (*suite.seconds, *suite.late_seconds)):
            pair = paired.window(second)
            for suffix, frames in (("", pair.made), ("@real", pair.real)):
                windows.setdefault((second, suffix), {})[index] = projected(frames)
    measures = {}
    for (second, suffix), late in windows.items():
        measures[f"drift_distance_{label(second)}{suffix}"] = _resampled(reference, late, None)
        if second != first:
            ratio = _resampled(reference, late, windows[first, suffix])
            measures[f"drift_ratio_{label(second)}{suffix}"] = ratio
    return measures


@lru_cache(maxsize=1)
def _directions(size: int) -> np.ndarray:
    """Random directions of length 1 in the space of latents, float32 [C h w, DIRECTIONS], always the same."""
    normal = np.random.default_rng(0).standard_normal((size, DIRECTIONS), np.float32)
    return normal / np.linalg.norm(normal, axis=0)


def _resampled(reference: np.ndarray, late: dict[int, np.ndarray], start: dict[int, np.ndarray] | None) -> Measure:
    """Distance of ``late`` from the reference's quantiles, over that of ``start`` where given; resampled by rooms.
    Both are projected latents by room."""
    rooms = list(late)

    def distance(windows, picked) -> float:
        return float(np.abs(quantiles(np.concatenate([windows[room] for room in picked])) - reference).mean())

    def value(picked) -> float:
        return distance(late, picked) / (1 if start is None else max(distance(start, picked), 1e-9))

    random = np.random.default_rng(0)
    low, high = np.percentile([value(random.choice(rooms, len(rooms))) for _ in range(RESAMPLES)], [2.5, 97.5])
    return Measure(value(rooms), float(low), float(high), sum(map(len, late.values())))
