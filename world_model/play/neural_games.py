"""Many neural games at once, for training an agent in them: their states are stacked, and one step is taken for all.

games = gymnasium.make_vec("game.register:rollplay/NeuralKeep-v0", num_envs=16)
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from world_model.play.neural_game import NeuralGame
from world_model.play.runtime import TorchRuntime, WorldError


class NeuralGames(VectorEnv):
    """``num_envs`` neural games, as Gymnasium's vector environments are. ``choices`` are those of ``NeuralGame``.

    ``reset(seed=n)`` gives game i the seed n + i; a list gives each its own. Each makes the frames that a single game
    makes of its seed and keys. A game whose episode has ended begins the next, in a scene that it draws, at the next
    step, which ignores its action (AutoresetMode.NEXT_STEP). Raises WorldError without PyTorch: graphs are for one.
    """

    metadata: ClassVar[dict[str, Any]] = {"render_modes": ["rgb_array"], "autoreset_mode": AutoresetMode.NEXT_STEP}

    def __init__(self, num_envs: int = 1, **choices):
        game = NeuralGame(**{"runtime": "torch"} | choices)
        if not isinstance(game.runtime, TorchRuntime):
            raise WorldError("ONNX Runtime's graphs are for one game: for many, leave out runtime, or make it torch")
        self.games = [copy.copy(game) for _ in range(num_envs)]  # one runtime for all
        self.num_envs, self.render_mode, self._over = num_envs, game.render_mode, np.zeros(num_envs, bool)
        self.metadata = game.metadata | self.metadata
        self.single_observation_space, self.single_action_space = game.observation_space, game.action_space
        self.observation_space, self.action_space = (
            batch_space(space, num_envs) for space in (game.observation_space, game.action_space)
        )

    def reset(self, *, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None):
        if seed is None or isinstance(seed, int):
            seed = [None if seed is None else seed + i for i in range(self.num_envs)]
        self._over[:] = False
        pairs = zip(self.games, seed, strict=True)
        return np.stack([game.reset(seed=of_game, options=options)[0] for game, of_game in pairs]), {}

    def step(self, actions: np.ndarray):
        """actions [num_envs, keys]."""
        pairs = [*zip(self.games, actions, strict=True)]
        going = [(game, game.accept(keys)) for over, (game, keys) in zip(self._over, pairs, strict=True) if not over]
        self._generate([game for game, _ in going if game.is_due])
        shown = {game: game.show(keys) for game, keys in going}
        results = [shown[game] if game in shown else (game.reset()[0], 0.0, False, False, {}) for game in self.games]
        frames, *outcomes, _ = zip(*results, strict=True)
        rewards, self._over, truncated = map(np.array, outcomes)
        return np.stack(frames), rewards, self._over.copy(), truncated, {}

    def render(self) -> tuple[np.ndarray | None, ...]:
        return tuple(game.render() for game in self.games)

    def _generate(self, games: Sequence[NeuralGame]) -> None:
        """Generate the next block of each of ``games``, in one step of the network."""
        if not games:
            return
        runtime = games[0].runtime
        states, keys, noise = zip(*(game.request() for game in games), strict=True)
        states, latents = runtime.step_many(states, np.concatenate(keys), np.concatenate(noise))
        frames = runtime.decode(latents)
        for game, state, own in zip(games, states, np.split(frames, len(games)), strict=True):
            game.take_block(state, own)
