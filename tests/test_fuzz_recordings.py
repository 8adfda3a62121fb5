"""Damaged recordings by the hundred: whatever is in the files, reading succeeds or says EpisodeError, nothing else.

Every trial follows from its seed. ``FUZZ=100 python -m pytest tests/test_fuzz_recordings.py`` tries a hundred times as
many.
"""

from __future__ import annotations

import os
import re
import shutil
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest

from world_model.episode import EpisodeError, Session, SessionMeta, SessionWriter
from world_model.episode.listing import show

TRIALS = 300 * int(os.environ.get("FUZZ", "1"))
STRANGE = [b"", b"-1", b"0", b"3", b"1e400", b"nan", b"-inf", b"0.5", b"1000000000", b"1" + b"0" * 12, b"9" * 40,
           b"9" * 5000, b"null", b"true", b'"x"', b"[]", b"{}", b"[" * 100_000, b"\xff", b"[/b]"]  # fmt: skip


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """A session with a file of every kind: 8 frames in 4 chunks, 2 anchors, a start state."""
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (10, 16, 24, 3), dtype=np.uint8)
    meta = SessionMeta(world="toy", env="Toy-v0", keys=("w", "e"), fps=4, height=16, width=24, anchors=2, seed=7,
                       source="engine", code_version="test", player="masher", created="now")  # fmt: skip
    state = {"place": rng.normal(size=(3, 2)), "lights": np.array(1), "scene": np.array("hall")}
    path = tmp_path_factory.mktemp("whole") / "s"
    with SessionWriter(path, meta, frames[8:], state) as writer:
        for t, frame in enumerate(frames[:8]):
            writer.add(frame, np.array([t % 2, 0]), t / 4)
    return path


def cut(data: bytes, rng) -> bytes:
    return data[: rng.integers(len(data) + 1)]


def flip(data: bytes, rng) -> bytes:
    changed = np.frombuffer(data, np.uint8).copy()
    at = rng.integers(len(data), size=min(len(data), rng.integers(1, 9)))
    changed[at] = rng.integers(0, 256, len(at))
    return changed.tobytes()


def renumber(data: bytes, rng) -> bytes:
    """Something strange in the place of a number; headers of arrays have some, and so have JSON and tables."""
    numbers = list(re.finditer(rb"\d+(\.\d+)?", data))
    if not numbers:
        return data
    at = numbers[rng.integers(len(numbers))]
    return data[: at.start()] + STRANGE[rng.integers(len(STRANGE))] + data[at.end() :]


def replace(data: bytes, rng) -> bytes:
    return STRANGE[rng.integers(len(STRANGE))]


def repeat(data: bytes, rng) -> bytes:
    at = np.sort(rng.integers(len(data) + 1, size=2))
    return data[: at[1]] + data[at[0] :]


def inside(file: Path, harm, rng) -> None:
    """Harm an array within an archive that is otherwise sound."""
    with zipfile.ZipFile(file) as archive:
        arrays = {name: archive.read(name) for name in archive.namelist()}
    name = sorted(arrays)[rng.integers(len(arrays))]
    arrays[name] = harm(arrays[name], rng)
    with zipfile.ZipFile(file, "w", rng.choice([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])) as archive:
        for name, data in arrays.items():
            archive.writestr(name, data)


def damage(session: Path, rng) -> list[str]:
    """One to three harms to the session's files; what was done, in words."""
    done = []
    for _ in range(rng.integers(1, 4)):
        files = sorted(file for file in session.rglob("*") if file.is_file())
        kinds = sorted({file.suffix for file in files})
        kind = kinds[rng.integers(len(kinds))]  # or else most harm would be to the chunks
        files = [file for file in files if file.suffix == kind]
        file = files[rng.integers(len(files))]
        harm = (cut, flip, renumber, renumber, replace, repeat, "delete", "swap")[rng.integers(8)]
        done.append(f"{getattr(harm, '__name__', harm)} {file.relative_to(session)}")
        data = file.read_bytes()
        if harm == "delete":
            file.unlink()
        elif harm == "swap":
            file.write_bytes(files[rng.integers(len(files))].read_bytes())
        elif data and kind == ".npz" and rng.integers(2) and zipfile.is_zipfile(file):
            inside(file, harm, rng)
        elif data:
            file.write_bytes(harm(data, rng))
    return done


def test_the_whole_one_is_whole(whole):
    session = Session.open(whole)
    assert session.check() == [] and len(session.frames()) == 8


@pytest.mark.parametrize("part", range(4))
def test_a_damaged_recording_is_read_or_refused(whole, tmp_path, part):
    for seed in range(part, TRIALS, 4):
        path = tmp_path / "s"
        shutil.copytree(whole, path)
        done = damage(path, np.random.default_rng(seed))
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                read(path)
        except EpisodeError:
            pass
        except BaseException as error:
            raise AssertionError(f"seed {seed}: {'; '.join(done)}: {type(error).__name__}: {error}") from error
        shutil.rmtree(path)


def read(path: Path) -> None:
    """Everything that can be asked of a session, in the order of what it costs. Raises EpisodeError."""
    show(path.parent, [path], decode=True)  # catches what it finds
    session = Session.open(path)
    for words in session.check():
        assert isinstance(words, str)
    assert session.frames().shape == (len(session), session.meta.height, session.meta.width, 3)
    assert len(session.anchors) == session.meta.anchors and np.isfinite(session.times).all()
