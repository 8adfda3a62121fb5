"""Frame sources: the real game of a configuration, and what a source may offer besides."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium

import game.register  # noqa: F401 (registers our worlds, installed or not)
from world_model.config import Config
from world_model.play.real_game import open_game


def real_game(config: Config) -> gymnasium.Env:
    """The real game of a world, at the world's size. WorldError where it cannot be made."""
    return open_game(config.world)


def is_compiled(world: str) -> bool:
    """Whether numba's cache has the functions of a built-in world; True for every other world."""
    import game.worlds.arena as arena  # not at the top: numba takes a second to import, and the neural game needs none

    built_in = Path(arena.__file__).with_name(f"{world}.py").is_file()
    return not built_in or any(Path(arena._advance.stats.cache_path).glob(f"{world}.*.nbi"))


def optional(source: gymnasium.Env, method: str, default: Any = None) -> Any:
    """What a method that a frame source may lack returns, such as ``anchors``; ``default`` where it is missing."""
    game = source.unwrapped
    return getattr(game, method)() if hasattr(game, method) else default


def is_over(source: gymnasium.Env, terminated: bool, truncated: bool) -> bool:
    """Whether a source must be reset to go on. One with ``autoreset`` in its metadata begins its next episode with the
    next step, in the same place: a recording goes on through that, and holds where each ended."""
    return truncated or (terminated and not source.metadata.get("autoreset", False))
