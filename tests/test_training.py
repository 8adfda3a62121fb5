"""The training command: what it leaves, that it resumes on the same curve, and how it refuses."""

from __future__ import annotations

import errno
import json
import shutil

import numpy as np
import pytest
import torch
from conftest import run_train

from world_model import checkpoint
from world_model.episode.dataset import DataError, Footage, encode_session
from world_model.model import context, rolling
from world_model.model.autoencoder import Autoencoder
from world_model.play.neural_game import NeuralGame
from world_model.training import loop, student_init
from world_model.training.autoencoder import AutoencoderTraining
from world_model.training.clips import Material, batch_of, still_held
from world_model.training.loop import Draw, Machine, TrainingError, train
from world_model.training.run import scaled
from world_model.training.student_dmd import StudentDmdTraining
from world_model.training.student_init import StudentInitTraining, prime_from_clip, window_starts
from world_model.training.teacher import TeacherTraining

CPU = Machine(torch.device("cpu"))
STAGES = ("autoencoder", "teacher", "student_init", "student_dmd")  # the tiny arena's plan


@pytest.fixture(scope="module")
def material(trained, tiny, tiny_data) -> Material:
    autoencoder = Autoencoder(tiny)
    found = checkpoint.tensors(trained / checkpoint.WEIGHTS, "autoencoder")
    autoencoder.load_state_dict({name: torch.from_numpy(a) for name, a in found.items()})

    @torch.no_grad()
    def encode(frames: np.ndarray) -> np.ndarray:
        return autoencoder.encode(torch.from_numpy(frames).movedim(-1, -3).float() / 127.5 - 1).numpy()

    footage = Footage.open(tiny_data, tiny)
    parts = ([encode_session(s, tiny, encode) for s in part] for part in (footage.train, footage.held_out))
    return Material(tiny, CPU, autoencoder.eval(), *parts)


def make_stage(name: str, material: Material, trained):
    weights = trained / "teacher" / checkpoint.WEIGHTS
    if name == "autoencoder":
        frames = np.random.default_rng(0).integers(0, 256, (40, 32, 32, 3), dtype=np.uint8)
        return AutoencoderTraining(material.config, CPU, frames, frames[:4])
    if name == "teacher":
        return TeacherTraining(material)
    if name == "student_init":
        return StudentInitTraining(material, weights)
    return StudentDmdTraining(material, trained / "student_init" / checkpoint.WEIGHTS, weights)


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
def test_a_killed_stage_resumes_on_the_same_curve(name, material, trained, tmp_path):
    settings = getattr(material.config.training, name).model_copy(
        update={"steps": 6, "checkpoint_every": 2, "sample_every": 100, "batch": 4}
    )
    training = material.config.training.model_copy(update={name: settings})
    short = Material(
        material.config.model_copy(update={"training": training}),
        CPU, material.codec, material.train, material.held_out,
    )  # fmt: skip
    straight, killed = tmp_path / "straight", tmp_path / "killed"
    whole = make_stage(name, short, trained)
    train(whole, CPU, straight)

    stopped = make_stage(name, short, trained)
    first = next(iter(stopped.updates.values()))
    good_loss = first.loss

    def failing(draw: Draw):
        if draw.generator.initial_seed() >= 4 * 1_009:  # dies in step 4, after the checkpoint at step 4
            raise KeyboardInterrupt
        return good_loss(draw)

    first.loss = failing
    with pytest.raises(KeyboardInterrupt):
        train(stopped, CPU, killed)
    resumed = make_stage(name, short, trained)
    train(resumed, CPU, killed)
    for key, value in whole.average.state_dict().items():
        assert torch.equal(value, resumed.average.state_dict()[key]), key


def test_two_processes_train_the_same_parameters_as_one(tiny_data, trained, tmp_path):
    """The same global batch, its halves on two processes: teacher and DMD, the stages that draw the most."""
    common = ("--config", "configs/tiny.yaml", "--data", tiny_data, "--steps-scale", 0.1, "--resume")
    common += ("--precision", "float32")
    results = []
    for name, launcher in (("one", ()), ("two", ("-m", "torch.distributed.run", "--nproc_per_node=2"))):
        out = tmp_path / name
        shutil.copytree(trained / "autoencoder", out / "autoencoder")
        run_train(*common, "--out", out, "--stage", "teacher", launcher=launcher)
        shutil.copytree(trained / "student_init", out / "student_init")
        run_train(*common, "--out", out, "--stage", "student_dmd", launcher=launcher, graphs=False)
        results.append(
            [
                checkpoint.tensors(out / s / checkpoint.WEIGHTS, p)
                for s, p in (("teacher", "teacher"), ("student_dmd", "student"))
            ]
        )
    for one, two in zip(*results, strict=True):
        for key in one:
            np.testing.assert_allclose(one[key], two[key], atol=2e-4, err_msg=key)


def test_training_rolls_out_with_the_step_that_play_uses(material, trained):
    """The frames behind DMD's last scored window are those that ``rolling.step`` shows, noise and keys alike."""
    stage = make_stage("student_dmd", material, trained)
    shape, draw = stage.rolling, Draw(CPU, 3, 0, 2)
    with torch.no_grad():
        sinks, latents, actions = batch_of(stage.clips, draw, CPU.device)
        state = prime_from_clip(stage.model, shape, sinks, latents, actions, draw)
        scored = stage._roll(draw, False, state, sinks, latents, actions)

        again = Draw(CPU, 3, 0, 2)
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


def test_a_trained_world_learns_more_recordings(tiny_data, trained, tmp_path):
    """``--resume WORLD``: its autoencoder stays, its student moves on, and the result is whole again."""
    out = tmp_path / "mine"
    run_train(
        "--config", "configs/tiny.yaml", "--data", tiny_data, "--resume", trained, "--out", out, "--steps-scale", 0.1
    )
    before, after = (
        {prefix: checkpoint.tensors(folder / checkpoint.WEIGHTS, prefix) for prefix in ("autoencoder", "student")}
        for folder in (trained, out)
    )
    assert all(np.array_equal(before["autoencoder"][key], after["autoencoder"][key]) for key in before["autoencoder"])
    moved = max(np.abs(before["student"][key] - after["student"][key]).max() for key in before["student"])
    assert 0 < moved < 0.5, "it should start from the trained student"
    game = NeuralGame(checkpoint=out)
    game.reset(seed=0)
    assert game.step(np.zeros(8, np.int8))[0].shape == (32, 32, 3)


def test_a_world_of_another_shape_is_not_resumed(tiny_data, trained, tmp_path):
    done = run_train(
        "--config", "configs/paper_shape.yaml", "--data", tiny_data, "--resume", trained, "--out", tmp_path, check=False
    )  # fmt: skip
    assert done.returncode == 2 and "is not that of" in done.stderr


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


def test_a_window_is_owed_the_truth_until_the_keys_change():
    keys = torch.tensor([[[0.0], [0.0], [1.0], [0.0]]])
    assert still_held(keys, keys[:, :1]).tolist() == [[1, 1, 0, 0]]
    assert still_held(keys.fill_(torch.nan), keys[:, :1]).tolist() == [[1, 1, 1, 1]], "unknown keys never change"


def test_student_init_learns_nothing_from_behind_a_key_change(material, trained, monkeypatch):
    """Every block is wrong by one; keys change after each window's first block, so that alone is counted."""
    stage = make_stage("student_init", material, trained)
    stage.settings = stage.settings.model_copy(update={"drop_action": 0.0})
    sinks, latents, actions = batch_of(stage.clips, Draw(CPU, 0, 0, 4), CPU.device)
    actions[:] = torch.arange(actions.shape[1])[:, None] % 2
    monkeypatch.setattr(student_init, "batch_of", lambda *_: (sinks, latents, actions))
    monkeypatch.setattr(student_init, "velocity_loss", lambda x0, real, sigma: torch.ones(x0.shape[:2]))
    assert float(stage.loss(Draw(CPU, 0, 0, 4))[0]) == pytest.approx(1 / stage.rolling.window_blocks)


def test_refusals_are_one_clear_line(tiny_data, tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()
    cases = {
        "no such folder": ("configs/tiny.yaml", tmp_path / "nowhere"),
        "no sessions": ("configs/tiny.yaml", empty),
        "32x32": ("configs/arena.yaml", tiny_data),
        "no such configuration": ("configs/missing.yaml", tiny_data),
    }
    for words, (config, data) in cases.items():
        done = run_train("--config", config, "--data", data, "--out", tmp_path / "out", check=False)
        assert done.returncode == 2 and words in done.stderr, done.stderr
        assert "Traceback" not in done.stderr and len(done.stderr.strip().splitlines()) == 1


def test_another_world_is_refused(tiny, tiny_data):
    other = tiny.model_copy(update={"name": "elsewhere"})
    with pytest.raises(DataError, match="recorded in the world 'arena'.*'elsewhere'"):
        Footage.open(tiny_data, other)


def test_a_run_is_not_overwritten(tiny_data, trained):
    done = run_train("--config", "configs/tiny.yaml", "--data", tiny_data, "--out", trained, check=False)
    assert done.returncode == 2 and "--resume" in done.stderr


def test_a_full_disk_keeps_the_checkpoint_before(material, trained, tmp_path, monkeypatch):
    short = Material(scaled(material.config, 0.05), CPU, material.codec, material.train, material.held_out)
    train(make_stage("teacher", short, trained), CPU, tmp_path)
    before = (tmp_path / "resume.pt").read_bytes()

    def full(state, path):
        path.write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(loop.torch, "save", full)
    longer = Material(scaled(material.config, 0.1), CPU, material.codec, material.train, material.held_out)
    with pytest.raises(TrainingError, match="the disk is full.*--resume"):
        train(make_stage("teacher", longer, trained), CPU, tmp_path)
    assert (tmp_path / "resume.pt").read_bytes() == before
    assert not (tmp_path / "resume.partial").exists()
