"""What a published page recorded (``game/publish/page/record.js`` says how it is stored), made an ordinary session.

A file comes from anywhere: everything in it is checked, and nothing is unpickled.
"""

from __future__ import annotations

import gzip
import math
import shutil
import zlib
from collections.abc import Iterator
from itertools import chain, count
from pathlib import Path
from typing import BinaryIO, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, ValidationError

from world_model.episode.format import EpisodeError, SessionMeta, SessionWriter, session_name

LINE = 2**20
"""The first line is shorter than this."""
LIMIT = 2**28
"""The arrays that the first line names are smaller than this, together; real ones have a few million bytes."""
TYPES = {"uint8": "u1", "float32": "<f4", "int64": "<i8"}


class _Array(BaseModel):
    name: str = Field(pattern=r"^(anchors|held|tapped|pending|rolling\.\w+)$")
    type: Literal["uint8", "float32", "int64"]
    shape: tuple[NonNegativeInt, ...] = Field(max_length=8)

    @property
    def size(self) -> int:
        """In bytes."""
        return math.prod(self.shape) * np.dtype(TYPES[self.type]).itemsize


class _About(BaseModel):
    """The first line."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    rollplay: Literal[1]
    world: str
    keys: tuple[str, ...]
    fps: int
    height: int = Field(gt=0, le=4096)
    width: int = Field(gt=0, le=4096)
    checkpoint: str
    seed: int = Field(ge=0, lt=2**63)
    scene: str
    block: int = Field(ge=0, lt=2**63)
    score: float
    runtime: str
    created: str
    arrays: tuple[_Array, ...]


def import_file(file: Path, folder: Path) -> tuple[Path, int]:
    """Write the session of a page's file into ``folder``; its path and number of frames. Raises EpisodeError, and
    leaves nothing then."""
    path = None
    try:
        with gzip.open(file) as data:
            about = _About.model_validate_json(data.readline(LINE))
            if sum(array.size for array in about.arrays) > LIMIT:
                raise ValueError(f"its arrays are to be more than {LIMIT} bytes")
            arrays = {array.name: _read(data, array) for array in about.arrays}
            meta = _meta(about, arrays)
            rows = _rows(data, meta)
            first = next(rows)
            path = folder / session_name(meta.seed)
            state = _start_state(about, arrays, first) if len(arrays) > 1 else None
            with SessionWriter(path, meta, arrays["anchors"], state, durable=False) as writer:
                written = _write(writer, first, rows)
            return path, written
    except BaseException as error:
        if path is not None:
            shutil.rmtree(path, ignore_errors=True)  # of a Ctrl-C, too: the writer has ended what looks whole
        if isinstance(error, (OSError, EOFError, zlib.error, ValueError, StopIteration, EpisodeError)):
            raise EpisodeError(f"{file}: {_why(error)}") from error
        raise


def _why(error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return "no such file"
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "its first line"
        return f"not a recording of a published page ({where}: {first['msg']})"
    if isinstance(error, EpisodeError):
        return str(error)
    return f"not a recording of a published page, or damaged ({str(error) or 'it holds no frame'})"


def _read(data: BinaryIO, array: _Array) -> np.ndarray:
    content = data.read(array.size)
    if len(content) != array.size:
        raise ValueError("it ends too early")
    return np.frombuffer(content, TYPES[array.type]).reshape(array.shape)


def _meta(about: _About, arrays: dict[str, np.ndarray]) -> SessionMeta:
    anchors = arrays.get("anchors", np.zeros(0))
    shape = anchors.shape[1:]
    if len(arrays) != len(about.arrays) or shape != (about.height, about.width, 3) or anchors.dtype != np.uint8:
        raise ValueError("its pictures are not of its size")
    made = {"source": "neural", "world": about.world, "seed": about.seed, "checkpoint": about.checkpoint}
    how = {"runtime": "onnx", "device": "cpu", "policy": "hold", "collapse": "ignore", "browser": about.runtime}
    return SessionMeta(
        **made,
        env="NeuralGame",
        keys=about.keys,
        fps=about.fps,
        height=about.height,
        width=about.width,
        anchors=len(anchors),
        code_version=about.runtime,
        player="person",
        created=about.created,
        provenance={**made, "scene": about.scene, **how},
    )


def _rows(data: BinaryIO, meta: SessionMeta) -> Iterator[np.void]:
    """A frame after the other, with what came with it."""
    row = np.dtype([("time", "<f8"), ("reward", "<f4"), ("over", "u1"), ("keys", "u1", (len(meta.keys),)),
                    ("frame", "u1", (meta.height, meta.width, 3))])  # fmt: skip
    last = 0.0
    for number in count():
        content = data.read(row.itemsize)
        if not content:
            return
        if len(content) != row.itemsize:
            raise ValueError(f"it ends in frame {number}")
        (frame,) = np.frombuffer(content, row)
        if not (last <= frame["time"] < np.inf and frame["over"] in (0, 1)):
            raise ValueError(f"the time or the end of frame {number} is none")
        last = frame["time"]
        yield frame


def _write(writer: SessionWriter, first: np.void, rows: Iterator[np.void]) -> int:
    """How many frames it wrote."""
    written = 0
    for row in chain([first], rows):
        writer.add(row["frame"], row["keys"], row["time"], (), (row["reward"], bool(row["over"]), False))
        written += 1
    return written


def _start_state(about: _About, arrays: dict[str, np.ndarray], first: np.void) -> dict[str, np.ndarray]:
    """The neural game's snapshot behind the first frame; a replay looks whether it is one of the world's."""
    keys = {name: arrays[name].astype(np.int8) for name in ("held", "tapped") if name in arrays}
    return {
        **arrays,
        **keys,
        "seed": np.array(about.seed, np.uint64),
        "block": np.array(about.block),
        "reprimes": np.array(0),
        "score": np.array(about.score),
        "frame": first["frame"],
        "scene": np.array(about.scene),
    }
