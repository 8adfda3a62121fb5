"""Damaged recordings by the hundred: whatever is in the files, reading succeeds or says EpisodeError, nothing else.

Every trial follows from its seed. ``FUZZ=100 python -m pytest tests/test_fuzz_recordings.py`` tries a hundred times as
many.
"""

from __future__ import annotations

import re
import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest
from damage import FUZZ, TRIED, damage

from world_model.config import Game, World
from world_model.episode import EpisodeError, Session, SessionMeta, SessionWriter
from world_model.episode.listing import show

TRIALS = 300 * FUZZ


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """A session with a file of every kind: 8 frames in 4 chunks, 2 anchors, a start state."""
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (10, 16, 24, 3), dtype=np.uint8)
    config = World(env="Toy-v0", keys=("w", "e"), fps=4, height=16, width=24,
                   game=Game(kwargs={"level": [1, 2.5]}, crop=(1, 0, 2, 0), actions={"w": 1, "e": 2}))  # fmt: skip
    meta = SessionMeta(world="toy", env="Toy-v0", keys=("w", "e"), fps=4, height=16, width=24, anchors=2, seed=7,
                       depths=True, spot=(0, 1, 2, 3), config=config,
                       source="engine", code_version="1", player="bot", created="now")  # fmt: skip
    state = {"place": rng.normal(size=(3, 2)), "lights": np.array(1), "scene": np.array("hall")}
    depths = rng.uniform(1, 9, (2, 16, 24))
    path = tmp_path_factory.mktemp("whole") / "s"
    with SessionWriter(path, meta, frames[8:], state, depths=depths) as writer:
        for t, frame in enumerate(frames[:8]):
            writer.add(frame, np.array([t % 2, 0]), t / 4, (t, 0, 0.5, 1.6), (t / 3, t == 7, t == 6))
    return path


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
                TRIED["recording", "read"] += 1
        except EpisodeError:
            TRIED["recording", "refused in a line"] += 1
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
    assert session.rewards is None or np.isfinite(session.rewards).all()
    assert session.depths is None or (session.depths >= 0).all()


@pytest.mark.parametrize(
    "file, old, new, words",
    [
        ("chunk_000001.csv", rb"\n(.|\n)*", b"\n", "no row is left"),
        ("chunk_000001.csv", rb"(\n\d+,)[^,]*", rb"\1inf", "a time is not a number"),
        ("chunk_000001.mkv", rb"V_[A-Z0-9/]+", b"V_X", "no codec that is known"),
    ],
)
def test_what_hours_of_it_have_found(whole, tmp_path, file, old, new, words):
    path = shutil.copytree(whole, tmp_path / "s")
    data = (path / file).read_bytes()
    (length,) = {len(match[0]) for match in re.finditer(old, data)} if file.endswith("mkv") else {0}
    changed, times = re.subn(old, new.ljust(length, b"\0"), data)
    assert times
    (path / file).write_bytes(changed)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        problems = Session.open(path).check()
    assert any(words in problem for problem in problems), problems
