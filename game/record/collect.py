"""Data sets: bots play many episodes on all cores and record them."""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from itertools import count
from multiprocessing import active_children, get_context
from pathlib import Path

import cv2
import gymnasium
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from game.record.recorder import Recorder
from game.worlds.bots import make_bot
from game.worlds.sources import is_over, real_game
from world_model.config import Config
from world_model.episode import END, META, EpisodeError, Session
from world_model.episode.dataset import other_settings

FRAMES_ASKED = "frames_asked"  # key of the provenance; an episode may end with fewer

MakeEnv = Callable[[Config], gymnasium.Env]


@dataclass(frozen=True)
class Job:
    """One session of a data set; its frames follow from ``room`` (the game's seed) and ``seed`` (the bot's)."""

    config: Config
    bot: str
    frames: int
    room: int
    seed: int
    path: Path
    make_env: MakeEnv


@dataclass(frozen=True)
class Collected:
    """Sessions recorded now, with their frames and seconds, and sessions skipped because they were there already."""

    made: int = 0
    skipped: int = 0
    frames: int = 0
    seconds: float = 0.0


def collect(
    config: Config,
    *,
    out: str | Path,
    bot: str = "mix",
    sessions: int = 500,
    frames: int = 300,
    seed: int = 0,
    rooms: int | None = None,
    workers: int | None = None,
    make_env: MakeEnv = real_game,
) -> Collected:
    """Record ``sessions`` times ``frames`` frames, the reset frames included, into ``out``.

    Session i is ``out/<i>-seed<room>``, played in room ``seed + i`` (rooms: only so many, in turn) by a bot with the
    seed ``seed + i``; it depends on nothing else. Where the game ends before that, its next episodes are recorded
    beside it, as ``<i>-seed<room>-<episode>``. Sessions that are there already are skipped, unfinished ones are
    recorded again. workers: processes, one a core by default; 1 stays in this process. make_env: importable by name
    for more than one. Raises EpisodeError for a folder that cannot be written or holds other sessions of these names.
    """
    out = Path(out)
    places = [seed + i % (rooms or sessions) for i in range(sessions)]
    jobs = [
        Job(config, bot, frames, room, seed + i, out / f"{i:06d}-seed{room}", make_env) for i, room in enumerate(places)
    ]
    todo = [job for job in jobs if not _is_finished(job)]
    done = Collected(skipped=len(jobs) - len(todo))
    began = time.perf_counter()
    with _progress() as progress:
        task = progress.add_task("recording", total=len(jobs), completed=done.skipped, rate="")
        for made in _run(todo, min(workers or os.cpu_count() or 1, len(todo))):
            seconds = time.perf_counter() - began
            done = replace(done, made=done.made + 1, frames=done.frames + made, seconds=seconds)
            progress.update(task, advance=1, rate=f"{done.frames / seconds:,.0f} frames/s")
    return done


def _run(jobs: list[Job], workers: int):
    """Yield the number of frames of each job as it ends, in any order."""
    if workers <= 1:
        yield from map(_play, jobs)
        return
    pool = ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=_settle_worker)
    try:
        for future in as_completed([pool.submit(_play, job) for job in jobs]):
            yield future.result()
    except BrokenProcessPool as error:
        raise EpisodeError("a recording process was killed (out of memory?); run again to go on") from error
    except BaseException:
        for process in active_children():  # a slow game's session lasts minutes, and begins anew anyway
            process.terminate()
        raise
    finally:
        pool.shutdown(cancel_futures=True)


def _settle_worker() -> None:
    """One core a process, without thread pools; the parent handles Ctrl-C."""
    cv2.setNumThreads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _play(job: Job) -> int:
    """Record one session, in chunks of a second and without fsync: an unfinished one is recorded again anyway."""
    for path in _episodes(job):
        shutil.rmtree(path)
    env = job.make_env(job.config)
    keys = job.config.world.keys
    bot = make_bot(job.bot, job.seed, keys)
    episodes = count()
    recorder = Recorder(
        env,
        job.path.parent,
        world=job.config.name,
        config=job.config.world,
        player=job.bot,
        clock=None,
        name=lambda seed: f"{job.path.name}-{episode}" if (episode := next(episodes)) else job.path.name,
        provenance={"bot": type(bot).__name__.lower(), FRAMES_ASKED: job.frames},
        chunk_frames=job.config.world.fps,
        durable=False,
    )
    try:
        observation, info = recorder.reset(seed=job.room)
        for tick in range(1, job.frames):
            observation, _, *ends, info = recorder.step(bot.act(observation, info))
            if is_over(recorder, *ends) and tick + 1 < job.frames:
                observation, info = recorder.reset()  # the game's own next episode
    finally:
        recorder.close()
    return job.frames + next(episodes) - 1


def _episodes(job: Job) -> list[Path]:
    """The folders that there are of a session's episodes."""
    return [path for name in (job.path.name, f"{job.path.name}-*") for path in job.path.parent.glob(name)]


def _is_finished(job: Job) -> bool:
    """Whether the session is there already and whole; EpisodeError where something else has its name."""
    sessions = []
    for path in _episodes(job):
        if (path / END).is_file():
            sessions.append(Session.open(path))
        elif not (path / META).is_file():
            raise EpisodeError(f"{path}: exists and is not a session; record into another folder")
    world = job.config.world
    for session in sessions:
        meta = session.meta
        recorded = (meta.world, meta.player, meta.provenance.get(FRAMES_ASKED), meta.height, meta.width, meta.keys)
        wanted = (job.config.name, job.bot, job.frames, world.height, world.width, world.keys)
        which = f"{_words(recorded)}; asked for: {_words(wanted)}" if recorded != wanted else ""
        if meta.config is not None and (other := other_settings(meta.config.game, world.game)):
            which = f"with another world.game.{' and '.join(other)}"
        if which:
            raise EpisodeError(f"{session.path}: is another session ({which}); record into another folder")
    ticks = sum(len(session) - 1 for session in sessions)
    return ticks == job.frames - 1 and not any(session.damage for session in sessions)


def _words(session: tuple) -> str:
    world, player, frames, height, width, keys = session
    return f"{world} by {player}, {frames} frames of {width}x{height}, keys {' '.join(keys)}"


def _progress() -> Progress:
    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("sessions  {task.fields[rate]}"),
        TimeRemainingColumn(),
    )
    return Progress(*columns, console=console, disable=not console.is_terminal)
