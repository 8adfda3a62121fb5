"""Harm done to files on purpose, all of it following from a generator: for tests that feed damage to what reads."""

from __future__ import annotations

import os
import re
import zipfile
from collections import Counter
from pathlib import Path

import numpy as np

FUZZ = int(os.environ.get("FUZZ", "1"))
"""How many times as many trials as usual: ``FUZZ=100 python -m pytest tests -k fuzz`` takes an hour and more."""
TRIED: Counter[tuple[str, str]] = Counter()
"""What was tried and what came of it; told at the end where ``FUZZ`` asks for more than usual."""
STRANGE = [b"", b"-1", b"0", b"3", b"1e400", b"nan", b"-inf", b"0.5", b"1000000000", b"1" + b"0" * 12, b"9" * 40,
           b"9" * 5000, b"null", b"true", b'"x"', b"[]", b"{}", b"[" * 100_000, b"\xff", b"[/b]"]  # fmt: skip


def cut(data: bytes, rng) -> bytes:
    return data[: rng.integers(len(data) + 1)]


def flip(data: bytes, rng) -> bytes:
    changed = np.frombuffer(data, np.uint8).copy()
    at = rng.integers(len(data), size=min(len(data), rng.integers(1, 9)))
    changed[at] = rng.integers(0, 256, len(at))
    return changed.tobytes()


def renumber(data: bytes, rng) -> bytes:
    """Something strange in the place of a number; headers of arrays have some, and so have JSON and tables."""
    numbers = list(re.finditer(rb"\d+(\.\d+)?", data))
    if not numbers:
        return data
    at = numbers[rng.integers(len(numbers))]
    return data[: at.start()] + STRANGE[rng.integers(len(STRANGE))] + data[at.end() :]


def replace(data: bytes, rng) -> bytes:
    return STRANGE[rng.integers(len(STRANGE))]


def repeat(data: bytes, rng) -> bytes:
    at = np.sort(rng.integers(len(data) + 1, size=2))
    return data[: at[1]] + data[at[0] :]


def sound(file: Path) -> bool:
    """Whether it is an archive that no earlier harm has broken."""
    try:
        with zipfile.ZipFile(file) as archive:
            return bool(archive.namelist()) and archive.testzip() is None
    except Exception:  # a damaged one raises a dozen kinds
        return False


def inside(file: Path, harm, rng) -> None:
    """Harm an array within an archive that is otherwise sound."""
    with zipfile.ZipFile(file) as archive:
        arrays = {name: archive.read(name) for name in archive.namelist()}
    name = sorted(arrays)[rng.integers(len(arrays))]
    arrays[name] = harm(arrays[name], rng)
    with zipfile.ZipFile(file, "w", rng.choice([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])) as archive:
        for name, data in arrays.items():
            archive.writestr(name, data)


def damage(session: Path, rng) -> list[str]:
    """One to three harms to the session's files; what was done, in words."""
    done = []
    for _ in range(rng.integers(1, 4)):
        files = sorted(file for file in session.rglob("*") if file.is_file())
        kinds = sorted({file.suffix for file in files})
        kind = kinds[rng.integers(len(kinds))]  # or else most harm would be to the chunks
        files = [file for file in files if file.suffix == kind]
        file = files[rng.integers(len(files))]
        harm = (cut, flip, renumber, renumber, replace, repeat, "delete", "swap")[rng.integers(8)]
        done.append(f"{getattr(harm, '__name__', harm)} {file.relative_to(session)}")
        data = file.read_bytes()
        if harm == "delete":
            file.unlink()
        elif harm == "swap":
            file.write_bytes(files[rng.integers(len(files))].read_bytes())
        elif data and kind == ".npz" and rng.integers(2) and sound(file):
            inside(file, harm, rng)
        elif data:
            file.write_bytes(harm(data, rng))
    return done
