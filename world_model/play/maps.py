"""Sinks that are a map: which of them a frame shows, in whatever light, and another one in its place."""

from __future__ import annotations

import numpy as np

ALIKE, LEAST = 12, 0.25
"""Grey levels within which a pixel shows a picture; the share of pixels from which a frame does."""


def nearest(frame: np.ndarray, pictures: np.ndarray) -> int:
    """Index of the picture [n, H, W, 3] that a frame [H, W, 3] shows most of, in whatever light: by the correlation of
    each colour's standardised values."""

    def standardised(of: np.ndarray) -> np.ndarray:
        flat = of.reshape(*of.shape[:-3], -1, 3).astype(np.float32)
        flat = flat - flat.mean(-2, keepdims=True)
        return flat / (np.linalg.norm(flat, axis=-2, keepdims=True) + 1.0)

    return int((standardised(pictures) * standardised(frame)).sum((-2, -1)).argmax())


def repainted(frame: np.ndarray, old: np.ndarray, new: np.ndarray) -> np.ndarray:
    """The frame [H, W, 3] with picture ``new`` in place of ``old``, where it shows ``old`` in whatever light.

    Light is a gain and an offset a colour, fitted by least squares, then again without what does not fit: sprites.
    """
    shown, before, after = (a.reshape(-1, 3).T.astype(np.float64) for a in (frame, old, new))
    seen = np.ones(shown.shape[1], bool)
    for _ in range(3):
        light = _light(shown[:, seen], before[:, seen])
        seen = (np.abs(shown - before * light[0] - light[1]) <= ALIKE).all(0)
        if seen.sum() < LEAST * len(seen):
            return frame.copy()
    painted = np.where(seen, after * light[0] + light[1], shown)
    return painted.T.reshape(frame.shape).round().clip(0, 255).astype(np.uint8)


def _light(shown: np.ndarray, picture: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Gain and offset [3, 1] each that make ``picture`` [3, n] most like ``shown``."""
    about, middle = shown.mean(1, keepdims=True), picture.mean(1, keepdims=True)
    spread = picture - middle
    gain = ((shown - about) * spread).sum(1, keepdims=True) / np.maximum((spread**2).sum(1, keepdims=True), 1e-9)
    return gain, about - gain * middle
