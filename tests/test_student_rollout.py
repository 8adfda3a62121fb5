"""Student rollout: where games start, when they end, and that the stage trains, resumes and plays."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import toy
from conftest import TWO, run_train
from toy import CPU
from yaml import safe_dump

from game.record.collect import collect
from game.worlds.keep import COLOURS
from world_model import checkpoint
from world_model.config import CONFIGS, load
from world_model.episode.dataset import DataError, Episode
from world_model.model.codec import SPREAD, make_codec
from world_model.model.mixture_head import MixtureHead
from world_model.model.transformer import Transformer
from world_model.play.neural_game import NeuralGame
from world_model.training import TrainingError
from world_model.training import assemble as assembling
from world_model.training.checkpointing import read_state
from world_model.training.clips import TrainingData
from world_model.training.command import Choices, run
from world_model.training.distributed import StepNoise
from world_model.training.loop import train
from world_model.training.student_rollout import (
    BEFORE_EVENT,
    GAMES,
    StartSampler,
    StudentRolloutTraining,
    _unusual_moves,
    count_palette,
    tick_flops,
)

KEEP, KEEP_YAML = toy.load("tiny_keep"), CONFIGS / "tiny_keep.yaml"


@pytest.fixture(scope="module")
def keep_data(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("keeps")
    collect(KEEP, out=folder, sessions=9, frames=60, seed=20, workers=1)
    return folder


@pytest.fixture(scope="module")
def data(keep_data) -> TrainingData:
    return toy.training_data(KEEP, keep_data, make_codec(KEEP))


def episode(length: int, event: int) -> Episode:
    """Latents that count the frames; at ``event`` everything changes."""
    latents = np.zeros((length, 4, 2, 2), np.float16)
    latents[event:] = 5
    return Episode(latents[:1], latents, np.arange(length)[:, None].astype(np.int8))


def test_games_begin_at_events_when_asked_and_anywhere_else():
    start_sampler = StartSampler([episode(40, 20), episode(6, 3), episode(30, 12)], lead=4, span=2, per_block=1)
    random = np.random.default_rng(0)
    which, at, _ = start_sampler.take(random.random((200, 4)), 1.0, 1)
    assert {(int(i), int(a)) for i, a in zip(which, at, strict=True)} == {
        *((0, 20 + after) for after in range(3)), (1, 4), *((2, 12 + after) for after in range(3))
    }  # fmt: skip
    which, at, _ = start_sampler.take(random.random((300, 4)), 1.0, 3)
    assert {int(a) for i, a in zip(which, at, strict=True) if i == 0} == {18, 19, 20, 21, 22}
    which, at, _ = start_sampler.take(random.random((3000, 4)), 0.0, 1)
    for index, length in enumerate((40, 6, 30)):
        assert {int(a) for i, a in zip(which, at, strict=True) if i == index} == set(range(4, length - 1))
    assert start_sampler.latents(np.array([0]), np.array([18]), 4)[0, :, 0, 0, 0, 0].tolist() == [0, 0, 5, 5]
    assert start_sampler.cut(0, 18, 22)[0][:, 0].tolist() == [18, 19, 20, 21]


def test_what_comes_and_goes_is_an_event():
    """A sprite of 2x2 cells appears and vanishes in front of the sink; another only moves."""
    latents = np.zeros((40, 4, 8, 8), np.float16)
    for at in range(40):
        latents[at, :, 4, at % 8] = 3
    latents[20:30, :, 1:3, 1:3] = 5
    start_sampler = StartSampler(
        [Episode(latents[:1] * 0, latents, np.zeros((40, 1), np.int8))], lead=4, span=2, per_block=1
    )
    random = np.random.default_rng(0)
    _, at, _ = start_sampler.take(random.random((100, 4)), 1.0, 1)
    assert set(at.tolist()) == {20, 21, 22, 30, 31, 32}
    _, at, odds = start_sampler.take(random.random((40_000, 4)), 0.5, 3)
    shares = np.bincount(at, odds, 39)[4:] / len(at)
    assert np.bincount(at)[18] > 2 * np.bincount(at)[17], "starts around events are preferred"
    assert shares == pytest.approx(np.full(35, 1 / 35), rel=0.15), "and weigh as much as any"


def test_half_of_the_events_are_rewards_and_ends_however_few_these_are():
    """One reward among nine times that things come or go."""
    latents = np.zeros((100, 4, 8, 8), np.float16)
    for at in range(20, 100, 10):
        latents[at : at + 5, :, 1:3, 1:3] = 5
    rewards = np.zeros(100, np.float32)
    rewards[58] = 1
    made = Episode(latents[:1] * 0, latents, np.zeros((100, 1), np.int8), rewards=rewards, ends=np.zeros(100, bool))
    start_sampler = StartSampler([made], lead=4, span=2, per_block=1)
    _, at, odds = start_sampler.take(np.random.default_rng(0).random((400_000, 4)), 0.8, 3)
    rewarded = np.isin(at, [56, 57, 58, 59])  # at 60 something appears
    assert rewarded.mean() == pytest.approx(0.8 * 0.5 * 4 / 5 + 0.8 * 0.5 * 2 / 80 + 0.2 * 4 / 95, rel=0.1)
    assert np.bincount(at, odds, 99)[4:] / len(at) == pytest.approx(np.full(95, 1 / 95), rel=0.2)


def test_an_end_weighs_no_more_than_any_frame():
    """After an episode's end nothing can start, so what would starts there: in its last frame."""
    latents, ends = np.zeros((100, 4, 8, 8), np.float16), np.arange(100) == 99
    made = Episode(latents[:1], latents, np.zeros((100, 1), np.int8), rewards=np.zeros(100, np.float32), ends=ends)
    start_sampler = StartSampler([made], lead=4, span=1, per_block=1)
    for before in (1, 6):
        _, at, odds = start_sampler.take(np.random.default_rng(0).random((400_000, 4)), 0.4, before)
        assert (at == 99).mean() > 0.1
        assert np.bincount(at, odds, 100)[4:] / len(at) == pytest.approx(np.full(96, 1 / 96), rel=0.2)


def test_sessions_that_are_too_short_are_named():
    with pytest.raises(DataError, match="6 frames"):
        StartSampler([episode(5, 2)], lead=4, span=2, per_block=1)


def test_a_game_goes_on_from_its_own_frames_and_returns_when_it_strays(data):
    """A student that knows nothing strays at once if the bound is tight; a wide bound lets it go on."""
    for stray, moved in ((1, False), (10_000, True)):
        settings = {"stray_cells": stray, "length": 1000, "grow": 1e-6}
        stage = StudentRolloutTraining(toy.with_settings(data, "student_rollout", **settings), None)
        for step in range(6):
            loss, logs = stage.loss(StepNoise(CPU, step, 0, stage.settings.batch, 0.5))
            assert torch.isfinite(loss) and loss.requires_grad and not stage.pool["clean"].requires_grad
        assert (stage.left > 0).mean() > 0.5 if moved else (stage.left > 0).mean() < 0.5
        if moved:
            index = int(np.flatnonzero(stage.left > 0)[0])
            real = stage.start_sampler.latents(stage.which[[index]], stage.at[[index]] - 1, 1)[0, 0]
            assert not torch.allclose(stage.pool["clean"][index], real), "its own frame, not the recording's"


def test_the_palette_is_what_stands_before_the_sinks(data):
    """The hero's cap, coat and outline among them; and none of the colours of a room alone."""
    palette = count_palette(data.train, 10, KEEP.codec.unfold)
    found = {tuple(colour) for colour in np.round((palette / SPREAD + 1) * 127.5).astype(int).tolist()}
    assert {(26, 20, 38), (240, 64, 56), (52, 104, 232), (96, 220, 90)} <= found <= {tuple(c) for c in COLOURS.tolist()}


def test_a_view_head_needs_to_know_where_frames_were_seen(data):
    config = toy.load("tiny_view")
    latents = np.zeros((40, *config.latent_shape), np.float16)
    episodes = [Episode(latents[:4], latents, np.zeros((40, 8), np.int8))]
    posed = [Episode(latents[:4], latents, np.zeros((40, 8), np.int8), np.zeros((40, 8), np.float32))]
    for recorded in (episodes, posed):
        with pytest.raises(DataError, match=r"spot\(\) and depths"):
            StudentRolloutTraining(TrainingData(config, CPU, make_codec(config), recorded, recorded), None)


def test_a_wall_and_a_jump_are_events():
    """Ten steps ahead by the same key, at any heading; one of them is stopped, and one leaves the ground."""

    def moving(heading: float) -> Episode:
        change = np.tile([-np.sin(heading), np.cos(heading), 0, 0], (10, 1)) * 0.14
        change[4, :2], change[7, 2] = 0, 0.2
        place = np.cumsum(change, 0) + [0, 0, 0, heading]
        latents = np.zeros((10, 4, 2, 2), np.float16)
        return Episode(latents[:1], latents, np.ones((10, 1), np.int8), np.concatenate([place, change], 1))

    assert [found.tolist() for found in _unusual_moves([moving(h) for h in (0.0, 1.0, 4.0)])] == [[4, 7]] * 3


def test_unusual_moves_are_sampled_more_often_than_they_occur():
    """One frame of sixty is stopped by a wall."""
    change = np.tile([0, 0.14, 0, 0], (60, 1))
    change[30] = 0
    poses = np.concatenate([np.cumsum(change, 0), change], 1).astype(np.float32)
    latents, keys = np.zeros((60, 4, 2, 2), np.float16), np.arange(60)[:, None] * 0 + 1
    moving = Episode(latents[:1], latents, keys, poses)
    start_sampler, random = StartSampler([moving], lead=4, span=2, per_block=1), np.random.default_rng(0)
    pairs = [start_sampler.frame_pair(0, chance) for chance in random.random((400, 3))]
    stopped = [pair[0, 1] == pair[1, 1] for pair, _ in pairs]
    assert 0.4 < np.mean(stopped) < 0.6
    assert all(pair.shape == (2, 8) and acted.shape == (2, 1) for pair, acted in pairs)


def test_recordings_of_which_some_know_no_poses_are_cut_alike():
    known = episode(40, 20)
    posed = Episode(known.sinks, known.latents, known.actions, np.zeros((40, 8), np.float32))
    for episodes, parts in (([posed, posed], 2), ([posed, known], 1)):
        start_sampler = StartSampler(episodes, lead=4, span=2, per_block=1)
        assert [len(start_sampler.cut(which, 4, 6)) for which in (0, 1)] == [parts, parts]


def test_a_part_of_the_games_that_strayed_is_played_again_from_before(data):
    stage = StudentRolloutTraining(data, None)
    stage.strayed[:], stage.which[:], stage.at[:] = True, 3, 30
    stage.length = 6.0
    stage._restart(np.arange(len(stage.at)), StepNoise(CPU, 0, 0, len(stage.at)))
    again = (stage.which == 3) & (stage.at < 30) & (stage.at >= 30 - BEFORE_EVENT - 1)
    assert 0.2 < again.mean() < 0.9


def test_games_may_stray_farther_as_they_last_longer(data):
    settings = {"first_stray_cells": 1, "stray_cells": 16, "length": 9, "grow": 0.5}
    stage = StudentRolloutTraining(toy.with_settings(data, "student_rollout", **settings), None)
    for progress, length, allowed in ((0.0, 1, 1), (0.25, 3, 4), (0.5, 9, 16), (1.0, 9, 16)):
        stage.loss(StepNoise(CPU, 0, 0, stage.settings.batch, progress))
        assert (stage.length, stage.stray_cells) == pytest.approx((length, allowed))


def test_the_operations_of_a_tick_are_counted():
    """Two more blocks: two convolutions each and a modulation, in the window's two; three times, for learning."""
    flow = toy.load("tiny_view")
    deeper = flow.model_copy(update={"head": flow.head.model_copy(update={"blocks": flow.head.blocks + 2})})
    less, more = (tick_flops(Transformer(config), config) for config in (flow, deeper))
    convolution, modulation = 2 * 16 * 16 * 9 * 16 * 16, 2 * 32 * 32
    assert more - less == 3 * 2 * 2 * (2 * convolution + modulation)


def test_a_killed_stage_resumes_on_the_same_curve(data, tmp_path):
    """Its games go on, too: with fewer steps than a game lasts, one that began anew would be another."""
    toy.assert_resumes_alike(lambda: make_short(data), tmp_path)
    file = tmp_path / "killed" / "resume.pt"
    state = read_state(file)
    assert len(state["state"]["clean"]) == 12
    torch.save(state | {"state": {name: part[:5] for name, part in state["state"].items()}}, file)
    with pytest.raises(TrainingError, match="not a checkpoint of this student_rollout"):
        train(make_short(data), CPU, tmp_path / "killed")


def make_short(data) -> StudentRolloutTraining:
    settings = {"steps": 6, "checkpoint_every": 2, "sample_every": 100, "length": 40, "grow": 0.01, "stray_cells": 999}
    return StudentRolloutTraining(toy.with_settings(data, "student_rollout", **settings), None)


def test_the_stage_learns_is_resumed_and_plays(keep_data, tmp_path, monkeypatch):
    """From nothing by the training command, on two processes as on one; then --resume WORLD on top, and a neural keep
    that walks."""
    one, two, second = tmp_path / "one", tmp_path / "two", tmp_path / "second"
    common = ("--config", KEEP_YAML, "--data", keep_data, "--precision", "float32")
    choices = Choices(KEEP_YAML, keep_data, out=one, device="cpu", precision="float32", steps_scale=0.2)
    run_train(*common, "--steps-scale", 0.2, "--out", two, graphs=False, launcher=TWO)
    monkeypatch.setattr(assembling, "export", lambda folder: [])  # PyTorch plays it
    run(choices, {})
    before, halves = (checkpoint.tensors(run / checkpoint.WEIGHTS, "student") for run in (one, two))
    for name in before:
        np.testing.assert_allclose(before[name], halves[name], atol=5e-4, err_msg=name)
    games, shared = (read_state(run / "student_rollout" / "resume.pt")["state"] for run in (one, two))
    assert all(torch.equal(games[name], shared[name]) for name in GAMES)
    run(replace(choices, out=second, resume=str(one)), {})
    after = checkpoint.tensors(second / checkpoint.WEIGHTS, "student")
    assert before.keys() == after.keys() and not all(np.array_equal(before[name], after[name]) for name in before)
    game = NeuralGame("keep", second)
    frame, _ = game.reset(seed=0)
    anchors = game.anchors()
    assert frame.shape == (64, 64, 3) and len(anchors) == 4
    assert not np.array_equal(frame, anchors[0]), "the hero stands in the first frame, and on no map"
    made = game.step(np.array([0, 0, 0, 1, 0, 0]))[0]
    assert np.abs(made.astype(int) - frame).mean() < 40


def test_a_mixture_learns_on_two_processes_in_all_of_its_phases(tmp_path):
    """Rules, dice and the prior alone: were there a gradient on one process only, they could not be averaged."""
    shape, yaml = toy.load("tiny_mixture").model_dump(), tmp_path / "wild.yaml"
    phases = {"teacher_forcing": 0.25, "prior_share": 0.25, "grow": 0.1, "steps": 12, "warmup": 1}
    shape["training"]["student_rollout"] |= phases
    yaml.write_text(safe_dump(shape))
    collect(load(yaml), out=tmp_path / "data", sessions=4, frames=30, seed=20, workers=1)
    common = ("--config", yaml, "--data", tmp_path / "data", "--precision", "float32", "--out", tmp_path / "two")
    run_train(*common, graphs=False, launcher=TWO)
    learned = checkpoint.tensors(tmp_path / "two" / checkpoint.WEIGHTS, "student")
    begins = MixtureHead(load(yaml), (4, 4)).no_more.bias.detach().numpy()
    assert (learned["local.no_more.bias"] != begins).all(), "the prior has learned"


def test_first_person_learns_too_and_either_runtime_plays_it_alike(tmp_path):
    """The view head, from nothing by the training command: ONNX Runtime and PyTorch differ by a grey level at most."""
    collect(toy.load("tiny_view"), out=tmp_path / "data", sessions=8, frames=40, seed=20, workers=1)
    choices = Choices(CONFIGS / "tiny_view.yaml", tmp_path / "data", out=tmp_path / "world", steps_scale=0.3)
    run(replace(choices, device="cpu", precision="float32"), {})
    games = [NeuralGame("arena", tmp_path / "world", runtime=runtime) for runtime in ("onnx", "torch")]
    first = [game.reset(seed=0)[0] for game in games]
    for tick in range(12):
        keys = np.eye(8, dtype=np.int8)[4 if tick < 8 else 0]
        shown = [game.step(keys)[0].astype(int) for game in games]
        assert np.abs(shown[0] - shown[1]).max() <= 1
    assert np.abs(shown[0] - first[0]).mean() > 1, "it moves: equal stills would prove little"
