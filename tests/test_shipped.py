"""What ships: the arena's weights, graphs, scenes and card belong together, and any program can make both worlds."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from world_model import checkpoint, scenes
from world_model.config import CONFIGS, WORLDS, load
from world_model.neural_game import NeuralGame

ARENA = WORLDS / "arena"


def test_the_world_is_small_enough_and_its_card_names_it():
    size = sum(path.stat().st_size for path in ARENA.rglob("*") if path.is_file())
    assert size < 64 * 2**20
    assert checkpoint.digest(ARENA / checkpoint.WEIGHTS) in (ARENA / "card.md").read_text()


def test_the_shipped_configuration_is_the_one_in_the_weights():
    inside, _ = checkpoint.describe(ARENA / checkpoint.WEIGHTS)
    beside = load(CONFIGS / "arena.yaml")
    for part in ("name", "world", "codec", "transformer", "head", "rolling"):
        assert getattr(inside, part) == getattr(beside, part), part


def test_scenes_of_trained_and_of_unseen_rooms():
    assert len(scenes.names(ARENA)) >= 8


def test_both_runtimes_draw_the_same_pictures():
    pictures = []
    for runtime in ("onnx", "torch"):
        game = NeuralGame(runtime=runtime, device="cpu")
        game.reset(seed=1)
        keys = np.random.default_rng(0).integers(0, 2, (64, 8), dtype=np.int8)
        pictures.append(np.stack([game.step(key)[0] for key in keys]))
    assert np.abs(pictures[0].astype(int) - pictures[1]).max() <= 1


@pytest.mark.parametrize("name", ["rollplay/Arena-v0", "rollplay/NeuralArena-v0"])
def test_any_program_can_make_it_by_name(name, tmp_path):
    code = (
        "import gymnasium, warnings\n"
        "from gymnasium.utils.env_checker import check_env\n"
        "warnings.simplefilter('error')\n"
        f"env = gymnasium.make('{name}', disable_env_checker=True)\n"
        "assert env.metadata['keys'] == ('w', 'a', 's', 'd', 'left', 'right', 'space', 'e')\n"
        "assert env.metadata['render_fps'] == 20\n"
        "check_env(env.unwrapped)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    if "NamespaceNotFound" in done.stderr or "NameNotFound" in done.stderr:
        pytest.skip("the package is not installed: pip install -e .")
    assert done.returncode == 0, done.stderr
