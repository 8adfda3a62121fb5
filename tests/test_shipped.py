"""What ships: a world's weights, graphs, scenes and card belong together, and any program can make the worlds."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from game.play.command import SHIPPED
from world_model import checkpoint
from world_model.config import CONFIGS, REPOSITORY, WORLDS, load
from world_model.play import scenes
from world_model.play.neural_game import NeuralGame

each_world = pytest.mark.parametrize("world", SHIPPED)


@each_world
def test_the_world_is_small_enough_has_scenes_and_its_card_names_it(world):
    folder = WORLDS / world
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    assert size < 64 * 2**20 and len(scenes.names(folder)) >= 8
    assert checkpoint.digest(folder / checkpoint.WEIGHTS) in (folder / "card.md").read_text()


@each_world
def test_the_shipped_configuration_is_the_one_in_the_weights(world):
    inside = checkpoint.describe(WORLDS / world / checkpoint.WEIGHTS)[0].model_dump()
    beside = load(CONFIGS / f"{world}.yaml").model_dump()
    for part in ("name", "world", "codec", "transformer", "head", "rolling"):
        assert inside[part] == beside[part], part


@each_world
def test_both_runtimes_draw_the_same_pictures(world):
    pictures = []
    for runtime in ("onnx", "torch"):
        game = NeuralGame(world, runtime=runtime, device="cpu", endless=True)
        game.reset(seed=1)
        keys = np.random.default_rng(0).integers(0, 2, (64, len(game.metadata["keys"])), dtype=np.int8)
        pictures.append(np.stack([game.step(key)[0] for key in keys]))
    difference = np.abs(pictures[0].astype(int) - pictures[1]).max(-1)
    assert difference[:16].max() <= 1
    assert (difference > 1).mean() < 0.01  # later a rounding may decide which source a pixel is copied from


@pytest.mark.parametrize("name", ["Arena", "Keep", "NeuralArena", "NeuralKeep", "NeuralDoorkey", "NeuralDodge"])
def test_any_program_can_make_it_by_name(name):
    world = load(CONFIGS / f"{name.removeprefix('Neural').lower()}.yaml").world
    code = (
        "import gymnasium, warnings\n"
        "from gymnasium.utils.env_checker import check_env\n"
        "warnings.simplefilter('error')\n"
        f"env = gymnasium.make('game.register:rollplay/{name}-v0', disable_env_checker=True)\n"
        f"assert env.metadata['keys'] == {world.keys!r}\n"
        f"assert env.metadata['render_fps'] == {world.fps}\n"
        "check_env(env.unwrapped)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
