"""Frame sources from what a person asked for: the real game or the neural game."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium

import game.register  # noqa: F401 (registers our worlds, installed or not)
from world_model.config import Config
from world_model.play.neural_game import NeuralGame
from world_model.play.real_game import open_game


@dataclass(frozen=True)
class Neural:
    """Which student to play, and on what."""

    world: str
    checkpoint: Path | None = None
    runtime: str = "auto"
    device: str = "auto"
    policy: str = "hold"
    collapse: str = "watch"


def real_game(config: Config) -> gymnasium.Env:
    """The world's own game at the world's size. Raises WorldError with a message for the person."""
    return open_game(config.world)


def is_compiled(world: str) -> bool:
    """Whether numba keeps what it made of a built-in world at an earlier start; True for a world of somebody else's."""
    import game.worlds.arena as arena  # here, because numba takes a second to import and the neural game needs none

    built_in = Path(arena.__file__).with_name(f"{world}.py").is_file()
    return not built_in or any(Path(arena._advance.stats.cache_path).glob(f"{world}.*.nbi"))


def neural_game(choice: Neural) -> gymnasium.Env:
    """The student of a world. Raises WorldError with a message for the person."""
    return NeuralGame(choice.world, choice.checkpoint, choice.runtime, choice.device, choice.policy, choice.collapse)


def asked(source: gymnasium.Env, verb: str, otherwise: Any = None) -> Any:
    """What a frame source answers to an optional verb, such as ``anchors``; any Gymnasium game may lack it."""
    game = source.unwrapped
    return getattr(game, verb)() if hasattr(game, verb) else otherwise
