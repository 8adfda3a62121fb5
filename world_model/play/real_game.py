"""The real game that a world was recorded from, by its Gymnasium id."""

from __future__ import annotations

from importlib.metadata import entry_points

import gymnasium

from world_model.config import World
from world_model.play.runtime import WorldError

PLUGINS = "gymnasium.envs"
"""The entry points by which a package names its games. Gymnasium loads them below 1.0, and no longer since."""


def open_game(world: World) -> gymnasium.Env:
    """The world's own game at the world's size; any Gymnasium environment that takes height and width.

    Where the id is not known yet, the installed packages that say that they have its namespace are asked for it.
    Raises WorldError where there is no such game, or it is not made in this size.
    """
    if world.env not in gymnasium.registry:
        for plugin in entry_points(group=PLUGINS, name=world.env.partition("/")[0]):
            plugin.load()()
    try:
        return gymnasium.make(world.env, disable_env_checker=True, height=world.height, width=world.width)
    except (gymnasium.error.Error, ImportError, TypeError, ValueError) as error:
        size = f"{world.height}x{world.width}"
        raise WorldError(f"world.env {world.env!r}: no such game at {size} ({' '.join(str(error).split())})") from error
