"""Damaged recordings by the hundred: whatever is in the files, reading succeeds or says EpisodeError, nothing else.

Every trial follows from its seed. ``FUZZ=100 python -m pytest tests/test_fuzz_recordings.py`` tries a hundred times as
many.
"""

from __future__ import annotations

import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest
from damage import FUZZ, damage

from world_model.episode import EpisodeError, Session, SessionMeta, SessionWriter
from world_model.episode.listing import show

TRIALS = 300 * FUZZ


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
