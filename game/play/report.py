"""The latency ledger of a play and its report; ``python -m game.play.report out.json`` prints one as text.

One tick is sample -> step -> decode -> draw. Key to photon is the time from a key event's arrival to the flip of the
first frame computed with it: the event's wait for the next sample plus that whole tick.
"""

from __future__ import annotations

import argparse
import errno
import json
import os
import platform
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from game.play.curves import Collapses, Curves, CurvesError, growth, plot
from world_model.hardware import cores, cpu_name

_IMPORTED = time.perf_counter()  # stands for the process's start where there is no /proc
KEPT = 100_000  # newest durations kept of each kind: over an hour at 20 ticks a second
RECENT = 40  # ticks that the HUD's figures are taken over


@dataclass(frozen=True)
class Tick:
    """Times of one tick's parts, in seconds of perf_counter; ``decode`` is a duration in seconds."""

    sampled: float
    stepped: float  # the frame is computed, decoding included
    shown: float  # the flip returned
    decode: float = 0.0
    arrivals: tuple[float, ...] = ()  # of the key events that this tick sampled
    collapse: str | None = None  # kind of collapse of the picture
    reprimes: int = 0  # how often the game was primed again in this episode


class Durations:
    """The newest ``KEPT`` durations in seconds, in a ring buffer that is allocated at once."""

    def __init__(self):
        self._ring = np.full(KEPT, np.nan, np.float32)
        self._added = 0

    def __len__(self) -> int:
        return min(self._added, KEPT)

    def add(self, values: Iterable[float]) -> None:
        for value in values:
            self._ring[self._added % KEPT] = value
            self._added += 1

    def all(self) -> np.ndarray:
        """Every kept duration, unordered."""
        return self._ring[: len(self)]

    def last(self, count: int) -> np.ndarray:
        """The newest ``count``, or as many as there are; oldest first."""
        return self._ring[np.arange(max(0, self._added - count, self._added - KEPT), self._added) % KEPT]


class Ledger:
    """Collects ticks (``add``); gives ``recent`` figures for the HUD and the ``summary`` for the report.

    fps: the game's own ticks a second, which count its minutes. wanted: frames a second to reach; 0, unlimited.
    """

    def __init__(self, fps: int = 20, wanted: float = 0):
        self.frames, self._wanted = 0, wanted
        self._curves, self._collapses = Curves(fps), Collapses()
        self._tick, self._step, self._decode, self._draw = (Durations() for _ in range(4))
        self._interval, self._wait, self._photon = (Durations() for _ in range(3))
        self._last_shown: float | None = None

    def add(self, tick: Tick, frame: np.ndarray | None = None) -> None:
        """One tick and its frame uint8 [H, W, 3]."""
        self.frames += 1
        self._collapses.add(self.frames, tick.collapse, tick.reprimes)
        self._curves.add(tick.shown - tick.sampled, frame, tick.collapse, self._collapses.reprimes)
        self._tick.add([tick.shown - tick.sampled])
        self._step.add([tick.stepped - tick.sampled - tick.decode])
        self._decode.add([tick.decode])
        self._draw.add([tick.shown - tick.stepped])
        if self._last_shown is not None:
            self._interval.add([tick.shown - self._last_shown])
        self._last_shown = tick.shown
        self._wait.add(tick.sampled - at for at in tick.arrivals)
        self._photon.add(tick.shown - at for at in tick.arrivals)

    def cut(self) -> None:
        """A pause or a new room: the time until the next frame is not a frame interval."""
        self._last_shown = None

    def recent(self) -> dict[str, float | None]:
        """fps and the medians tick_ms and key_to_photon_ms of the newest ``RECENT``; slow_of: the frames a second that
        were wanted, if both of the last two seconds were too slow. None where there is nothing to measure."""
        too_slow = _slow(self._interval.last(2 * max(1, round(self._wanted))), self._wanted) == 1
        return {
            "fps": _rate(self._interval.last(RECENT)),
            "slow_of": self._wanted if too_slow else None,
            "tick_ms": percentiles(self._tick.last(RECENT), 50)["p50"],
            "key_to_photon_ms": percentiles(self._photon.last(RECENT), 50)["p50"],
        }

    def summary(self) -> dict:
        """Frames, frames a second, percentiles in milliseconds (None where there was nothing to measure), collapses,
        and the figures of every minute."""
        minutes = self._curves.rows()
        return {
            "frames": self.frames,
            "fps": _rate(self._interval.all()),
            "slow_share": _slow(self._interval.last(KEPT), self._wanted),
            "tick_ms": percentiles(self._tick.all(), 50, 95, 99),
            "step_ms": percentiles(self._step.all(), 50, 95),
            "decode_ms": percentiles(self._decode.all(), 50, 95),
            "draw_ms": percentiles(self._draw.all(), 50, 95),
            "key_to_photon_ms": {
                **percentiles(self._photon.all(), 50, 95),
                "n": len(self._photon),
                "wait": percentiles(self._wait.all(), 50, 95),
            },
            "collapses": list(self._collapses.events),
            "collapse_count": dict(self._collapses.count),
            "reprimes": self._collapses.reprimes,
            "growth": growth(minutes, self._curves.fps),
            "minutes": minutes,
        }


def percentiles(seconds: np.ndarray, *ranks: int) -> dict[str, float | None]:
    """{"p50": milliseconds, ...} of durations in seconds."""
    if not len(seconds):
        return {f"p{rank}": None for rank in ranks}
    return {f"p{rank}": round(1e3 * float(np.percentile(seconds, rank)), 3) for rank in ranks}


def write_report(path: str | Path, report: dict) -> None:
    """Write one JSON object, atomically. Raises OSError."""
    draft = draft_of(path)
    draft.write_text(json.dumps(report, indent=2) + "\n")
    draft.replace(path)


def draft_of(path: str | Path) -> Path:
    """An empty file beside ``path``, to be written and renamed to it. Raises OSError, also where ``path`` is something
    other than a file."""
    path = Path(path)
    if path.exists() and not path.is_file():
        raise FileExistsError(errno.EEXIST, "what is there is not a file", str(path))
    if path.parent.exists() and not path.parent.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, f"{path.parent} is not a folder", str(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(path.name + ".part")
    draft.touch()
    return draft


def seconds_since_start() -> float:
    """Age of this process in seconds; without the interpreter's start where there is no /proc."""
    try:
        ticks = int(Path("/proc/self/stat").read_text().rsplit(")", 1)[1].split()[19])
        uptime = float(Path("/proc/uptime").read_text().split()[0])
        return uptime - ticks / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError, AttributeError):
        return time.perf_counter() - _IMPORTED


def peak_rss_mb() -> float | None:
    """Largest resident memory so far, MiB; None on systems without getrusage."""
    try:
        import resource
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / (2**20 if sys.platform == "darwin" else 2**10), 1)


def hardware() -> dict:
    """The machine and the software that the figures were measured on."""
    return {
        "cpu": cpu_name(),
        "cores": cores(),
        "system": platform.platform(terse=True),
        "python": platform.python_version(),
    }


class ReportError(ValueError):
    """A file is no report of a play; the message is for the player."""


def read_report(path: str | Path) -> dict:
    """Read what ``write_report`` wrote. Raises ReportError."""
    try:
        report = json.loads(Path(path).read_text())
    except (OSError, ValueError) as error:
        raise ReportError(f"{path}: cannot be read as a report ({error})") from error
    if not isinstance(report, dict) or "minutes" not in report:
        raise ReportError(f"{path}: is not a report of a play with its minutes; play.py --report writes one")
    return report


def as_text(report: dict) -> str:
    """A report in a few lines of text."""
    tick, count = report["tick_ms"], report["collapse_count"]
    lines = [
        f"{report['frames']:,} frames at {report['fps']} a second; tick p50 / p95 / p99 "
        f"{tick['p50']} / {tick['p95']} / {tick['p99']} ms; too slow {report.get('slow_share') or 0:.0%} of the time",
        "collapses: "
        + (", ".join(f"{kind} {n}" for kind, n in sorted(count.items())) or "none")
        + f"; primed again {report['reprimes']} times",
        *filter(None, [report.get("runs")]),
    ]
    for name, words in {"rss": "memory", "tick_p50": "tick p50", "tick_p95": "tick p95"}.items():
        share = report["growth"][name]
        lines.append(
            f"{words} from the first minutes to the last: " + ("too short" if share is None else f"{share:+.2%}")
        )
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m game.play.report", description="What a report of play.py says.")
    parser.add_argument("report", type=Path, help="JSON file that play.py --report wrote")
    parser.add_argument("--plot", type=Path, metavar="PNG", help="draw its minutes: ticks, memory, picture, collapses")
    flags = parser.parse_args(arguments)
    try:
        report = read_report(flags.report)
        print(as_text(report))
        if flags.plot:
            plot(report, flags.plot)
            print(f"curves: {flags.plot}")
    except (ReportError, CurvesError, OSError) as error:
        print(f"game.play.report: {error}", file=sys.stderr)
        return 2
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        print(f"game.play.report: {flags.report}: lacks figures that a report has ({error!r})", file=sys.stderr)
        return 2
    return 0


def _slow(intervals: np.ndarray, wanted: float) -> float | None:
    """Share of runs of ``wanted`` frames whose rate was below nine tenths of ``wanted``; None without a whole run."""
    length = max(1, round(wanted))
    runs = len(intervals) // length
    if not wanted or not runs:
        return None
    seconds = intervals[-runs * length :].reshape(runs, length).sum(1, dtype=np.float64)
    return round(float((length / seconds < 0.9 * wanted).mean()), 3)


def _rate(intervals: np.ndarray) -> float | None:
    """Frames a second, of the intervals between them in seconds; None of none."""
    total = float(intervals.sum(dtype=np.float64))
    return round(len(intervals) / total, 3) if total else None


if __name__ == "__main__":
    sys.exit(main())
