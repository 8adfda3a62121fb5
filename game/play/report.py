"""The latency ledger of a play, and the report made of it; ``python -m game.play.report out.json`` tells one in words.

One tick is sample -> step -> decode -> draw. Key to photon runs from a key event's arrival to the flip of
the first frame computed with it, so it is the event's wait for the next sample plus that whole tick.
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

_IMPORTED = time.perf_counter()  # near enough to the start, where the system does not tell it
KEPT = 100_000  # durations of each kind, over an hour at 20 ticks a second; the oldest go first
RECENT = 40  # what the HUD averages over


@dataclass(frozen=True)
class Tick:
    """When the parts of one tick happened; seconds of perf_counter, ``decode`` a duration in seconds."""

    sampled: float
    stepped: float  # the frame is computed, decoding included
    shown: float  # the flip returned
    decode: float = 0.0
    arrivals: tuple[float, ...] = ()
    collapse: str | None = None  # what became of the picture
    reprimes: int = 0  # how often this episode was begun again


class Durations:
    """The last ``KEPT`` durations in seconds. Their memory is taken at once, so that an hour of play adds none."""

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
        """Every kept one, in no order that means anything."""
        return self._ring[: len(self)]

    def last(self, count: int) -> np.ndarray:
        """The newest ``count``, or as many as there are; oldest first."""
        return self._ring[np.arange(max(0, self._added - count, self._added - KEPT), self._added) % KEPT]


class Ledger:
    """Takes ticks (``add``), tells ``recent`` figures for the HUD and the ``summary`` for the report.

    fps: the game's own, which its minutes are counted by. wanted: frames a second to keep to; 0, as many as come.
    """

    def __init__(self, fps: int = 20, wanted: float = 0):
        self.frames, self._wanted = 0, wanted
        self._curves, self._collapses = Curves(fps), Collapses()
        self._tick, self._step, self._decode, self._draw = (Durations() for _ in range(4))
        self._interval, self._wait, self._photon = (Durations() for _ in range(3))
        self._last_shown: float | None = None

    def add(self, tick: Tick, frame: np.ndarray | None = None) -> None:
        """``frame`` uint8 [H, W, 3], what the tick left on the screen."""
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
        """A pause or a new room: the time until the next frame is nobody's frame time."""
        self._last_shown = None

    def recent(self) -> dict[str, float | None]:
        """fps, the medians tick_ms and key_to_photon_ms of the last ``RECENT``, and the frames a second that were
        wanted, where the last two seconds had fewer; None before there are any."""
        late = _slow(self._interval.last(2 * max(1, round(self._wanted))), self._wanted) == 1
        return {
            "fps": _rate(self._interval.last(RECENT)),
            "slow_of": self._wanted if late else None,
            "tick_ms": percentiles(self._tick.last(RECENT), 50)["p50"],
            "key_to_photon_ms": percentiles(self._photon.last(RECENT), 50)["p50"],
        }

    def summary(self) -> dict:
        """Frames, frames a second, and percentiles in milliseconds (None where there was nothing to measure); what
        became of the picture, and the figures of every minute."""
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
    """One JSON object, whole or not at all. Raises OSError."""
    draft = draft_of(path)
    draft.write_text(json.dumps(report, indent=2) + "\n")
    draft.replace(path)


def draft_of(path: str | Path) -> Path:
    """An empty file beside what is to be written to ``path``. Raises OSError, also for what is there and is not a file:
    not after an hour of play, and never in the place of a device."""
    path = Path(path)
    if path.exists() and not path.is_file():
        raise FileExistsError(errno.EEXIST, "what is there is not a file", str(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(path.name + ".part")
    draft.touch()
    return draft


def seconds_since_start() -> float:
    """How long this process has lived, interpreter start included where the system tells (Linux)."""
    try:
        ticks = int(Path("/proc/self/stat").read_text().rsplit(")", 1)[1].split()[19])
        uptime = float(Path("/proc/uptime").read_text().split()[0])
        return uptime - ticks / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError, AttributeError):
        return time.perf_counter() - _IMPORTED


def peak_rss_mb() -> float | None:
    """Largest resident memory so far; None on systems without getrusage."""
    try:
        import resource
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / (2**20 if sys.platform == "darwin" else 2**10), 1)


def hardware() -> dict:
    """What the figures were measured on."""
    return {
        "cpu": cpu_name(),
        "cores": cores(),
        "system": platform.platform(terse=True),
        "python": platform.python_version(),
    }


class ReportError(ValueError):
    """A file that is no report of a play, or curves that cannot be drawn; the message is for the person."""


def read_report(path: str | Path) -> dict:
    """What ``write_report`` wrote. Raises ReportError."""
    try:
        report = json.loads(Path(path).read_text())
    except (OSError, ValueError) as error:
        raise ReportError(f"{path}: cannot be read as a report ({error})") from error
    if not isinstance(report, dict) or "minutes" not in report:
        raise ReportError(f"{path}: is not a report of a play with its minutes; play.py --report writes one")
    return report


def told(report: dict) -> str:
    """A report in some lines of text."""
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
        print(told(report))
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
    """Share of the seconds, as many frames as ``wanted`` each, that brought less than nine tenths of those frames a
    second; None before there is a whole one."""
    second = max(1, round(wanted))
    whole = len(intervals) // second
    if not wanted or not whole:
        return None
    took = intervals[-whole * second :].reshape(whole, second).sum(1, dtype=np.float64)
    return round(float((second / took < 0.9 * wanted).mean()), 3)


def _rate(intervals: np.ndarray) -> float | None:
    """How many a second, of the seconds between them."""
    total = float(intervals.sum(dtype=np.float64))
    return round(len(intervals) / total, 3) if total else None


if __name__ == "__main__":
    sys.exit(main())
