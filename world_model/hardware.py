"""The machine: its processor, its cores, its GPU driver."""

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
    """What is missing of the NVIDIA driver, in words; "" if nothing. Needs neither PyTorch nor ONNX Runtime."""
    library = "nvcuda.dll" if platform.system() == "Windows" else "libcuda.so.1"
    try:
        ctypes.CDLL(library)
    except OSError:
        return f"{library} not found"
    return ""
