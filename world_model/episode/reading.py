"""Recordings opened again: the sessions of a folder, their keys and frames, and what is damaged in them."""

from __future__ import annotations

import json
import math
import os
import struct
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path

import av
import cv2
import numpy as np
from pydantic import ValidationError

from world_model.episode.format import (
    ANCHORS,
    END,
    META,
    OUTCOME,
    POSE,
    REWARD_LIMIT,
    START_STATE,
    UNFINISHED,
    EpisodeError,
    SessionMeta,
    anchor_file,
    chunk_file,
    chunk_number,
)

POSE_LIMIT = 1e6
"""Numbers of a pose are smaller than this."""


def find_sessions(folder: str | Path) -> list[Path]:
    """Sorted paths of the sessions in a directory, nested ones too; it may itself be a session.

    Empty directories and those with chunks but no session.json are among them: opening one says what is wrong.
    Raises EpisodeError when there is no such directory.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise EpisodeError(f"{folder}: no such directory")
    found = []
    for root, directories, files in os.walk(folder):
        empty = not files and not directories and Path(root) != folder
        if empty or META in files or any(chunk_number(name) is not None for name in files):
            found.append(Path(root))
            directories.clear()
        directories[:] = [name for name in directories if not name.endswith(UNFINISHED)]
    return sorted(found)


class Session:
    """A recording opened for reading: ``Session.open(path)``, then ``frames(start, stop)`` and the arrays.

    meta     SessionMeta
    actions  int8 [T, K], actions[t] produced frames[t], actions[0] is zero
    times    float64 [T], seconds since the start
    poses    float64 [T, 4], of each frame (see ``format.POSE``); None where there are none
    rewards  float32 [T], what actions[t] earned, rewards[0] is zero; None in format 1, which has none
    terminated, truncated  bool [T], whether the episode ended with frames[t], and how; None in format 1
    damage   named problems that opening found; what they name is left out

    It holds the finished chunks up to the first gap: frame numbers never jump. Opening reads no video;
    ``check()`` does, and compares every pixel with the recorded checksums.
    """

    def __init__(self, path: Path, meta: SessionMeta, tables: list[np.ndarray], damage: list[str]):
        self.path, self.meta, self.damage = path, meta, damage
        table = np.concatenate(tables) if tables else np.zeros((0, len(meta.columns)))
        self.times = np.ascontiguousarray(table[:, 1])
        self.actions = _columns(table, meta, meta.keys).astype(np.int8)
        self.poses = _columns(table, meta, POSE) if meta.spot else None
        outcome = _columns(table, meta, OUTCOME).T if meta.format > 1 else None
        self.rewards = None if outcome is None else outcome[0].astype(np.float32)
        self.terminated, self.truncated = (None, None) if outcome is None else outcome[1:].astype(bool)
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
        size = self.meta.height, self.meta.width
        files = (anchor_file(self.path, i) for i in range(self.meta.anchors))
        anchors = [_read_anchor(file, *size) for file in files]
        return np.stack(anchors) if anchors else np.empty((0, *size, 3), np.uint8)

    @property
    def depths(self) -> np.ndarray | None:
        """float32 [A,H,W]: the anchors' depths, metres straight ahead, 0 where unknown; None where there are none.
        Raises EpisodeError."""
        if not self.meta.depths or not self.meta.anchors:
            return None
        files = (anchor_file(self.path, i, "depth.png") for i in range(self.meta.anchors))
        return np.stack([_read_depth(file, self.meta.height, self.meta.width) for file in files])

    @property
    def start_state(self) -> dict[str, np.ndarray] | None:
        """The source's snapshot behind frames[0]; None when recording began with a reset."""
        file = self.path / START_STATE
        if not file.is_file():
            return None
        try:
            _check_sizes(file)
            with np.load(file, allow_pickle=False) as arrays:
                return dict(arrays)
        except Exception as error:  # a damaged archive makes the libraries raise a dozen kinds
            raise EpisodeError(f"{file}: not a readable snapshot ({error})") from error

    def frames(self, start: int = 0, stop: int | None = None) -> np.ndarray:
        """uint8 [stop-start,H,W,3]; decodes only the chunks needed. Raises EpisodeError, IndexError."""
        stop = len(self) if stop is None else stop
        if not 0 <= start <= stop <= len(self):
            raise IndexError(f"{self.path}: frames {start}..{stop} of {len(self)}")
        first = np.searchsorted(self._starts, start, side="right") - 1
        end = np.searchsorted(self._starts, stop) if stop > start else first
        if end > first:
            self._chunk(first)  # before allocating: raises unless frames are as large as session.json says
        out = np.empty((stop - start, self.meta.height, self.meta.width, 3), np.uint8)
        for i in range(first, end):
            begin = int(self._starts[i])
            low, high = max(start, begin), min(stop, begin + self._length(i))
            out[low - start : high - start] = self._chunk(i)[low - begin : high - begin]
        if len(out) != 1:
            self._last_decoded = None  # hundreds of sessions may be open: only a replay keeps a chunk
        return out

    def check(self) -> list[str]:
        """Decode everything and compare it with the checksums; returns ``damage`` and what else is wrong."""
        parts = [partial(self._compare, i) for i in range(len(self._starts) - 1)]
        parts += [self._check_anchors, lambda: self.depths, lambda: self.start_state]
        problems = list(self.damage)
        for read in parts:
            try:
                read()
            except EpisodeError as error:
                problems.append(str(error).removeprefix(f"{self.path}{os.sep}"))
        return list(dict.fromkeys(problems))

    def damaged(self) -> Iterator[np.ndarray]:
        """For each chunk, the numbers of its frames that differ from their checksums or cannot be read."""
        for i, (begin, end) in enumerate(pairwise(self._starts.tolist())):
            try:
                yield self._mismatched(i)
            except EpisodeError:
                yield np.arange(begin, end)

    def _compare(self, i: int) -> None:
        wrong = self._mismatched(i)
        if len(wrong):
            words = f"{len(wrong)} frames are not what was recorded, the first is frame {wrong[0]}"
            raise EpisodeError(f"{chunk_file(self.path, i)}: {words}")

    def _mismatched(self, i: int) -> np.ndarray:
        begin = int(self._starts[i])
        sums = np.array([zlib.crc32(frame) for frame in self._chunk(i)])
        return begin + np.flatnonzero(sums != self._crc[begin : begin + len(sums)])

    def _check_anchors(self) -> None:
        black = np.flatnonzero(~self.anchors.any((1, 2, 3)))  # they have no checksum, but none is all black
        if len(black):
            raise EpisodeError(f"{ANCHORS}/{black[0]}.png: all black")

    def _chunk(self, i: int) -> np.ndarray:
        if self._last_decoded is None or self._last_decoded[0] != i:
            size = (self._length(i), self.meta.height, self.meta.width)
            self._last_decoded = i, _decode(chunk_file(self.path, i), *size)
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
            if stream.codec_context is None:
                raise ValueError("of no codec that is known")
            stream.codec_context.thread_count = 1
            _check_size(stream.codec_context, height, width)
            for frame in container.decode(stream):
                _check_size(frame, height, width)
                if found < count:
                    out[found] = _pixels(frame)
                found += 1
    except (av.FFmpegError, OSError, IndexError, ValueError) as error:
        raise EpisodeError(f"{file}: cannot be decoded ({error})") from error
    if found != count:
        raise EpisodeError(f"{file}: holds {found} frames, its csv {count}")
    return out


def _check_size(video: av.VideoCodecContext | av.VideoFrame, height: int, width: int) -> None:
    if (video.height, video.width) != (height, width):
        raise ValueError(f"frames of {video.width}x{video.height}, {META} says {width}x{height}")


def _pixels(frame: av.VideoFrame) -> np.ndarray:
    """RGB [H,W,3] straight from the decoder's planes (x264 stores G, B, R); no colour conversion to round."""
    if frame.format.name != "gbrp":
        raise ValueError(f"pixel format {frame.format.name}, expected gbrp")
    green, blue, red = (
        np.frombuffer(plane, np.uint8).reshape(plane.height, plane.line_size)[:, : plane.width]
        for plane in frame.planes
    )
    return cv2.merge((red, green, blue))


def _read_anchor(file: Path, height: int, width: int) -> np.ndarray:
    """uint8 [H,W,3]. Raises EpisodeError."""
    return _read_png(file, height, width, cv2.IMREAD_COLOR)[..., ::-1]


def _read_depth(file: Path, height: int, width: int) -> np.ndarray:
    """float32 [H,W]. Raises EpisodeError."""
    millimetres = _read_png(file, height, width, cv2.IMREAD_UNCHANGED)
    if millimetres.dtype != np.uint16 or millimetres.ndim != 2:
        raise EpisodeError(f"{file}: not a depth: 16 bits of grey")
    return millimetres.astype(np.float32) / 1000


def _read_png(file: Path, height: int, width: int, how: int) -> np.ndarray:
    """Raises EpisodeError; the size is read first, because a small file may claim a huge picture."""
    if file.is_file():
        with open(file, "rb") as data:
            size = data.read(24)[16:]
        picture = cv2.imread(str(file), how) if size == struct.pack(">II", width, height) else None
        if picture is not None:
            return picture
    raise EpisodeError(f"{file}: missing, or not a picture of {width}x{height}")


def _check_sizes(file: Path) -> None:
    """ValueError when an array in an npz claims more bytes than the file has: NumPy would allocate them."""
    with zipfile.ZipFile(file) as archive:
        for member in archive.infolist():
            with archive.open(member) as array:
                version = np.lib.format.read_magic(array)
                read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
                shape, _, dtype = read(array)
            if member.compress_type or max(1, dtype.itemsize) * math.prod(shape) > file.stat().st_size:
                raise ValueError(f"{member.filename} claims to be {dtype} {list(shape)}")


def _read_meta(path: Path) -> SessionMeta:
    if not path.is_dir():
        raise EpisodeError(f"{path}: no such directory")
    if not (path / META).is_file():
        raise EpisodeError(f"{path}: {META} is missing, so this is not a session")
    try:
        return SessionMeta.model_validate_json((path / META).read_text())
    except (OSError, UnicodeDecodeError) as error:
        raise EpisodeError(f"{path}: {META} cannot be read ({error})") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "(whole)"
        raise EpisodeError(f"{path}: {META}: {where}: {first['msg']}") from error


def _read_tables(path: Path, meta: SessionMeta, names: list[str]) -> tuple[list[np.ndarray], list[str]]:
    """The chunks' tables up to the first one that is not sound, and what is wrong with the others."""
    tables, damage, start = [], [], 0
    numbers = sorted({n for n in map(chunk_number, names) if n is not None})
    for position, number in enumerate(numbers):
        name = f"chunk_{number:06d}"
        try:
            if number != position:
                raise EpisodeError(f"chunk_{position:06d}: missing")
            table = _read_table(path, name, meta, start, tables[-1][-1, 1] if tables else -np.inf)
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


def _read_table(path: Path, name: str, meta: SessionMeta, start: int, since: float) -> np.ndarray:
    """float64 [n, 3+K], one finished chunk's csv, no row of it earlier than ``since`` or the row before.

    Raises EpisodeError that begins with the file's name.
    """
    csv, video = path / f"{name}.csv", path / f"{name}.mkv"
    if not csv.is_file():
        raise EpisodeError(f"{video.name}: dropped, it has no {csv.name}: the chunk was never finished")
    if not video.is_file():
        raise EpisodeError(f"{csv.name}: dropped, its video {video.name} is missing")
    try:
        header, *rows = csv.read_text().splitlines()
        if header != ",".join(meta.columns):
            raise ValueError(f"header is {header[:80]!r}")
        if not "".join(rows).strip():
            raise ValueError("no row is left")
        table = np.loadtxt(rows, delimiter=",", ndmin=2, comments=None)
    except (OSError, ValueError) as error:
        raise EpisodeError(f"{csv.name}: not the table that was recorded ({error})") from error
    if not 1 <= table.shape[0] <= meta.fps or table.shape[1] != len(meta.columns):
        words = f"1 to {meta.fps} of {len(meta.columns)}"
        raise EpisodeError(f"{csv.name}: {table.shape[0]} rows of {table.shape[1]}, not {words}")
    jump = np.flatnonzero(table[:, 0] != start + np.arange(len(table)))
    if len(jump):
        row = int(jump[0])
        raise EpisodeError(f"{csv.name}: frame {table[row, 0]:.0f} stands where frame {start + row} should")
    rewards, ends = _columns(table, meta, OUTCOME[:1]), _columns(table, meta, OUTCOME[1:])
    if not np.isin(_columns(table, meta, meta.keys), (0, 1)).all():
        raise EpisodeError(f"{csv.name}: a key is neither 0 nor 1")
    if not ((np.abs(rewards) <= REWARD_LIMIT).all() and np.isin(ends, (0, 1)).all()):
        raise EpisodeError(f"{csv.name}: a reward is not a number, or an end neither 0 nor 1")
    if not (np.abs(_columns(table, meta, POSE)) < POSE_LIMIT).all():
        raise EpisodeError(f"{csv.name}: a pose is not a number, or out of this world")
    finite = np.isfinite(table[:, 1]).all()
    if not finite or (np.diff(table[:, 1], prepend=since) < 0).any():
        raise EpisodeError(f"{csv.name}: a time is not a number, or goes backwards")
    if not ((table[:, -1] >= 0) & (table[:, -1] < 2**32)).all():
        raise EpisodeError(f"{csv.name}: a checksum is no number of 32 bits")
    return table


def _columns(table: np.ndarray, meta: SessionMeta, names: Sequence[str]) -> np.ndarray:
    """float64 [n, names]: those of them that the session has."""
    return table[:, [meta.columns.index(name) for name in names if name in meta.columns]]


def _missing_parts(path: Path, meta: SessionMeta, names: list[str]) -> list[str]:
    found = len(list((path / ANCHORS).glob("*")))  # name one missing anchor, not a billion that are claimed
    kinds = ("png", "depth.png") if meta.depths else ("png",)
    anchors = [f"{ANCHORS}/{i}.{kind}" for i in range(min(meta.anchors, found + 1)) for kind in kinds]
    damage = [f"{name}: missing" for name in anchors if not (path / name).is_file()]
    leftovers = [name for name in names if name.endswith(UNFINISHED)]
    return damage + [f"{name}: dropped, it was still being written" for name in leftovers]


def _check_end(path: Path, frames: int) -> list[str]:
    file = path / END
    if not file.is_file():
        words = "the recorder was killed, could write no more, or is still running"
        return [f"not closed: {words}; {frames} finished frames are kept"]
    try:
        end = json.loads(file.read_text())
        promised, cut_short = end["frames"], end.get("cut_short")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return [f"{END}: cannot be read"]
    if not isinstance(promised, int):
        return [f"{END}: cannot be read"]
    cut = [f"cut short: {str(cut_short)[:200]!r}; {frames} finished frames are kept"] if cut_short else []
    return cut if promised == frames else [*cut, f"{END}: {promised} frames were recorded, {frames} can be read"]
