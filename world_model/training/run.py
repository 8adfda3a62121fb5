"""A training run: the stages of a world's YAML in order, then a folder that plays.

The folder has one folder for each stage, with its checkpoint and weights. Its file ``BASE`` names the trained world
that the run started from, if any, so that a resumed run starts from the same.
"""

from __future__ import annotations

import json
import shlex
import time
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from rich.markup import escape
from rich.progress import track

from world_model import checkpoint
from world_model.config import Config, Stage
from world_model.episode.dataset import (
    DatasetSplit,
    Episode,
    cache_key,
    encode_session,
    encoded_length,
    read_cache,
    sample_frames,
    write_cache,
)
from world_model.model.autoencoder import to_network
from world_model.model.codec import Codec, make_codec
from world_model.training import TrainingError
from world_model.training.assemble import TrainingResult, assemble, can_begin
from world_model.training.autoencoder import AutoencoderTraining
from world_model.training.checkpointing import RESUME
from world_model.training.clips import TrainingData
from world_model.training.distributed import DistributedContext
from world_model.training.loop import Stopped, profile, train
from world_model.training.progress import Budget
from world_model.training.provenance import check_unchanged, digest_of, provenance_of, rooms_trained, stored_provenance
from world_model.training.stage import TrainingStage
from world_model.training.student_dmd import StudentDmdTraining
from world_model.training.student_init import StudentInitTraining
from world_model.training.student_rollout import StudentRolloutTraining
from world_model.training.teacher import TeacherTraining

STAGES = ("autoencoder", "teacher", "student_init", "student_rollout", "student_dmd")
STUDENTS = STAGES[:1:-1]
"""The stages that train a student, the last first."""
BASE = "begun_from"
FINE = 0.1
"""Of the learning rates, for a trained world that is taught other recordings: at the whole, a few make it forget."""
FRAME_LIMIT = 40_000
"""Frames held in memory for the autoencoder: 2 GB at 128x128."""


class Run:
    """One training run: its folder ``out``, and ``base``, the folder of a trained world to start from, if any."""

    def __init__(
        self, config: Config, distributed: DistributedContext, dataset: DatasetSplit, out: Path, base: Path | None
    ):
        self.config, self.distributed, self.dataset, self.out, self.base = config, distributed, dataset, out, base
        self._data: TrainingData | None = None

    @cached_property
    def rate(self) -> float:
        """Share of the configuration's learning rates; the whole where a world goes on with its own recordings."""
        about = checkpoint.describe(self.base / checkpoint.WEIGHTS)[1] if self.base else {}
        return FINE if self.base and about.get("recordings") != digest_of(self.dataset) else 1.0

    def stages(self, names: tuple[str, ...], end: float | None = None, graphs: bool = True) -> bool:
        """Run the stages in order; then, if there is a student, make the folder playable and write the report.

        The time until ``end``, by ``perf_counter``, is divided evenly among the stages still to come. Returns whether
        one of them ran out of it. A signal ends the current stage and the run, with a report but without graphs.
        """
        self._print_inputs()
        report, unfinished, stopped = {}, self._unfinished(names), None
        self._check_recordings(unfinished)
        if self.distributed.first:
            (self.out / BASE).write_text(str(self.base.resolve()) if self.base else "")
        for index, name in enumerate(unfinished):
            start = time.perf_counter()
            seconds = None if end is None else max(1e-3, (end - start) / (len(unfinished) - index))
            try:
                logs = self._train(name, Budget(seconds, start))
            except Stopped as stop:
                logs, stopped = stop.logs, stop
            if logs:
                report[name] = {"seconds": round(time.perf_counter() - start, 1), **logs}
            if stopped:
                break
        if self.distributed.first:
            self._assemble(report, graphs and not stopped)
        self.distributed.barrier()
        if stopped:
            raise stopped
        return any(not self._is_finished(name) for name in names)

    def profile(self, names: tuple[str, ...]) -> None:
        """Print where the time of a few steps of each stage goes, and train nothing."""
        for name in names:
            profile(self._stage(name), self.distributed)

    def _train(self, name: str, budget: Budget) -> dict[str, float]:
        upstream, folder = self._upstream(name), self.out / name
        if not (folder / RESUME).is_file():
            networks = [str(path) for maker, path in upstream.items() if maker != "autoencoder"]
            self._print(f"{name}: no checkpoint, begins from {' and '.join(networks) or 'random weights'}")
        provenance = provenance_of(name, self.config, self.dataset, upstream.values())
        about = provenance | {checkpoint.ROOMS: rooms_trained(self.dataset, upstream.values())}
        return train(self._stage(name), self.distributed, folder, about, budget)

    def _stage(self, name: str) -> TrainingStage:
        upstream = self._upstream(name)
        student = next((path for maker, path in upstream.items() if maker in (*STUDENTS, "base")), None)
        match name:
            case "autoencoder":
                frames = sample_frames(self.dataset.train, FRAME_LIMIT, self._progress)
                examples = sample_frames(self.dataset.held_out or self.dataset.train, 256, self._progress)
                return AutoencoderTraining(self.config, self.distributed, frames, examples)
            case "teacher":
                return TeacherTraining(self.data)
            case "student_init":
                prefix = "student" if student else "teacher"
                return StudentInitTraining(self.data, student or upstream["teacher"], prefix)
            case "student_rollout":
                return StudentRolloutTraining(self.data, student)
            case _:
                return StudentDmdTraining(self.data, student, upstream["teacher"])

    def _upstream(self, name: str) -> dict[str, Path]:
        """The weights that a stage starts from, by the stage that makes them; ``base`` is the trained world."""
        if name == "autoencoder":
            return {}
        codec = {} if self.config.codec.kind == "patches" else {"autoencoder": self._weights("autoencoder")}
        if name == "teacher":
            return codec
        student, teacher = self._previous_student(name), {"teacher": self._weights("teacher")}
        if name == "student_init":
            return codec | (student or teacher)
        return codec | student | (teacher if name == "student_dmd" else {})

    def _previous_student(self, name: str) -> dict[str, Path]:
        """The student that a stage starts from, by the stage that makes it, or that of the trained world; none before
        the first student stage of a run that starts from nothing."""
        configured = [stage for stage in STUDENTS if getattr(self.config.training, stage) is not None]
        for stage in configured[configured.index(name) + 1 :][:1]:
            path = self.out / stage / checkpoint.WEIGHTS
            if self.base is None or path.is_file():
                return {stage: path}
        return {"base": self.base / checkpoint.WEIGHTS} if self.base else {}

    def _weights(self, stage: str) -> Path:
        """Where the weights of autoencoder or teacher are: in this run, or in the world it started from."""
        own = self.out / stage / checkpoint.WEIGHTS
        if own.is_file() or self.base is None:
            return own
        return self.base / ("teacher" if stage == "teacher" else "") / checkpoint.WEIGHTS

    def _unfinished(self, names: tuple[str, ...]) -> list[str]:
        """The stages to train. Raises TrainingError, before any work, for one that lacks what it starts from, and for
        one that was made of something else."""
        unfinished: list[str] = []
        for name in names:
            for maker, path in self._upstream(name).items():
                if not path.is_file() and maker not in unfinished:
                    raise TrainingError(
                        f"{path}: not there, and {name} begins from it. Train {maker} first, or --resume a run with one"
                    )
            self._check_provenance(name, unfinished)
            if self._is_finished(name):
                self._print(f"{name}: finished before; more steps or another --out would train it")
            else:
                unfinished.append(name)
        return unfinished

    def _check_provenance(self, name: str, unfinished: list[str]) -> None:
        """Raises TrainingError when what is stored of a stage is made of something else than what it would be made of
        now, or is finished though a stage before it is in ``unfinished``."""
        folder, upstream, finished = self.out / name, self._upstream(name), self._is_finished(name)
        if (stored := stored_provenance(folder)) is None:
            return
        if finished and (before := [maker for maker in upstream if maker in unfinished]):
            raise TrainingError(
                f"{folder}: finished, but {before[0]} before it is not. Delete it to train it after that"
            )
        provenance = provenance_of(name, self.config, self.dataset, upstream.values())
        if not finished and self.base is None and stored[1].get("upstream") != provenance["upstream"]:
            # A budget ends stages early, and resuming trains those before this one further.
            self._print(f"{name}: goes on, from newer weights of the stages before it")
            del provenance["upstream"]
        check_unchanged(folder, provenance, stored[1])

    def _is_finished(self, name: str) -> bool:
        stored = stored_provenance(self.out / name)
        return stored is not None and stored[0] >= getattr(self.config.training, name).steps

    def _check_recordings(self, names: list[str]) -> None:
        """Raises TrainingError, before any work, for recordings that one of the stages could not use; EpisodeError for
        one whose anchors cannot be read."""
        if not set(names) - {"autoencoder"}:
            return
        roll, sessions = self.config.rolling, self.dataset.train
        for session in (*sessions, *self.dataset.held_out):
            sinks = len(session.anchors) or len(session)
            if sinks < roll.sink_frames:
                raise TrainingError(
                    f"{session.path}: {sinks} anchors, the configuration wants {roll.sink_frames} sink frames"
                )
        if not any(can_begin(session, self.config) for session in (*sessions, *self.dataset.held_out)):
            raise TrainingError(
                f"{sessions[0].path.parent}: no session has more than the {roll.sink_frames} frames that are sinks, so "
                "there is nothing to begin play with: record longer ones"
            )
        longest = max(encoded_length(session, self.config) for session in sessions)
        for name in names:
            if (wanted := self.config.clip_blocks(name) * roll.frames_per_block) > longest:
                raise TrainingError(f"{name}: no session is as long as a clip of {wanted} frames: record longer ones")

    @property
    def data(self) -> TrainingData:
        """The encoded data; encoded once for all stages."""
        if self._data is None:
            codec, config = make_codec(self.config), scaled(self.config, rate=self.rate)
            if self.config.codec.kind == "autoencoder":
                checkpoint.load(codec, self._weights("autoencoder"), "autoencoder")
            codec = codec.to(self.distributed.device, memory_format=torch.channels_last).eval()
            train_set, held_out = (self._encode(codec, part) for part in ("train", "held_out"))
            self._data = TrainingData(config, self.distributed, codec, train_set, held_out)
        return self._data

    def _encode(self, codec: Codec, part: str) -> list[Episode]:
        """The sessions of a part of the data set, encoded by the first process and memory-mapped by all."""

        @torch.no_grad()
        def encode(frames: np.ndarray) -> np.ndarray:
            with self.distributed.precision():
                batches = (to_network(b.to(self.distributed.device)) for b in torch.from_numpy(frames).split(128))
                return torch.cat([codec.encode(batch).float().cpu() for batch in batches]).numpy()

        sessions, path = getattr(self.dataset, part), self.out / "latents" / part
        weights = "" if self.config.codec.kind == "patches" else checkpoint.digest(self._weights("autoencoder"))
        key = cache_key(sessions, self.config.codec, self.config.rolling, weights, self.distributed.bfloat16)
        if self.distributed.first:
            with_progress = self._progress(sessions, "encoding sessions")
            write_cache(path, key, (encode_session(session, self.config, encode) for session in with_progress))
        self.distributed.barrier()
        if (episodes := read_cache(path, key)) is None:
            raise TrainingError(f"{path}: cannot be read; delete it and --resume")
        return episodes

    def _assemble(self, report: dict, graphs: bool) -> None:
        """Write the report of all stages so far and, once there is a student, what play needs, with or without ONNX
        graphs."""
        file = self.out / "report.json"
        report = (json.loads(file.read_text()) if file.is_file() else {}) | report
        file.write_text(json.dumps(report, indent=1))
        students = (self.out / name / checkpoint.WEIGHTS for name in STUDENTS)
        newest = next((path for path in students if path.is_file()), None)
        if newest is not None:
            codec = self._weights("autoencoder") if self.config.codec.kind == "autoencoder" else None
            result = TrainingResult(self.config, self.dataset, codec, newest, self.base, report)
            if not assemble(self.out, result, self.distributed.hardware, graphs):
                export = shlex.join(["python", "-m", "world_model.play.export", str(self.out)])
                self._print(f"no time for the ONNX graphs: PyTorch plays it. To have them: {export}")
        for name, values in report.items():
            numbers = "  ".join(f"{key} {value:.4g}" for key, value in values.items())
            self.distributed.console.print(f"[bold]{name}[/bold]  {numbers}")
        play = f"; play it: python play.py --checkpoint {self.out}" if newest is not None else ""
        self.distributed.console.print(f"written to {self.out}{play}")

    def _print_inputs(self) -> None:
        """The recordings, those that are left out or damaged, and what it trains on."""
        distributed, sessions = self.distributed, self.dataset.train
        precision = f"{'bfloat16' if distributed.bfloat16 else 'float32'}{distributed.precision_note}"
        self._print(f"{len(sessions)} sessions, {sum(map(len, sessions)):,} frames; {self.dataset.summary}; "
                    f"{distributed.device}, {precision}, {distributed.processes} process(es)")  # fmt: skip
        if self.rate < 1:
            self._print(f"{self.base} is taught other recordings than its own: at {self.rate:g} of the learning rates")
        damaged = [
            f"{session.path}: {session.damage[0]}; its {len(session)} readable frames are used"
            for session in (*sessions, *self.dataset.held_out)
            if session.damage
        ]
        for words, lines in (("left out", self.dataset.skipped), ("damaged", damaged)):
            for line in lines[:5] + [f"{len(lines) - 5} more"] * (len(lines) > 5):
                self._print(f"[yellow]{words}[/yellow] {escape(line)}")

    def _print(self, words: str) -> None:
        if self.distributed.first:
            self.distributed.console.print(words, soft_wrap=True)

    def _progress(self, items: Iterable, what: str) -> Iterable:
        return track(list(items), what, console=self.distributed.console, disable=not self.distributed.first)


def scaled(config: Config, steps: float = 1.0, rate: float = 1.0) -> Config:
    """The configuration with every stage's steps, at least one each, and learning rates multiplied."""

    def changed(stage: Stage | None) -> Stage | None:
        rates = {name: rate * value for name, value in stage or () if name.endswith("learning_rate")}
        return stage and stage.model_copy(update={"steps": max(1, round(stage.steps * steps)), **rates})

    stages = {name: changed(getattr(config.training, name)) for name in STAGES}
    return config.model_copy(update={"training": config.training.model_copy(update=stages)})
