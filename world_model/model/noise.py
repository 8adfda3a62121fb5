"""Noise levels and noise: pure functions of numbers and arrays, numpy's or PyTorch's.

Flow matching on a straight path (Liu et al., arXiv 2209.03003): a block at noise share ``sigma`` is
``x = (1 - sigma) * x0 + sigma * noise`` and its velocity is ``dx/dsigma = noise - x0``. Levels are integers,
0 (clean) to K (pure noise); ``sigmas`` maps them to noise shares.
"""

from __future__ import annotations

import numpy as np


def shifted(u, shift: float):
    """Timestep shift of ``u`` in [0, 1] (SD3, arXiv 2403.03206, eq. 23)."""
    return shift * u / (1.0 + (shift - 1.0) * u)


def sigmas(levels: int, shift: float) -> tuple[float, ...]:
    """Noise share of every level 0..levels; K=5, shift=5 gives 0, .556, .769, .882, .952, 1 (arXiv 2509.25161)."""
    return tuple(shifted(level / levels, shift) for level in range(levels + 1))


def renoise(x0, noise, sigma):
    """``x = (1 - sigma) * x0 + sigma * noise``; shapes broadcast."""
    return (1.0 - sigma) * x0 + sigma * noise


def seeded(seed: int, tick: int, shape: tuple[int, ...]) -> np.ndarray:
    """Standard normal float32 [shape] from a counter-based generator: a function of (seed, tick) alone."""
    # as unsigned numbers: a list with one of 2^63 and more becomes float64, in which near counters are the same
    counter = np.array([0, 0, 0, tick], np.uint64)
    bits = np.random.Philox(key=seed & (2**64 - 1), counter=counter)
    return np.random.Generator(bits).standard_normal(shape, dtype=np.float32)
