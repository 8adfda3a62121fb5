"""Time that runs backwards, moments that are saved: exact, within a budget, in the window's own loop."""

from __future__ import annotations

import json
from pathlib import Path

import gymnasium
import numpy as np
import pytest
from safetensors.numpy import save_file
from script import down, play
from test_play import Counter

from game.actions import ARENA_KEYS
from game.play.keyboard import Event
from game.play.rewind import RewindBuffer
from game.play.saves import HEADER, SaveError, load, save
from game.record.recorder import Recorder
from game.record.replay import Replay, Verdict
from game.worlds.sources import real_game
from world_model.config import CONFIGS
from world_model.config import load as configuration
from world_model.episode import Session, find_sessions
from world_model.play.neural_game import NeuralGame

TICKS = 200


def keep():
    return real_game(configuration(CONFIGS / "tiny_keep.yaml"))


@pytest.fixture
def neural(exported) -> NeuralGame:
    return NeuralGame("arena", exported)


class Counted(gymnasium.Wrapper):
    """Counts what is asked of the game, which is itself."""

    def __init__(self, env):
        super().__init__(env)
        self.ticks = self.states = 0

    @property
    def unwrapped(self):
        return self

    def step(self, action):
        self.ticks += 1
        return self.env.step(action)

    def get_state(self):
        self.states += 1
        return self.env.unwrapped.get_state()

    def set_state(self, state):
        self.env.unwrapped.set_state(state)


def test_200_ticks_back_and_forth_are_bit_equal(neural):
    """From three beginnings; one state in 20 is kept, and few moments of going back wait for more than a tick."""
    for game in (Counted(keep()), Counted(neural)):
        keys = np.random.default_rng(0).integers(0, 2, (TICKS, len(game.metadata["keys"])), dtype=np.int8)
        rewind, frames, costs = RewindBuffer(game), [], []
        for tick, action in enumerate(keys):
            if tick in (0, 50, 131):
                game.reset(seed=tick)
                rewind.change() if tick else rewind.start()
                frames.append(game.render())
            frames.append(game.step(action)[0])
            rewind.tick(action)
        assert len(rewind) == TICKS + 2 and game.states == 3 + 2 + 4 + 3
        for frame in frames[-2::-1]:
            before = game.ticks
            assert rewind.back() and np.array_equal(game.render(), frame)
            costs.append(game.ticks - before)
        assert max(costs) <= 20 and sum(cost > 1 for cost in costs) <= 6
        assert not rewind.back() and len(rewind) == 0
        again = [game.step(action)[0] for action in keys[:50]]
        assert all(map(np.array_equal, again, frames[1:51]))


class Slow(gymnasium.Env):
    """Of its 2,000 bytes half never change, and the others count the ticks."""

    def reset(self, **_):
        self.tick = 0

    def step(self, action):
        self.tick += 1

    def get_state(self):
        return {"still": np.zeros(1000, np.uint8), "moves": np.full(1000, self.tick, np.uint8)}

    def set_state(self, state):
        self.tick = int(state["moves"][0])
        assert not state["still"].any()


def test_the_budget_holds_and_what_does_not_change_is_kept_once():
    rewind = RewindBuffer(game := Slow(), budget=4_000)
    game.reset()
    rewind.start()
    for _ in range(110):
        game.step(None)
        rewind.tick(np.zeros(1, np.int8))
    assert len(rewind) == 70  # to tick 40, in four states
    assert len(set(map(id, rewind.actions))) == 1, "an hour of actions takes no more than its pointers"
    assert rewind.back() and game.tick == 109
    rewind.start()
    assert len(rewind) == 0 and not rewind.back() and rewind.actions == []


def state_after(plan) -> np.ndarray:
    game = keep()
    play(game, plan)
    return game.unwrapped.get_state()["state"]


def test_backspace_goes_back_and_play_goes_on_from_there():
    """Walking right, back in time, walking on: as if the part that was taken back had never been walked."""
    held, quits = down("d"), down("escape")
    back, forth = down("backspace"), [Event("up", "backspace")]
    source = keep()
    huds = play(source, {1: held, 11: back, 16: forth, 19: quits}).huds
    undone = [i for i, hud in enumerate(huds) if hud.rewound is not None]
    assert undone == list(range(undone[0], undone[0] + len(undone))) and 4 <= len(undone) <= 6
    assert huds[undone[-1]].rewound == len(undone) / 20
    assert round(20 * huds[undone[-1]].behind) == undone[0] - 1 - len(undone)
    plain = keep()
    again = play(plain, {1: held, 19 - 2 * len(undone): quits}).huds
    assert len(again) == len(huds) - 2 * len(undone)
    assert np.array_equal(source.unwrapped.get_state()["state"], plain.unwrapped.get_state()["state"])


def test_a_recording_ends_where_one_goes_back_and_goes_on_in_another(tmp_path):
    source = Recorder(keep(), tmp_path, world="keep")
    plan = {1: down("d"), 9: down("backspace"), 12: [Event("up", "backspace")], 16: down("escape")}
    screen = play(source, plan, source)
    source.close()
    first, second = map(Session.open, find_sessions(tmp_path))
    undone = sum(hud.rewound is not None for hud in screen.huds)
    assert first.check() == second.check() == []
    assert undone and len(first) + undone + len(second) - 1 == len(screen.huds)
    assert second.start_state is not None
    assert np.array_equal(second.frames()[0], first.frames()[len(first) - 1 - undone])
    assert "Recording" in screen.huds[-1].notice
    assert verdict(first).holds and verdict(second).holds


def verdict(session: Session) -> Verdict:
    """Of the session, played again."""
    replay = Replay(keep(), session)
    replay.reset()
    for action in session.actions[1:]:
        replay.step(action)
    return replay.verdict


def test_nothing_is_further_back_than_the_start():
    huds = play(keep(), {4: down("backspace"), 15: down("escape")}).huds
    forward = next(i for i, hud in enumerate(huds) if hud.rewound is not None) - 1
    assert huds[-1].behind == 0 and huds[-1].rewound == forward / 20 < 8 / 20


def test_a_saved_moment_outlives_the_game(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    saved = state_after({1: down("s"), 6: down("f5", "escape")})
    source = keep()
    play(source, {1: down("a"), 5: down("f9", "escape")})
    assert np.array_equal(source.unwrapped.get_state()["state"], saved)


def test_a_neural_moment_is_saved_exactly_and_only_for_its_weights(neural, tmp_path):
    neural.reset(seed=1)
    neural.step(np.zeros(len(ARENA_KEYS), np.int8))
    state, file = neural.get_state(), tmp_path / "a" / "b.safetensors"
    save(file, state, neural.provenance())
    back = load(file, neural.provenance())
    assert back.keys() == state.keys()
    assert all(np.array_equal(back[name], state[name]) and back[name].shape == state[name].shape for name in state)
    neural.set_state(back)
    with pytest.raises(SaveError, match="another checkpoint"):
        load(file, neural.provenance() | {"checkpoint": "0" * 16})


@pytest.mark.parametrize("harm", ["none", "cut", "foreign", "junk", "folder"])
def test_what_is_no_saved_game_is_refused_in_words(harm, tmp_path):
    file = tmp_path / "x.safetensors"
    save(file, {"a": np.arange(5)}, {"source": "engine"})
    if harm == "none":
        file.unlink()
    elif harm == "cut":
        file.write_bytes(file.read_bytes()[:40])
    elif harm == "foreign":
        save_file({"a": np.arange(3)}, file)
    elif harm == "junk":
        save_file({"a": np.arange(3)}, file, {HEADER: json.dumps([1])})
    else:
        file = tmp_path
    with pytest.raises(SaveError):
        load(file, {"source": "engine"})


def test_saving_where_nothing_can_be_written_is_reported(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(SaveError, match="cannot be written"):
        save(Path(tmp_path / "file" / "x.safetensors"), {"a": np.arange(5)}, {})


def test_a_game_without_states_has_no_past(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    huds = play(Counter(), {3: down("backspace"), 8: down("escape")}).huds
    assert not huds[2].notice and "not go back" in huds[6].notice
    screen = play(Counter(), {3: down("backspace", "f5"), 5: down("f9"), 8: down("escape")})
    assert not list(tmp_path.iterdir()) and "saved" in screen.huds[4].notice and "loaded" in screen.huds[-1].notice
    assert [frame[0, 0, 0] for frame in screen.shown] == list(range(len(screen.shown)))
