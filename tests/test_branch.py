"""Two futures of one moment: side by side, steered together or each by itself, and the one that is taken."""

from __future__ import annotations

import gymnasium
import numpy as np
import pytest
from script import down, play

import game.register  # noqa: F401 (registers the worlds)
from game.actions import KEEP_KEYS
from game.play.branch import Branch
from game.play.keyboard import Event
from game.record.recorder import Recorder
from game.record.replay import Replay
from world_model.episode import Session, find_sessions
from world_model.play.neural_game import NeuralGame

STILL, RIGHT, DOWN = (np.array(bits, np.int8) for bits in ([0] * 6, [0, 0, 0, 1, 0, 0], [0, 0, 1, 0, 0, 0]))


@pytest.fixture
def keep() -> gymnasium.Env:
    game = gymnasium.make("rollplay/Keep-v0", disable_env_checker=True)
    game.reset(seed=0)
    return game


def test_two_futures_under_the_same_keys_are_one_and_the_first_does_not_notice(keep):
    branch, alone = Branch(keep, KEEP_KEYS), gymnasium.make("rollplay/Keep-v0", disable_env_checker=True)
    alone.reset(seed=0)
    for action in (RIGHT, DOWN, STILL, RIGHT):
        first = keep.step(action)[0]
        branch.step(action)
        np.testing.assert_array_equal(branch.frame, first)
        np.testing.assert_array_equal(first, alone.step(action)[0])


def test_the_arrows_steer_the_second(keep):
    branch = Branch(keep, KEEP_KEYS)
    assert branch.can_be_steered and not Branch(keep, ("w", "up")).can_be_steered
    branch.steer()
    assert not branch.can_be_steered
    assert branch.listen(down("right", "d", "escape")) == down("d", "escape")
    let_go = [Event("up", "left")]
    assert branch.listen(let_go) == let_go, "the first future may have held it since before"
    for _ in range(4):
        first = keep.step(STILL)[0]
        branch.step(STILL)
    began = keep.unwrapped.get_state()["state"]
    moved = branch._state["state"]
    assert moved[1] == began[1] + 8 and not np.array_equal(first, branch.frame)
    np.testing.assert_array_equal(branch.swap(), keep.render())
    np.testing.assert_array_equal(branch.frame, first)
    assert keep.unwrapped.get_state()["state"][1] == moved[1]


def test_a_neural_future_has_noise_of_its_own():
    game = NeuralGame("keep", device="cpu")
    game.reset(seed=0)
    branch = Branch(game, KEEP_KEYS)
    game.step(RIGHT), branch.step(RIGHT)
    windows = [game.get_state()["rolling.window"], branch._state["rolling.window"]]
    assert not np.array_equal(*windows) and windows[0].shape == windows[1].shape


def test_b_branches_b_again_steers_and_then_it_ends(keep):
    plan = {3: down("b"), 8: down("b"), 9: down("right"), 14: down("b"), 18: down("escape")}
    huds = play(keep, plan).huds
    kinds = [hud.beside and hud.beside[0] for hud in huds]
    assert kinds[2] is None and kinds[6] == kinds[12] == "another future" and kinds[-1] is None
    shown = play(keep, {3: down("b"), 8: down("b"), 9: down("right"), 14: down("escape")})
    assert np.array_equal(shown.huds[7].beside[1], shown.shown[7])
    assert not np.array_equal(shown.huds[-1].beside[1], shown.shown[-1])


@pytest.mark.parametrize("key", ["home", "n", "backspace", "return"])
def test_what_ends_a_branch_and_what_takes_it(keep, key):
    plan = {3: down("b"), 5: down("b"), 6: down("right"), 12: down(key), 15: down("escape")}
    screen = play(keep, plan)
    if key == "return":
        before, after = screen.huds[11].beside[1], screen.shown[13]
        assert screen.huds[-1].beside is not None and np.abs(before.astype(int) - after).mean() < 20
        assert not np.array_equal(screen.shown[-1], screen.huds[-1].beside[1])
    else:
        assert screen.huds[-1].beside is None
    assert play(keep, {3: down("return"), 6: down("escape")}).huds[-1].notice.startswith("There is one future")


def test_a_recording_ends_where_the_other_future_is_taken_and_both_verify(keep, tmp_path):
    recorder = Recorder(keep, tmp_path, world="keep", player="person", recording=True)
    plan = {5: down("b"), 7: down("b"), 8: down("right"), 14: down("return"), 22: down("escape")}
    play(recorder, plan, recorder)
    recorder.close()
    sessions = [Session.open(path) for path in find_sessions(tmp_path)]
    assert len(sessions) == 2 and sessions[1].start_state is not None
    for session in sessions:
        replay = Replay(gymnasium.make("rollplay/Keep-v0", disable_env_checker=True), session)
        replay.reset()
        while replay._at + 1 < len(session):
            replay.step(None)
        assert replay.verdict.holds, str(replay.verdict)
