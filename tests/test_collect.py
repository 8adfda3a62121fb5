"""Data sets made by bots: deterministic whatever the number of processes, resumable, never mixed."""

import multiprocessing
import os
import shutil
import time

import gymnasium
import numpy as np
import pytest
from script import Short

from game.record.collect import collect
from game.worlds.sources import real_game
from world_model.config import CONFIGS, Config, Game, load
from world_model.episode import EpisodeError, Session, find_sessions


@pytest.fixture
def config() -> Config:
    return load(CONFIGS / "tiny.yaml")


def make(config, out, **settings):
    return collect(config, out=out, **({"bot": "mix", "sessions": 3, "frames": 30, "workers": 1} | settings))


def everything(folder) -> dict[str, bytes]:
    """All recorded bytes by file; only the two files that carry the time of day are left out."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in files
        if path.name not in ("session.json", "end.json")
    }


def test_two_processes_record_the_bytes_that_one_records(tmp_path, config):
    made = make(config, tmp_path / "one")
    assert (made.made, made.skipped, made.frames) == (3, 0, 90)
    assert make(config, tmp_path / "two", workers=2).frames == 90
    assert everything(tmp_path / "one") == everything(tmp_path / "two")


def test_ctrl_c_waits_for_no_session(tmp_path, config, monkeypatch):
    """Which in a slow game lasts minutes."""

    def interrupted(futures):
        while not any(future.running() for future in futures):
            time.sleep(0.01)
        raise KeyboardInterrupt

    monkeypatch.setattr("game.record.collect.as_completed", interrupted)
    with pytest.raises(KeyboardInterrupt):
        make(config, tmp_path, workers=2, sessions=2, frames=10**9)
    assert not multiprocessing.active_children()


def test_every_session_is_what_its_seed_says(tmp_path, config):
    make(config, tmp_path, seed=5, bot="explorer")
    paths = find_sessions(tmp_path)
    assert [path.name for path in paths] == ["000000-seed5", "000001-seed6", "000002-seed7"]
    for seed, path in enumerate(paths, start=5):
        session = Session.open(path)
        assert session.check() == [] and len(session) == 30
        assert (session.meta.seed, session.meta.source, session.meta.player) == (seed, "engine", "explorer")
        assert session.meta.keys == config.world.keys
        arena = real_game(config)
        assert np.array_equal(session.frames()[0], arena.reset(seed=seed)[0])
        for frame, action in zip(session.frames()[1:], session.actions[1:], strict=True):
            assert np.array_equal(frame, arena.step(action)[0])
        assert np.array_equal(session.anchors, arena.unwrapped.anchors())
    assert len({Session.open(path).actions.tobytes() for path in paths}) == 3


def test_it_goes_on_where_it_stopped(tmp_path, config):
    make(config, tmp_path / "whole", sessions=4)
    make(config, tmp_path / "parts", sessions=2)
    killed = tmp_path / "parts" / "000001-seed1"
    (killed / "end.json").unlink()
    (killed / "chunk_000001.csv").unlink()
    untouched = tmp_path / "parts" / "000000-seed0" / "session.json"
    before = os.stat(untouched).st_mtime_ns
    made = make(config, tmp_path / "parts", sessions=4)
    assert (made.made, made.skipped) == (3, 1)
    assert os.stat(untouched).st_mtime_ns == before
    assert everything(tmp_path / "parts") == everything(tmp_path / "whole")
    assert make(config, tmp_path / "parts", sessions=4).made == 0


@pytest.mark.parametrize("other", [{"bot": "dawdler"}, {"frames": 31}])
def test_another_data_set_in_the_folder_is_refused(tmp_path, config, other):
    make(config, tmp_path, sessions=1)
    with pytest.raises(EpisodeError, match="000000-seed0: is another session .*another folder"):
        make(config, tmp_path, sessions=2, **other)
    assert len(find_sessions(tmp_path)) == 1


def test_sessions_under_another_table_of_actions_are_not_taken_for_these(tmp_path, config):
    """What keys mean is no word of the file names: training would leave them out."""
    worlds = (config.world.model_copy(update={"game": Game(actions=table)}) for table in ({"w": 1}, {"w": 2}))
    before, after = (config.model_copy(update={"world": world}) for world in worlds)
    make(before, tmp_path, sessions=1, make_env=lambda _: real_game(config))
    with pytest.raises(EpisodeError, match="000000-seed0: .*another world.game.actions.*another folder"):
        make(after, tmp_path, sessions=2)


def test_a_folder_of_something_else_is_not_deleted(tmp_path, config):
    (tmp_path / "000000-seed0").mkdir()
    (tmp_path / "000000-seed0" / "thesis.txt").write_text("")
    with pytest.raises(EpisodeError, match="not a session"):
        make(config, tmp_path)
    assert (tmp_path / "000000-seed0" / "thesis.txt").exists()


def make_short_game(config: Config) -> gymnasium.Env:
    return Short(real_game(config), 9)


def test_the_end_of_an_episode_begins_the_next_beside_it(tmp_path, config):
    """As many ticks as were asked for, whatever the game's episodes; and no episode of one frame."""
    made = make(config, tmp_path, sessions=2, frames=19, make_env=make_short_game)
    paths = find_sessions(tmp_path)
    assert [path.name for path in paths] == ["000000-seed0", "000000-seed0-1", "000001-seed1", "000001-seed1-1"]
    sessions = [Session.open(path) for path in paths]
    assert [len(session) for session in sessions] == [10, 10, 10, 10] and made.frames == 40
    assert all(session.terminated[-1] and not session.terminated[:-1].any() for session in sessions)
    assert sessions[1].meta.seed not in (None, 0) and (sessions[0].actions[1:] != sessions[1].actions[1:]).any()
    shutil.rmtree(paths[3])
    again = make(config, tmp_path, sessions=2, frames=19, make_env=make_short_game)
    assert (again.made, again.skipped) == (1, 1) and find_sessions(tmp_path) == paths


def make_deadly_game(config: Config) -> gymnasium.Env:
    os._exit(1)


def test_a_killed_worker_is_reported_and_not_waited_for(tmp_path, config):
    with pytest.raises(EpisodeError, match="a recording process was killed"):
        make(config, tmp_path, sessions=2, workers=2, make_env=make_deadly_game)
