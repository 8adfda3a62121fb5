"""The training command: it resumes, does nothing, or refuses, and keeps to its minutes."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml
from conftest import REPOSITORY, run_train

import train
from game.record.collect import collect
from world_model import checkpoint
from world_model.config import CONFIGS, WORLDS
from world_model.episode import EpisodeError
from world_model.episode.dataset import DatasetSplit
from world_model.evaluate.__main__ import rooms_of
from world_model.play.neural_game import NeuralGame
from world_model.training import TrainingError, command, loop
from world_model.training import assemble as assembling
from world_model.training import distributed as distribution
from world_model.training import run as training
from world_model.training.assemble import TrainingResult
from world_model.training.command import Choices, run
from world_model.training.distributed import DistributedContext

TINY = CONFIGS / "tiny.yaml"


@pytest.fixture
def left(trained, tmp_path, monkeypatch) -> Path:
    """A copy of the trained run; what is assembled from its stages is not looked at here."""
    monkeypatch.setattr(training, "assemble", lambda *_: None)
    return shutil.copytree(trained, tmp_path / "run", ignore=shutil.ignore_patterns("tensorboard", "*.mp4", "*.onnx"))


@pytest.fixture
def more_data(tiny_data, tiny, tmp_path) -> Path:
    folder = shutil.copytree(tiny_data, tmp_path / "more")
    collect(tiny, out=folder, sessions=1, frames=60, seed=99, workers=1)
    return folder


def changed(tmp_path: Path, stage: str, **settings) -> Path:
    data = yaml.safe_load(TINY.read_text())
    data["training"][stage] |= settings
    path = tmp_path / "changed.yaml"
    path.write_text(yaml.safe_dump(data))
    return path


def killed(*_):
    raise SystemExit


def go(config: Path, data: Path, **choices) -> None:
    run(Choices(config, data, device="cpu", precision="float32", **choices), {})


def weights(folder: Path) -> list[str]:
    return [checkpoint.digest(path) for path in sorted(folder.glob(f"*/{checkpoint.WEIGHTS}"))]


def test_a_finished_run_is_left_as_it_is_and_says_so(left, tiny_data, capsys):
    before = weights(left), (left / "report.json").read_text()
    go(TINY, tiny_data, out=left, resume=True)
    assert (weights(left), (left / "report.json").read_text()) == before
    assert capsys.readouterr().out.count("finished before") == 4


def test_a_changed_setting_does_not_relabel_old_weights(left, tiny_data, tmp_path):
    before, config = weights(left), changed(tmp_path, "student_init", learning_rate=5e-4)
    with pytest.raises(TrainingError, match="student_init: the configuration of student_init changed.*another --out"):
        go(config, tiny_data, out=left, resume=True)
    assert weights(left) == before


def test_more_recordings_do_not_pass_unseen(left, tiny_data, more_data, tmp_path):
    """A taught world is not taught again in place: it is itself a world to start from."""
    mine, short = tmp_path / "mine", changed(tmp_path, "student_init", steps=2)
    go(short, tiny_data, out=mine, resume=str(left))
    with pytest.raises(TrainingError, match=f"the recordings changed.*--resume {mine} --out NEW"):
        go(short, more_data, out=mine, resume=str(left))
    shutil.copy(left / checkpoint.WEIGHTS, mine)  # what the export would have left
    go(short, more_data, out=tmp_path / "new", resume=str(mine))
    assert weights(tmp_path / "new") != weights(mine)


def test_other_recordings_are_taught_at_a_tenth_of_the_rates(
    left, tiny, tiny_data, more_data, tmp_path, monkeypatch, capsys
):
    """On its own recordings a world goes on at the whole of them, in a piece of training as long as one likes."""
    rates: list[float] = []
    monkeypatch.setattr(training, "train", lambda stage, *_: rates.append(stage.settings.learning_rate))
    for data, words in ((tiny_data, ""), (more_data, f"{left} is taught other recordings than its own: at 0.1 of")):
        go(TINY, data, out=tmp_path / data.name, resume=str(left))
        assert words in " ".join(capsys.readouterr().out.split())
    assert rates == pytest.approx([1e-3, 1e-4])
    assert training.scaled(tiny, rate=0.1).training.student_dmd.critic_learning_rate == pytest.approx(2e-5)


def test_a_room_that_was_trained_on_is_never_called_unseen(left, tiny, tiny_data, tmp_path, monkeypatch, capsys):
    """28 and 37 are for testing by their seed; somebody has no other recordings than of 28, and trains on those."""
    alone, mine = tmp_path / "alone", tmp_path / "mine"
    shutil.copytree(tiny_data / "000008-seed28", alone / "28")
    go(changed(tmp_path, "student_init", steps=1), alone, out=mine, resume=str(left))
    assert "no others to train on" in " ".join(capsys.readouterr().out.split())
    monkeypatch.setattr(assembling, "export", lambda folder: None)
    student, codec = (folder / checkpoint.WEIGHTS for folder in (mine / "student_init", left / "autoencoder"))
    assembling.assemble(
        mine, TrainingResult(tiny, DatasetSplit.open(tiny_data, tiny), codec, student, None, {}), "a test"
    )
    about = checkpoint.describe(mine / checkpoint.WEIGHTS)[1]
    assert [checkpoint.was_trained_on(about, seed) for seed in (28, 20, 37)] == [True, True, False]
    card = (mine / "card.md").read_text()
    assert "of rooms never trained on: 37\n" in card and "held out: 1 sessions, 1 rooms" in card
    assert 28 not in rooms_of(SimpleNamespace(folder=mine), True, 3)
    assert 28 in rooms_of(SimpleNamespace(folder=mine), False, 99)


def test_a_run_that_was_killed_goes_on_from_what_it_began_with(left, tiny_data, tmp_path, monkeypatch, capsys):
    """Killed before its first checkpoint, then stopped after a step, then done: as if it had been left alone."""
    mine, alone, short = tmp_path / "mine", tmp_path / "alone", changed(tmp_path, "student_init", steps=3)

    step = loop._step
    with monkeypatch.context() as patched:
        patched.setattr(training, "train", killed)
        with pytest.raises(SystemExit):
            go(short, tiny_data, out=mine, resume=str(left))
    with monkeypatch.context() as patched:
        patched.setattr(loop, "_step", lambda *args: (os.kill(os.getpid(), signal.SIGTERM), step(*args))[1])
        with pytest.raises(KeyboardInterrupt):
            go(short, tiny_data, out=mine, resume=True)
    said = capsys.readouterr().out.replace("\n", " ")
    assert said.count(f"student_init: no checkpoint, begins from {left / checkpoint.WEIGHTS}") == 2
    assert f"stopped; go on: python train.py --config {short}" in said and f"--resume {left}" in said
    assert [path.name for path in mine.iterdir() if path.name in training.STAGES] == ["student_init"]
    assert checkpoint.describe(mine / "student_init" / checkpoint.WEIGHTS)[1]["steps"] == "1"
    go(short, tiny_data, out=mine, resume=True)
    assert "student_init: resumed at step 1" in capsys.readouterr().out
    go(short, tiny_data, out=alone, resume=str(left))
    assert weights(mine) == weights(alone)


def test_other_weights_upstream_are_refused(left, tiny_data):
    shutil.copy(left / "student_init" / checkpoint.WEIGHTS, left / "kept")
    file = left / "student_init" / checkpoint.WEIGHTS
    config, about = checkpoint.describe(file)
    tensors = {f"student.{name}": array + 1 for name, array in checkpoint.tensors(file, "student").items()}
    checkpoint.save(file, tensors, config, about)
    with pytest.raises(TrainingError, match="student_dmd: the weights it began from changed.*or delete"):
        go(TINY, tiny_data, out=left, resume=True)


def test_a_finished_stage_behind_one_that_would_go_on_is_refused_before_any_work(left, tiny_data, tmp_path):
    with pytest.raises(TrainingError, match="student_init: finished, but teacher before it is not"):
        go(changed(tmp_path, "teacher", steps=90), tiny_data, out=left, resume=True)


def test_more_steps_go_on_where_it_stopped(left, tiny_data, tmp_path, capsys):
    go(changed(tmp_path, "student_dmd", steps=8), tiny_data, out=left, resume=True)
    assert "student_dmd: resumed at step 6" in capsys.readouterr().out
    assert checkpoint.describe(left / "student_dmd" / checkpoint.WEIGHTS)[1]["steps"] == "8"


def test_dmd_finds_the_teacher_of_the_run_it_starts_from(left, tiny_data, tmp_path):
    go(TINY, tiny_data, out=tmp_path / "mine", resume=str(left), stage="student_dmd")
    assert (tmp_path / "mine" / "student_dmd" / checkpoint.WEIGHTS).is_file()


def test_dmd_without_a_teacher_is_refused_before_any_work(left, tiny_data, tmp_path):
    shutil.rmtree(left / "teacher")
    with pytest.raises(TrainingError, match=r"teacher/weights\.safetensors: not there.*Train teacher first"):
        go(TINY, tiny_data, out=tmp_path / "mine", resume=str(left), stage="student_dmd")
    assert not list((tmp_path / "mine").iterdir())


def test_minutes_end_a_run_that_plays_and_say_how_to_go_on(trained, tiny_data, tmp_path):
    """... of a world that learns more recordings: its autoencoder stays, its student moves on, the result is whole."""
    out, short = tmp_path / "mine", ("--minutes", 0.25, "--steps-scale", 500, "--precision", "float32")
    done = run_train("--config", TINY, "--data", tiny_data, "--resume", trained, "--out", out, *short)
    said = done.stdout.replace("\n", " ")
    assert f"go on: python train.py --config {TINY} --data {tiny_data} --out {out} --resume {trained}" in said
    assert "--minutes 0.25 --precision float32 --steps-scale 500" in said and "no time for the ONNX graphs" in said
    steps = int(checkpoint.describe(out / checkpoint.WEIGHTS)[1]["steps"])
    assert 1 <= steps < 500 * 40 and list((out / "student_init").glob("sample_*"))
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


def test_compiling_can_be_switched_off(monkeypatch):
    for name in ("cuda.is_available", "cuda.set_device", "set_float32_matmul_precision"):
        monkeypatch.setattr(f"torch.{name}", lambda *_: True)
    for words, compiles in (("", True), ("--no-compile", False)):
        compile = train.parser().parse_args(["--config", "c", "--data", "d", *words.split()]).compile
        assert DistributedContext.open({}, compile=compile).compile is compiles
        choices = Choices(Path("c"), Path("d"), minutes=1, compile=compile)
        assert command._next_command(choices, Path("o")).endswith(f"--minutes 1 {words}".strip())


@pytest.mark.parametrize("minutes, busy, left, graphs", [(10, 1, 548, True), (10, 4, 392, True), (1, 1, 58, False)])
def test_minutes_keep_time_for_what_follows_training(monkeypatch, minutes, busy, left, graphs):
    """On a machine where everything takes ``busy`` times as long: 30 s of the processor took as many times 30 s."""
    monkeypatch.setattr(command.time, "perf_counter", lambda: 100.0 + 30 * busy)
    monkeypatch.setattr(command.time, "process_time", lambda: 30.0)
    choices = Choices(TINY, TINY, minutes=minutes)
    assert command._times(choices, 100.0) == (100.0 + left, graphs)
    end, _ = command._times(Choices(TINY, TINY, minutes=minutes, resume=str(WORLDS / "keep")), 100.0)
    assert end == 100.0 + 60 * minutes - min(15 * minutes, 2 * busy), "the keep's graphs will do"


@pytest.mark.parametrize("half, chosen", [(1.0, False), (0.1, True)])
def test_precision_auto_is_what_multiplies_faster(monkeypatch, half, chosen):
    seconds = {torch.float32: 0.002, torch.bfloat16: 0.002 * 2 * half}
    monkeypatch.setattr(distribution, "matmul_seconds", lambda rows, kind: seconds[kind])
    distributed = DistributedContext.open({}, device="cpu")
    assert distributed.bfloat16 == chosen
    assert (
        "2.0 ms in float32" in distributed.precision_note
        and f"{4 * half:.1f} ms in bfloat16" in distributed.precision_note
    )


def test_numbers_that_mean_nothing_are_refused(capsys):
    for flag, values in {
        "--steps-scale": ("nan", "0", "1e308"),
        "--seed": ("-1", str(2**63)),
        "--minutes": ("0",),
    }.items():
        for value in values:
            with pytest.raises(SystemExit):
                train.parser().parse_args(["--config", "a", "--data", "b", flag, value])
            assert f"argument {flag}" in capsys.readouterr().err


def test_recordings_that_a_later_stage_could_not_use_are_refused_before_any_work(tiny_data, tmp_path, capsys):
    data = shutil.copytree(tiny_data, tmp_path / "data")
    whole, broken = sorted(data.iterdir())[:2]
    (broken / "chunk_000001.csv").write_text("")
    out = tmp_path / "out"
    with pytest.raises(TrainingError, match="teacher: no session is as long as a clip of 999 frames"):
        go(changed(tmp_path, "teacher", clip_blocks=999), data, out=out)
    said = capsys.readouterr().out
    assert f"damaged {broken}" in said and str(whole) not in said
    (whole / "anchors" / "0.png").unlink()
    with pytest.raises(EpisodeError, match="0.png: missing"):
        go(TINY, data, out=out)
    few = json.loads((whole / "session.json").read_text()) | {"anchors": 1}
    (whole / "session.json").write_text(json.dumps(few))
    shutil.copy(whole / "anchors" / "1.png", whole / "anchors" / "0.png")
    with pytest.raises(TrainingError, match="1 anchors, the configuration wants 4 sink frames"):
        go(TINY, data, out=out)
    assert not list(out.iterdir())


def test_recordings_that_nothing_could_begin_with_are_refused_before_any_work(tiny_keep, tmp_path):
    """A game without anchors, of which no session goes on after its sinks: its weights could not be played."""
    collect(tiny_keep, out=tmp_path, sessions=2, frames=4, workers=1)
    for file in tmp_path.glob("*/session.json"):
        file.write_text(json.dumps(json.loads(file.read_text()) | {"anchors": 0}))
    (tmp_path / "file").touch()
    with pytest.raises(TrainingError, match=r"file: no folder can be made there \(File exists\)"):
        go(CONFIGS / "tiny_keep.yaml", tmp_path, out=tmp_path / "file")
    with pytest.raises(TrainingError, match="no session has more than the 4 frames that are sinks"):
        go(CONFIGS / "tiny_keep.yaml", tmp_path, out=tmp_path / "out")


@pytest.mark.parametrize("about", [{}, {"steps": "many"}, {"steps": None}])
def test_weights_that_do_not_say_their_steps_are_refused(left, tiny_data, about):
    file = left / "teacher" / checkpoint.WEIGHTS
    config, tensors = checkpoint.describe(file)[0], checkpoint.tensors(file, "teacher")
    checkpoint.save(file, {f"teacher.{name}": array for name, array in tensors.items()}, config, about)
    with pytest.raises(TrainingError, match="teacher.*do not say how many steps"):
        go(TINY, tiny_data, out=left, resume=True)


def test_a_provenance_of_something_else_is_refused(tiny_data, tmp_path):
    (tmp_path / "autoencoder").mkdir()
    torch.save({"step": 1, "provenance": [1]}, tmp_path / "autoencoder" / "resume.pt")
    with pytest.raises(TrainingError, match="something else than a checkpoint"):
        go(TINY, tiny_data, out=tmp_path, resume=True)


def test_resume_without_a_run_is_refused(tiny_data, tmp_path):
    with pytest.raises(TrainingError, match="holds no run to go on with"):
        go(TINY, tiny_data, out=tmp_path / "typo", resume=True)


def test_training_without_pytorch_is_one_line():
    code = "import sys; sys.modules['torch'] = None; sys.argv = ['train.py', '--config', 'a', '--data', 'b']\n"
    done = subprocess.run(
        [sys.executable, "-c", code + "import train; sys.exit(train.main())"],
        cwd=REPOSITORY, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 2 and 'pip install -e ".[train]"' in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
