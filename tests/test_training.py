"""The stages of the tiny arena: what they leave, that they resume on the same curve, and how they refuse."""

from __future__ import annotations

import errno
import json
import signal
import sys

import numpy as np
import pytest
import torch
import toy
from conftest import REPOSITORY, TWO, run_train
from toy import CPU

import train as command
from world_model import checkpoint
from world_model.model import context, rolling
from world_model.model.autoencoder import Autoencoder
from world_model.training import TrainingError, student_init
from world_model.training.autoencoder import AutoencoderTraining
from world_model.training.clips import TrainingData, batch_of, still_held
from world_model.training.distributed import StepNoise
from world_model.training.loop import train
from world_model.training.student_dmd import StudentDmdTraining
from world_model.training.student_init import StudentInitTraining, prime_from_clip, window_starts
from world_model.training.teacher import TeacherTraining

STAGES = ("autoencoder", "teacher", "student_init", "student_dmd")  # the tiny arena's plan


@pytest.fixture(scope="module")
def data(trained, tiny, tiny_data) -> TrainingData:
    autoencoder = Autoencoder(tiny)
    arrays = checkpoint.tensors(trained / checkpoint.WEIGHTS, "autoencoder")
    autoencoder.load_state_dict({name: torch.from_numpy(array) for name, array in arrays.items()})
    return toy.training_data(tiny, tiny_data, autoencoder.eval())


def make_stage(name: str, data: TrainingData, trained):
    weights = trained / "teacher" / checkpoint.WEIGHTS
    if name == "autoencoder":
        frames = np.random.default_rng(0).integers(0, 256, (40, 32, 32, 3), dtype=np.uint8)
        return AutoencoderTraining(data.config, CPU, frames, frames[:4])
    if name == "teacher":
        return TeacherTraining(data)
    if name == "student_init":
        return StudentInitTraining(data, weights)
    return StudentDmdTraining(data, trained / "student_init" / checkpoint.WEIGHTS, weights)


def test_the_four_stages_leave_a_world(trained):
    report = json.loads((trained / "report.json").read_text())
    assert list(report) == list(STAGES)
    config, about = checkpoint.describe(trained / checkpoint.WEIGHTS)
    assert config.name == "arena" and about["stage"] == "student_dmd"
    for name in STAGES:
        assert list((trained / name).glob("sample_*")), f"{name} showed nothing"
        assert list((trained / name / "tensorboard").glob("events*"))
    dmd = checkpoint.tensors(trained / "student_dmd" / checkpoint.WEIGHTS, "student")
    init = checkpoint.tensors(trained / "student_init" / checkpoint.WEIGHTS, "student")
    assert any(not np.array_equal(dmd[key], init[key]) for key in dmd), "DMD changed nothing"


@pytest.mark.parametrize("name", STAGES)
def test_a_killed_stage_resumes_on_the_same_curve(name, data, trained, tmp_path):
    short = toy.with_settings(data, name, steps=6, checkpoint_every=2, sample_every=100, batch=4)
    toy.assert_resumes_alike(lambda: make_stage(name, short, trained), tmp_path)


def test_two_processes_train_the_same_parameters_as_one(tiny_data, tmp_path):
    """The same global batch, its halves on two processes: every stage of the arena's plan, one after another."""
    common = ("--config", "configs/tiny.yaml", "--data", tiny_data, "--steps-scale", 0.05, "--precision", "float32")
    run_train(*common, "--out", tmp_path / "one", graphs=False)
    run_train(*common, "--out", tmp_path / "two", graphs=False, launcher=TWO)
    for name, prefix in zip(STAGES, ("autoencoder", "teacher", "student", "student"), strict=True):
        one, two = (checkpoint.tensors(tmp_path / run / name / checkpoint.WEIGHTS, prefix) for run in ("one", "two"))
        for key in one:
            np.testing.assert_allclose(one[key], two[key], atol=2e-4, err_msg=f"{name} {key}")


def test_training_rolls_out_with_the_step_that_play_uses(data, trained):
    """The frames behind DMD's last scored window are those that ``rolling.step`` shows, noise and keys alike."""
    stage = make_stage("student_dmd", data, trained)
    shape, step_noise = stage.rolling, StepNoise(CPU, 3, 0, 2)
    with torch.no_grad():
        sinks, latents, actions = batch_of(stage.clips, step_noise, CPU.device)
        state = prime_from_clip(stage.model, shape, sinks, latents, actions, step_noise)
        scored = stage._roll(step_noise, False, state, sinks, latents, actions)

        again = StepNoise(CPU, 3, 0, 2)
        batch_of(stage.clips, again, CPU.device)
        state = prime_from_clip(stage.model, shape, sinks, latents, actions, again)
        phase, shown = again.shared(shape.window_blocks), []
        for at in range(stage.lead, stage.lead + stage.ticks):
            noise = again.normal(shape.window_blocks, *latents.shape[2:])
            state, latent = rolling.step(stage.model, shape, state, actions[:, at], noise)
            shown.append(latent)
    last = max(t for t in range(stage.ticks) if t % shape.window_blocks == phase)
    behind = torch.stack(shown[:last], 1)[:, -scored.past.shape[1] :]
    assert behind.shape[1] >= 2
    assert torch.equal(scored.past[-2:, -behind.shape[1] :], behind)


def test_windows_fit_their_clip(tiny):
    shape = tiny.rolling
    for blocks in range(shape.recent_blocks + 1 + shape.window_blocks, 20):
        starts = window_starts(shape, blocks, 4)
        assert starts[-1] + shape.window_blocks == blocks
        assert starts[0] == shape.recent_blocks + 1, "a first window whose ring is not full is none that play has"


def test_a_window_sees_what_play_shows_it(tiny):
    """Sinks, R recents and the clean block: as many keys outside the window as a tick has."""
    shape, blocks = tiny.rolling, tiny.training.student_init.clip_blocks
    starts = window_starts(shape, blocks, tiny.training.student_init.windows)
    size = shape.window_blocks
    mask = context.packed(1, shape.sink_blocks, shape.recent_blocks, blocks, starts, size).mask[-len(starts) * size :]
    assert len(starts) == tiny.training.student_init.windows
    assert (mask.sum(1) == shape.context_blocks + 1 + size).all()


def test_a_window_counts_until_the_keys_change():
    keys = torch.tensor([[[0.0], [0.0], [1.0], [0.0]]])
    assert still_held(keys, keys[:, :1]).tolist() == [[1, 1, 0, 0]]
    assert still_held(keys.fill_(torch.nan), keys[:, :1]).tolist() == [[1, 1, 1, 1]], "unknown keys never change"


def test_student_init_learns_nothing_from_behind_a_key_change(data, trained, monkeypatch):
    """Every block is wrong by one; keys change after each window's first block, so that alone is counted."""
    stage = make_stage("student_init", data, trained)
    stage.settings = stage.settings.model_copy(update={"drop_action": 0.0})
    sinks, latents, actions = batch_of(stage.clips, StepNoise(CPU, 0, 0, 4), CPU.device)
    actions[:] = torch.arange(actions.shape[1])[:, None] % 2
    monkeypatch.setattr(student_init, "batch_of", lambda *_: (sinks, latents, actions))
    monkeypatch.setattr(student_init, "velocity_loss", lambda x0, real, sigma: torch.ones(x0.shape[:2]))
    assert float(stage.loss(StepNoise(CPU, 0, 0, 4))[0]) == pytest.approx(1 / stage.rolling.window_blocks)


def test_refusals_are_one_clear_line(tiny_data, trained, tmp_path, monkeypatch, capsys):
    (tmp_path / "empty").mkdir()
    cases = {
        "no such folder": ("tiny", tmp_path / "nowhere"),
        "no sessions": ("tiny", tmp_path / "empty"),
        "32x32": ("arena", tiny_data),
        "no such configuration": ("missing", tiny_data),
        "is not that of": ("paper_shape", tiny_data, "--resume", trained),
        "--resume": ("tiny", tiny_data, "--out", trained),
    }
    monkeypatch.chdir(REPOSITORY)
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    for words, (config, data, *more) in cases.items():
        given = ["--config", f"configs/{config}.yaml", "--data", data, "--out", tmp_path / "out", *more]
        monkeypatch.setattr(sys, "argv", ["train.py", *map(str, given)])
        assert command.main() == 2
        said = capsys.readouterr().err
        assert words in said and len(said.strip().splitlines()) == 1, said


def test_a_full_disk_keeps_the_checkpoint_before(data, trained, tmp_path, monkeypatch):
    train(make_stage("teacher", toy.with_settings(data, "teacher", steps=2), trained), CPU, tmp_path)
    before = (tmp_path / "resume.pt").read_bytes()

    def full(state, path):
        path.write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(TrainingError, match="the disk is full.*--resume"):
        train(make_stage("teacher", toy.with_settings(data, "teacher", steps=4), trained), CPU, tmp_path)
    assert (tmp_path / "resume.pt").read_bytes() == before
    assert not (tmp_path / "resume.partial").exists()
