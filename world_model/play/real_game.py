"""The real game that a world was recorded from, by its Gymnasium id."""

from __future__ import annotations

from importlib.metadata import entry_points

import gymnasium

from world_model.config import World
from world_model.play.runtime import WorldError

ADAPTED = "rollplay/Adapted-v0"
"""The game of a world that says how somebody else's game becomes one (``world.game``)."""
PLUGINS = "gymnasium.envs"
"""Entry points that register a package's games. Gymnasium below 1.0 loads them itself, later versions do not."""


def open_game(world: World) -> gymnasium.Env:
    """The world's own game at the world's size: adapted if the world says how, else one that takes height and width.

    Raises WorldError where there is no such game, or it is not made in this size.
    """
    env = ADAPTED if world.game else world.env
    options = {"world": world} if world.game else {"height": world.height, "width": world.width}
    try:
        load_plugins(env)
        return gymnasium.make(env, disable_env_checker=True, **options)
    except WorldError:
        raise
    except (gymnasium.error.Error, ImportError, TypeError, ValueError) as error:
        size = f"{world.height}x{world.width}"
        raise WorldError(f"world.env {world.env!r}: no such game at {size} ({' '.join(str(error).split())})") from error


def load_plugins(env: str) -> None:
    """Where an id is unknown, load the plugins of its namespace, which register its games."""
    if env not in gymnasium.registry:
        for plugin in entry_points(group=PLUGINS, name=env.partition("/")[0]):
            plugin.load()()
