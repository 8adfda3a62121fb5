"""The training command: from a configuration and a data folder to a world that plays."""

from __future__ import annotations

import shlex
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch.distributed as dist

from world_model import checkpoint
from world_model.config import Config, load
from world_model.episode.dataset import DatasetSplit
from world_model.training import TrainingError
from world_model.training.checkpointing import RESUME
from world_model.training.distributed import DistributedContext
from world_model.training.run import BASE, STAGES, STUDENTS, Run, scaled

CLOSING, EXPORT = 2.0, 50.0
"""Seconds that the end of a run takes on idle cores: weights, scenes and card; and the ONNX graphs, which ``minutes``
go without if they would take more than half of them."""


@dataclass(frozen=True)
class Choices:
    """The command line, as data. ``resume`` is None, True, or the folder of a trained world."""

    config: Path
    data: Path
    stage: str = "all"
    out: Path | None = None
    resume: bool | str | None = None
    generated: bool = False
    device: str = "auto"
    precision: str = "auto"
    seed: int = 0
    steps_scale: float = 1.0
    minutes: float | None = None
    profile: bool = False
    compile: bool = True


def run(choices: Choices, environment: Mapping[str, str], start: float | None = None) -> Path:
    """Train what was asked for and return the folder. ``environment`` holds what torchrun says, if it started this
    process; ``start`` is when the command began, by ``perf_counter``."""
    start = start or time.perf_counter()
    config = scaled(load(choices.config), choices.steps_scale)
    dataset = DatasetSplit.open(choices.data, config, choices.generated)
    out = choices.out or Path("runs") / choices.config.stem
    choices = _with_base(choices, out)
    distributed = DistributedContext.open(environment, choices.device, choices.precision, choices.compile, choices.seed)
    try:
        training = Run(config, distributed, dataset, out, _prepare(choices, config, out, distributed))
        names = _stages(choices, config)
        if choices.profile:
            training.profile(names)
        elif training.stages(names, *_times(choices, start)) and distributed.first:
            distributed.console.print(f"the time is up; go on: {_next_command(choices, out)}", soft_wrap=True)
    except KeyboardInterrupt:
        if distributed.first:
            distributed.console.print(f"stopped; go on: {_next_command(choices, out)}", soft_wrap=True)
        raise
    finally:
        if distributed.processes > 1:
            dist.destroy_process_group()
    return out


def _with_base(choices: Choices, out: Path) -> Choices:
    """``--resume`` alone means the trained world that the run in ``out`` started from, if it started from one."""
    file = out / BASE
    if choices.resume is not True or not file.is_file():
        return choices
    return replace(choices, resume=file.read_text(errors="replace") or True)


def _prepare(choices: Choices, config: Config, out: Path, distributed: DistributedContext) -> Path | None:
    """Check what the run starts from, make its folder, and return the trained world to start from, if any."""
    base = Path(choices.resume) if isinstance(choices.resume, str) else None
    if base is not None:
        theirs, ours = checkpoint.describe(base / checkpoint.WEIGHTS)[0].model_dump(), config.model_dump()
        for part in ("name", "world", "codec", "transformer", "head", "rolling"):
            if theirs[part] != ours[part]:  # without what is the person's own, such as stands_for
                raise TrainingError(
                    f"{base}: its {part} is not that of {choices.config}; use the configuration it was trained with"
                )
    if choices.resume is True and not any((out / name).exists() for name in (BASE, *STAGES)):
        raise TrainingError(f"{out}: holds no run to go on with. Leave out --resume to begin one, or give its --out")
    if choices.resume is None and distributed.first and not choices.profile:
        started = [name for name in _stages(choices, config) if (out / name / RESUME).is_file()]
        if started:
            raise TrainingError(
                f"{out}: already holds a run ({', '.join(started)}). Add --resume to go on with it, or another --out"
            )
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise TrainingError(f"--out {out}: no folder can be made there ({error.strerror}); name another") from error
    return base


def _stages(choices: Choices, config: Config) -> tuple[str, ...]:
    """The stages to run: those of the configuration; from a trained world, the first that trains a student."""
    configured = tuple(name for name in STAGES if getattr(config.training, name) is not None)
    if choices.stage != "all":
        if choices.stage not in configured:
            raise TrainingError(f"{choices.config}: has no stage {choices.stage}; it has {', '.join(configured)}")
        return (choices.stage,)
    from_world = isinstance(choices.resume, str)
    return tuple(name for name in configured if name in STUDENTS)[:1] if from_world else configured


def _times(choices: Choices, start: float) -> tuple[float | None, bool]:
    """When the last stage must end, by ``perf_counter``, for the command to keep to its minutes; and whether that
    leaves time for the ONNX graphs, of which none are made where those of the base world are there to be reused. How
    long this process has waited for a core so far says how busy the machine is."""
    if choices.minutes is None:
        return None, True
    seconds, busy = 60 * choices.minutes, max(1.0, (time.perf_counter() - start) / time.process_time())
    reused = isinstance(choices.resume, str) and (Path(choices.resume) / "step.onnx").is_file()
    export = 0.0 if reused else busy * EXPORT
    graphs = export < seconds / 2
    return start + seconds - min(seconds / 4, busy * CLOSING) - export * graphs, graphs


def _next_command(choices: Choices, out: Path) -> str:
    """What to type to go on where training ended, for as many minutes again."""
    words = ["--config", choices.config, "--data", choices.data, "--out", out, "--resume"]
    words += [choices.resume] if isinstance(choices.resume, str) else []
    words += ["--minutes", f"{choices.minutes:g}"] if choices.minutes else []
    for name in ("stage", "device", "precision", "seed", "steps_scale"):
        if getattr(choices, name) != getattr(Choices, name):
            words += [f"--{name.replace('_', '-')}", getattr(choices, name)]
    switches = ["--generated"] * choices.generated + ["--no-compile"] * (not choices.compile)
    return shlex.join(["python", "train.py", *map(str, words), *switches])
