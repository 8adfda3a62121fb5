"""Metrics of frames and their bootstrap intervals; nothing here knows a model or a game.

Frames are uint8 [..., H, W, 3]; every metric gives one number a frame (or a pair of frames), to bootstrap over.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import cv2
import numpy as np

RESAMPLES = 1000
QUANTILES = 64


@dataclass(frozen=True)
class Measure:
    """A mean with its 95 % bootstrap interval over ``n`` samples."""

    value: float
    low: float
    high: float
    n: int

    def as_dict(self) -> dict[str, float]:
        return asdict(self)


def measure(samples, groups=None) -> Measure:
    """Mean of samples [n] with a bootstrap interval; ``groups`` [n] (rooms), where given, are resampled as wholes."""
    samples = np.asarray(samples, float)
    groups = np.arange(len(samples)) if groups is None else np.asarray(groups)
    _, index = np.unique(groups, return_inverse=True)
    low, high = _interval(np.bincount(index, samples), np.bincount(index))
    return Measure(float(samples.mean()), low, high, len(samples))


def ratio(made, real) -> Measure:
    """Sum of ``made`` over sum of ``real``, [n] each and not all 0, with a bootstrap interval over the n (rooms).

    Not a mean of ratios, which one room whose rollout ends at a bare wall would dominate.
    """
    made, real = np.asarray(made, float), np.asarray(real, float)
    return Measure(float(made.sum() / real.sum()), *_interval(made, real), len(made))


def _interval(numerators: np.ndarray, denominators: np.ndarray) -> tuple[float, float]:
    """95 % bootstrap interval of the sum of numerators [n] over the sum of denominators [n]."""
    picks = np.random.default_rng(0).integers(len(numerators), size=(RESAMPLES, len(numerators)))
    over, under = numerators[picks].sum(1), denominators[picks].sum(1)
    low, high = np.percentile(over[under > 0] / under[under > 0], [2.5, 97.5])
    return float(low), float(high)


def psnr(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Peak signal-to-noise ratio in dB, [...]; equal frames count 60."""
    error = (a.astype(np.float32) - b.astype(np.float32)) ** 2
    return 10 * np.log10(255.0**2 / np.maximum(error.mean((-3, -2, -1)), 255.0**2 / 1e6))


def ssim(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Structural similarity of the grey pictures, [n] for frames [n, H, W, 3]; 1 for equal ones (Wang et al. 2004)."""
    return np.array([_ssim(_grey(one), _grey(other)) for one, other in zip(a, b, strict=True)])


def _grey(frame: np.ndarray) -> np.ndarray:
    return cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY).astype(np.float64)


def _ssim(a: np.ndarray, b: np.ndarray) -> float:
    def local(picture: np.ndarray) -> np.ndarray:
        return cv2.GaussianBlur(picture, (11, 11), 1.5)

    mean_a, mean_b, c1, c2 = local(a), local(b), (0.01 * 255) ** 2, (0.03 * 255) ** 2
    variances = local(a * a) - mean_a**2 + local(b * b) - mean_b**2
    covariance = local(a * b) - mean_a * mean_b
    luminance = (2 * mean_a * mean_b + c1) / (mean_a**2 + mean_b**2 + c1)
    return float((luminance * (2 * covariance + c2) / (variances + c2)).mean())


def quantiles(projected: np.ndarray) -> np.ndarray:
    """QUANTILES of samples [n, k] along each of k directions, [QUANTILES, k]. The mean absolute difference of two
    samples' quantiles is their sliced Wasserstein distance (Bonneel et al. 2015), in the samples' own unit."""
    at = (np.arange(QUANTILES) + 0.5) / QUANTILES * len(projected)
    return np.sort(projected, 0)[at.astype(int)]


def obeyed(made: np.ndarray, made_without: np.ndarray, real: np.ndarray, real_without: np.ndarray) -> np.ndarray:
    """Whether a key shows, for each frame after it: bool [n].

    All are [n, H, W, 3]: with the key and, from the same state, without it. The generated effect of the key must be
    closer to its real effect than no effect is, which a frame that ignores the key or moves the other way never is.
    """
    effect, true = (
        a.astype(np.float32) - b.astype(np.float32) for a, b in ((made, made_without), (real, real_without))
    )
    return ((effect - true) ** 2).sum((1, 2, 3)) < (true**2).sum((1, 2, 3))


def sticky_keys(seed: int, ticks: int, keys: int, calm: float = 0.25) -> np.ndarray:
    """Random keys int8 [ticks, keys]: one or two held for 5 to 30 ticks; none with probability ``calm``."""
    random = np.random.default_rng(seed)
    held = np.zeros((ticks, keys), np.int8)
    start = 0
    while start < ticks:
        length = int(random.integers(5, 31))
        if random.random() > calm:
            held[start : start + length, random.choice(keys, random.integers(1, 3), replace=False)] = 1
        start += length
    return held
