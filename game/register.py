"""Gymnasium ids of the worlds, real and neural; importing this module registers them.

Imports nothing heavy: the classes load when an environment is made.
"""

NEURAL = "world_model.play.neural_game:NeuralGame"
MANY = "world_model.play.neural_games:NeuralGames"
WORLDS = {
    "rollplay/Adapted-v0": ("game.worlds.adapter:Adapted", {}),
    "rollplay/Neural-v0": (NEURAL, {}),
    "rollplay/Keep-v0": ("game.worlds.keep:Keep", {}),
    "rollplay/WildKeep-v0": ("game.worlds.wild_keep:WildKeep", {}),
    "rollplay/NeuralKeep-v0": (NEURAL, {"world": "keep"}),
    "rollplay/Arena-v0": ("game.worlds.arena:Arena", {}),
    "rollplay/NeuralArena-v0": (NEURAL, {"world": "arena"}),
    "rollplay/NeuralDoorkey-v0": (NEURAL, {"world": "doorkey"}),
    "rollplay/NeuralDodge-v0": (NEURAL, {"world": "dodge"}),
}


def register_worlds() -> None:
    """Register the ids of the worlds; again changes nothing. ``rollplay/Neural-v0`` is told ``world`` and
    ``checkpoint``."""
    from gymnasium.envs import registration  # here, because Gymnasium calls this while it is itself being imported

    for name, (entry_point, choices) in WORLDS.items():
        if name not in registration.registry:
            many = MANY if entry_point == NEURAL else None
            registration.register(id=name, entry_point=entry_point, kwargs=choices, vector_entry_point=many)


register_worlds()
