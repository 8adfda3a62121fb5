"""The training loop on a network of one parameter: budgets, checkpoints, averages, resumption."""

from __future__ import annotations

import io
import os
import signal
from pathlib import Path

import pytest
import torch
from rich.console import Console
from torch import nn

from world_model.config import Stage
from world_model.training import TrainingError, loop, progress
from world_model.training.checkpointing import read_state
from world_model.training.distributed import DistributedContext, StepNoise
from world_model.training.loop import Stopped, profile, rate_at, train
from world_model.training.progress import Budget
from world_model.training.stage import Update, average_of


class Toy:
    """A stage that decreases one parameter by its learning rate in every ``every``-th step; its critic in each step."""

    name = "toy"

    def __init__(self, steps: int = 40, every: int = 1, **settings):
        self.settings = Stage(
            **{"steps": steps, "batch": 2, "learning_rate": 0.1, "warmup": 0, "ema": 0.9, "clip_norm": 9.0} | settings
        )
        self.updates = {name: self._update(every) for name, every in (("ships", every), ("critic", 1))}
        self.network = self.updates["ships"].network
        self.average, self.sampled, self.about, self.rates = average_of(self.network), [], {}, []

    def _update(self, every: int) -> Update:
        network = nn.Linear(1, 1, bias=False)
        nn.init.zeros_(network.weight)
        optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
        optimizer.param_groups[0]["base_lr"] = 0.1

        def loss(step_noise: StepNoise):
            self.rates.append(optimizer.param_groups[0]["lr"])
            return network.weight.sum(), {}

        return Update(network, loss, [optimizer], every)

    def sample(self, folder: Path, step: int) -> None:
        self.sampled.append(step)

    def finish(self, folder: Path, about: dict[str, str]) -> None:
        self.about = about


def distributed() -> DistributedContext:
    return DistributedContext(torch.device("cpu"), console=Console(file=io.StringIO(), width=200))


def tick_a_second(monkeypatch) -> None:
    """A clock by which each look at it takes a second."""
    now = iter(range(10**6))
    monkeypatch.setattr(loop.time, "perf_counter", lambda: float(next(now)))


def test_a_budget_ends_a_stage_in_time_and_resuming_goes_on(tmp_path, monkeypatch):
    first, shown = Toy(steps=1000), distributed()
    sample = first.sample
    first.sample = lambda *args: (sample(*args), [loop.time.perf_counter() for _ in range(30)])
    with monkeypatch.context() as patched:
        tick_a_second(patched)
        train(first, shown, tmp_path, {"recordings": "x"}, Budget(400.0, start=0.0))
    done = int(first.about["steps"])
    assert 20 < done < 100 and first.about == {"stage": "toy", "steps": str(done), "recordings": "x"}
    assert len(first.sampled) == 2 and first.sampled[0] < done == first.sampled[1], (
        "the first measures what the last will take"
    )
    assert read_state(tmp_path / "resume.pt")["step"] == done
    assert first.rates[-1] < 0.01 < 0.09 < max(first.rates), "the rate must have fallen by the end of the budget"
    assert "toy: more than the" in shown.console.file.getvalue()

    second = Toy(steps=done + 5)
    train(second, distributed(), tmp_path)
    assert second.about["steps"] == str(done + 5) and len(second.rates) == 2 * 5


def test_the_time_to_the_end_is_predicted_after_20_steps(tmp_path):
    shown = distributed()
    train(Toy(steps=25), shown, tmp_path)
    said = shown.console.file.getvalue()
    assert "toy: 0 s to its end at step 25" in said and "more than" not in said


def test_a_sample_that_does_not_fit_into_the_budget_is_not_made(tmp_path, monkeypatch):
    """Steps of 20 seconds in two minutes; a sample is assumed to take as long as four."""
    stage = Toy(steps=1000)
    critic = stage.updates["critic"]
    loss = critic.loss
    critic.loss = lambda step_noise: ([loop.time.perf_counter() for _ in range(20)], loss(step_noise))[1]
    tick_a_second(monkeypatch)
    train(stage, distributed(), tmp_path, budget=Budget(120.0, start=0.0))
    assert stage.about["steps"] in ("3", "4") and not stage.sampled


def test_a_first_step_that_compiles_does_not_end_a_stage(tmp_path, monkeypatch):
    """40 seconds of 70, which leaves less than another such step would take."""
    stage = Toy(steps=1000)
    critic = stage.updates["critic"]
    loss = critic.loss
    critic.loss = lambda noise: ([loop.time.perf_counter() for _ in range(40 * (noise.step == 0))], loss(noise))[1]
    tick_a_second(monkeypatch)
    train(stage, distributed(), tmp_path, budget=Budget(70.0, start=0.0))
    assert int(stage.about["steps"]) >= 3


def test_a_checkpoint_is_written_before_the_first_step_and_by_the_clock(tmp_path, monkeypatch):
    stage, found = Toy(steps=3), []
    critic = stage.updates["critic"]
    loss = critic.loss
    critic.loss = lambda step_noise: (found.append(read_state(tmp_path / "resume.pt")["step"]), loss(step_noise))[1]
    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", 0.0)
    train(stage, distributed(), tmp_path)
    assert found == [0, 1, 2] and read_state(tmp_path / "resume.pt")["step"] == 3


def test_a_failing_sample_loses_nothing(tmp_path):
    class Unlucky(Toy):
        def sample(self, folder: Path, step: int) -> None:
            self.sampled.append((step, read_state(folder / "resume.pt")["step"]))
            raise OSError("no space for a film")

    stage, shown = Unlucky(steps=4, sample_every=2, checkpoint_every=1000), distributed()
    train(stage, shown, tmp_path)
    assert stage.sampled == [(2, 2), (4, 4)] and stage.about["steps"] == "4"
    assert "no sample at step 2: no space for a film; training goes on" in shown.console.file.getvalue()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_a_stage_after_the_step_at_hand_and_it_goes_on(tmp_path, number):
    stage, before = Toy(steps=6, checkpoint_every=1000), signal.getsignal(number)
    critic = stage.updates["critic"]
    loss = critic.loss
    critic.loss = lambda step_noise: (step_noise.step == 2 and os.kill(os.getpid(), number), loss(step_noise))[1]
    with pytest.raises(Stopped) as stopped:
        train(stage, distributed(), tmp_path)
    assert read_state(tmp_path / "resume.pt")["step"] == 3 and stage.about["steps"] == "3" and not stage.sampled
    assert stopped.value.logs["ships/loss"] == pytest.approx(-0.2) and signal.getsignal(number) == before
    resumed, straight = Toy(steps=6), Toy(steps=6)
    train(resumed, distributed(), tmp_path)
    train(straight, distributed(), tmp_path / "straight")
    assert torch.equal(resumed.average.weight, straight.average.weight)


def test_without_a_terminal_lines_tell_the_loss_and_the_time_left(tmp_path, monkeypatch):
    quiet, chatty = distributed(), distributed()
    train(Toy(steps=12), quiet, tmp_path / "a")
    said = [line for line in quiet.console.file.getvalue().splitlines() if "/12" in line]
    assert len(said) == 1 and "toy 12/12" in said[0] and "ships/loss -1.0" in said[0] and "0 s left" in said[0]
    monkeypatch.setattr(progress, "LINE_SECONDS", -1.0)
    train(Toy(steps=12), chatty, tmp_path / "b", budget=Budget(90.0))
    said = [line for line in chatty.console.file.getvalue().splitlines() if "/12" in line]
    assert len(said) == 12 and "89 s left" in said[0].replace("90 s", "89 s"), "what the budget leaves, not steps"


def test_the_rate_falls_by_whichever_share_is_further():
    assert rate_at(0.5, 100, 10) == 1 and rate_at(0.9, 100, 10) == pytest.approx(0.3)
    assert rate_at(0.0, 0, 10) == 0.1 and rate_at(1.5, 100, 10) == 0.02


def test_the_average_follows_only_steps_that_moved_what_ships(tmp_path):
    """Every second step is the critic's alone; the average of both runs is that of ten moves."""
    always, every_other = Toy(steps=10), Toy(steps=20, every=2)
    train(always, distributed(), tmp_path / "a")
    train(every_other, distributed(), tmp_path / "b")
    assert torch.equal(always.network.weight, every_other.network.weight)
    assert torch.allclose(always.average.weight, every_other.average.weight)


@pytest.mark.parametrize("content", [b"", b"half a file", "foreign", "other"], ids=["empty", "cut", "foreign", "other"])
def test_a_file_that_is_no_checkpoint_is_one_clear_line(tmp_path, content):
    file = tmp_path / "resume.pt"
    if isinstance(content, bytes):
        file.write_bytes(content)
    else:
        torch.save({"foreign": {"x": 1}, "other": {"step": 3, "average": {}}}[content], file)
    with pytest.raises(TrainingError, match=r"resume\.pt: .*Delete the file.*--out") as error:
        train(Toy(), distributed(), tmp_path)
    assert "\n" not in str(error.value)


def test_a_large_seed():
    contexts = [DistributedContext(torch.device("cpu"), seed=seed) for seed in (0, 2**63 - 1)]
    assert not torch.equal(*(StepNoise(context, 7, 1, 4).normal(2) for context in contexts))


def test_a_profile_is_a_table_and_leaves_nothing(tmp_path):
    shown = distributed()
    profile(Toy(), shown)
    assert "Self CPU" in shown.console.file.getvalue() and not list(tmp_path.iterdir())
