"""Recordings: the one place that knows how a session lies on disk, for writing and for reading.

Alignment: ``frames[t]`` is what ``actions[t]`` produced. ``frames[0]`` is the reset frame (or the frame
that was on the screen when recording began), so ``actions[0]`` is all zeros.

A session is a directory, one episode, that standard tools open::

    session.json       SessionMeta; there before the first chunk
    anchors/0.png ...  views of the place, when the source has them
    start_state.npz    the source's snapshot behind frames[0], when recording began in mid-game
    chunk_000000.mkv   lossless RGB video, constant rate
    chunk_000000.csv   frame,time,<one column a key>,crc32   (a row a frame; time in seconds from the start;
                       crc32 of the frame's H*W*3 RGB bytes, so that any decoder can be held to the pixel)
    end.json           written by close(); without it the recorder was killed (or is still running)

Nothing has its final name before it is complete, and a chunk's csv is named last: a csv is a finished chunk.
The writer never holds more than one second of unfinished frames, so a kill loses at most that.
"""

from __future__ import annotations

import argparse
import errno
import io
import json
import os
import queue
import re
import secrets
import shutil
import sys
import threading
import zipfile
import zlib
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, Literal

import av
import cv2
import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from rich import box
from rich.console import Console
from rich.progress import track
from rich.table import Table

FORMAT = 1
META, END, START_STATE, ANCHORS = "session.json", "end.json", "start_state.npz", "anchors"
UNFINISHED = ".tmp"

# Measured on 128x128 frames of the arena, one thread, chunks of 20: KiB a frame, frames/s in, frames/s out.
#   libx264rgb ultrafast  8.1, 3700, 3800        FFV1        6.5, 1900, 1900
#   PNG (mov)             8.7, 2900, 3600        Ut Video   13.3, 4000, 5600
# With some noise on the frames, such as a network leaves, x264 does 2400 in and 1600 out, FFV1 half of that
# and PNG is larger than x264. So x264: never slow, never large, and frames that stand still cost it nearly
# nothing. qp 0 in RGB is exact, read through OpenCV and ffmpeg too.
CODEC = "libx264rgb"
CODEC_OPTIONS = {"qp": "0", "preset": "ultrafast", "tune": "zerolatency"}


class EpisodeError(Exception):
    """A recording that cannot be written or read; the message says which, and what is wrong."""


class SessionMeta(BaseModel):
    """session.json. ``source`` is ``engine``, ``neural`` or a Gymnasium id: training filters by it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: Literal[1] = FORMAT
    world: str
    env: str = Field(description="Gymnasium id of the frame source")
    keys: tuple[str, ...] = Field(min_length=1, description="names of the action bits, in order")
    fps: int = Field(gt=0)
    height: int = Field(gt=0)
    width: int = Field(gt=0)
    anchors: int = Field(0, ge=0, description="number of anchor pictures")
    seed: int | None = None
    source: str = Field(min_length=1)
    checkpoint: str | None = Field(None, description="hash of the weights that drew the frames")
    code_version: str
    player: str = Field(description="a bot's name, or person")
    created: str = Field(description="UTC, ISO 8601")
    provenance: dict[str, Any] = {}

    @model_validator(mode="after")
    def _keys_can_be_columns(self):
        if len({*self.keys, "frame", "time", "crc32"}) != len(self.keys) + 3:
            raise ValueError(f"keys: {self.keys} must be distinct and none may be frame, time or crc32")
        if any(not re.fullmatch(r"[\w-]+", key) for key in self.keys):
            raise ValueError(f"keys: {self.keys} must be plain words, they are column names")
        return self

    @property
    def columns(self) -> tuple[str, ...]:
        """Header of every chunk's csv."""
        return ("frame", "time", *self.keys, "crc32")


def session_name(seed: int | None) -> str:
    """A new session's directory name: sorts by time, carries the seed; the tail keeps two processes apart."""
    started = datetime.now(UTC).strftime("%Y%m%d-%H%M%S-%f")
    return f"{started}-seed{'none' if seed is None else seed}-{secrets.token_hex(2)}"


def find_sessions(folder: str | Path) -> list[Path]:
    """Sorted paths of the sessions in a directory, nested ones too; it may itself be a session.

    A directory with chunks but no session.json is listed as well, so that it is not passed over in
    silence: opening it says what is wrong. Raises EpisodeError when there is no such directory.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise EpisodeError(f"{folder}: no such directory")
    found = []
    for root, directories, files in os.walk(folder):
        if META in files or any(_chunk_number(name) is not None for name in files):
            found.append(Path(root))
            directories.clear()
        directories[:] = [name for name in directories if not name.endswith(UNFINISHED)]
    return sorted(found)


# ---------------------------------------------------------------- writing


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
        self._prepare(anchors, start_state)
        self._queue: queue.SimpleQueue = queue.SimpleQueue()
        self._unfinished = threading.Semaphore(meta.fps)  # frames that a kill may still take
        self._thread = threading.Thread(target=self._work, name=f"writer of {self.path.name}", daemon=True)
        self._thread.start()

    def add(self, frame: np.ndarray, action: np.ndarray, time: float) -> None:
        """Add frame t (uint8 [H,W,3]), the action bits that produced it [K] and its time in seconds."""
        frame, action = self._checked(frame, action)
        self._unfinished.acquire()
        if self._error:
            self._unfinished.release()
            raise self._error
        self._queue.put((frame, action, float(time)))
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
        end = {"frames": self._kept, "chunks": self._chunks, "ended": datetime.now(UTC).isoformat()}
        try:
            _write(self.path / END, _json_bytes(end), self._durable)
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

    def _prepare(self, anchors, start_state) -> None:
        """Fill a directory under a temporary name, then give it its own: a session never lacks its head."""
        count = 0 if anchors is None else len(anchors)
        if count != self.meta.anchors:
            raise EpisodeError(f"{self.path}: metadata says {self.meta.anchors} anchors, {count} given")
        if self.path.exists():
            raise EpisodeError(f"{self.path}: exists already; a session is never written over")
        making = self.path.with_name(f"{self.path.name}-{secrets.token_hex(4)}{UNFINISHED}")
        try:
            making.mkdir(parents=True)
            for i in range(count):
                (making / ANCHORS).mkdir(exist_ok=True)
                _write(making / ANCHORS / f"{i}.png", _png_bytes(anchors[i]), self._durable)
            if start_state is not None:
                _write(making / START_STATE, _npz_bytes(start_state), self._durable)
            _write(making / META, _json_bytes(self.meta.model_dump(mode="json")), self._durable)
            making.rename(self.path)
        except OSError as error:
            shutil.rmtree(making, ignore_errors=True)
            raise EpisodeError(_explain_os_error(self.path, error, 0, self.meta.fps)) from error

    def _work(self) -> None:
        """The writing thread. It must hand every failure to the caller, or it would be lost with the thread."""
        try:
            self._write_chunks()
        except Exception as error:
            self._error = self._explained(error)
            self._unfinished.release()  # whoever waits in add() comes out and finds the error

    def _write_chunks(self) -> None:
        """Encode frames as they come, save each chunk as it fills up, end at a None."""
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

    def _explained(self, error: Exception) -> EpisodeError:
        if isinstance(error, OSError):
            return EpisodeError(_explain_os_error(self.path, error, self._kept, self.meta.fps))
        return EpisodeError(f"{self.path}: recording failed: {type(error).__name__}: {error}")


class _Chunk:
    """Up to ``size`` frames in the making, all in memory; ``save`` puts them on disk."""

    def __init__(self, meta: SessionMeta, number: int, start: int, size: int):
        self._meta, self._number, self._start, self._size = meta, number, start, size
        self.rows: list[str] = []
        self._video = io.BytesIO()
        # bitexact: no random ids and no encoder's name in the file, so equal frames make equal files
        self._container = av.open(self._video, "w", format="matroska", options={"fflags": "+bitexact"})
        self._stream = self._container.add_stream(CODEC, rate=meta.fps, options=CODEC_OPTIONS)
        self._stream.width, self._stream.height, self._stream.pix_fmt = meta.width, meta.height, "rgb24"
        self._stream.codec_context.thread_count = 1  # frames are small: threads only cost

    def add(self, frame: np.ndarray, action: np.ndarray, time: float) -> None:
        bits = ",".join(map(str, action.tolist()))
        self.rows.append(f"{self._start + len(self.rows)},{time:.6f},{bits},{zlib.crc32(frame)}")
        self._first_time = time if len(self.rows) == 1 else self._first_time
        self._last_time = time
        self._container.mux(self._stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))

    @property
    def full(self) -> bool:
        """By number, or by time when the ticks came late: a kill must not take more than a second."""
        return len(self.rows) == self._size or self._last_time - self._first_time >= self._size / self._meta.fps

    def save(self, folder: Path, durable: bool) -> None:
        self._container.mux(self._stream.encode())
        self._container.close()
        table = "\n".join([",".join(self._meta.columns), *self.rows, ""])
        _write(_chunk_file(folder, self._number, "mkv"), self._video.getvalue(), durable)
        _write(_chunk_file(folder, self._number, "csv"), table.encode(), durable)


def _chunk_file(folder: Path, number: int, kind: str = "mkv") -> Path:
    return folder / f"chunk_{number:06d}.{kind}"


def _write(path: Path, data: bytes, durable: bool) -> None:
    """The whole file or nothing under this name; after an error no temporary file is left."""
    making = path.with_name(path.name + UNFINISHED)
    try:
        with open(making, "wb") as file:
            file.write(data)
            file.flush()
            if durable:
                os.fsync(file.fileno())
        os.replace(making, path)
    except OSError:
        making.unlink(missing_ok=True)
        raise


def _json_bytes(data: dict) -> bytes:
    return (json.dumps(data, indent=2) + "\n").encode()


def _npz_bytes(arrays: dict[str, np.ndarray]) -> bytes:
    data = io.BytesIO()
    np.savez(data, **arrays)
    return data.getvalue()


def _png_bytes(frame: np.ndarray) -> bytes:
    return cv2.imencode(".png", cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))[1].tobytes()


def _explain_os_error(path: Path, error: OSError, frames: int, fps: int) -> str:
    full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    reason = "the disk is full" if full else f"cannot write: {error.strerror or error}"
    kept = f"the first {frames} frames ({frames / fps:.1f} s) are kept" if frames else "nothing was recorded"
    return f"{path}: {reason}; {kept}. Free some space or record somewhere else"


# ---------------------------------------------------------------- reading


class Session:
    """A recording opened for reading: ``Session.open(path)``, then ``frames(start, stop)`` and the arrays.

    meta     SessionMeta
    actions  int8 [T, K], actions[t] produced frames[t], actions[0] is zero
    times    float64 [T], seconds since the start
    damage   named problems that opening found; what they name is left out

    It holds the finished chunks up to the first gap: frame numbers never jump. Opening reads no video;
    ``check()`` does, and compares every pixel with the recorded checksums.
    """

    def __init__(self, path: Path, meta: SessionMeta, tables: list[np.ndarray], damage: list[str]):
        self.path, self.meta, self.damage = path, meta, damage
        table = np.concatenate(tables) if tables else np.zeros((0, len(meta.columns)))
        self.times = np.ascontiguousarray(table[:, 1])
        self.actions = table[:, 2:-1].astype(np.int8)
        self._crc = table[:, -1].astype(np.uint32)
        self._starts = np.cumsum([0, *(len(t) for t in tables)])  # chunk i holds [starts[i], starts[i+1])
        self._last_decoded: tuple[int, np.ndarray] | None = None  # a replay asks frame by frame

    @classmethod
    def open(cls, path: str | Path) -> Session:
        """Raises EpisodeError when there is no readable session.json; lesser damage goes to ``damage``."""
        path = Path(path)
        meta = _read_meta(path)
        names = sorted(entry.name for entry in os.scandir(path))
        tables, damage = _read_tables(path, meta, names)
        damage += _missing_parts(path, meta, names)
        damage += _check_end(path, sum(map(len, tables)))
        return cls(path, meta, tables, damage)

    def __len__(self) -> int:
        return len(self.times)

    @property
    def anchors(self) -> np.ndarray:
        """uint8 [A,H,W,3], read at each access; A is 0 for sources without anchors. Raises EpisodeError."""
        shape = (self.meta.height, self.meta.width, 3)
        anchors = np.empty((self.meta.anchors, *shape), np.uint8)
        for i in range(self.meta.anchors):
            file = self.path / ANCHORS / f"{i}.png"
            picture = cv2.imread(str(file), cv2.IMREAD_COLOR) if file.is_file() else None
            if picture is None or picture.shape != shape:
                raise EpisodeError(f"{file}: missing, or not a picture of {shape[1]}x{shape[0]}")
            anchors[i] = picture[..., ::-1]
        return anchors

    @property
    def start_state(self) -> dict[str, np.ndarray] | None:
        """The source's snapshot behind frames[0]; None when recording began with a reset."""
        file = self.path / START_STATE
        if not file.is_file():
            return None
        try:
            with np.load(file, allow_pickle=False) as arrays:
                return dict(arrays)
        except (OSError, ValueError, zipfile.BadZipFile) as error:
            raise EpisodeError(f"{file}: not a readable snapshot ({error})") from error

    def frames(self, start: int = 0, stop: int | None = None) -> np.ndarray:
        """uint8 [stop-start,H,W,3]; decodes only the chunks needed. Raises EpisodeError, IndexError."""
        stop = len(self) if stop is None else stop
        if not 0 <= start <= stop <= len(self):
            raise IndexError(f"{self.path}: frames {start}..{stop} of {len(self)}")
        out = np.empty((stop - start, self.meta.height, self.meta.width, 3), np.uint8)
        first = np.searchsorted(self._starts, start, side="right") - 1
        end = np.searchsorted(self._starts, stop) if stop > start else first
        for i in range(first, end):
            begin = int(self._starts[i])
            low, high = max(start, begin), min(stop, begin + self._length(i))
            out[low - start : high - start] = self._chunk(i)[low - begin : high - begin]
        if len(out) != 1:
            self._last_decoded = None  # hundreds of sessions may be open: only a replay keeps a chunk
        return out

    def check(self) -> list[str]:
        """Decode everything and compare it with the checksums; returns ``damage`` and what this finds."""
        parts = [partial(self._compare, i) for i in range(len(self._starts) - 1)]
        parts += [lambda: self.anchors, lambda: self.start_state]
        problems = list(self.damage)
        for read in parts:
            try:
                read()
            except EpisodeError as error:
                problems.append(str(error).removeprefix(f"{self.path}{os.sep}"))
        return list(dict.fromkeys(problems))

    def _compare(self, i: int) -> None:
        begin = int(self._starts[i])
        found = np.array([zlib.crc32(frame) for frame in self._chunk(i)])
        wrong = np.flatnonzero(found != self._crc[begin : begin + len(found)])
        if len(wrong):
            words = f"{len(wrong)} frames are not what was recorded, the first is frame {begin + wrong[0]}"
            raise EpisodeError(f"{_chunk_file(self.path, i)}: {words}")

    def _chunk(self, i: int) -> np.ndarray:
        if self._last_decoded is None or self._last_decoded[0] != i:
            size = (self._length(i), self.meta.height, self.meta.width)
            self._last_decoded = i, _decode(_chunk_file(self.path, i), *size)
        return self._last_decoded[1]

    def _length(self, i: int) -> int:
        return int(self._starts[i + 1] - self._starts[i])


def _decode(file: Path, count: int, height: int, width: int) -> np.ndarray:
    """uint8 [count,H,W,3], or EpisodeError when the video is not exactly that."""
    out = np.empty((count, height, width, 3), np.uint8)
    found = 0
    try:
        with av.open(str(file)) as container:
            stream = container.streams.video[0]
            stream.codec_context.thread_count = 1
            for frame in container.decode(stream):
                if found < count:
                    out[found] = _pixels(frame)
                found += 1
    except (av.FFmpegError, OSError, IndexError, ValueError) as error:
        raise EpisodeError(f"{file}: cannot be decoded ({error})") from error
    if found != count:
        raise EpisodeError(f"{file}: holds {found} frames, its csv {count}")
    return out


def _pixels(frame: av.VideoFrame) -> np.ndarray:
    """RGB [H,W,3] straight from the decoder's planes (x264 stores G, B, R); no colour conversion to round."""
    if frame.format.name != "gbrp":
        raise ValueError(f"pixel format {frame.format.name}, expected gbrp")
    green, blue, red = (
        np.frombuffer(plane, np.uint8).reshape(plane.height, plane.line_size)[:, : plane.width]
        for plane in frame.planes
    )
    return cv2.merge((red, green, blue))


def _read_meta(path: Path) -> SessionMeta:
    if not path.is_dir():
        raise EpisodeError(f"{path}: no such directory")
    try:
        return SessionMeta.model_validate_json((path / META).read_text())
    except FileNotFoundError as error:
        raise EpisodeError(f"{path}: {META} is missing, so this is not a session") from error
    except (OSError, UnicodeDecodeError) as error:
        raise EpisodeError(f"{path}: {META} cannot be read ({error})") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "(whole)"
        raise EpisodeError(f"{path}: {META}: {where}: {first['msg']}") from error


def _chunk_number(name: str) -> int | None:
    match = re.fullmatch(r"chunk_(\d{6,})\.(mkv|csv)", name)
    return int(match[1]) if match else None


def _read_tables(path: Path, meta: SessionMeta, names: list[str]) -> tuple[list[np.ndarray], list[str]]:
    """The chunks' tables up to the first one that is not sound, and what is wrong with the others."""
    tables, damage, start = [], [], 0
    numbers = sorted({n for n in map(_chunk_number, names) if n is not None})
    for position, number in enumerate(numbers):
        name = f"chunk_{number:06d}"
        try:
            if number != position:
                raise EpisodeError(f"chunk_{position:06d}: missing")
            table = _read_table(path, name, meta, start)
        except EpisodeError as error:
            damage.append(str(error))
            later = numbers[position + (number == position) :]
            if later:
                span = f"chunk_{later[0]:06d} to chunk_{later[-1]:06d}"
                damage.append(f"{span}: left out, they come after a gap at frame {start}")
            break
        tables.append(table)
        start += len(table)
    return tables, damage


def _read_table(path: Path, name: str, meta: SessionMeta, start: int) -> np.ndarray:
    """float64 [n, 3+K], one finished chunk's csv. Raises EpisodeError that begins with the file's name."""
    csv, video = path / f"{name}.csv", path / f"{name}.mkv"
    if not csv.is_file():
        raise EpisodeError(f"{video.name}: dropped, it has no {csv.name}: the chunk was never finished")
    if not video.is_file():
        raise EpisodeError(f"{csv.name}: dropped, its video {video.name} is missing")
    try:
        header, *rows = csv.read_text().splitlines()
        if header != ",".join(meta.columns):
            raise ValueError(f"header is {header[:80]!r}")
        table = np.loadtxt(rows, delimiter=",", ndmin=2, comments=None)
    except (OSError, ValueError) as error:
        raise EpisodeError(f"{csv.name}: not the table that was recorded ({error})") from error
    if table.shape[0] == 0 or table.shape[1] != len(meta.columns):
        raise EpisodeError(f"{csv.name}: {table.shape[0]} rows of {table.shape[1]}, not {len(meta.columns)}")
    jump = np.flatnonzero(table[:, 0] != start + np.arange(len(table)))
    if len(jump):
        row = int(jump[0])
        raise EpisodeError(f"{csv.name}: frame {table[row, 0]:.0f} stands where frame {start + row} should")
    if not np.isin(table[:, 2:-1], (0, 1)).all():
        raise EpisodeError(f"{csv.name}: a key is neither 0 nor 1")
    return table


def _missing_parts(path: Path, meta: SessionMeta, names: list[str]) -> list[str]:
    anchors = [f"{ANCHORS}/{i}.png" for i in range(meta.anchors)]
    damage = [f"{name}: missing" for name in anchors if not (path / name).is_file()]
    leftovers = [name for name in names if name.endswith(UNFINISHED)]
    return damage + [f"{name}: dropped, it was still being written" for name in leftovers]


def _check_end(path: Path, frames: int) -> list[str]:
    file = path / END
    if not file.is_file():
        return [f"not closed: the recorder was killed or is still running; {frames} finished frames are kept"]
    try:
        promised = json.loads(file.read_text())["frames"]
    except (OSError, ValueError, KeyError, TypeError):
        return [f"{END}: cannot be read"]
    return [] if promised == frames else [f"{END}: {promised} frames were recorded, {frames} can be read"]


# ---------------------------------------------------------------- python -m world_model.episode DIR


class _Row(BaseModel):
    """One line of the listing; sums of these make the total line."""

    name: str
    source: str = "?"
    frames: int = 0
    seconds: float = 0.0
    idle: int = 0
    held: dict[str, int] = {}
    gaps: int = 0
    largest_gap: float = 0.0
    damage: list[str] = []
    damaged: str = ""  # the total's own words


def _inspect(path: Path, name: str, decode: bool) -> _Row:
    try:
        session = Session.open(path)
    except EpisodeError as error:
        return _Row(name=name, damage=[str(error).removeprefix(f"{path}: ")])
    steps = np.diff(session.times)
    late = steps[steps > 1.5 / session.meta.fps]
    played = session.actions[1:]  # actions[0] is no action, nobody's choice
    return _Row(
        name=name,
        source=session.meta.source,
        frames=len(session),
        seconds=len(session) / session.meta.fps,
        idle=int((~played.any(axis=1)).sum()),
        held=dict(zip(session.meta.keys, played.sum(axis=0, dtype=int).tolist(), strict=True)),
        gaps=len(late),
        largest_gap=float(late.max(initial=0.0)),
        damage=session.check() if decode else session.damage,
    )


def _total(rows: list[_Row]) -> _Row:
    held: dict[str, int] = {}
    for row in rows:
        for key, count in row.held.items():
            held[key] = held.get(key, 0) + count
    sources = sorted({row.source for row in rows})
    return _Row(
        name=f"{len(rows)} sessions",
        source=", ".join(f"{source} {sum(row.source == source for row in rows)}" for source in sources),
        frames=sum(row.frames for row in rows),
        seconds=sum(row.seconds for row in rows),
        idle=sum(row.idle for row in rows),
        held=held,
        gaps=sum(row.gaps for row in rows),
        largest_gap=max(row.largest_gap for row in rows),
        damaged=f"{sum(bool(row.damage) for row in rows)} sessions",
    )


def _table(rows: list[_Row]) -> Table:
    cells = [_cells(row, max(1, row.frames - 1)) for row in rows]
    footer = _cells(_total(rows), max(1, sum(max(0, row.frames - 1) for row in rows)))
    table = Table(show_footer=True, box=box.SIMPLE, pad_edge=False)
    titles = ["session", "source", "frames", "seconds", "idle", "keys held", "gaps", "damage"]
    for title, foot in zip(titles, footer, strict=True):
        number = title in ("frames", "seconds", "idle")
        table.add_column(
            title, foot, justify="right" if number else "left", overflow="fold", no_wrap=number or title == "session"
        )
    for row in cells:
        table.add_row(*row)
    return table


def _cells(row: _Row, actions: int) -> list[str]:
    held = "  ".join(f"{key} {count / actions:.0%}" for key, count in row.held.items())
    gaps = f"{row.gaps}, up to {1000 * row.largest_gap:.0f} ms" if row.gaps else "none"
    problems = len(row.damage)
    damage = row.damaged if row.damaged else f"{problems} named below" if problems else "none"
    return [
        row.name,
        row.source,
        str(row.frames),
        f"{row.seconds:.1f}",
        f"{row.idle / actions:.0%}",
        held,
        gaps,
        damage,
    ]


def main(arguments: list[str] | None = None) -> int:
    """List and check sessions; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m world_model.episode",
        description="List the recorded sessions in a directory and check every frame against its checksum. "
        "Shares are of the recorded ticks; a gap is more than 1.5 ticks between two frames.",
    )
    parser.add_argument("folder", type=Path, help="a session, or a directory that holds sessions")
    parser.add_argument("--quick", action="store_true", help="do not decode the videos")
    options = parser.parse_args(arguments)
    try:
        paths = find_sessions(options.folder)
    except EpisodeError as error:
        print(error, file=sys.stderr)
        return 2
    if not paths:
        print(f"{options.folder}: no sessions in this directory; record some first", file=sys.stderr)
        return 2
    console = Console(width=None if sys.stdout.isatty() else 160)
    rows = _inspect_all(options.folder, paths, not options.quick)
    console.print(_table(rows))
    for row in rows:
        for problem in row.damage:
            console.print(f"{row.name}: {problem}", style="yellow", highlight=False, markup=False)
    return 0


def _inspect_all(folder: Path, paths: list[Path], decode: bool) -> list[_Row]:
    names = [path.name if path == folder else str(path.relative_to(folder)) for path in paths]
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # decoding releases the interpreter lock
        work = pool.map(lambda path, name: _inspect(path, name, decode), paths, names)
        progress = Console(stderr=True)
        return list(track(work, "checking", len(paths), console=progress, disable=not progress.is_terminal))



if __name__ == "__main__":
    sys.exit(main())
