"""One loop trains every stage: noise, loss, backward, mean over processes, clip, step, EMA, log, save.

Every random number of a step is a function of (seed, step, position in the global batch), and a checkpoint holds the
rest, so a resumed run and a run on another number of processes follow the same curve (with a mixture head nearly:
``TRIED``).
"""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from rich.markup import escape
from torch import nn

from world_model.training import TrainingError, checkpointing
from world_model.training.distributed import DistributedContext, StepNoise
from world_model.training.progress import Budget, Display
from world_model.training.stage import TrainingStage, Update

CHECKPOINT_SECONDS = 180
"""At most this much is lost when training is killed, however long its steps take."""
SAMPLE_AFTER, SAMPLE_STEPS = 0.5, 4
"""Share of a budget after which a stage without a sample makes one, to know how long that takes. Until then it is
assumed to take as long as this many steps. A sample that does not fit into the budget is not made."""
FALLS = 2 / 3
"""Share of a stage's phase from which on its learning rate falls."""
PROFILED = 3
"""Steps that a profile looks at."""


class Stopped(KeyboardInterrupt):
    """A signal ended a stage; its checkpoint and weights are written. ``logs`` as ``train`` returns them."""

    def __init__(self, logs: dict[str, float]):
        super().__init__()
        self.logs = logs


def train(
    stage: TrainingStage,
    distributed: DistributedContext,
    folder: Path,
    about: dict[str, str] | None = None,
    budget: Budget | None = None,
) -> dict[str, float]:
    """Run a stage to its last step or to the end of its budget, from the checkpoint in ``folder`` if there is one.
    ``about``, its provenance, goes into checkpoint and weights. Returns the last logs. SIGTERM or SIGINT ends it after
    the current step, as the end of a budget does, and raises Stopped."""
    settings, about, budget = stage.settings, about or {}, budget or Budget()
    if settings.batch % distributed.processes:
        raise TrainingError(
            f"batch {settings.batch} of stage {stage.name} does not divide by {distributed.processes} processes"
        )
    path = folder / checkpointing.RESUME
    done, logs, stopped = checkpointing.resume(stage, path, distributed), {}, False
    if done < settings.steps:
        with _signals() as signals, Display(stage, distributed, folder, done, budget) as display:
            done, logs, stopped = _steps(stage, distributed, path, about, display, signals)
    if distributed.first:
        stage.finish(folder, {"stage": stage.name, "steps": str(done), **about})
    distributed.barrier()
    logs = {key: float(value) for key, value in logs.items()}
    if stopped:
        raise Stopped(logs)
    return logs


def _steps(
    stage: TrainingStage,
    distributed: DistributedContext,
    path: Path,
    about: dict[str, str],
    display: Display,
    signals: list[int],
) -> tuple[int, dict, bool]:
    """Step until the last one, the end of the budget or a signal. Returns the steps done, the last logs and whether it
    was a signal. The checkpoint is saved before a sample is made: a sample that fails loses nothing."""
    settings, budget, done, logs = stage.settings, display.budget, display.first_step, {}
    (spent,), sample_seconds, step_seconds = distributed.maximum(budget.spent(0.0)), 0.0, 0.0
    sampled = last = stopped = False
    if done == 0:
        checkpointing.save(stage, path, 0, distributed, about)
    saved = time.perf_counter()
    while not last:
        start = time.perf_counter()
        new_logs = _step(stage, distributed, done, spent)
        logs, done, now = logs | new_logs, done + 1, time.perf_counter()
        if done > display.first_step + 1:  # the first compiles: it says nothing of the next
            step_seconds = min(step_seconds or math.inf, now - start)
        too_late = budget.left < (sample_seconds / 2 if sampled else SAMPLE_STEPS * step_seconds)
        spent, unsaved, stopped, too_late = distributed.maximum(
            budget.spent(sample_seconds + step_seconds), now - saved, bool(signals), too_late
        )
        last = done == settings.steps or spent >= 1 or bool(stopped)
        display.show(done, new_logs, last)
        sample = not (stopped or too_late) and (
            done % settings.sample_every == 0 or last or (spent >= SAMPLE_AFTER and not sampled)
        )
        if sample or last or done % settings.checkpoint_every == 0 or unsaved > CHECKPOINT_SECONDS:
            checkpointing.save(stage, path, done, distributed, about)
            saved = time.perf_counter()
        if sample and distributed.first:
            sample_seconds = _sample(stage, distributed, path.parent, done)
        sampled = sampled or sample
    return done, logs, bool(stopped)


def _sample(stage: TrainingStage, distributed: DistributedContext, folder: Path, step: int) -> float:
    """Make the stage's sample; returns the seconds that took. One that fails is reported, and training goes on."""
    start = time.perf_counter()
    try:
        stage.sample(folder, step)
    except Exception as error:  # a full disk, a codec, a film that is open elsewhere
        words = escape(f"{stage.name}: no sample at step {step:,}: {error or type(error).__name__}; training goes on")
        distributed.console.print(f"[yellow]{words}[/yellow]", soft_wrap=True)
    return time.perf_counter() - start


@contextmanager
def _signals() -> Iterator[list[int]]:
    """A list of the SIGTERM and SIGINT that came, which interrupt nothing in here; a second SIGINT does."""
    received: list[int] = []

    def note(number: int, _) -> None:
        if number == signal.SIGINT and number in received:
            raise KeyboardInterrupt
        received.append(number)

    handlers = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def profile(stage: TrainingStage, distributed: DistributedContext) -> None:
    """Print where the time of ``PROFILED`` steps goes, after one that warms up. Writes no file."""
    _step(stage, distributed, 0, 0.0)
    with torch.profiler.profile() as profiler:
        for step in range(1, 1 + PROFILED):
            _step(stage, distributed, step, 0.0)
    if distributed.first:
        column = "self_device_time_total" if distributed.device.type == "cuda" else "self_cpu_time_total"
        table = profiler.key_averages().table(sort_by=column, row_limit=12)
        distributed.console.out(f"{stage.name}: {PROFILED} steps\n{table}")


def _step(stage: TrainingStage, distributed: DistributedContext, step: int, spent: float) -> dict:
    """One step of every update that is due, and of the EMA if its network moved. ``spent``: share of the budget."""
    logs, progress = {}, max(spent, step / stage.settings.steps)
    for salt, (name, update) in enumerate(stage.updates.items()):
        if step % update.every == 0:
            new_logs = _update(stage, update, distributed, step, salt, progress)
            logs |= {f"{name}/{key}": value for key, value in new_logs.items()}
    main = next(iter(stage.updates.values()))
    if step % main.every == 0:
        _update_average(stage.average, main.network, stage.settings.ema, step // main.every)
    return logs


def _update(
    stage: TrainingStage, update: Update, distributed: DistributedContext, step: int, salt: int, progress: float
) -> dict:
    """One optimizer step; the gradient is the mean over the global batch."""
    loss, logs = update.loss(StepNoise(distributed, step, salt, stage.settings.batch, progress))
    loss.backward()
    parameters = [p for p in update.network.parameters() if p.grad is not None]
    distributed.average_gradients(parameters)
    norm = nn.utils.clip_grad_norm_(parameters, stage.settings.clip_norm)
    if not torch.isfinite(norm):
        raise TrainingError(
            f"{stage.name}: the gradient is not finite at step {step}; lower its learning rate and give another --out"
        )
    rate = rate_at(stage.phase(progress) if hasattr(stage, "phase") else progress, step // update.every,
                   stage.settings.warmup)  # fmt: skip
    for optimizer in update.optimizers:
        for group in optimizer.param_groups:
            group["lr"] = group["base_lr"] * rate
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return {"loss": loss.detach(), "gradient_norm": norm, **logs}


def rate_at(progress: float, step: int, warmup: int) -> float:
    """Factor of the learning rate: a linear warm-up over the first steps, then constant, then, from ``FALLS`` on, a
    linear fall to 2 %."""
    rise = min(1.0, (step + 1) / max(warmup, 1))
    return rise * max(0.02, min(1.0, (1 - progress) / (1 - FALLS)))


@torch.no_grad()
def _update_average(average: nn.Module, network: nn.Module, decay: float, step: int) -> None:
    """EMA with a warm-up: early on the average forgets fast, or it would still hold the initial weights at the end."""
    keep = min(decay, (step + 1) / (step + 10))
    means, values = (
        [tensor for tensor in of.state_dict().values() if tensor.dtype.is_floating_point] for of in (average, network)
    )
    torch._foreach_lerp_(means, values, 1 - keep)
