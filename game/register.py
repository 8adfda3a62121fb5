"""Gymnasium ids of both worlds. Imports nothing heavy: the classes load when an environment is made."""

WORLDS = {
    "rollplay/Arena-v0": "game.arena:Arena",
    "rollplay/NeuralArena-v0": "world_model.neural_game:NeuralGame",
}


def register_worlds() -> None:
    """Register ``rollplay/Arena-v0`` and ``rollplay/NeuralArena-v0``; calling it again changes nothing."""
    from gymnasium.envs import registration  # here, because Gymnasium calls this while it is itself being imported

    for name, entry_point in WORLDS.items():
        if name not in registration.registry:
            registration.register(id=name, entry_point=entry_point)
