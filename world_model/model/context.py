"""Attention layouts of sinks, recent blocks, clean block and window: times and masks.

A *layout* describes a sequence of latent frames: the time of every query and key, and the attention mask. Times are
positions in the ring, not ages, so they stay bounded in a long game; only differences of times reach the attention.
Sinks have no time: they are equally far from every frame.

Two rules hold in every layout, so that cached keys stay valid: sinks attend to sinks only; a context block attends to
sinks, to the R blocks before it, and to itself.
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
    """[sinks | clip] for the teacher: frames attend to everything, sinks to sinks. Counts are latent frames."""
    times = np.array([SINK] * sinks + list(range(frames)))
    is_sink = times == SINK
    return Layout(times, times, is_sink[None, :] | ~is_sink[:, None])


@lru_cache
def packed(per_block: int, sinks: int, recent: int, blocks: int, starts: tuple[int, ...], window: int) -> Layout:
    """[sinks | clean clip | window at starts[0] | window at starts[1] ...]: many ticks of the student in one pass.

    The window that starts at block s attends to what it would in play: sinks, the clean blocks s-1-recent .. s-1, and
    all of itself. Counts are blocks of ``per_block`` latents, those of ``sinks`` too.
    """
    # group 0 is clean, group i >= 1 the i-th window; block: time in blocks; origin: the clean block before a query
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
    mask[0, sinks + recent + 1 :] = False  # the clean block's keys go into the cache: not to depend on the window
    return _spread(Layout(times, key_times, mask), per_block)


def _spread(layout: Layout, per_block: int) -> Layout:
    """A layout of blocks as a layout of latents, where those of a block attend to each other."""

    def spread(times: np.ndarray) -> np.ndarray:
        latents = times[:, None] * per_block + np.arange(per_block)
        return np.where(times[:, None] == SINK, SINK, latents).ravel()

    mask = layout.mask.repeat(per_block, 0).repeat(per_block, 1)
    return Layout(spread(layout.times), spread(layout.key_times), mask)
