"""What several tests share: a small recorded data set and a small trained world, made once."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from damage import FUZZ, TRIED

from world_model.config import CONFIGS, Config, load

REPOSITORY = Path(__file__).resolve().parents[1]
TWO = ("-m", "torch.distributed.run", "--nproc_per_node=2")


@pytest.fixture(scope="session")
def tiny() -> Config:
    return load(CONFIGS / "tiny.yaml")


@pytest.fixture(scope="session")
def tiny_keep() -> Config:
    return load(CONFIGS / "tiny_keep.yaml")


@pytest.fixture(scope="session")
def tiny_data(tiny, tmp_path_factory) -> Path:
    """Recorded arena sessions at the tiny size: 20 rooms of 60 frames, one of them held out."""
    from game.record.collect import collect

    folder = tmp_path_factory.mktemp("recordings")
    collect(tiny, out=folder, sessions=20, frames=60, seed=20, workers=1)
    return folder


@pytest.fixture(scope="session")
def trained(tiny_data, tmp_path_factory) -> Path:
    """What the training command leaves: all four stages of configs/tiny.yaml on ``tiny_data``.
    Without graphs, which take longer: PyTorch plays it."""
    out = tmp_path_factory.mktemp("run") / "tiny"
    flags = ("--config", "configs/tiny.yaml", "--data", tiny_data, "--out", out, "--precision", "float32")
    run_train(*flags, graphs=False)
    return out


@pytest.fixture(scope="session")
def exported(tmp_path_factory) -> Path:
    """The tiny configuration with random weights, graphs and scenes, to be read only."""
    import toy

    from world_model.play.export import export

    folder = tmp_path_factory.mktemp("exported")
    toy.save(folder, toy.load("tiny"))
    toy.add_scenes(folder, toy.load("tiny"))
    export(folder)
    return folder


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
