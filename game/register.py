"""Gymnasium ids of the worlds, real and neural; importing this module registers them.

Imports nothing heavy: the classes load when an environment is made.
"""

NEURAL = "world_model.play.neural_game:NeuralGame"
WORLDS = {
    "rollplay/Adapted-v0": ("game.worlds.adapter:Adapted", {}),
    "rollplay/Keep-v0": ("game.worlds.keep:Keep", {}),
    "rollplay/WildKeep-v0": ("game.worlds.wild_keep:WildKeep", {}),
    "rollplay/NeuralKeep-v0": (NEURAL, {"world": "keep"}),
    "rollplay/Arena-v0": ("game.worlds.arena:Arena", {}),
    "rollplay/NeuralArena-v0": (NEURAL, {"world": "arena"}),
}


def register_worlds() -> None:
    """Register the names of ``WORLDS``; again changes nothing."""
    from gymnasium.envs import registration  # here, because Gymnasium calls this while it is itself being imported

    for name, (entry_point, choices) in WORLDS.items():
        if name not in registration.registry:
            registration.register(id=name, entry_point=entry_point, kwargs=choices)


register_worlds()
