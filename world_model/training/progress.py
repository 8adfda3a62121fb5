"""The time that a stage may take, and its progress on the terminal and in TensorBoard."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch.utils.tensorboard import SummaryWriter

from world_model.training.distributed import DistributedContext
from world_model.training.stage import TrainingStage

LINE_SECONDS = 30.0
"""Where no progress bar can be drawn, a line is printed this often."""
PREDICTED_AFTER = 20
"""Steps after which the time to the end is predicted."""


@dataclass(frozen=True)
class Budget:
    """Seconds that a stage may take, from ``start`` by ``perf_counter``; None: no limit."""

    seconds: float | None = None
    start: float = field(default_factory=time.perf_counter)

    @property
    def left(self) -> float:
        """Seconds; below 0 when it is exceeded."""
        return float("inf") if self.seconds is None else self.start + self.seconds - time.perf_counter()

    def spent(self, reserve: float) -> float:
        """The share of it that is spent, 0 at the start, when ``reserve`` seconds are kept for the end."""
        return 0.0 if self.seconds is None else 1 - (self.left - reserve) / max(self.seconds - reserve, 1e-3)


class Display:
    """Progress, throughput and time left on the terminal; every number in TensorBoard. Only the first process shows."""

    def __init__(self, stage: TrainingStage, distributed: DistributedContext, folder: Path, step: int, budget: Budget):
        self.stage, self.distributed, self.first_step, self.budget = stage, distributed, step, budget
        self.start = self.warm = self.last_line = time.perf_counter()
        name, note = "{task.description}", "{task.fields[note]}"
        columns = TextColumn(name), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), TextColumn(note)
        hidden = not (distributed.first and distributed.console.is_terminal)
        self.progress = Progress(*columns, console=distributed.console, disable=hidden)
        self.task = self.progress.add_task(stage.name, total=stage.settings.steps, completed=step, note="")
        self.board = SummaryWriter(str(folder / "tensorboard"), purge_step=step) if distributed.first else None
        self.numbers: dict[str, float] = {}

    def __enter__(self) -> Display:
        self.progress.start()
        return self

    def __exit__(self, *_) -> None:
        self.progress.stop()
        if self.board:
            self.board.close()

    def show(self, done: int, logs: dict, last: bool) -> None:
        """The newest logs after ``done`` steps: every tenth time, every ``LINE_SECONDS`` and at the ``last``."""
        self.progress.update(self.task, completed=done)
        now = time.perf_counter()
        if done == self.first_step + 1:
            self.warm = now  # the first step compiles and allocates: it predicts nothing
        if done == self.first_step + PREDICTED_AFTER and self.distributed.first:
            self._predict(done)
        line = last or now - self.last_line > LINE_SECONDS
        if not self.distributed.first or not (done % 10 == 1 or line):
            return
        numbers = {key: float(value) for key, value in logs.items()}
        rate = (done - self.first_step) * self.stage.settings.batch / (now - self.start)
        for key, value in {**numbers, "clips_a_second": rate}.items():
            self.board.add_scalar(f"{self.stage.name}/{key}", value, done - 1)
        self.numbers |= numbers
        losses = "  ".join(f"{key} {value:.4f}" for key, value in self.numbers.items() if key.endswith("loss"))
        note = f"{rate:.0f}/s  {losses}  {self._time_left(done, now)}"
        self.progress.update(self.task, note=note)
        if line and not self.distributed.console.is_terminal:
            self.last_line = now
            self.distributed.console.print(f"{self.stage.name} {done:,}/{self.stage.settings.steps:,}  {note}")

    def _time_left(self, done: int, now: float) -> str:
        """The time to the stage's end: what its budget leaves, if that is less than its steps will take."""
        each = (now - self.warm) / (done - self.first_step - 1) if done > self.first_step + 1 else float("inf")
        left = max(0.0, min((self.stage.settings.steps - done) * each, self.budget.left))
        return "" if left == float("inf") else f"{_duration(left)} left"

    def _predict(self, done: int) -> None:
        """Print how long the stage will take, and where its budget will end it."""
        now, steps, name = time.perf_counter(), self.stage.settings.steps, self.stage.name
        each = (now - self.warm) / (PREDICTED_AFTER - 1)
        write, needed = self.distributed.console.print, (steps - done) * each
        write(f"{name}: {_duration(needed)} to its end at step {steps:,}")
        if flops := getattr(self.stage, "flops", 0.0):
            share = flops / each / self.distributed.matmul_rate()
            write(f"{name}: {flops / each:.3g} operations a second, {share:.0%} of what matrix products reach")
        if (left := max(0.0, self.budget.left)) < needed:
            write(f"[yellow]{name}: more than the {_duration(left)} it has; it will stop near step "
                  f"{done + int(left / each):,}, and its learning rate falls by then[/yellow]")  # fmt: skip


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"
