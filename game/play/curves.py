"""Statistics of a long play: one row a minute of the game, for a day at most, and the collapses."""

from __future__ import annotations

import os
from collections import Counter, deque
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from world_model.play.pictures import motion, sharpness

DAY = 24 * 60  # rows kept
EVENTS = 1000  # collapses kept; all are counted
FORMATS = (".png", ".svg", ".pdf")
ENDS = 5  # minutes at either end that ``growth`` compares


class CurvesError(RuntimeError):
    """The curves cannot be drawn; the message says what to do."""


@dataclass
class Collapses:
    """The collapses of the picture: {"tick": first tick, from 1; "kind"; "ticks": duration} each, and their counts."""

    events: deque[dict] = field(default_factory=lambda: deque(maxlen=EVENTS))
    count: Counter = field(default_factory=Counter)
    reprimes: int = 0
    _kind: str | None = None
    _episode_reprimes: int = 0

    def add(self, tick: int, kind: str | None, episode_reprimes: int) -> None:
        """One tick: its collapse or None, and how often the game was primed again in this episode so far."""
        if kind and kind != self._kind:
            self.events.append({"tick": tick, "kind": kind, "ticks": 0})
            self.count[kind] += 1
        if kind:
            self.events[-1]["ticks"] += 1
        self.reprimes += max(0, episode_reprimes - self._episode_reprimes)
        self._kind, self._episode_reprimes = kind, episode_reprimes


class Curves:
    """Collects every tick (``add``) into ``rows``, one a minute: 60 * fps ticks, however fast they are played.
    Sharpness and motion are measured once a second, which takes some tenths of a millisecond."""

    def __init__(self, fps: int):
        self.fps = fps
        self._rows: deque[dict] = deque(maxlen=DAY)
        self._minutes = self._reprimes = 0
        self._last_frame: np.ndarray | None = None
        self._start_minute()

    def add(self, seconds: float, frame: np.ndarray | None, kind: str | None, reprimes: int) -> None:
        """One tick that took ``seconds`` and gave ``frame``; ``reprimes`` is the play's count so far."""
        self._seconds[self._ticks] = seconds
        self._ticks += 1
        self._kinds[kind] += 1
        self._reprimes = reprimes
        if frame is not None:
            self._measure(frame)
        if self._ticks == len(self._seconds):
            self._rows.append(self._row())
            self._minutes += 1
            self._start_minute()

    def rows(self) -> list[dict]:
        """Oldest first; the last may cover less than a minute."""
        return [*self._rows, *([self._row()] if self._ticks else [])]

    def _start_minute(self) -> None:
        self._seconds = np.zeros(60 * self.fps, np.float32)
        self._ticks, self._kinds, self._reprimes_before = 0, Counter(), self._reprimes
        self._sharpness, self._motion = [], []

    def _measure(self, frame: np.ndarray) -> None:
        if self._last_frame is not None and self._ticks % self.fps == 0:
            self._sharpness.append(float(sharpness(frame[None])[0]))
            self._motion.append(float(motion(np.stack([self._last_frame, frame]))[0]))
        self._last_frame = frame

    def _row(self) -> dict:
        times = 1e3 * np.percentile(self._seconds[: self._ticks], (50, 95))
        return {
            "minute": self._minutes + 1,
            "ticks": self._ticks,
            "tick_ms": {"p50": round(float(times[0]), 3), "p95": round(float(times[1]), 3)},
            "rss_mb": rss_mb(),
            "sharpness": _mean(self._sharpness),
            "motion": _mean(self._motion),
            "collapsed": {kind: round(n / self._ticks, 4) for kind, n in sorted(self._kinds.items(), key=str) if kind},
            "reprimes": self._reprimes - self._reprimes_before,
        }


def growth(rows: list[dict], fps: int) -> dict[str, float | None]:
    """Relative growth of memory and tick time from the first minutes to the last.

    Compares medians of up to ENDS whole minutes at either end, without the very first, in which much is loaded. None
    where there are too few.
    """
    whole = [row for row in rows if row["ticks"] == 60 * fps][1:]
    count = min(ENDS, len(whole) // 2)

    def relative(values: list[float | None]) -> float | None:
        if not (count and all(values)):
            return None
        return round(float(np.median(values[-count:]) / np.median(values[:count])) - 1, 5)

    return {
        "rss": relative([row["rss_mb"] for row in whole]),
        "tick_p50": relative([row["tick_ms"]["p50"] for row in whole]),
        "tick_p95": relative([row["tick_ms"]["p95"] for row in whole]),
    }


def plot(report: dict, path: str | Path) -> None:
    """Draw the rows of a report (``minutes``) into a picture file. Raises CurvesError and OSError."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise CurvesError('drawing needs matplotlib: pip install -e ".[train]"') from error
    rows = report["minutes"]
    if not rows:
        raise CurvesError("there is nothing to draw: not one tick was played")
    if Path(path).suffix.lower() not in FORMATS:
        raise CurvesError(f"{path}: a picture file ends in {', '.join(FORMATS)}")
    figure = Figure(figsize=(9, 9), layout="constrained")
    parts = (_draw_ticks, _draw_memory, _draw_picture, _draw_collapses)
    minutes = [row["minute"] for row in rows]
    for draw, axes in zip(parts, figure.subplots(len(parts), sharex=True), strict=True):
        draw(axes, minutes, rows)
        axes.set_ylim(0, 1.15 * max(axes.dataLim.y1, 1))
        axes.grid(alpha=0.3)
        if axes.get_legend_handles_labels()[0]:
            axes.legend(loc="lower right", fontsize="small")
    axes.set_xlabel("minute of the game")
    figure.suptitle(_title(report), fontsize="medium")
    figure.savefig(path, dpi=120)


def _title(report: dict) -> str:
    about = [f"{report['frames']:,} frames", report.get("world"), report.get("bot"), report.get("runtime")]
    weights, cpu = report.get("checkpoint"), report.get("hardware", {}).get("cpu")
    about += [f"weights {weights[:16]}" if weights else None, cpu]
    return " · ".join(filter(None, about))


def _draw_ticks(axes, minutes: list[int], rows: list[dict]) -> None:
    for rank, style in (("p50", "-"), ("p95", ":")):
        axes.plot(minutes, [row["tick_ms"][rank] for row in rows], style, label=f"tick {rank}", color="tab:blue")
    axes.set_ylabel("ms")


def _draw_memory(axes, minutes: list[int], rows: list[dict]) -> None:
    memory = np.array([row["rss_mb"] for row in rows], float)  # None becomes NaN, a gap in the curve
    axes.plot(minutes, memory, color="tab:green", label="resident memory")
    axes.set_ylabel("MiB")


def _draw_picture(axes, minutes: list[int], rows: list[dict]) -> None:
    for name, color in (("sharpness", "tab:purple"), ("motion", "tab:orange")):
        axes.plot(minutes, np.array([row[name] for row in rows], float), label=name, color=color)
    axes.set_ylabel("grey levels")


def _draw_collapses(axes, minutes: list[int], rows: list[dict]) -> None:
    kinds = sorted({kind for row in rows for kind in row["collapsed"]})
    bottom = np.zeros(len(rows))
    for kind in kinds:
        share = np.array([100 * row["collapsed"].get(kind, 0.0) for row in rows])
        axes.bar(minutes, share, bottom=bottom, label=kind, width=0.9)
        bottom += share
    if any(row["reprimes"] for row in rows):
        axes.plot(minutes, [row["reprimes"] for row in rows], "k.", label="times primed again")
    axes.set_ylabel("% of ticks collapsed")


def rss_mb() -> float | None:
    """Resident memory now, MiB; None where there is no /proc (on Linux there is)."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return round(pages * os.sysconf("SC_PAGE_SIZE") / 2**20, 2)
    except (OSError, ValueError, IndexError, AttributeError):
        return None


def _mean(values: list[float]) -> float | None:
    return round(float(np.mean(values)), 3) if values else None
