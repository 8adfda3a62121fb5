"""From a configuration and a data folder to a world that plays: its stages in order, then what play needs.

A world's YAML says which stages it has. A run's folder has one for each, with its checkpoint and weights;
``BEGUN_FROM`` in it names the trained world that the run started from, if any: going on begins from nothing else.
"""

from __future__ import annotations

import json
import shlex
import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from rich.console import Console
from rich.markup import escape
from rich.progress import track

from world_model import checkpoint
from world_model.config import Config, Stage, load
from world_model.episode.dataset import (
    DatasetSplit,
    Episode,
    encode_session,
    frames_taught,
    keep_episodes,
    kept_episodes,
    key_of,
    sample_frames,
)
from world_model.model.autoencoder import to_network
from world_model.model.codec import Codec, make_codec
from world_model.training.assemble import Made, assemble
from world_model.training.autoencoder import AutoencoderTraining
from world_model.training.clips import TrainingData
from world_model.training.loop import (
    Budget,
    DistributedContext,
    Stopped,
    TrainingError,
    barrier,
    product_seconds,
    profile,
    train,
)
from world_model.training.provenance import RESUME, check, kept, provenance_of, rooms_trained
from world_model.training.student_dmd import StudentDmdTraining
from world_model.training.student_init import StudentInitTraining
from world_model.training.student_rollout import StudentRolloutTraining
from world_model.training.teacher import TeacherTraining

STAGES = ("autoencoder", "teacher", "student_init", "student_rollout", "student_dmd")
BEGUN_FROM = "begun_from"
STUDENTS = STAGES[:1:-1]
"""The stages that leave a student, the last first."""
FRAME_LIMIT = 40_000
"""Frames held in memory for the autoencoder: 2 GB at 128x128."""
CLOSING, EXPORT = 2.0, 50.0
"""Seconds of an idle processor that the end of a run takes: for weights, scenes and card; and for the graphs, which a
budget of minutes goes without if they would take more than half of it."""
PRODUCT = 512
"""Rows and columns of the matrices that float32 and bfloat16 are compared with."""


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


def run(choices: Choices, environment: dict[str, str], began: float | None = None) -> Path:
    """Train what was asked for and return the folder; ``environment`` holds torchrun's RANK and WORLD_SIZE, if any.
    ``began``: when the command did, by ``perf_counter``."""
    began = began or time.perf_counter()
    config = scaled(load(choices.config), choices.steps_scale)
    dataset = DatasetSplit.open(choices.data, config, choices.generated)
    out = choices.out or Path("runs") / choices.config.stem
    choices = _with_its_world(choices, out)
    distributed = open_machine(choices, environment)
    try:
        training = Run(config, distributed, dataset, out, _prepare(choices, config, out, distributed))
        names = _stages(choices, config)
        if choices.profile:
            training.profile(names)
        elif training.stages(names, *_times(choices, began)) and distributed.first:
            distributed.console.print(f"the time is up; go on: {_next_command(choices, out)}", soft_wrap=True)
    except KeyboardInterrupt:
        if distributed.first:
            distributed.console.print(f"stopped; go on: {_next_command(choices, out)}", soft_wrap=True)
        raise
    finally:
        if distributed.processes > 1:
            dist.destroy_process_group()
    return out


class Run:
    """One training run: its folder, and the stages that fill it."""

    def __init__(
        self, config: Config, distributed: DistributedContext, dataset: DatasetSplit, out: Path, base: Path | None
    ):
        self.config, self.distributed, self.dataset, self.out, self.base = config, distributed, dataset, out, base
        self._material: TrainingData | None = None

    def stages(self, names: tuple[str, ...], ends: float | None = None, graphs: bool = True) -> bool:
        """Run the stages in order; afterwards, if there is a student, make the folder playable and write the report.

        What is left until ``ends``, a time of ``perf_counter``, is shared out evenly among the stages still to come.
        Returns whether one of them ran out of it. A signal ends the stage at hand, and what follows it but the graphs
        is still done.
        """
        self._say_what_it_trains_on()
        report, left, stopped = {}, self._unfinished(names), None
        self._check_footage(left)
        if self.distributed.first:
            (self.out / BEGUN_FROM).write_text(str(self.base.resolve()) if self.base else "")
        for index, name in enumerate(left):
            began = time.perf_counter()
            budget = Budget(None if ends is None else max(1e-3, (ends - began) / (len(left) - index)), began)
            try:
                logs = self._train(name, budget)
            except Stopped as stop:
                logs, stopped = stop.logs, stop
            if logs:
                report[name] = {"seconds": round(time.perf_counter() - began, 1), **logs}
            if stopped:
                break
        if self.distributed.first:
            self._assemble(report, graphs and not stopped)
        barrier(self.distributed)
        if stopped:
            raise stopped
        return any(not self._is_finished(name) for name in names)

    def _train(self, name: str, budget: Budget) -> dict[str, float]:
        upstream, folder = self._upstream(name), self.out / name
        if not (folder / RESUME).is_file():
            networks = [str(path) for maker, path in upstream.items() if maker != "autoencoder"]
            self._say(f"{name}: no checkpoint, begins from {' and '.join(networks) or 'random weights'}")
        provenance = provenance_of(name, self.config, self.dataset, upstream.values())
        about = provenance | {checkpoint.ROOMS: rooms_trained(self.dataset, upstream.values())}
        return train(getattr(self, f"_{name}")(), self.distributed, folder, about, budget)

    def profile(self, names: tuple[str, ...]) -> None:
        """Print where the time of a few steps of each stage goes, and train nothing."""
        for name in names:
            profile(getattr(self, f"_{name}")(), self.distributed)

    def _unfinished(self, names: tuple[str, ...]) -> list[str]:
        """The stages that are to be trained. Raises TrainingError, before any work, for one that lacks what it begins
        from, and for one that was made of something else: its old weights must not pass for new ones."""
        left: list[str] = []
        for name in names:
            for maker, path in self._upstream(name).items():
                if not path.is_file() and maker not in left:
                    raise TrainingError(
                        f"{path}: not there, and {name} begins from it. Train {maker} first, or --resume a run with one"
                    )
            self._check_provenance(name, left)
            if self._is_finished(name):
                self._say(f"{name}: finished before; more steps or another --out would train it")
            else:
                left.append(name)
        return left

    def _check_footage(self, names: list[str]) -> None:
        """Raises TrainingError, before any work, for recordings that a stage to come could not use; EpisodeError for
        one that lost a picture of its place."""
        if not set(names) - {"autoencoder"}:
            return
        roll, sessions = self.config.rolling, self.dataset.train
        for session in (*sessions, *self.dataset.held_out):
            sinks = len(session.anchors) or len(session)
            if sinks < roll.sink_frames:
                raise TrainingError(
                    f"{session.path}: {sinks} anchors, the configuration wants {roll.sink_frames} sink frames"
                )
        longest = max(frames_taught(session, self.config) for session in sessions)
        for name in names:
            if (wanted := self.config.clip_blocks(name) * roll.frames_per_block) > longest:
                raise TrainingError(f"{name}: no session is as long as a clip of {wanted} frames: record longer ones")

    def _check_provenance(self, name: str, left: list[str]) -> None:
        """Hold what is kept of a stage to what it would be made of now; those in ``left`` are yet to be trained."""
        folder, upstream, finished = self.out / name, self._upstream(name), self._is_finished(name)
        if (found := kept(folder)) is None:
            return
        if finished and (before := [maker for maker in upstream if maker in left]):
            raise TrainingError(
                f"{folder}: finished, but {before[0]} before it is not. Delete it to train it after that"
            )
        provenance = provenance_of(name, self.config, self.dataset, upstream.values())
        if not finished and self.base is None and found[1].get("upstream") != provenance["upstream"]:
            # A budget ends stages early, and going on trains those before this one further: no change of mind.
            self._say(f"{name}: goes on, from newer weights of the stages before it")
            del provenance["upstream"]
        check(folder, provenance, found[1])

    def _is_finished(self, name: str) -> bool:
        found = kept(self.out / name)
        return found is not None and found[0] >= getattr(self.config.training, name).steps

    def _upstream(self, name: str) -> dict[str, Path]:
        """The weights that a stage begins from, by the stage that makes them."""
        patches = self.config.codec.kind == "patches"
        first = {} if patches or name == "autoencoder" else {"autoencoder": self._weights("autoencoder")}
        teacher = {"teacher": self._weights("teacher")}
        before = {"student": self.base / checkpoint.WEIGHTS} if self.base else self._student_before(name)
        return (
            first
            | {
                "autoencoder": {},
                "teacher": {},
                "student_init": before if self.base else teacher,
                "student_rollout": before,
                "student_dmd": before | teacher,
            }[name]
        )

    def _student_before(self, name: str) -> dict[str, Path]:
        """The weights of the last student before a stage, by the stage that makes them; none before the first."""
        has = [stage for stage in STUDENTS if getattr(self.config.training, stage) is not None]
        before = has[has.index(name) + 1 :][:1] if name in has else []
        return {stage: self.out / stage / checkpoint.WEIGHTS for stage in before}

    def _autoencoder(self) -> AutoencoderTraining:
        frames = sample_frames(self.dataset.train, FRAME_LIMIT, self._watch)
        shown = sample_frames(self.dataset.held_out or self.dataset.train, 256, self._watch)
        return AutoencoderTraining(self.config, self.distributed, frames, shown)

    def _teacher(self) -> TeacherTraining:
        return TeacherTraining(self.data)

    def _student_init(self) -> StudentInitTraining:
        if self.base is not None:
            return StudentInitTraining(self.data, self.base / checkpoint.WEIGHTS, "student")
        return StudentInitTraining(self.data, self._weights("teacher"))

    def _student_rollout(self) -> StudentRolloutTraining:
        return StudentRolloutTraining(self.data, self._student("student_rollout"))

    def _student_dmd(self) -> StudentDmdTraining:
        return StudentDmdTraining(self.data, self._student("student_dmd"), self._weights("teacher"))

    @property
    def data(self) -> TrainingData:
        """The encoded data; encoded once for all stages."""
        if self._material is None:
            codec = make_codec(self.config)
            if self.config.codec.kind == "autoencoder":
                found = checkpoint.tensors(self._weights("autoencoder"), "autoencoder")
                codec.load_state_dict({name: torch.from_numpy(array) for name, array in found.items()})
            codec = codec.to(self.distributed.device, memory_format=torch.channels_last).eval()
            train_set, held_out = (self._encode(codec, part) for part in ("train", "held_out"))
            self._material = TrainingData(self.config, self.distributed, codec, train_set, held_out)
        return self._material

    def _encode(self, codec: Codec, part: str) -> list[Episode]:
        """The sessions of a part of the data set, encoded by the first process and mapped by all."""

        @torch.no_grad()
        def encode(frames: np.ndarray) -> np.ndarray:
            with self.distributed.precision():
                parts = torch.from_numpy(frames).split(128)
                return torch.cat(
                    [codec.encode(to_network(p.to(self.distributed.device))).float().cpu() for p in parts]
                ).numpy()

        sessions, path = getattr(self.dataset, part), self.out / "latents" / part
        weights = "" if self.config.codec.kind == "patches" else checkpoint.digest(self._weights("autoencoder"))
        key = key_of(sessions, self.config.codec, self.config.rolling, weights, self.distributed.bfloat16)
        if self.distributed.first:
            watched = self._watch(sessions, "encoding sessions")
            keep_episodes(path, key, (encode_session(session, self.config, encode) for session in watched))
        barrier(self.distributed)
        if (found := kept_episodes(path, key)) is None:
            raise TrainingError(f"{path}: cannot be read; delete it and --resume")
        return found

    def _weights(self, stage: str) -> Path:
        """Where a stage's weights are: in this run, or in the world it started from."""
        own = self.out / stage / checkpoint.WEIGHTS
        if own.is_file() or self.base is None:
            return own
        return self.base / ("teacher" if stage == "teacher" else "") / checkpoint.WEIGHTS

    def _student(self, stage: str) -> Path | None:
        """The student that a stage goes on from: of this run, or of the world it started from; None begins one."""
        return next((path for path in self._student_before(stage).values() if path.is_file()), None) or (
            self.base / checkpoint.WEIGHTS if self.base else None
        )

    def _assemble(self, report: dict, graphs: bool) -> None:
        """The report of all stages so far, and once there is a student, everything that play needs; ``graphs`` make it
        faster."""
        file = self.out / "report.json"
        report = (json.loads(file.read_text()) if file.is_file() else {}) | report
        file.write_text(json.dumps(report, indent=1))
        students = (self.out / name / checkpoint.WEIGHTS for name in STUDENTS)
        newest = next((path for path in students if path.is_file()), None)
        if newest is not None:
            codec = self._weights("autoencoder") if self.config.codec.kind == "autoencoder" else None
            made = Made(self.config, self.dataset, codec, newest, report)
            assemble(self.out, made, self.distributed.hardware, graphs)
            if not graphs:
                again = shlex.join(["python", "-m", "world_model.play.export", str(self.out)])
                self._say(f"no time for the ONNX graphs: PyTorch plays it. To have them: {again}")
        self._print_report(report, playable=newest is not None)

    def _print_report(self, report: dict, playable: bool) -> None:
        for name, values in report.items():
            shown = "  ".join(f"{key} {value:.4g}" for key, value in values.items())
            self.distributed.console.print(f"[bold]{name}[/bold]  {shown}")
        play = f"; play it: python play.py --checkpoint {self.out}" if playable else ""
        self.distributed.console.print(f"written to {self.out}{play}")

    def _say(self, words: str) -> None:
        if self.distributed.first:
            self.distributed.console.print(words, soft_wrap=True)

    def _say_what_it_trains_on(self) -> None:
        runs_on = self.distributed
        if not runs_on.first:
            return
        say = runs_on.console.print
        sessions, held = self.dataset.train, self.dataset.held_out
        say(f"{len(sessions)} sessions, {sum(map(len, sessions)):,} frames; {self.dataset.words}; "
            f"{runs_on.device}, {'bfloat16' if runs_on.bfloat16 else 'float32'}{runs_on.measured}, "
            f"{runs_on.processes} process(es)")  # fmt: skip
        damaged = [
            f"{session.path}: {session.damage[0]}; its {len(session)} readable frames are used"
            for session in (*sessions, *held)
            if session.damage
        ]
        for words, lines in (("left out", self.dataset.skipped), ("damaged", damaged)):
            shown = lines[:5] + [f"{len(lines) - 5} more"] * (len(lines) > 5)
            for line in shown:
                say(f"[yellow]{words}[/yellow] {escape(line)}", soft_wrap=True)

    def _watch(self, items: Iterable, what: str) -> Iterable:
        return track(list(items), what, console=self.distributed.console, disable=not self.distributed.first)


def scaled(config: Config, share: float) -> Config:
    """The configuration with every stage's steps multiplied; at least one step each."""
    if share == 1:
        return config

    def shorter(stage: Stage | None) -> Stage | None:
        return stage and stage.model_copy(update={"steps": max(1, round(stage.steps * share))})

    stages = {name: shorter(getattr(config.training, name)) for name in STAGES}
    return config.model_copy(update={"training": config.training.model_copy(update=stages)})


def open_machine(choices: Choices, environment: dict[str, str]) -> DistributedContext:
    """This process's device, precision and place among torchrun's processes."""
    rank, processes = int(environment.get("RANK", 0)), int(environment.get("WORLD_SIZE", 1))
    cuda = choices.device == "cuda" or (choices.device == "auto" and torch.cuda.is_available())
    if cuda and not torch.cuda.is_available():
        raise TrainingError("--device cuda: no CUDA GPU is at hand for PyTorch; --device cpu trains on the processor")
    device = torch.device("cuda", int(environment.get("LOCAL_RANK", 0))) if cuda else torch.device("cpu")
    if cuda:
        torch.cuda.set_device(device)
        torch.set_float32_matmul_precision("high")
    if processes > 1:
        dist.init_process_group("nccl" if cuda else "gloo", timeout=timedelta(hours=2))
    bfloat16, measured = choices.precision == "bfloat16", ""
    if choices.precision == "auto":
        bfloat16, measured = (True, "") if cuda else _faster(processes)
    return DistributedContext(
        device, bfloat16, cuda and choices.compile, rank, processes, choices.seed, Console(), measured
    )


def _faster(processes: int) -> tuple[bool, str]:
    """Whether this processor multiplies faster in bfloat16, and the figures. All processes take the first one's."""
    seconds = torch.tensor([product_seconds(PRODUCT, kind) for kind in (torch.float32, torch.bfloat16)])
    if processes > 1:
        dist.broadcast(seconds, 0)
    single, half = (1e3 * seconds).tolist()
    return half < single, f" (a matrix product takes {single:.1f} ms in float32, {half:.1f} ms in bfloat16)"


def _times(choices: Choices, began: float) -> tuple[float | None, bool]:
    """When the last stage must stop, for the whole command to take the minutes it was given, and whether that leaves
    time for the graphs. How busy the machine is tells how long this process had to wait for its processor so far."""
    if choices.minutes is None:
        return None, True
    seconds, busy = 60 * choices.minutes, max(1.0, (time.perf_counter() - began) / time.process_time())
    graphs = busy * EXPORT < seconds / 2
    return began + seconds - min(seconds / 4, busy * CLOSING) - busy * EXPORT * graphs, graphs


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


def _stages(choices: Choices, config: Config) -> tuple[str, ...]:
    """The stages to run: those that the configuration has; onwards from a trained world, its first student's."""
    has = tuple(name for name in STAGES if getattr(config.training, name) is not None)
    if choices.stage != "all":
        if choices.stage not in has:
            raise TrainingError(f"{choices.config}: has no stage {choices.stage}; it has {', '.join(has)}")
        return (choices.stage,)
    return tuple(name for name in has if name in STUDENTS)[:1] if isinstance(choices.resume, str) else has


def _with_its_world(choices: Choices, out: Path) -> Choices:
    """``--resume`` alone goes on with what the run in ``out`` began with: the trained world is part of that."""
    file = out / BEGUN_FROM
    if choices.resume is not True or not file.is_file():
        return choices
    return replace(choices, resume=file.read_text(errors="replace") or True)


def _prepare(choices: Choices, config: Config, out: Path, distributed: DistributedContext) -> Path | None:
    """Check what the run starts from, make its folder, and return the trained world to start from, if any."""
    base = Path(choices.resume) if isinstance(choices.resume, str) else None
    if base is not None:
        theirs, _ = checkpoint.describe(base / checkpoint.WEIGHTS)
        for part in ("name", "world", "codec", "transformer", "head", "rolling"):
            if getattr(theirs, part) != getattr(config, part):
                raise TrainingError(
                    f"{base}: its {part} is not that of {choices.config}; use the configuration it was trained with"
                )
    if choices.resume is True and not any((out / name).exists() for name in (BEGUN_FROM, *STAGES)):
        raise TrainingError(f"{out}: holds no run to go on with. Leave out --resume to begin one, or give its --out")
    if choices.resume is None and distributed.first and not choices.profile:
        begun = [name for name in STAGES if (out / name / "resume.pt").is_file() and name in _stages(choices, config)]
        if begun:
            raise TrainingError(
                f"{out}: already holds a run ({', '.join(begun)}). Add --resume to go on with it, or another --out"
            )
    out.mkdir(parents=True, exist_ok=True)
    return base
