"""A film for people: frames scaled up, with the held keys written beneath, as a lossy mp4 that any player opens."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import av
import cv2
import numpy as np

BAR = 24
"""Pixels beneath the picture for the keys; even, because the codec's chroma is at half size."""


class Film:
    """``add`` frames one by one, then ``close``. Raises OSError where it cannot be written."""

    def __init__(self, path: str | Path, keys: tuple[str, ...], fps: int, scale: int = 3):
        self.path, self.keys, self.fps, self.scale = Path(path), keys, fps, scale
        self.path.parent.mkdir(parents=True, exist_ok=True)
        # opened here: on a full disk PyAV's own closing of a file ends the process with a signal
        self._disk = open(self.path, "wb")  # noqa: SIM115
        self._file = av.open(self._disk, "w", format="mp4")
        self._stream = None
        self._error: OSError | None = None

    def add(self, frame: np.ndarray, action: np.ndarray) -> None:
        """frame uint8 [H, W, 3] and the action [keys] that produced it."""
        picture = self._picture(frame, action)
        if self._stream is None:
            # half the processor time of the default preset for the same size
            options = {"crf": "18", "preset": "veryfast"}
            self._stream = self._file.add_stream("libx264", rate=self.fps, options=options)
            self._stream.codec_context.thread_count = 1
            self._stream.height, self._stream.width = picture.shape[:2]
            self._stream.pix_fmt = "yuv420p"
        with self._writing():
            self._file.mux(self._stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))

    def close(self) -> None:
        with self._writing(), self._disk:
            if self._stream is not None:
                self._file.mux(self._stream.encode())
            self._file.close()

    def __enter__(self) -> Film:
        return self

    def __exit__(self, *_) -> None:
        self.close()

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Raises what fails in here as an OSError with the film's name, and again at each later call."""
        if self._error:
            raise self._error
        try:
            yield
        except (OSError, av.FFmpegError) as error:
            self._error = OSError(error.errno, error.strerror, str(self.path))
            raise self._error from error

    def _picture(self, frame: np.ndarray, action: np.ndarray) -> np.ndarray:
        big = frame.repeat(self.scale, 0).repeat(self.scale, 1)
        big = big[: big.shape[0] // 2 * 2, : big.shape[1] // 2 * 2]
        bar = np.full((BAR, big.shape[1], 3), 24, np.uint8)
        held = " ".join(key for key, bit in zip(self.keys, action, strict=True) if bit > 0)
        cv2.putText(bar, held, (6, 17), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (230, 230, 230), 1, cv2.LINE_AA)
        return np.concatenate([big, bar], 0)
