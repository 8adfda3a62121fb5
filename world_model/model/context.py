"""Who may look at whom, and at which distance: the layouts of sinks, context, clean block and window.

A *layout* is data about a sequence of latents (one entry a latent frame): for every query its time, for every key
its time or that it is a sink, and a mask. Times are slots, never ages, so nothing grows in a long game; only
differences of times reach the attention. Sinks have no time at all: their distance is the same from everywhere.

Two rules make a cached key worth keeping, and hold in every layout:
sinks look at sinks only; a context block looks at sinks, at the R blocks before it, and at itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

SINK = -1
"""The time of a sink."""


@dataclass(frozen=True, eq=False)
class Layout:
    """times [Fq] of the queries (SINK for sinks), key_times [Fk], mask bool [Fq, Fk]; Fk counts cached keys first."""

    times: np.ndarray
    key_times: np.ndarray
    mask: np.ndarray

    @property
    def cached(self) -> int:
        """Latent frames whose keys and values come from the cache."""
        return len(self.key_times) - len(self.times)


@lru_cache
def clip(sinks: int, frames: int) -> Layout:
    """The teacher's view of [sinks | clip]: frames look both ways, sinks only at sinks. Counts are latent frames."""
    times = np.array([SINK] * sinks + list(range(frames)))
    is_sink = times == SINK
    return Layout(times, times, is_sink[None, :] | ~is_sink[:, None])


@lru_cache
def packed(per_block: int, sinks: int, recent: int, blocks: int, starts: tuple[int, ...], window: int) -> Layout:
    """[sinks | clean clip | window at starts[0] | window at starts[1] ...]: many ticks of the student in one pass.

    The window that starts at block s sees what play would show it at that tick: sinks, the clean blocks
    s-1-recent .. s-1, and itself both ways. Counts are blocks of ``per_block`` latents, ``sinks`` included.
    """
    # group 0 is clean, group i >= 1 the i-th window; block: time in blocks; origin: where a query looks back from
    block = np.array([SINK] * sinks + list(range(blocks)) + [s + i for s in starts for i in range(window)])
    group = np.array([0] * (sinks + blocks) + [1 + i for i in range(len(starts)) for _ in range(window)])
    origin = np.array([SINK] * sinks + list(range(blocks)) + [s - 1 for s in starts for _ in range(window)])
    sink, age = block == SINK, origin[:, None] - block[None, :]
    past = (group == 0)[None, :] & ~sink[None, :] & ~sink[:, None] & (age >= 0) & (age <= recent)
    together = (group[:, None] == group[None, :]) & (group > 0)[:, None]
    return _spread(Layout(block, block, sink[None, :] | past | together), per_block)


@lru_cache
def tick(per_block: int, sinks: int, recent: int, window: int) -> Layout:
    """One tick: queries [clean | window], keys [cached sinks | cached recents | clean | window]. Counts are blocks."""
    times = np.arange(recent, recent + 1 + window)
    key_times = np.concatenate([np.full(sinks, SINK), np.arange(recent + 1 + window)])
    mask = np.ones((1 + window, len(key_times)), bool)
    mask[0, sinks + recent + 1 :] = False  # the clean block's keys are kept, so it must not see the window
    return _spread(Layout(times, key_times, mask), per_block)


def _spread(layout: Layout, per_block: int) -> Layout:
    """A layout of blocks as a layout of latents; the latents of a block see each other."""

    def spread(times: np.ndarray) -> np.ndarray:
        inside = np.tile(np.arange(per_block), len(times))
        spread_times = np.repeat(times, per_block)
        return np.where(spread_times == SINK, SINK, spread_times * per_block + inside)

    mask = layout.mask.repeat(per_block, 0).repeat(per_block, 1)
    return Layout(spread(layout.times), spread(layout.key_times), mask)
