"""Drift: how much further from the real game a generated one is after minutes than it was after seconds.

The Frechet distance is taken in the features of the inverse-dynamics model, between all frames of a window (of all
rooms) and real frames of the same rooms under *other* keys: a game that repeats the real one frame by frame has a
distance too, because windows differ, and that is the baseline.
"""

from __future__ import annotations

from functools import reduce
from operator import add

import numpy as np

from world_model.evaluate.metrics import Measure, Moments, frechet
from world_model.evaluate.subject import Measures, Subject

RESAMPLES = 200


def drift(subject: Subject) -> Measures:
    """``drift_distance_X`` at every moment X, and ``drift_ratio_X`` to the first moment, with the real game's own."""
    inverse, suite = subject.inverse, subject.suite
    rooms = subject.watch(subject.rooms, "drift, real")
    real = [Moments.of(inverse.features(subject.play_real(room, _other_keys(subject, room)))) for room in rooms]
    reference = reduce(add, real)
    first, windows = suite.seconds[0], {}
    for index, walk in enumerate(subject.watch(subject.walks, "drift, generated")):
        for second in filter(walk.has, (*suite.seconds, *suite.late_seconds)):
            pair = walk.window(second)
            for look, frames in (("", pair.made), ("@real", pair.real)):
                windows.setdefault((second, look), {})[index] = Moments.of(inverse.features(frames))
    found = {}
    for (second, look), moments in windows.items():
        start = {index: windows[first, look][index] for index in moments}
        found[f"drift_distance_{_moment(second)}{look}"] = _resampled(reference, moments, None)
        if second != first:
            found[f"drift_ratio_{_moment(second)}{look}"] = _resampled(reference, moments, start)
    return found


def _moment(second: int) -> str:
    return f"{second}s" if second < 60 else f"{second // 60}min"


def _other_keys(subject: Subject, room: int) -> np.ndarray:
    return subject.keys(room, subject.suite.reference_ticks // 2, salt=1)


def _resampled(reference: Moments, late: dict[int, Moments], start: dict[int, Moments] | None) -> Measure:
    """Distance of ``late`` to the reference, over that of ``start`` where given; resampled by rooms."""
    rooms = list(late)

    def value(picked) -> float:
        far = frechet(reference, reduce(add, (late[room] for room in picked)))
        if start is None:
            return far
        return far / max(frechet(reference, reduce(add, (start[room] for room in picked))), 1e-9)

    random = np.random.default_rng(0)
    values = [value(random.choice(rooms, len(rooms))) for _ in range(RESAMPLES)]
    low, high = np.percentile(values, [2.5, 97.5])
    return Measure(value(rooms), float(low), float(high), sum(one.count for one in late.values()))
