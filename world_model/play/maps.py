"""Sinks that are a map: which of them a frame shows, in any light, and how to paint another in its place."""

from __future__ import annotations

import numpy as np

ALIKE, LEAST = 12, 0.25
"""Grey levels by which a pixel that shows a picture may differ from it; least share of such pixels in a frame."""


def nearest(frame: np.ndarray, pictures: np.ndarray) -> int:
    """Index of the picture [n, H, W, 3] most like a frame [H, W, 3], in any light: that of the largest correlation of
    each colour's standardised values."""

    def standardised(images: np.ndarray) -> np.ndarray:
        flat = images.reshape(*images.shape[:-3], -1, 3).astype(np.float32)
        flat = flat - flat.mean(-2, keepdims=True)
        return flat / (np.linalg.norm(flat, axis=-2, keepdims=True) + 1.0)

    return int((standardised(pictures) * standardised(frame)).sum((-2, -1)).argmax())


def repainted(frame: np.ndarray, old: np.ndarray, new: np.ndarray) -> np.ndarray:
    """The frame [H, W, 3] with picture ``new`` where it shows ``old``, in the frame's light; sprites stay.

    Light is a gain and an offset a colour, fitted by least squares three times, each time to the pixels that fitted.
    """
    shown, before, after = (picture.reshape(-1, 3).T.astype(np.float64) for picture in (frame, old, new))
    fits = np.ones(shown.shape[1], bool)
    for _ in range(3):
        gain, offset = _light(shown[:, fits], before[:, fits])
        fits = (np.abs(shown - before * gain - offset) <= ALIKE).all(0)
        if fits.sum() < LEAST * len(fits):
            return frame.copy()
    painted = np.where(fits, after * gain + offset, shown)
    return painted.T.reshape(frame.shape).round().clip(0, 255).astype(np.uint8)


def _light(shown: np.ndarray, picture: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Least-squares gain and offset, [3, 1] each, from ``picture`` [3, n] to ``shown`` [3, n]."""
    shown_mean, mean = shown.mean(1, keepdims=True), picture.mean(1, keepdims=True)
    centred = picture - mean
    gain = ((shown - shown_mean) * centred).sum(1, keepdims=True) / np.maximum((centred**2).sum(1, keepdims=True), 1e-9)
    return gain, shown_mean - gain * mean
