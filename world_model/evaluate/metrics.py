"""Numbers for pictures: what each means is said here once, and nothing here knows a model or a game.

Frames are uint8 [..., H, W, 3]; every function gives one number a frame (or a pair of frames), so that whoever calls
can bootstrap over them.
"""

from __future__ import annotations

from collections.abc import Callable
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

    Not a mean of ratios: one room whose walk ended at a bare wall would outweigh all others.
    """
    made, real = np.asarray(made, float), np.asarray(real, float)
    picks = np.random.default_rng(0).integers(len(made), size=(resamples, len(made)))
    ratios = made[picks].sum(1) / np.maximum(real[picks].sum(1), 1e-9)
    low, high = np.percentile(ratios, [2.5, 97.5])
    return Measure(float(made.sum() / max(real.sum(), 1e-9)), float(low), float(high), len(made))


CELL, EQUAL = 4, 8
"""Pixels a side of what is compared as one; grey levels within which all of it equals the real one."""


def cells_apart(made: np.ndarray, real: np.ndarray) -> np.ndarray:
    """Cells in which two frames [H, W, 3] differ, bool [H / CELL, W / CELL]; what is left over at an edge is none."""
    apart = (np.abs(made.astype(np.int16) - real) > EQUAL).any(-1)
    height, width = (side // CELL for side in apart.shape)
    return apart[: height * CELL, : width * CELL].reshape(height, CELL, width, CELL).any((1, 3))


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


@dataclass(frozen=True, eq=False)
class Moments:
    """Count, sum [d] and sum of products [d, d] of features: sets of them add up."""

    count: int
    sums: np.ndarray
    products: np.ndarray

    @classmethod
    def of(cls, features: np.ndarray) -> Moments:
        """Of features [n, d]."""
        features = np.asarray(features, float)
        return cls(len(features), features.sum(0), features.T @ features)

    def __add__(self, other: Moments) -> Moments:
        return Moments(self.count + other.count, self.sums + other.sums, self.products + other.products)

    @property
    def mean(self) -> np.ndarray:
        return self.sums / self.count

    @property
    def covariance(self) -> np.ndarray:
        return self.products / self.count - np.outer(self.mean, self.mean)


def frechet(a: Moments, b: Moments) -> float:
    """Frechet distance of two normal distributions: ``|m_a - m_b|^2 + tr(C_a + C_b - 2 (C_a C_b)^(1/2))``."""
    values, vectors = np.linalg.eigh(a.covariance)
    root = (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
    crossed = np.sqrt(np.maximum(np.linalg.eigvalsh(root @ b.covariance @ root), 0)).sum()
    apart = ((a.mean - b.mean) ** 2).sum()
    return float(max(apart + np.trace(a.covariance) + np.trace(b.covariance) - 2 * crossed, 0.0))


def sharpness(frames: np.ndarray) -> np.ndarray:
    """Mean magnitude of the Sobel gradient of the grey picture, [n]; blur lowers it."""
    greys = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY).astype(np.float32) for frame in frames]
    return np.array([np.hypot(cv2.Sobel(g, cv2.CV_32F, 1, 0), cv2.Sobel(g, cv2.CV_32F, 0, 1)).mean() for g in greys])


def motion(frames: np.ndarray) -> np.ndarray:
    """Mean absolute change from each frame to the next, [n - 1]; a frozen picture has none."""
    return np.abs(np.diff(frames.astype(np.float32), axis=0)).mean((1, 2, 3))


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


def tally(seen: np.ndarray, had: np.ndarray, clear: np.ndarray) -> np.ndarray:
    """Hits, false alarms and misses of each key, int64 [3, k]; bool [n, k] each, and only what is ``clear`` counts."""
    return np.stack([(seen & had & clear).sum(0), (seen & ~had & clear).sum(0), (~seen & had & clear).sum(0)])


def precision(counts: np.ndarray) -> np.ndarray:
    """Of a ``tally`` [..., 3, k]: the share of what was seen that was so, [..., k]; 0 where nothing was right."""
    return counts[..., 0, :] / np.maximum(counts[..., 0, :] + counts[..., 1, :], 1)


def recall(counts: np.ndarray) -> np.ndarray:
    """Of a ``tally`` [..., 3, k]: the share of what was so that was seen, [..., k]; 0 where nothing was right."""
    return counts[..., 0, :] / np.maximum(counts[..., 0, :] + counts[..., 2, :], 1)


def f1(counts: np.ndarray) -> np.ndarray:
    """Of a ``tally`` [..., 3, k]: the harmonic mean of precision and recall, [..., k]; 0 where nothing was right."""
    hits, alarms, misses = np.moveaxis(counts, -2, 0)
    return 2 * hits / np.maximum(2 * hits + alarms + misses, 1)


def tallied(counts: np.ndarray, number: Callable[[np.ndarray], np.ndarray], resamples: int = 1000) -> list[Measure]:
    """``number`` (f1, precision, recall) a key, and last their mean over keys, of tallies [rooms, 3, k], by rooms.

    ``n`` is how often the key had an effect. A key that never had one, in any room, is not a number.
    """
    counts = np.asarray(counts)
    picks = np.random.default_rng(0).integers(len(counts), size=(resamples, len(counts)))
    happened = (counts[:, 0] + counts[:, 2]).sum(0)

    def scores(tallies: np.ndarray) -> np.ndarray:
        each = number(tallies)
        mean = (each * (happened > 0)).sum(-1, keepdims=True) / max((happened > 0).sum(), 1)
        return np.concatenate([np.where(happened > 0, each, np.nan), mean], -1)

    values, drawn = scores(counts.sum(0)), scores(counts[picks].sum(1))
    lows, highs = np.percentile(drawn, [2.5, 97.5], axis=0)
    ns = [*happened, happened.sum()]
    return [Measure(*map(float, row), int(n)) for *row, n in zip(values, lows, highs, ns, strict=True)]
