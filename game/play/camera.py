"""Pictures and films of what was just played: the newest frame as PNG, or the last seconds as MP4 and GIF."""

from __future__ import annotations

import time
from collections import deque
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from world_model.episode.film import Film

CAPTURES = Path("captures")
SECONDS = 10
SIDE = 512
"""Least pixels of the longer side of what is written; frames are scaled by whole numbers, as pixel art should be."""


class Camera:
    """Keeps the last ten seconds. ``look`` at every frame; ``picture`` and ``film`` write a file and return its path.

    Raises OSError where nothing can be written.
    """

    def __init__(self, keys: tuple[str, ...], fps: int):
        self._keys, self._fps = keys, fps
        self._frames: deque[tuple[np.ndarray, np.ndarray]] = deque(maxlen=SECONDS * fps)

    def look(self, frame: np.ndarray, action: np.ndarray) -> None:
        """frame uint8 [H, W, 3] and the action [keys] that it was made under."""
        self._frames.append((frame, action))

    def picture(self) -> Path:
        """The newest frame as a PNG."""
        path = _unused_path("png")
        frame = self._frames[-1][0]
        if not cv2.imwrite(str(path), _enlarged(frame, _scale(frame))[..., ::-1]):
            raise OSError(f"{path}: cannot be written")
        return path

    def film(self) -> Path:
        """The last seconds as an MP4 with the keys drawn in, and as a GIF of the same name without them."""
        frames, path = list(self._frames), _unused_path("mp4")
        scale = _scale(frames[0][0])
        with Film(path, self._keys, self._fps, scale) as film:
            for frame, action in frames:
                film.add(frame, action)
        first, *others = (Image.fromarray(_enlarged(frame, max(1, scale // 2))) for frame, _ in frames)
        first.save(path.with_suffix(".gif"), save_all=True, append_images=others, duration=1000 // self._fps, loop=0)
        return path


def _unused_path(ending: str) -> Path:
    CAPTURES.mkdir(parents=True, exist_ok=True)
    name = time.strftime("%Y%m%d-%H%M%S")
    names = (CAPTURES / f"{name}{f'-{i}' if i else ''}.{ending}" for i in range(1000))
    return next(path for path in names if not path.exists())


def _scale(frame: np.ndarray) -> int:
    return -(-SIDE // max(frame.shape[:2]))


def _enlarged(frame: np.ndarray, scale: int) -> np.ndarray:
    return np.ascontiguousarray(frame.repeat(scale, 0).repeat(scale, 1))
