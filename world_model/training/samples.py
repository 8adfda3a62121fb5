"""What training shows a person: real beside generated, as pictures and videos, with the held keys drawn on them."""

from __future__ import annotations

from pathlib import Path

import av
import cv2
import numpy as np

SCALE = 2


def write_strip(path: Path, rows: list[np.ndarray]) -> None:
    """Rows of frames uint8 [n, H, W, 3] as one PNG."""
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = np.concatenate([np.concatenate(list(row), 1) for row in rows], 0)
    cv2.imwrite(str(path), np.ascontiguousarray(picture[..., ::-1]))


def write_video(path: Path, columns: list[np.ndarray], actions: np.ndarray, keys: tuple[str, ...], fps: int) -> None:
    """Videos uint8 [T, H, W, 3] side by side as an mp4; actions [T, keys] are drawn beneath."""
    path.parent.mkdir(parents=True, exist_ok=True)
    frames = np.concatenate(columns, 2).repeat(SCALE, 1).repeat(SCALE, 2)
    with av.open(str(path), "w") as file:
        stream = file.add_stream("libx264", rate=fps, options={"crf": "18"})
        stream.width, stream.height, stream.pix_fmt = frames.shape[2], frames.shape[1] + 24, "yuv420p"
        for frame, action in zip(frames, actions, strict=True):
            picture = av.VideoFrame.from_ndarray(_with_keys(frame, action, keys), format="rgb24")
            file.mux(stream.encode(picture))
        file.mux(stream.encode())


def _with_keys(frame: np.ndarray, action: np.ndarray, keys: tuple[str, ...]) -> np.ndarray:
    bar = np.full((24, frame.shape[1], 3), 24, np.uint8)
    held = " ".join(key for key, bit in zip(keys, action, strict=True) if bit > 0)
    cv2.putText(bar, held, (6, 17), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (230, 230, 230), 1, cv2.LINE_AA)
    return np.concatenate([frame, bar], 0)
