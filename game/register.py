"""Gymnasium ids of both worlds. Imports nothing heavy: the classes load when an environment is made."""

from gymnasium.envs import registration

WORLDS = {
    "rollplay/Arena-v0": "game.arena:Arena",
    "rollplay/NeuralArena-v0": "world_model.neural_game:NeuralGame",
}


def register_worlds() -> None:
    """Register ``rollplay/Arena-v0`` and ``rollplay/NeuralArena-v0``; calling it again changes nothing."""
    for name, entry_point in WORLDS.items():
        if name not in registration.registry:
            registration.register(id=name, entry_point=entry_point)
