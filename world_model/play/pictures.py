"""Measures of pictures, uint8 [..., H, W, 3], that both the game's panel and the evaluation use."""

from __future__ import annotations

import cv2
import numpy as np

CELL, EQUAL = 4, 8
"""Side in pixels of the cells that are compared; grey levels by which values of equal cells may differ."""


def cells_apart(made: np.ndarray, real: np.ndarray) -> np.ndarray:
    """Cells in which two frames [H, W, 3] differ, bool [H / CELL, W / CELL]; a narrower rest at an edge is left out."""
    differ = (np.abs(made.astype(np.int16) - real) > EQUAL).any(-1)
    height, width = (side // CELL for side in differ.shape)
    return differ[: height * CELL, : width * CELL].reshape(height, CELL, width, CELL).any((1, 3))


def sharpness(frames: np.ndarray) -> np.ndarray:
    """Mean magnitude of the Sobel gradient of each grey frame, [n]; blur lowers it."""
    greys = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY).astype(np.float32) for frame in frames]
    return np.array([np.hypot(cv2.Sobel(g, cv2.CV_32F, 1, 0), cv2.Sobel(g, cv2.CV_32F, 0, 1)).mean() for g in greys])


def motion(frames: np.ndarray) -> np.ndarray:
    """Mean absolute difference of each frame and the next, [n - 1]."""
    return np.abs(np.diff(frames.astype(np.float32), axis=0)).mean((1, 2, 3))
