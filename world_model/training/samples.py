"""Samples for people: real beside generated, as pictures and videos."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from world_model.episode.film import Film


def write_strip(path: Path, rows: list[np.ndarray]) -> None:
    """Rows of frames uint8 [n, H, W, 3] as one PNG."""
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = np.concatenate([np.concatenate(list(row), 1) for row in rows], 0)
    cv2.imwrite(str(path), np.ascontiguousarray(picture[..., ::-1]))


def write_video(path: Path, columns: list[np.ndarray], actions: np.ndarray, keys: tuple[str, ...], fps: int) -> None:
    """Videos uint8 [T, H, W, 3] side by side as an mp4; actions [T, keys] are drawn beneath."""
    with Film(path, keys, fps, scale=2) as film:
        for frame, action in zip(np.concatenate(columns, 2), actions, strict=True):
            film.add(frame, action)
