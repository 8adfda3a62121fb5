"""Numbers for pictures: what each means is said here once, and nothing here knows a model or a game.

Frames are uint8 [..., H, W, 3]; every function gives one number a frame (or a pair of frames), so that whoever calls
can bootstrap over them.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import cv2
import numpy as np


@dataclass(frozen=True)
class Measure:
    """A mean with its 95 % bootstrap interval over ``n`` samples."""

    value: float
    low: float
    high: float
    n: int

    def as_dict(self) -> dict[str, float]:
        return asdict(self)


def measure(samples, groups=None, resamples: int = 1000) -> Measure:
    """Mean of samples [n] with a bootstrap interval; resampled by ``groups`` (rooms) where samples of one are alike."""
    samples = np.asarray(samples, float)
    groups = np.arange(len(samples)) if groups is None else np.asarray(groups)
    names, index = np.unique(groups, return_inverse=True)
    sums, counts = np.bincount(index, samples), np.bincount(index)
    picks = np.random.default_rng(0).integers(len(names), size=(resamples, len(names)))
    means = sums[picks].sum(1) / counts[picks].sum(1)
    low, high = np.percentile(means, [2.5, 97.5])
    return Measure(float(samples.mean()), float(low), float(high), len(samples))


def ratio(made, real, resamples: int = 1000) -> Measure:
    """Sum of ``made`` over sum of ``real``, [n] each, with a bootstrap interval over the n (rooms).

    Not a mean of ratios: one room whose rollout ended at a bare wall would outweigh all others.
    """
    made, real = np.asarray(made, float), np.asarray(real, float)
    picks = np.random.default_rng(0).integers(len(made), size=(resamples, len(made)))
    ratios = made[picks].sum(1) / np.maximum(real[picks].sum(1), 1e-9)
    low, high = np.percentile(ratios, [2.5, 97.5])
    return Measure(float(made.sum() / max(real.sum(), 1e-9)), float(low), float(high), len(made))


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

    mean_a, mean_b, small, tiny = local(a), local(b), (0.03 * 255) ** 2, (0.01 * 255) ** 2
    varied = local(a * a) - mean_a**2 + local(b * b) - mean_b**2
    together = local(a * b) - mean_a * mean_b
    alike = (2 * mean_a * mean_b + tiny) / (mean_a**2 + mean_b**2 + tiny) * (2 * together + small) / (varied + small)
    return float(alike.mean())


QUANTILES = 64


def quantiles(projected: np.ndarray) -> np.ndarray:
    """QUANTILES of samples [n, k] along each of k directions, [QUANTILES, k]. The mean absolute difference of two
    samples' quantiles is their sliced Wasserstein distance (Bonneel et al. 2015), in the samples' own unit."""
    at = (np.arange(QUANTILES) + 0.5) / QUANTILES * len(projected)
    return np.sort(projected, 0)[at.astype(int)]


def obeyed(made: np.ndarray, made_without: np.ndarray, real: np.ndarray, real_without: np.ndarray) -> np.ndarray:
    """Whether a key showed, for each frame after it: [n] of 0 and 1.

    All [n, H, W, 3]: with the key and, from the same instant, without it. The generated effect of the key must lie
    closer to its real effect than no effect does; a picture that ignores the key, or moves the other way, never does.
    """
    effect, true = (
        a.astype(np.float32) - b.astype(np.float32) for a, b in ((made, made_without), (real, real_without))
    )
    return (((effect - true) ** 2).sum((1, 2, 3)) < (true**2).sum((1, 2, 3))).astype(float)


def sticky_keys(seed: int, ticks: int, keys: int, calm: float = 0.25) -> np.ndarray:
    """Keys as a person might hold them: int8 [ticks, keys], one or two held for 5 to 30 ticks, sometimes none."""
    random = np.random.default_rng(seed)
    held = np.zeros((ticks, keys), np.int8)
    at = 0
    while at < ticks:
        length = int(random.integers(5, 31))
        if random.random() > calm:
            held[at : at + length, random.choice(keys, random.integers(1, 3), replace=False)] = 1
        at += length
    return held
