"""What figures were measured on, in words, and whether a GPU may be used."""

from __future__ import annotations

import ctypes
import os
import platform
from pathlib import Path


def cpu_name() -> str:
    """The processor as its maker names it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def missing_driver() -> str:
    """What of an NVIDIA driver is not here, in words; "" where it is. Tells without importing any network's library."""
    library = "nvcuda.dll" if platform.system() == "Windows" else "libcuda.so.1"
    try:
        ctypes.CDLL(library)
    except OSError:
        return f"{library} not found"
    return ""
