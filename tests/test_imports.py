"""Imports go one way, and playing needs no PyTorch."""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def imported(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def within(names: set[str], package: str) -> set[str]:
    return {name for name in names if name == package or name.startswith(package + ".")}


@pytest.mark.parametrize("path", sorted((ROOT / "world_model").rglob("*.py")), ids=lambda p: str(p.relative_to(ROOT)))
def test_the_model_does_not_know_the_game(path):
    assert not within(imported(path), "game")
    assert not within(imported(path), "pygame")


@pytest.mark.parametrize("path", sorted((ROOT / "game").rglob("*.py")), ids=lambda p: str(p.relative_to(ROOT)))
def test_the_game_does_not_know_networks(path):
    assert not within(imported(path), "torch")
    assert not within(imported(path), "world_model.training")
    assert not within(imported(path), "world_model.evaluate")


@pytest.mark.parametrize("path", sorted((ROOT / "world_model/training").glob("*.py")), ids=lambda p: p.name)
def test_training_does_not_know_what_judges_it(path):
    assert not within(imported(path), "world_model.evaluate")


def test_only_training_is_used_by_training():
    model = ROOT / "world_model"
    outside = [p for p in model.rglob("*.py") if model / "training" not in p.parents] + [ROOT / "play.py"]
    assert not [str(p.relative_to(ROOT)) for p in outside if within(imported(p), "world_model.training")]


def test_every_package_is_installed():
    told = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    found = [p.parent for root in ("game", "world_model") for p in (ROOT / root).rglob("__init__.py")]
    assert sorted(told) == sorted(".".join(folder.relative_to(ROOT).parts) for folder in found)


@pytest.mark.parametrize("which", ["engine", "neural"])
def test_playing_imports_no_torch(which, exported):
    """Where no driver is, PyTorch need not be asked for a GPU."""
    flags = {
        "engine": ["--engine", "--config", "configs/tiny.yaml"],
        "neural": ["--checkpoint", str(exported)],
    }[which]
    code = (
        "import sys, play; from world_model import hardware\n"
        "hardware.missing_driver = lambda: 'no driver'\n"
        f"sys.argv = ['play.py', *{flags!r}, '--headless', '--bot', 'masher', '--frames', '5', '--fps', '0']\n"
        "code = play.main()\n"
        "heavy = [m for m in ('torch', 'pygame', 'onnx') if m in sys.modules]\n"
        "sys.exit(code or (f'imported {heavy}' if heavy else 0))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


def test_no_library_module_reads_the_command_line_or_the_environment():
    for path in [*(ROOT / "world_model").rglob("*.py"), *(ROOT / "game").rglob("*.py")]:
        source = path.read_text()
        assert "os.environ" not in source and "getenv" not in source, path
        if "if __name__" not in source:
            assert "sys.argv" not in source and "parse_args" not in source, path


def test_our_plugin_can_be_imported_before_gymnasium():
    """Gymnasium loads game.register while it is itself being imported; importing ours first must not go in a circle."""
    code = "import game.register; import gymnasium; "
    code += "assert 'rollplay/Arena-v0' in gymnasium.registry"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=60)
