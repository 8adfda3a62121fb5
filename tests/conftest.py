"""What several tests share: a small recorded data set and a small trained world, made once."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from damage import FUZZ, TRIED
from filelock import FileLock

from world_model.config import CONFIGS, Config, load

if "PYTEST_XDIST_WORKER" in os.environ:  # a worker a core, and each its own; PyTorch is not loaded yet
    os.environ["OMP_NUM_THREADS"] = "1"
REPOSITORY = Path(__file__).resolve().parents[1]
TWO = ("-m", "torch.distributed.run", "--nproc_per_node=2")


@pytest.fixture(scope="session")
def tiny() -> Config:
    return load(CONFIGS / "tiny.yaml")


@pytest.fixture(scope="session")
def tiny_keep() -> Config:
    return load(CONFIGS / "tiny_keep.yaml")


@pytest.fixture(scope="session")
def once(tmp_path_factory) -> Callable[[str, Callable[[Path], None]], Path]:
    """once(name, make): the folder that ``make`` fills, in the first process of the suite that asks for it."""
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base

    def made(name: str, make: Callable[[Path], None]) -> Path:
        folder, done = shared / name, shared / f"{name}.done"
        with FileLock(shared / f"{name}.lock"):
            if not done.exists():
                make(folder)
                done.touch()
        return folder

    return made


@pytest.fixture(scope="session")
def tiny_data(tiny, once) -> Path:
    """Recorded arena sessions at the tiny size: 20 rooms of 60 frames, one of them held out."""
    from game.record.collect import collect

    return once("recordings", lambda folder: collect(tiny, out=folder, sessions=20, frames=60, seed=20, workers=1))


@pytest.fixture(scope="session")
def trained(tiny_data, once) -> Path:
    """What the training command leaves: all four stages of configs/tiny.yaml on ``tiny_data``.
    Without graphs, which take longer: PyTorch plays it."""
    flags = ("--config", "configs/tiny.yaml", "--data", tiny_data, "--precision", "float32")
    return once("tiny", lambda folder: run_train(*flags, "--out", folder, graphs=False))


@pytest.fixture(scope="session")
def exported(once) -> Path:
    """The tiny configuration with random weights, graphs and scenes, to be read only."""
    import toy

    from world_model.play.export import export

    def make(folder: Path) -> None:
        folder.mkdir()
        toy.save(folder, toy.load("tiny"))
        toy.add_scenes(folder, toy.load("tiny"))
        export(folder)

    return once("exported", make)


def pytest_terminal_summary(terminalreporter) -> None:
    if FUZZ > 1:
        terminalreporter.section("tried")
        for (what, came), times in sorted(TRIED.items()):
            terminalreporter.write_line(f"{times:8,}  {what}: {came}")


def run_train(*arguments, check: bool = True, launcher=(), graphs: bool = True) -> subprocess.CompletedProcess:
    program = "train.py" if graphs else "tests/ungraphed.py"
    command = [sys.executable, *launcher, program, *map(str, arguments)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=300)
    if check and done.returncode:
        raise AssertionError(f"{' '.join(command)}\n{done.stdout}\n{done.stderr}")
    return done
