"""How a session is stored, and the writer; ``reading.py`` is the reader.

Alignment: ``frames[t]`` is what ``actions[t]`` produced. ``frames[0]`` is the reset frame (or the frame
that was on the screen when recording began), so ``actions[0]`` is all zeros.

A session is a directory, one episode, that standard tools open::

    session.json       SessionMeta; there before the first chunk
    anchors/0.png ...  pictures of the place, when the source has them
    anchors/0.depth.png ...  their depths, when the source has them: 16 bits, millimetres straight ahead, 0 unknown
    start_state.npz    the source's snapshot behind frames[0], when recording began in mid-game
    chunk_000000.mkv   lossless RGB video, constant rate
    chunk_000000.csv   frame,time,<one column a key>,reward,terminated,truncated,crc32   (a row a frame; time in seconds
                       from the start; what Gymnasium's ``step`` returned, not recorded in format 1;
                       crc32 of the frame's H*W*3 RGB bytes, so that any decoder can be checked;
                       after the keys, where session.json has a spot, pose_x,pose_y,pose_heading,pose_eye)
    end.json           written by close(), or, with the reason as ``cut_short``, when writing failed; without it the
                       recorder was killed (or is still running)

Every file is complete before it gets its final name, and a chunk's csv is the last: a csv is a finished chunk.
The writer never holds more than one second of unfinished frames, so a kill loses at most that.
"""

from __future__ import annotations

import errno
import io
import json
import os
import queue
import re
import secrets
import shutil
import threading
import zlib
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import av
import cv2
import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

from world_model.config import World

FORMAT = 2
META, END, START_STATE, ANCHORS = "session.json", "end.json", "start_state.npz", "anchors"
UNFINISHED = ".tmp"
POSE = ("pose_x", "pose_y", "pose_heading", "pose_eye")
"""Columns of a frame's pose: place on the ground, heading in radians counter-clockwise from +x, height of the eye."""
OUTCOME = ("reward", "terminated", "truncated")
"""Columns of what Gymnasium's ``step`` returned with a frame: a float32, and 0 or 1."""
REWARD_LIMIT = float(np.finfo(np.float32).max)
SECOND_BYTES = 2**30
"""Limit on the pixels of a second: readers allocate memory for as much."""
PLAIN_ID = r"^([\w-]+/)?[\w.-]+$"
"""A Gymnasium id, but none that imports a module, as ``os:system`` would."""

# Measured on 128x128 frames of the arena, one thread, chunks of 20: KiB a frame, frames/s in, frames/s out.
#   libx264rgb ultrafast  8.1, 3700, 3800        FFV1        6.5, 1900, 1900
#   PNG (mov)             8.7, 2900, 3600        Ut Video   13.3, 4000, 5600
# With some noise on the frames, such as a network leaves, x264 does 2400 in and 1600 out, FFV1 half of that
# and PNG is larger than x264. So x264: never slow, never large, and frames that stand still cost it nearly
# nothing. qp 0 in RGB is exact, read through OpenCV and ffmpeg too.
CODEC = "libx264rgb"
CODEC_OPTIONS = {"qp": "0", "preset": "ultrafast", "tune": "zerolatency"}


Outcome = tuple[float, bool, bool]
"""The reward, and whether the episode terminated or was truncated."""


class EpisodeError(Exception):
    """A recording that cannot be written or read; the message says which, and what is wrong."""


class SessionMeta(BaseModel):
    """session.json. ``source`` is ``engine``, ``neural`` or a Gymnasium id: training filters by it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: Literal[1, 2] = FORMAT
    world: str = Field(pattern=r"^[^/\\]+$")
    env: str = Field(pattern=PLAIN_ID, description="Gymnasium id of the frame source")
    keys: tuple[str, ...] = Field(min_length=1, description="names of the action bits, in order")
    fps: int = Field(gt=0)
    height: int = Field(gt=0)
    width: int = Field(gt=0)
    anchors: int = Field(0, ge=0, description="number of anchor pictures")
    depths: bool = Field(False, description="whether the anchors' depths are known")
    spot: tuple[float, float, float, float] | None = Field(
        None, description="pose (x, y, heading, eye height) of the first anchor; with it every frame has a pose"
    )
    seed: int | None = Field(None, ge=0, lt=2**63)
    source: str = Field(pattern=PLAIN_ID)
    checkpoint: str | None = Field(None, description="hash of the weights that drew the frames")
    code_version: str
    player: str = Field(description="a bot's name, or person")
    created: str = Field(description="UTC, ISO 8601")
    provenance: dict[str, Any] = {}
    config: World | None = Field(
        None,
        exclude_if=lambda config: config is None,
        description="the world's part of its YAML, for a game to be made anew; a generated session's is in the weights",
    )

    @model_validator(mode="after")
    def _keys_can_be_columns(self):
        others = [name for name in self.columns if name not in self.keys]
        if len(set(self.columns)) != len(self.columns):
            raise ValueError(f"keys: {self.keys} must be distinct and none may be one of {', '.join(others)}")
        if any(not re.fullmatch(r"[\w-]+", key) for key in self.keys):
            raise ValueError(f"keys: {self.keys} must be plain words, they are column names")
        return self

    @model_validator(mode="after")
    def _a_second_fits_into_memory(self):
        if self.fps * self.height * self.width * 3 > SECOND_BYTES:
            raise ValueError(
                f"{self.fps} frames of {self.width}x{self.height} a second are more than {SECOND_BYTES} bytes"
            )
        return self

    @property
    def columns(self) -> tuple[str, ...]:
        """Header of every chunk's csv."""
        outcome = OUTCOME if self.format > 1 else ()
        return ("frame", "time", *self.keys, *(POSE if self.spot else ()), *outcome, "crc32")


def anchor_file(folder: Path, number: int, kind: str = "png") -> Path:
    """Where an anchor's picture lies in its session, or its depth (``depth.png``)."""
    return folder / ANCHORS / f"{number}.{kind}"


def session_name(seed: int | None) -> str:
    """A new session's directory name: sorted by time, with the seed, and random digits against collisions."""
    started = datetime.now(UTC).strftime("%Y%m%d-%H%M%S-%f")
    return f"{started}-seed{'none' if seed is None else seed}-{secrets.token_hex(2)}"


def chunk_file(folder: Path, number: int, kind: str = "mkv") -> Path:
    """Where a chunk's video lies in its session, or its csv."""
    return folder / f"chunk_{number:06d}.{kind}"


def chunk_number(name: str) -> int | None:
    """The number in a chunk's file name; None for the name of anything else."""
    match = re.fullmatch(r"chunk_(\d{6,})\.(mkv|csv)", name)
    return int(match[1]) if match else None


class SessionWriter:
    """Writes one session: ``add`` frames, then ``close``; also a context manager.

    Encoding and disk run in a thread of their own. ``add`` returns at once unless a whole second of
    frames is unfinished; then it waits, which is what bounds the loss at a kill. A chunk is
    ``chunk_frames`` (half a second by default), and ends early when its timestamps span more than that.
    ``durable`` also asks the disk to keep each chunk through a power cut (fsync).

    Raises EpisodeError: a path that exists, a frame or action of another shape, and, at the first call
    after it happened, anything that went wrong while writing, such as a full disk.
    """

    def __init__(
        self,
        path: str | Path,
        meta: SessionMeta,
        anchors: np.ndarray | None = None,
        start_state: dict[str, np.ndarray] | None = None,
        *,
        depths: np.ndarray | None = None,
        chunk_frames: int | None = None,
        durable: bool = True,
    ):
        self.path, self.meta = Path(path), meta
        self._chunk_frames = chunk_frames or max(1, meta.fps // 2)
        if self._chunk_frames > meta.fps:
            raise EpisodeError(f"chunk_frames {chunk_frames}: a chunk is at most a second, {meta.fps} frames")
        self._durable = durable
        self._frame_shape = (meta.height, meta.width, 3)
        self._added = self._kept = self._chunks = 0
        self._error: EpisodeError | None = None
        self._closed = False
        self._prepare(anchors, depths, start_state)
        self._queue: queue.SimpleQueue = queue.SimpleQueue()
        self._unfinished = threading.Semaphore(meta.fps)  # frames that a kill may still take
        self._thread = threading.Thread(target=self._work, name=f"writer of {self.path.name}", daemon=True)
        self._thread.start()

    def add(
        self,
        frame: np.ndarray,
        action: np.ndarray,
        time: float,
        pose: Sequence[float] = (),
        outcome: Outcome = (0.0, False, False),
    ) -> None:
        """Add frame t (uint8 [H,W,3]), the action bits that produced it [K], its time in seconds, its pose [4]
        where the session has a spot, and the reward and ends that came with it."""
        frame, action = self._checked(frame, action)
        reward, terminated, truncated = map(float, outcome)
        if not abs(reward) <= REWARD_LIMIT:
            raise EpisodeError(f"{self.path}: a reward is a number that a float32 holds, not {reward}")
        if len(pose) != (len(POSE) if self.meta.spot else 0):
            raise EpisodeError(f"{self.path}: a pose is {len(POSE)} numbers where there is a spot, not {pose}")
        self._unfinished.acquire()
        if self._error:
            self._unfinished.release()
            raise self._error
        told = [f"{number:.6f}" for number in pose] + [f"{np.float32(reward):.9g}"]  # of a float32, nine digits are all
        self._queue.put((frame, action, float(time), [*told, f"{terminated:.0f}", f"{truncated:.0f}"]))
        self._added += 1

    def close(self) -> None:
        """Finish the last chunk and mark the end. Calling it again does nothing."""
        if self._closed:
            return
        self._closed = True
        self._queue.put(None)
        self._thread.join()
        if self._error:
            raise self._error
        try:
            self._end()
        except OSError as error:
            raise self._explained(error) from error

    def __enter__(self) -> SessionWriter:
        return self

    def __exit__(self, kind, error, traceback) -> None:
        try:
            self.close()
        except EpisodeError:
            if error is None:  # otherwise the caller already has an error, most likely this one
                raise

    def _checked(self, frame, action) -> tuple[np.ndarray, np.ndarray]:
        if self._closed:
            raise EpisodeError(f"{self.path}: this session is closed")
        frame, action = np.array(frame), np.array(action)  # copies: sources may reuse their buffers
        if frame.shape != self._frame_shape or frame.dtype != np.uint8:
            raise EpisodeError(f"{self.path}: a frame is uint8 {self._frame_shape}, not {frame.dtype} {frame.shape}")
        if action.shape != (len(self.meta.keys),) or any(bit not in (0, 1) for bit in action.tolist()):
            raise EpisodeError(f"{self.path}: an action is {len(self.meta.keys)} bits, not {action.tolist()}")
        if self._added == 0 and action.any():
            raise EpisodeError(f"{self.path}: actions[0] must be all zeros: no action produced frames[0]")
        return frame, action.astype(np.int8)

    def _prepare(self, anchors, depths, start_state) -> None:
        """Fill a directory under a temporary name, then rename it: a session never lacks its session.json."""
        count = 0 if anchors is None else len(anchors)
        if count != self.meta.anchors:
            raise EpisodeError(f"{self.path}: metadata says {self.meta.anchors} anchors, {count} given")
        expected = (count, *self._frame_shape[:2]) if self.meta.depths else ()
        if np.shape(depths) != expected:
            raise EpisodeError(
                f"{self.path}: the anchors' depths are {list(expected)} numbers, not {list(np.shape(depths))}"
            )
        if self.path.exists():
            raise EpisodeError(f"{self.path}: exists already; a session is never written over")
        temporary = self.path.with_name(f"{self.path.name}-{secrets.token_hex(4)}{UNFINISHED}")
        try:
            temporary.mkdir(parents=True)
            for i in range(count):
                (temporary / ANCHORS).mkdir(exist_ok=True)
                _write(anchor_file(temporary, i), _png_bytes(anchors[i]), self._durable)
                if depths is not None:
                    _write(anchor_file(temporary, i, "depth.png"), _depth_bytes(depths[i]), self._durable)
            if start_state is not None:
                _write(temporary / START_STATE, _npz_bytes(start_state), self._durable)
            _write(temporary / META, _json_bytes(self.meta.model_dump(mode="json")), self._durable)
            temporary.rename(self.path)
        except BaseException as error:
            shutil.rmtree(temporary, ignore_errors=True)
            if isinstance(error, OSError):
                raise self._explained(error) from error
            raise

    def _work(self) -> None:
        """The writing thread; a failure goes to the caller by ``_error``."""
        try:
            self._write_chunks()
        except Exception as error:
            self._error = self._explained(error)
            with suppress(OSError):  # without the unfinished chunk, a full disk has room for end.json
                chunk_file(self.path, self._chunks).unlink(missing_ok=True)
                self._end(cut_short=_reason(error))
            self._unfinished.release()  # add() may be waiting, and must raise the error

    def _write_chunks(self) -> None:
        """Encode frames from the queue and save each full chunk, until a None."""
        chunk = None
        while (item := self._queue.get()) is not None:
            chunk = chunk or _Chunk(self.meta, self._chunks, self._kept, self._chunk_frames)
            chunk.add(*item)
            if chunk.full:
                self._save(chunk)
                chunk = None
        if chunk:
            self._save(chunk)

    def _save(self, chunk: _Chunk) -> None:
        chunk.save(self.path, self._durable)
        self._kept, self._chunks = self._kept + len(chunk.rows), self._chunks + 1
        self._unfinished.release(len(chunk.rows))

    def _end(self, **more: str) -> None:
        end = {"frames": self._kept, "chunks": self._chunks, "ended": datetime.now(UTC).isoformat(), **more}
        _write(self.path / END, _json_bytes(end), self._durable)

    def _explained(self, error: Exception) -> EpisodeError:
        seconds = f"{self._kept / self.meta.fps:.1f} s"
        kept = f"the first {self._kept} frames ({seconds}) are kept" if self._kept else "nothing was recorded"
        advice = ". Free some space or record somewhere else" if isinstance(error, OSError) else ""
        return EpisodeError(f"{self.path}: {_reason(error)}; {kept}{advice}")


class _Chunk:
    """Up to ``size`` frames, encoded in memory; ``save`` writes them."""

    def __init__(self, meta: SessionMeta, number: int, start: int, size: int):
        self._meta, self._number, self._start, self._size = meta, number, start, size
        self.rows: list[str] = []
        self._video = io.BytesIO()
        # bitexact: no random ids and no encoder's name in the file, so equal frames make equal files
        self._container = av.open(self._video, "w", format="matroska", options={"fflags": "+bitexact"})
        self._stream = self._container.add_stream(CODEC, rate=meta.fps, options=CODEC_OPTIONS)
        self._stream.width, self._stream.height, self._stream.pix_fmt = meta.width, meta.height, "rgb24"
        self._stream.codec_context.thread_count = 1  # frames are small: threads only cost

    def add(self, frame: np.ndarray, action: np.ndarray, time: float, told: list[str]) -> None:
        numbers = ",".join([f"{time:.6f}", *map(str, action.tolist()), *told])
        self.rows.append(f"{self._start + len(self.rows)},{numbers},{zlib.crc32(frame)}")
        self._first_time = time if len(self.rows) == 1 else self._first_time
        self._last_time = time
        self._container.mux(self._stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))

    @property
    def full(self) -> bool:
        """By number, or by time when ticks are late: a kill must not lose more than a second."""
        return len(self.rows) == self._size or self._last_time - self._first_time >= self._size / self._meta.fps

    def save(self, folder: Path, durable: bool) -> None:
        self._container.mux(self._stream.encode())
        self._container.close()
        table = "\n".join([",".join(self._meta.columns), *self.rows, ""])
        _write(chunk_file(folder, self._number, "mkv"), self._video.getvalue(), durable)
        _write(chunk_file(folder, self._number, "csv"), table.encode(), durable)


def _write(path: Path, data: bytes, durable: bool) -> None:
    """Write under a temporary name, then rename; after an error no temporary file is left."""
    temporary = path.with_name(path.name + UNFINISHED)
    try:
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            if durable:
                os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


def _json_bytes(data: dict) -> bytes:
    return (json.dumps(data, indent=2) + "\n").encode()


def _npz_bytes(arrays: dict[str, np.ndarray]) -> bytes:
    data = io.BytesIO()
    np.savez(data, **arrays)
    return data.getvalue()


def _png_bytes(frame: np.ndarray) -> bytes:
    return cv2.imencode(".png", cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))[1].tobytes()


def _depth_bytes(depth: np.ndarray) -> bytes:
    millimetres = np.nan_to_num(depth * 1000).round().clip(0, 2**16 - 1)
    return cv2.imencode(".png", millimetres.astype(np.uint16))[1].tobytes()


def _reason(error: Exception) -> str:
    if not isinstance(error, OSError):
        return f"recording failed: {type(error).__name__}: {error}"
    full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    return "the disk is full" if full else f"cannot write: {error.strerror or error}"
