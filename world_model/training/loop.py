"""One loop trains every stage: draw, loss, backward, average over processes, clip, step, EMA, log, save.

A stage is an object with ``name``, ``settings`` and ``updates``: what is trained, by which loss, how often. Every
random number of a step is a function of (seed, step, position in the global batch), and a checkpoint holds all that
outlives a step, so a resumed run and a run on another number of processes follow the same curve.
"""

from __future__ import annotations

import copy
import errno
import os
import re
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import torch
import torch.distributed as dist
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor, nn
from torch.utils.tensorboard import SummaryWriter

from world_model.config import Stage
from world_model.hardware import cores, cpu_name
from world_model.training.muon import Muon

HIDDEN = re.compile(r"layers\.\d+\.(?!offset)|local\.(first|(relief\.)?blocks\.\d+\.(first|second|to_column|column))\.")
FULL_DISK = 2**20
"""Fewer free bytes than this when a write failed: that is why it failed."""
CHECKPOINT_SECONDS = 180
"""No more than this is lost when training is killed, however long its steps take."""
LINE_SECONDS = 30.0
"""Without a terminal to draw on, a line of progress comes as often."""
LOOKED_AFTER, LOOK_STEPS = 0.5, 4
"""Share of a budget after which a stage that has shown nothing shows something, and how long that takes is known. Until
then it is taken to be as long as so many steps; what does not fit into what is left is not shown."""
PREDICTED_AFTER, PROFILED = 20, 3
"""Steps after which the time to the end is told; steps that a profile looks at."""
PRODUCTS, ROWS = 5, {"cpu": 1024, "cuda": 8192}
"""Matrix products, and the rows of their matrices, by which it is told what a machine could do."""
FORGET = "Delete the file to train this stage anew, or give another --out"


class TrainingError(RuntimeError):
    """Training that cannot go on; the message says why and what to do."""


class Stopped(KeyboardInterrupt):
    """A signal ended a stage, and what it had learnt is kept; ``logs`` as ``train`` returns them."""

    def __init__(self, logs: dict[str, float]):
        super().__init__()
        self.logs = logs


@dataclass(frozen=True)
class DistributedContext:
    """Where training runs: this process among its peers, its device, and the precision of its products; ``measured``
    says, for people, why it is that one."""

    device: torch.device
    bfloat16: bool = False
    compile: bool = False
    rank: int = 0
    processes: int = 1
    seed: int = 0
    console: Console = field(default_factory=Console)
    measured: str = ""

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


class StepNoise:
    """The random numbers of one step. Each call draws for the whole batch and keeps this process's share."""

    def __init__(self, distributed: DistributedContext, step: int, salt: int, batch: int, share: float = 0.0):
        self.step, self.share = step, share  # ... how much of the stage is done
        self.distributed, self.batch, self.local = distributed, batch, batch // distributed.processes
        self.generator = torch.Generator(distributed.device)
        self.generator.manual_seed(((distributed.seed * 1_000_003 + step) * 1_009 + salt) % 2**63)

    def normal(self, *shape: int) -> Tensor:
        """Standard normal [local batch, *shape]."""
        return self._mine(torch.randn((self.batch, *shape), generator=self.generator, device=self.distributed.device))

    def uniform(self, *shape: int) -> Tensor:
        """Uniform on [0, 1), [local batch, *shape]."""
        return self._mine(torch.rand((self.batch, *shape), generator=self.generator, device=self.distributed.device))

    def shared(self, count: int) -> int:
        """One integer in [0, count), the same for every clip and process."""
        return int(torch.randint(count, (1,), generator=self.generator, device=self.distributed.device))

    def _mine(self, drawn: Tensor) -> Tensor:
        return drawn[self.distributed.rank * self.local : (self.distributed.rank + 1) * self.local]


Loss = Callable[[StepNoise], tuple[Tensor, dict[str, float | Tensor]]]


@dataclass
class Update:
    """One network's training: its loss, its optimizers, and every how many steps it moves."""

    network: nn.Module
    loss: Loss
    optimizers: list[torch.optim.Optimizer]
    every: int = 1


@dataclass(frozen=True)
class Budget:
    """Seconds that a stage may take, from when it was made; None is as long as its steps take."""

    seconds: float | None = None
    began: float = field(default_factory=time.perf_counter)

    @property
    def left(self) -> float:
        """Seconds, below 0 when it is overdrawn."""
        return float("inf") if self.seconds is None else self.began + self.seconds - time.perf_counter()

    def share(self, ahead: float) -> float:
        """How much of it is gone, from 0 on, when ``ahead`` seconds of it are kept for what comes at its end."""
        return 0.0 if self.seconds is None else 1 - (self.left - ahead) / max(self.seconds - ahead, 1e-3)


class TrainingStage(Protocol):
    name: str
    settings: Stage
    updates: dict[str, Update]  # the first is the one that ships; its EMA is kept
    average: nn.Module  # EMA of the first update's network
    # flops, where it can be told: floating-point operations of a step on this process
    # state() and restore(tensors), where more than weights outlives a step: tensors by name, whose first dimension is
    # this process's share of what all processes hold, in their order

    def sample(self, folder: Path, step: int) -> None:
        """Write what the eye should see: real beside generated."""

    def finish(self, folder: Path, about: dict[str, str]) -> None:
        """Write the stage's weights, and in them ``about``."""


def train(
    stage: TrainingStage,
    distributed: DistributedContext,
    folder: Path,
    provenance: dict[str, str] | None = None,
    budget: Budget | None = None,
) -> dict[str, float]:
    """Run a stage to its last step or to the end of its budget, from its newest checkpoint in ``folder`` if there is
    one. ``provenance`` says what it is made of, and is kept with it. Returns the last logs. SIGTERM or SIGINT ends it
    after the step at hand, as the end of a budget does, and raises Stopped."""
    settings, provenance, budget = stage.settings, provenance or {}, budget or Budget()
    if settings.batch % distributed.processes:
        raise TrainingError(
            f"batch {settings.batch} of stage {stage.name} does not divide by {distributed.processes} processes"
        )
    done, logs, stop = _resume(stage, folder / "resume.pt", distributed), {}, 0.0
    if done < settings.steps:
        with _signals() as signalled, _Display(stage, distributed, folder, done, budget) as display:
            done, logs, stop = _steps(stage, distributed, folder, provenance, display, signalled)
    if distributed.first:
        stage.finish(folder, {"stage": stage.name, "steps": str(done), **provenance})
    barrier(distributed)
    logs = {key: float(value) for key, value in logs.items()}
    if stop:
        raise Stopped(logs)
    return logs


def _steps(
    stage: TrainingStage,
    distributed: DistributedContext,
    folder: Path,
    provenance: dict[str, str],
    display: _Display,
    signalled: list,
) -> tuple[int, dict, float]:
    """Step until the last, the end of the budget or a signal. Returns how many steps are done, the last logs, and
    whether it was a signal. What would be lost is saved before anything is shown."""
    settings, budget, done, logs = stage.settings, display.budget, display.start, {}
    (gone,), look_seconds, stop = _agreed(distributed, budget.share(0.0)), 0.0, 0.0
    looked = last = False
    if done == 0:
        _save(stage, folder / "resume.pt", 0, distributed, provenance)
    saved = time.perf_counter()
    while not last:
        began = time.perf_counter()
        now = _step(stage, distributed, done, gone)
        logs, done, clock = logs | now, done + 1, time.perf_counter()
        dear = budget.left < (look_seconds / 2 if looked else LOOK_STEPS * (clock - began))
        gone, unsaved, stop, dear = _agreed(
            distributed, budget.share(look_seconds + clock - began), clock - saved, bool(signalled), dear
        )
        last = done == settings.steps or gone >= 1 or bool(stop)
        display.show(done, now, last)
        look = not (stop or dear) and (
            done % settings.sample_every == 0 or last or (gone >= LOOKED_AFTER and not looked)
        )
        if look or last or done % settings.checkpoint_every == 0 or unsaved > CHECKPOINT_SECONDS:
            _save(stage, folder / "resume.pt", done, distributed, provenance)
            saved = time.perf_counter()
        if look and distributed.first:
            look_seconds = _look(stage, distributed, folder, done)
        looked = looked or look
    return done, logs, stop


def _look(stage: TrainingStage, distributed: DistributedContext, folder: Path, done: int) -> float:
    """Show what the stage makes by now; how many seconds that took. That it cannot be shown is no reason to stop."""
    began = time.perf_counter()
    try:
        stage.sample(folder, done)
    except Exception as error:  # a full disk, a codec, a film that is open elsewhere
        words = escape(f"{stage.name}: no sample at step {done:,}: {error or type(error).__name__}; training goes on")
        distributed.console.print(f"[yellow]{words}[/yellow]", soft_wrap=True)
    return time.perf_counter() - began


@contextmanager
def _signals() -> Iterator[list[int]]:
    """The signals that came: in here SIGTERM and SIGINT wait for the end of a step, but not a second SIGINT."""
    came: list[int] = []

    def note(number: int, _) -> None:
        if number == signal.SIGINT and number in came:
            raise KeyboardInterrupt
        came.append(number)

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield came
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _agreed(distributed: DistributedContext, *numbers: float) -> list[float]:
    """The largest of each number over all processes, which must save, show and stop alike."""
    if distributed.processes == 1:
        return list(numbers)
    agreed = torch.tensor([float(number) for number in numbers], device=distributed.device)
    dist.all_reduce(agreed, dist.ReduceOp.MAX)
    return agreed.tolist()


def profile(stage: TrainingStage, distributed: DistributedContext) -> None:
    """Print where the time of a few steps goes, after one that warms up. Leaves nothing behind."""
    _step(stage, distributed, 0, 0.0)
    with torch.profiler.profile() as seen:
        for step in range(1, 1 + PROFILED):
            _step(stage, distributed, step, 0.0)
    if distributed.first:
        by = "self_device_time_total" if distributed.device.type == "cuda" else "self_cpu_time_total"
        distributed.console.out(
            f"{stage.name}: {PROFILED} steps\n{seen.key_averages().table(sort_by=by, row_limit=12)}"
        )


def _step(stage: TrainingStage, distributed: DistributedContext, step: int, gone: float) -> dict:
    """Every update whose turn it is; then the average, if what it follows has moved. ``gone``: of the budget."""
    logs, share = {}, max(gone, step / stage.settings.steps)
    for salt, (name, update) in enumerate(stage.updates.items()):
        if step % update.every == 0:
            now = _update(stage, update, distributed, step, salt, share)
            logs |= {f"{name}/{key}": value for key, value in now.items()}
    ships = next(iter(stage.updates.values()))
    if step % ships.every == 0:
        _follow(stage.average, ships.network, stage.settings.ema, step // ships.every)
    return logs


def _update(
    stage: TrainingStage, update: Update, distributed: DistributedContext, step: int, salt: int, share: float
) -> dict:
    """One optimizer step; the gradient is the mean over the global batch."""
    loss, logs = update.loss(StepNoise(distributed, step, salt, stage.settings.batch, share))
    loss.backward()
    parameters = [p for p in update.network.parameters() if p.grad is not None]
    _average_gradients(parameters, distributed)
    norm = nn.utils.clip_grad_norm_(parameters, stage.settings.clip_norm)
    if not torch.isfinite(norm):
        raise TrainingError(
            f"{stage.name}: the gradient is not finite at step {step}; lower its learning rate and --resume"
        )
    rate = rate_at(share, step // update.every, stage.settings.warmup)
    for optimizer in update.optimizers:
        for group in optimizer.param_groups:
            group["lr"] = group["base_lr"] * rate
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return {"loss": loss.detach(), "gradient_norm": norm, **logs}


def rate_at(share: float, step: int, warmup: int) -> float:
    """Share of the learning rate when ``share`` of the training is done: a linear warm-up over the first steps, then
    constant, then a linear fall over the last third to 2 %."""
    rise = min(1.0, (step + 1) / max(warmup, 1))
    return rise * max(0.02, min(1.0, 3 * (1 - share)))


def optimizers_for(network: nn.Module, learning_rate: float, decay: float, muon: bool) -> list[torch.optim.Optimizer]:
    """AdamW; with ``muon``, hidden matrices and kernels go to Muon, scaled to AdamW's step (arXiv 2502.16982)."""
    named = [(name, p) for name, p in network.named_parameters() if p.requires_grad]
    hidden = [p for name, p in named if muon and HIDDEN.match(name) and p.ndim > 1]
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


def product_seconds(rows: int, kind: torch.dtype, device: torch.device | str = "cpu") -> float:
    """A matrix product's, the best of a few; the first, which warms up, is one of them and never it."""
    matrix, taken = torch.ones(rows, rows, dtype=kind, device=device), []
    for _ in range(PRODUCTS):
        began = time.perf_counter()
        (matrix @ matrix)[0, 0].item()  # waits for it
        taken.append(time.perf_counter() - began)
    return min(taken)


def product_rate(distributed: DistributedContext) -> float:
    """Floating-point operations a second of a large matrix product, in the precision that is trained in."""
    kind, rows = torch.bfloat16 if distributed.bfloat16 else torch.float32, ROWS[distributed.device.type]
    return 2 * rows**3 / product_seconds(rows, kind, distributed.device)


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


def _average_gradients(parameters: list[nn.Parameter], distributed: DistributedContext) -> None:
    """Mean over processes in one message: these networks are small, and rollouts call forward many times a step."""
    if distributed.processes == 1:
        return
    flat = torch.cat([p.grad.flatten() for p in parameters])
    dist.all_reduce(flat)
    flat /= distributed.processes
    for p, grad in zip(parameters, flat.split([p.numel() for p in parameters]), strict=True):
        p.grad.copy_(grad.view_as(p))


def barrier(distributed: DistributedContext) -> None:
    if distributed.processes > 1:
        dist.barrier()


def _resume(stage: TrainingStage, path: Path, distributed: DistributedContext) -> int:
    """Load the newest state of this stage; the step to go on from."""
    if not path.is_file():
        return 0
    state = read_state(path, distributed.device)
    try:
        stage.average.load_state_dict(state["average"])
        for name, update in stage.updates.items():
            update.network.load_state_dict(state["networks"][name])
            for optimizer, saved in zip(update.optimizers, state["optimizers"][name], strict=True):
                optimizer.load_state_dict(saved)
        if state.get("state"):
            stage.restore(
                {n: part.chunk(distributed.processes)[distributed.rank] for n, part in state["state"].items()}
            )
    except (RuntimeError, LookupError, ValueError, TypeError, AttributeError) as error:
        raise TrainingError(f"{path}: is not a checkpoint of this {stage.name}. {FORGET}") from error
    if distributed.first:
        distributed.console.print(f"{stage.name}: resumed at step {state['step']:,}")
    return state["step"]


def read_state(path: Path, device: torch.device | str = "cpu") -> dict:
    """What ``train`` keeps to go on from. Raises TrainingError for anything else."""
    try:
        state = torch.load(path, map_location=device, weights_only=True)
    except Exception as error:  # bytes that are no checkpoint can break the unpickler in any way
        raise TrainingError(f"{path}: empty, cut short, or no checkpoint at all. {FORGET}") from error
    if (
        not isinstance(state, dict)
        or not isinstance(state.get("step"), int)
        or not isinstance(state.get("provenance", {}), dict)
    ):
        raise TrainingError(f"{path}: holds something else than a checkpoint. {FORGET}")
    return state


def _save(
    stage: TrainingStage, path: Path, step: int, distributed: DistributedContext, provenance: dict[str, str]
) -> None:
    """Everything that a resumed run needs; complete before it gets its name. All processes call it together."""
    outlives = {name: _gathered(part, distributed) for name, part in getattr(stage, "state", dict)().items()}
    if not distributed.first:
        return
    state = {
        "step": step,
        "state": outlives,
        "provenance": provenance,
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


def _gathered(part: Tensor, distributed: DistributedContext) -> Tensor:
    """What all processes hold of a tensor, along its first dimension."""
    if distributed.processes == 1:
        return part
    part = part.contiguous()
    parts = [torch.empty_like(part) for _ in range(distributed.processes)]
    dist.all_gather(parts, part)
    return torch.cat(parts)


class _Display:
    """Progress, throughput and time left on the terminal; every number in TensorBoard. Only the first process shows."""

    def __init__(self, stage: TrainingStage, distributed: DistributedContext, folder: Path, start: int, budget: Budget):
        self.stage, self.distributed, self.start, self.budget = stage, distributed, start, budget
        self.began = self.warm = self.said = time.perf_counter()
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
        )
        terminal = distributed.console.is_terminal
        self.progress = Progress(*columns, console=distributed.console, disable=not (distributed.first and terminal))
        self.task = self.progress.add_task(stage.name, total=stage.settings.steps, completed=start, note="")
        self.board = SummaryWriter(str(folder / "tensorboard"), purge_step=start) if distributed.first else None
        self.shown: dict[str, float] = {}

    def __enter__(self) -> _Display:
        self.progress.start()
        return self

    def __exit__(self, *_) -> None:
        self.progress.stop()
        if self.board:
            self.board.close()

    def show(self, done: int, logs: dict, last: bool) -> None:
        """What the newest of ``done`` steps logged, every so many steps or seconds and at the ``last``."""
        self.progress.update(self.task, completed=done)
        now = time.perf_counter()
        if done == self.start + 1:
            self.warm = now  # the first step compiles and allocates: it foretells nothing
        if done == self.start + PREDICTED_AFTER and self.distributed.first:
            self._predict(done)
        line = last or now - self.said > LINE_SECONDS
        if not self.distributed.first or not (done % 10 == 1 or line):
            return
        numbers = {key: float(value) for key, value in logs.items()}
        rate = (done - self.start) * self.stage.settings.batch / (now - self.began)
        for key, value in {**numbers, "clips_a_second": rate}.items():
            self.board.add_scalar(f"{self.stage.name}/{key}", value, done - 1)
        self.shown |= numbers
        losses = "  ".join(f"{key} {value:.4f}" for key, value in self.shown.items() if key.endswith("loss"))
        note = f"{rate:.0f}/s  {losses}  {self._left(done, now)}"
        self.progress.update(self.task, note=note)
        if line and not self.distributed.console.is_terminal:
            self.said = now
            self.distributed.console.print(f"{self.stage.name} {done:,}/{self.stage.settings.steps:,}  {note}")

    def _left(self, done: int, now: float) -> str:
        """The time to the stage's end: what its budget leaves, if that is less than its steps will take."""
        each = (now - self.warm) / (done - self.start - 1) if done > self.start + 1 else float("inf")
        left = max(0.0, min((self.stage.settings.steps - done) * each, self.budget.left))
        return "" if left == float("inf") else f"{_words(left)} left"

    def _predict(self, done: int) -> None:
        """Say how long the stage will take, and what its budget will leave of it."""
        now, steps, budget = time.perf_counter(), self.stage.settings.steps, self.budget
        each = (now - self.warm) / (PREDICTED_AFTER - 1)
        say, left = self.distributed.console.print, (steps - done) * each
        say(f"{self.stage.name}: {_words(left)} to its end at step {steps:,}")
        if work := getattr(self.stage, "flops", 0.0):
            share = work / each / product_rate(self.distributed)
            say(f"{self.stage.name}: {work / each:.3g} operations a second, {share:.0%} of what matrix products reach")
        if (has := max(0.0, budget.left)) < left:
            say(f"[yellow]{self.stage.name}: more than the {_words(has)} it has; it will stop near step "
                f"{done + int(has / each):,}, and its learning rate falls by then[/yellow]")  # fmt: skip


def _words(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"
