"""The latency ledger of a play, and the report made of it.

One tick is sample -> step -> decode -> draw. Key to photon runs from a key event's arrival to the flip of
the first frame computed with it, so it is the event's wait for the next sample plus that whole tick.
"""

from __future__ import annotations

import json
import os
import platform
import sys
import time
from collections import deque
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from world_model.hardware import cores, cpu_name

_IMPORTED = time.perf_counter()  # near enough to the start, where the system does not tell it
KEPT_TICKS = 100_000  # over an hour at 20 ticks a second; older ones go, so that memory does not grow
RECENT_TICKS = 40  # what the HUD averages over


@dataclass(frozen=True)
class Tick:
    """When the parts of one tick happened; seconds of perf_counter, ``decode`` a duration in seconds."""

    sampled: float
    stepped: float  # the frame is computed, decoding included
    shown: float  # the flip returned
    decode: float = 0.0
    arrivals: tuple[float, ...] = ()


class Ledger:
    """Takes ticks (``add``), tells ``recent`` figures for the HUD and the ``summary`` for the report."""

    def __init__(self):
        self.frames = 0
        self._tick, self._step, self._decode, self._draw, self._interval = (deque(maxlen=KEPT_TICKS) for _ in range(5))
        self._wait, self._photon = deque(maxlen=KEPT_TICKS), deque(maxlen=KEPT_TICKS)
        self._last_shown: float | None = None

    def add(self, tick: Tick) -> None:
        self.frames += 1
        self._tick.append(tick.shown - tick.sampled)
        self._step.append(tick.stepped - tick.sampled - tick.decode)
        self._decode.append(tick.decode)
        self._draw.append(tick.shown - tick.stepped)
        if self._last_shown is not None:
            self._interval.append(tick.shown - self._last_shown)
        self._last_shown = tick.shown
        self._wait.extend(tick.sampled - at for at in tick.arrivals)
        self._photon.extend(tick.shown - at for at in tick.arrivals)

    def cut(self) -> None:
        """A pause or a new room: the time until the next frame is nobody's frame time."""
        self._last_shown = None

    def recent(self) -> dict[str, float | None]:
        """Medians of the last two seconds: fps, tick_ms and key_to_photon_ms; None where nothing happened yet."""
        interval = _tail(self._interval)
        return {
            "fps": 1 / max(float(np.mean(interval)), 1e-9) if interval else None,
            "tick_ms": _median_ms(_tail(self._tick)),
            "key_to_photon_ms": _median_ms(_tail(self._photon)),
        }

    def summary(self) -> dict:
        """Frames, frames a second, and percentiles in milliseconds (None where there was nothing to measure)."""
        total = sum(self._interval)
        return {
            "frames": self.frames,
            "fps": round(len(self._interval) / total, 3) if total else None,
            "tick_ms": percentiles(self._tick, 50, 95, 99),
            "step_ms": percentiles(self._step, 50, 95),
            "decode_ms": percentiles(self._decode, 50, 95),
            "draw_ms": percentiles(self._draw, 50, 95),
            "key_to_photon_ms": {
                **percentiles(self._photon, 50, 95),
                "n": len(self._photon),
                "wait": percentiles(self._wait, 50, 95),
            },
        }


def percentiles(seconds, *ranks: int) -> dict[str, float | None]:
    """{"p50": milliseconds, ...} of durations in seconds."""
    values = np.fromiter(seconds, dtype=np.float64)
    if not len(values):
        return {f"p{rank}": None for rank in ranks}
    return {f"p{rank}": round(1e3 * float(np.percentile(values, rank)), 3) for rank in ranks}


def write_report(path: str | Path, report: dict) -> None:
    """One JSON object, whole or not at all. Raises OSError."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(path.name + ".part")
    draft.write_text(json.dumps(report, indent=2) + "\n")
    draft.replace(path)


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


def _tail(values: deque) -> list[float]:
    return [values[i] for i in range(max(0, len(values) - RECENT_TICKS), len(values))]


def _median_ms(values: list[float]) -> float | None:
    return 1e3 * float(np.median(values)) if values else None
