"""A table of the sessions in a folder, one a line, with the damage beneath it."""

from __future__ import annotations

import os
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from pydantic import BaseModel
from rich import box
from rich.console import Console
from rich.progress import track
from rich.table import Table
from rich.text import Text

from world_model.episode.format import EpisodeError
from world_model.episode.reading import Session


def show(folder: Path, paths: list[Path], decode: bool) -> bool:
    """Print the table of the sessions at ``paths``; ``decode`` also checks every frame. Returns whether none is
    damaged."""
    console = Console(width=None if sys.stdout.isatty() else 160)
    rows = _inspect_all(folder, paths, decode)
    console.print(_table(rows))
    for row in rows:
        for problem in row.damage:
            console.print(f"{row.name}: {problem}", style="yellow", highlight=False, markup=False)
    return not any(row.damage for row in rows)


def _inspect_all(folder: Path, paths: list[Path], decode: bool) -> list[_Row]:
    names = [path.name if path == folder else str(path.relative_to(folder)) for path in paths]
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # decoding releases the interpreter lock
        work = pool.map(lambda path, name: _inspect(path, name, decode), paths, names)
        progress = Console(stderr=True)
        return list(track(work, "checking", len(paths), console=progress, disable=not progress.is_terminal))


class _Row(BaseModel):
    """One line of the table, or the total."""

    name: str
    source: str = "?"
    frames: int = 0
    seconds: float = 0.0
    reward: float | None = None  # not recorded in format 1
    ends: int = 0
    idle: int = 0
    held: dict[str, int] = {}
    gaps: int = 0
    largest_gap: float = 0.0
    damage: list[str] = []
    damaged: str = ""  # in the total: how many sessions are


def _inspect(path: Path, name: str, decode: bool) -> _Row:
    try:
        session = Session.open(path)
    except EpisodeError as error:
        return _Row(name=name, damage=[str(error).removeprefix(f"{path}: ")])
    steps = np.diff(session.times)
    late = steps[steps > 1.5 / session.meta.fps]
    played = session.actions[1:]  # actions[0] is always zero
    return _Row(
        name=name,
        source=session.meta.source,
        frames=len(session),
        seconds=len(session) / session.meta.fps,
        reward=None if session.rewards is None else session.rewards.sum(dtype=float),
        ends=0 if session.rewards is None else int((session.terminated | session.truncated).sum()),
        idle=int((~played.any(axis=1)).sum()),
        held=dict(zip(session.meta.keys, played.sum(axis=0, dtype=int).tolist(), strict=True)),
        gaps=len(late),
        largest_gap=float(late.max(initial=0.0)),
        damage=session.check() if decode else session.damage,
    )


def _total(rows: list[_Row]) -> _Row:
    held: Counter[str] = Counter()
    for row in rows:
        held.update(row.held)
    sources = sorted({row.source for row in rows})
    rewards = [row.reward for row in rows if row.reward is not None]
    sums = {name: sum(getattr(row, name) for row in rows) for name in ("frames", "seconds", "ends", "idle", "gaps")}
    return _Row(
        name=f"{len(rows)} sessions",
        source=", ".join(f"{source} {sum(row.source == source for row in rows)}" for source in sources),
        reward=sum(rewards) if rewards else None,
        held=held,
        largest_gap=max(row.largest_gap for row in rows),
        damaged=f"{sum(bool(row.damage) for row in rows)} sessions",
        **sums,
    )


def _table(rows: list[_Row]) -> Table:
    cells = [_cells(row, max(1, row.frames - 1)) for row in rows]
    footer = _cells(_total(rows), max(1, sum(max(0, row.frames - 1) for row in rows)))
    table = Table(show_footer=True, box=box.SIMPLE, pad_edge=False)
    titles = ["session", "source", "frames", "seconds", "reward", "ends", "idle", "keys held", "gaps", "damage"]
    for title, foot in zip(titles, footer, strict=True):
        number = title in ("frames", "seconds", "reward", "ends", "idle")
        table.add_column(
            title, foot, justify="right" if number else "left", overflow="fold", no_wrap=number or title == "session"
        )
    for row in cells:
        table.add_row(*map(Text, row))  # a folder's name is not markup
    return table


def _cells(row: _Row, actions: int) -> list[str]:
    held = "  ".join(f"{key} {count / actions:.0%}" for key, count in row.held.items())
    gaps = f"{row.gaps}, up to {1000 * row.largest_gap:.0f} ms" if row.gaps else "none"
    problems = len(row.damage)
    damage = row.damaged if row.damaged else f"{problems} named below" if problems else "none"
    frames, seconds, idle = str(row.frames), f"{row.seconds:.1f}", f"{row.idle / actions:.0%}"
    reward, ends = ("?", "?") if row.reward is None else (f"{row.reward:g}", str(row.ends))
    return [row.name, row.source, frames, seconds, reward, ends, idle, held, gaps, damage]
