"""One loop trains every stage: draw, loss, backward, average over processes, clip, step, EMA, log, save.

A stage is an object with ``name``, ``settings`` and ``updates``: what is trained, by which loss, how often. Every
random number of a step is a function of (seed, step, process-independent position), so a resumed run and a run on
another number of processes follow the same curve.
"""

from __future__ import annotations

import copy
import errno
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import torch
import torch.distributed as dist
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor, nn
from torch.utils.tensorboard import SummaryWriter

from world_model.config import Stage
from world_model.hardware import cores, cpu_name
from world_model.training.muon import Muon

FULL_DISK = 2**20
"""Fewer free bytes than this when a write failed: that is why it failed."""


class TrainingError(RuntimeError):
    """Training that cannot go on; the message says why and what to do."""


@dataclass(frozen=True)
class Machine:
    """Where training runs: this process among its peers, its device, and the precision of its products."""

    device: torch.device
    bfloat16: bool = False
    compile: bool = False
    rank: int = 0
    processes: int = 1
    seed: int = 0
    console: Console = field(default_factory=Console)

    @property
    def first(self) -> bool:
        return self.rank == 0

    @property
    def hardware(self) -> str:
        """What it trains on, for people."""
        each = torch.cuda.get_device_name() if self.device.type == "cuda" else f"{cores()} cores of {cpu_name()}"
        return f"{self.processes} x {each}" if self.processes > 1 else each

    def precision(self):
        """Context of every forward pass."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.bfloat16)


class Draw:
    """The random numbers of one step. Each call draws for the whole batch and keeps this process's share."""

    def __init__(self, machine: Machine, step: int, salt: int, batch: int):
        self.machine, self.batch, self.local = machine, batch, batch // machine.processes
        self.generator = torch.Generator(machine.device)
        self.generator.manual_seed((machine.seed * 1_000_003 + step) * 1_009 + salt)

    def normal(self, *shape: int) -> Tensor:
        """Standard normal [local batch, *shape]."""
        return self._mine(torch.randn((self.batch, *shape), generator=self.generator, device=self.machine.device))

    def uniform(self, *shape: int) -> Tensor:
        """Uniform on [0, 1), [local batch, *shape]."""
        return self._mine(torch.rand((self.batch, *shape), generator=self.generator, device=self.machine.device))

    def shared(self, count: int) -> int:
        """One integer in [0, count), the same for every clip and process."""
        return int(torch.randint(count, (1,), generator=self.generator, device=self.machine.device))

    def _mine(self, drawn: Tensor) -> Tensor:
        return drawn[self.machine.rank * self.local : (self.machine.rank + 1) * self.local]


Loss = Callable[[Draw], tuple[Tensor, dict[str, float | Tensor]]]


@dataclass
class Update:
    """One network's training: its loss, its optimizers, and every how many steps it moves."""

    network: nn.Module
    loss: Loss
    optimizers: list[torch.optim.Optimizer]
    every: int = 1


class TrainingStage(Protocol):
    name: str
    settings: Stage
    updates: dict[str, Update]  # the first is the one that ships; its EMA is kept
    average: nn.Module  # EMA of the first update's network

    def sample(self, folder: Path, step: int) -> None:
        """Write what the eye should see: real beside generated."""

    def finish(self, folder: Path) -> None:
        """Write the stage's weights."""


def train(stage: TrainingStage, machine: Machine, folder: Path) -> dict[str, float]:
    """Run a stage to its last step, from its newest checkpoint in ``folder`` if there is one. Returns the last logs."""
    settings = stage.settings
    if settings.batch % machine.processes:
        raise TrainingError(
            f"batch {settings.batch} of stage {stage.name} does not divide by {machine.processes} processes"
        )
    start, logs = _resume(stage, folder / "resume.pt", machine), {}
    if start < settings.steps:
        with _Display(stage, machine, folder, start) as display:
            for step in range(start, settings.steps):
                now = _step(stage, machine, step)
                logs |= now
                display.show(step, now)
                if (step + 1) % settings.sample_every == 0 and machine.first:
                    stage.sample(folder, step + 1)
                if (step + 1) % settings.checkpoint_every == 0 or step + 1 == settings.steps:
                    _save(stage, folder / "resume.pt", step + 1, machine)
    if machine.first:
        stage.finish(folder)
    barrier(machine)
    return {key: float(value) for key, value in logs.items()}


def _step(stage: TrainingStage, machine: Machine, step: int) -> dict:
    """Every update whose turn it is, then the average."""
    logs = {}
    for salt, (name, update) in enumerate(stage.updates.items()):
        if step % update.every == 0:
            logs |= {f"{name}/{key}": value for key, value in _update(stage, update, machine, step, salt).items()}
    _follow(stage.average, next(iter(stage.updates.values())).network, stage.settings.ema, step)
    return logs


def _update(stage: TrainingStage, update: Update, machine: Machine, step: int, salt: int) -> dict:
    """One optimizer step; the gradient is the mean over the global batch."""
    loss, logs = update.loss(Draw(machine, step, salt, stage.settings.batch))
    loss.backward()
    parameters = [p for p in update.network.parameters() if p.grad is not None]
    _average_gradients(parameters, machine)
    norm = nn.utils.clip_grad_norm_(parameters, stage.settings.clip_norm)
    if not torch.isfinite(norm):
        raise TrainingError(
            f"{stage.name}: the gradient is not finite at step {step}; lower its learning rate and --resume"
        )
    rate = rate_at(step // update.every, stage.settings.steps // update.every, stage.settings.warmup)
    for optimizer in update.optimizers:
        for group in optimizer.param_groups:
            group["lr"] = group["base_lr"] * rate
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return {"loss": loss.detach(), "gradient_norm": norm, **logs}


def rate_at(step: int, steps: int, warmup: int) -> float:
    """Share of the learning rate: a linear warm-up, then constant, then a linear fall over the last third to 2 %."""
    rise = min(1.0, (step + 1) / max(warmup, 1))
    return rise * max(0.02, min(1.0, (steps - step) / max(steps / 3, 1)))


def optimizers_for(network: nn.Module, learning_rate: float, decay: float, muon: bool) -> list[torch.optim.Optimizer]:
    """AdamW; with ``muon``, hidden matrices go to Muon, scaled to AdamW's step size (arXiv 2502.16982)."""
    named = [(name, p) for name, p in network.named_parameters() if p.requires_grad]
    hidden = [p for name, p in named if muon and p.ndim == 2 and name.startswith("layers.") and "offset" not in name]
    rest = [p for _, p in named if all(p is not h for h in hidden)]
    made: list[torch.optim.Optimizer] = [
        torch.optim.AdamW(rest, lr=learning_rate, betas=(0.9, 0.95), weight_decay=decay)
    ]
    if hidden:
        made.append(Muon(hidden, learning_rate, decay))
    for optimizer in made:
        for group in optimizer.param_groups:
            group["base_lr"] = learning_rate
    return made


def average_of(network: nn.Module) -> nn.Module:
    """A frozen copy to hold the exponential moving average."""
    return copy.deepcopy(network).requires_grad_(False).eval()


@torch.no_grad()
def _follow(average: nn.Module, network: nn.Module, decay: float, step: int) -> None:
    """EMA with a warm-up: early on the average forgets fast, or it would still hold the initial weights at the end."""
    keep = min(decay, (step + 1) / (step + 10))
    for mean, value in zip(average.state_dict().values(), network.state_dict().values(), strict=True):
        if mean.dtype.is_floating_point:
            mean.lerp_(value, 1 - keep)


def _average_gradients(parameters: list[nn.Parameter], machine: Machine) -> None:
    """Mean over processes in one message: these networks are small, and rollouts call forward many times a step."""
    if machine.processes == 1:
        return
    flat = torch.cat([p.grad.flatten() for p in parameters])
    dist.all_reduce(flat)
    flat /= machine.processes
    for p, grad in zip(parameters, flat.split([p.numel() for p in parameters]), strict=True):
        p.grad.copy_(grad.view_as(p))


def barrier(machine: Machine) -> None:
    if machine.processes > 1:
        dist.barrier()


def _resume(stage: TrainingStage, path: Path, machine: Machine) -> int:
    """Load the newest state of this stage; the step to go on from."""
    if not path.is_file():
        return 0
    state = torch.load(path, map_location=machine.device, weights_only=True)
    stage.average.load_state_dict(state["average"])
    for name, update in stage.updates.items():
        update.network.load_state_dict(state["networks"][name])
        for optimizer, saved in zip(update.optimizers, state["optimizers"][name], strict=True):
            optimizer.load_state_dict(saved)
    if machine.first:
        machine.console.print(f"{stage.name}: resumed at step {state['step']:,}")
    return state["step"]


def _save(stage: TrainingStage, path: Path, step: int, machine: Machine) -> None:
    """Everything that a resumed run needs; complete before it gets its name."""
    if not machine.first:
        return
    state = {
        "step": step,
        "average": stage.average.state_dict(),
        "networks": {name: update.network.state_dict() for name, update in stage.updates.items()},
        "optimizers": {name: [o.state_dict() for o in update.optimizers] for name, update in stage.updates.items()},
    }
    try:
        torch.save(state, path.with_suffix(".partial"))
    except (OSError, RuntimeError) as error:  # PyTorch's writer hides the OSError of a full disk in a RuntimeError
        full = getattr(error, "errno", None) == errno.ENOSPC or shutil.disk_usage(path.parent).free < FULL_DISK
        path.with_suffix(".partial").unlink(missing_ok=True)
        why = "the disk is full" if full else str(error)
        raise TrainingError(
            f"{path}: could not be written: {why}. The checkpoint before it is kept; free some space and --resume"
        ) from error
    os.replace(path.with_suffix(".partial"), path)


class _Display:
    """Progress, throughput and time left on the terminal; every number in TensorBoard. Only the first process shows."""

    def __init__(self, stage: TrainingStage, machine: Machine, folder: Path, start: int):
        self.stage, self.machine, self.start = stage, machine, start
        self.began = time.perf_counter()
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
        )
        self.progress = Progress(*columns, console=machine.console, disable=not machine.first)
        self.task = self.progress.add_task(stage.name, total=stage.settings.steps, completed=start, note="")
        self.board = SummaryWriter(str(folder / "tensorboard"), purge_step=start) if machine.first else None
        self.shown: dict[str, float] = {}

    def __enter__(self) -> _Display:
        self.progress.start()
        return self

    def __exit__(self, *_) -> None:
        self.progress.stop()
        if self.board:
            self.board.close()

    def show(self, step: int, logs: dict) -> None:
        self.progress.update(self.task, completed=step + 1)
        if not self.machine.first or not (step % 10 == 0 or step + 1 == self.stage.settings.steps):
            return
        numbers = {key: float(value) for key, value in logs.items()}
        rate = (step + 1 - self.start) * self.stage.settings.batch / (time.perf_counter() - self.began)
        for key, value in {**numbers, "clips_a_second": rate}.items():
            self.board.add_scalar(f"{self.stage.name}/{key}", value, step)
        self.shown |= numbers
        losses = "  ".join(f"{key} {value:.4f}" for key, value in self.shown.items() if key.endswith("loss"))
        self.progress.update(self.task, note=f"{rate:.0f}/s  {losses}")
        if not self.machine.console.is_terminal and (step + 1) % 100 == 1:
            left = (self.stage.settings.steps - step - 1) * self.stage.settings.batch / rate
            self.machine.console.print(
                f"{self.stage.name} {step + 1}/{self.stage.settings.steps}  {rate:.0f}/s  {left:.0f} s left  {losses}"
            )
