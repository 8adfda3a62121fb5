"""What a neural world of MiniGrid's Dynamic-Obstacles keeps of the game's rules and odds, read off its frames.

    pip install -e ".[train,minigrid]"
    python docs/dodge_odds.py runs/dodge [another folder ..] [--ablate]

Each world plays with seeds that it never saw, under keys that seldom walk into anything. A frame is the game's where
every tile is one of the game's pictures, and there are one agent and as many balls as there should be.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from itertools import permutations
from pathlib import Path

import gymnasium
import numpy as np
from rich.console import Console
from rich.table import Table

from world_model.config import CONFIGS, load
from world_model.evaluate import ablate
from world_model.play.neural_game import NeuralGame
from world_model.play.runtime import WorldError

TILE, BALLS = 8, 2
STEPS = (0, 1), (1, 0), (0, -1), (-1, 0)  # (down, right) of an agent that looks right, down, left, up
GAMES, TICKS = 60, 60
ALTERED = "tokens_zero", "tokens_mean", "keys at joining", "block by block", "no sinks", "re-forcing"
"""Those of ``ablate.arms`` that a mixture head has, and that change what is played."""
UNSEEN = 500_000
"""Seeds from this one on are in no recording. All games begin in one of some 90 ways; what is new is how they go on."""


class Game:
    """The real game, with the methods that ``play`` calls."""

    def __init__(self):
        import minigrid  # noqa: F401  registers the id

        world = load(CONFIGS / "dodge.yaml").world
        self.env = gymnasium.make(world.env, render_mode="rgb_array", **world.game.kwargs)

    def start(self, seed: int) -> np.ndarray:
        self.env.reset(seed=seed)
        return self.env.render()

    def step(self, key: int) -> tuple[np.ndarray, bool]:
        ended = self.env.step(key)[2]
        return self.env.render(), ended


class Neural:
    """A neural world that starts at the real game's first frame."""

    def __init__(self, game: NeuralGame, real: Game):
        self.game, self.real = game, real

    def start(self, seed: int) -> np.ndarray:
        return self.game.reset(seed=seed, options={"anchors": self.real.start(seed)[None]})[0]

    def step(self, key: int) -> tuple[np.ndarray, bool]:
        frame, _, ended, *_ = self.game.step(np.eye(3, dtype=np.int8)[key])
        return frame, ended


def tiles(frame: np.ndarray) -> np.ndarray:
    """uint8 [n * 8, n * 8, 3] -> [n, n, 192]."""
    n = len(frame) // TILE
    return frame.reshape(n, TILE, n, TILE, 3).swapaxes(1, 2).reshape(n, n, -1)


class Seen:
    """What stands in a frame: ``agent`` (row, column), ``heading`` 0..3, ``balls``; ``right``: nothing else does."""

    def __init__(self, frame: np.ndarray, names: dict[bytes, str]):
        grid = [[names.get(tile.tobytes(), "?") for tile in row] for row in tiles(frame)]
        self.what = {(y, x): name for y, row in enumerate(grid) for x, name in enumerate(row)}
        n, where = len(grid), {}
        for place, name in self.what.items():
            where.setdefault(name.rstrip("0123"), []).append(place)
        walls = {place for place in self.what if {0, n - 1} & set(place)}
        agents, self.balls = where.get("agent", []) + where.get("won", []), where.get("ball", [])
        goal = where.get("goal", []) + where.get("won", [])
        self.right = ("?" not in where and set(where.get("wall", [])) == walls and len(agents) == 1
                      and len(self.balls) == BALLS and goal == [(n - 2, n - 2)])  # fmt: skip
        self.agent = agents[0] if agents else (1, 1)
        self.heading = int(self.what[self.agent][-1]) if agents else 0
        self.ahead = tuple(np.add(self.agent, STEPS[self.heading]).tolist())
        self.clear = self.what.get(self.ahead) in ("floor", "goal")


def pictures(real: Game) -> dict[bytes, str]:
    """The name of each picture that a tile of the game can have."""
    names, env = {}, real.env.unwrapped
    real.env.reset(seed=0)
    for ball in env.obstacles:
        env.grid.set(*ball.cur_pos, None)
    for place, name in (((2, 2), "agent"), ((env.width - 2, env.height - 2), "won")):
        for heading in range(4):
            env.agent_pos, env.agent_dir = np.array(place), heading
            names[tiles(real.env.render())[place[1], place[0]].tobytes()] = f"{name}{heading}"
    env.agent_pos = np.array((3, 3))
    env.grid.set(1, 1, env.obstacles[0])
    grid = tiles(real.env.render())
    places = {"wall": (0, 0), "ball": (1, 1), "floor": (2, 2), "goal": (env.height - 2, env.width - 2)}
    return names | {grid[place].tobytes(): name for name, place in places.items()}


def ways(before: Seen, after: Seen) -> list[tuple[int, int]]:
    """How far (down, right) each ball went, all of them as little as may be."""
    options = ([tuple(np.subtract(b, a).tolist()) for a, b in zip(before.balls, order, strict=True)]
               for order in permutations(after.balls))  # fmt: skip
    return min(options, key=lambda moves: sum(max(map(abs, move)) ** 2 for move in moves))


def play(game: Game | Neural, names: dict[bytes, str], first: int = 0) -> tuple[dict[str, float], Counter]:
    """Measures by name, and how often balls went each way, in games from the number ``first`` on."""
    moves, counts = Counter(), Counter()
    for number in range(first, first + GAMES):
        rng, before = np.random.default_rng(number), Seen(game.start(UNSEEN + number), names)
        whole = True
        for tick in range(TICKS):
            key = int(rng.choice(3, p=(0.25, 0.25, 0.5)))
            key = int(rng.integers(2)) if key == 2 and not before.clear and rng.random() < 0.9 else key
            frame, ended = game.step(key)
            after = Seen(frame, names)
            whole &= after.right
            counts += Counter(frames=1, right=after.right, late=tick >= 20, right_late=tick >= 20 and after.right)
            if before.right:
                counts += Counter(went_on=1, right_again=after.right)
                hit = key == 2 and not before.clear
                due = hit or (key == 2 and before.what.get(before.ahead) == "goal")
                counts += Counter(due=due, told=due and ended, said=ended, true=due and ended)
                if after.right and not hit:
                    heading = before.heading if key == 2 else (before.heading + (1 if key else -1)) % 4
                    agent = before.ahead if key == 2 and before.ahead not in after.balls else before.agent
                    counts += Counter(moves=1, obeyed=(agent, heading) == (after.agent, after.heading))
                    moves += Counter(ways(before, after))
            before = after
            if ended:
                break
        counts += Counter(whole=whole)
    said = {
        "next frame right, after a right one": counts["right_again"] / max(1, counts["went_on"]),
        "frames right": counts["right"] / counts["frames"],
        "... from tick 20 on": counts["right_late"] / max(1, counts["late"]),
        "games right to their end": counts["whole"] / GAMES,
        "key obeyed": counts["obeyed"] / max(1, counts["moves"]),
        "ends foretold": counts["told"] / max(1, counts["due"]),
        "foretold ends true": counts["true"] / max(1, counts["said"]),
        "ticks": counts["frames"],
    }
    return said, moves


def apart(moves: Counter, others: Counter) -> float:
    """Total variation between two sets of odds."""
    a, b = max(1, sum(moves.values())), max(1, sum(others.values()))
    return sum(abs(moves[way] / a - others[way] / b) for way in moves | others) / 2


def played(folders: list[str], altered: bool) -> dict[str, NeuralGame]:
    """The worlds in ``folders`` by name, and where it is ``altered`` the first with one part of its tick changed."""
    games = {Path(folder).name: NeuralGame("dodge", folder, "torch") for folder in folders}
    arms = ablate.arms(Path(folders[0]), "dodge", "cpu", {}) if altered else []
    for arm in arms:
        if arm.name in ALTERED:
            games[arm.name] = arm.game()
            games[arm.name].endless = False
    return games


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", help="of weights of dodge")
    parser.add_argument("--ablate", action="store_true", help="the first of them with one part changed, too")
    flags, real = parser.parse_args(), Game()
    names = pictures(real)
    try:
        neural = played(flags.folders, flags.ablate)
    except WorldError as error:
        parser.error(str(error))
    measured = {"the game": play(real, names)} | {n: play(Neural(game, real), names) for n, game in neural.items()}
    others = play(real, names, GAMES)[1]
    table = Table(
        "", *measured["the game"][0], "balls' ways off by", title=f"{GAMES} games, {TICKS} ticks or to an end"
    )
    for name, (said, moves) in measured.items():
        table.add_row(name, *(f"{value:.3g}" for value in said.values()), f"{apart(moves, others):.3f}")
    Console(width=None if sys.stdout.isatty() else 160).print(table)


if __name__ == "__main__":
    main()
