"""What a neural world of Atari's Pong keeps of the game's things, read off its frames, beside the real game.

    pip install -e ".[train,atari]"
    python docs/pong_objects.py runs/pong [another folder ..]

All are played by ``pong_player.py``, which sees their own frames, with seeds that no recording has. A thing is whole
where it has the game's size, and there is one of it; the score is where it is one of the game's pictures of numbers.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
from pong_player import BALL, BOTTOM, FIELD, OTHER, OWN, TOP, Ponger, is_near
from rich.console import Console
from rich.table import Table

from game.worlds.adapter import fitted, opened
from game.worlds.sources import real_game
from world_model.config import CONFIGS, Config, World, load
from world_model.play.neural_game import NeuralGame
from world_model.play.runtime import WorldError

GAMES, TICKS, MINUTE = 4, 1200, 900
"""Games, ticks of each, and those of a minute: what comes after it is measured apart."""
SIZES = {"ball": (1, 2), "own paddle": (2, 8), "enemy": (2, 8)}
"""Columns and rows of what is whole; a thing may be cut by the field's upper or lower edge."""
SCORES, HIGHEST = (13, 14), 20
"""Where the machine keeps the scores of the enemy and of the player, and the highest before it begins again."""
UNSEEN = 500_000
"""Seeds from this one on are in no recording."""


class Game:
    """The real game, with the methods that ``play`` calls."""

    def __init__(self, config: Config):
        self.keys, self.game = config.world.keys, real_game(config)

    def start(self, seed: int) -> np.ndarray:
        return self.game.reset(seed=seed)[0]

    def step(self, keys: np.ndarray) -> tuple[np.ndarray, float, bool]:
        frame, reward, *ends, _ = self.game.step(keys)
        return frame, reward, any(ends)


class Neural(Game):
    """A neural world that starts at the real game's first frame."""

    def __init__(self, folder: str, real: Game):
        self.keys, self.game, self.real = real.keys, NeuralGame("pong", folder), real

    def start(self, seed: int) -> np.ndarray:
        return self.game.reset(seed=seed, options={"anchors": self.real.start(seed)[None]})[0]


def numbers(world: World) -> tuple[dict[bytes, int], dict[bytes, int]]:
    """The numbers of the pictures of either score, which the machine is made to show."""
    game, _ = opened(world.env, world.game)
    game.reset(seed=0)
    game.step(0)
    pictures: tuple[dict[bytes, int], dict[bytes, int]] = {}, {}
    for number in range(HIGHEST + 1):
        for place in SCORES:
            game.unwrapped.ale.setRAM(place, number)
        for picture, half in zip(pictures, halves(fitted(game.step(0)[0], world)), strict=True):
            picture[half] = number
    return pictures


def halves(frame: np.ndarray) -> tuple[bytes, bytes]:
    """The enemy's score and the player's, as pictures."""
    middle = frame.shape[1] // 2
    return frame[:TOP, :middle].tobytes(), frame[:TOP, middle:].tobytes()


def things(frame: np.ndarray, colour: tuple[int, int, int]) -> np.ndarray:
    """What has a colour, piece by piece [n, 4]: column, row, columns, rows."""
    return cv2.connectedComponentsWithStats(is_near(frame, colour).astype(np.uint8), connectivity=8)[2][1:, :4]


def is_whole(found: np.ndarray, size: tuple[int, int]) -> bool:
    """Whether one thing was found, of its size, or cut by an edge."""
    if len(found) != 1 or found[0, 2] != size[0]:
        return False
    _, row, _, rows = found[0]
    return rows == size[1] or (rows < size[1] and (row == 0 or row + rows == BOTTOM - TOP))


def seen(frame: np.ndarray, shown: tuple[int | None, ...]) -> dict[str, bool]:
    """What of a frame that shows these scores is as it should be."""
    found = {"ball": things(frame, BALL), "own paddle": things(frame, OWN), "enemy": things(frame, OTHER)}
    there = {name: len(pieces) > 0 for name, pieces in found.items()}
    right = {name: is_whole(found[name], size) for name, size in SIZES.items()}
    right |= {name: right[name] or not there[name] for name in ("ball", "enemy")}  # they are not always there
    right["score"] = None not in shown
    field = sum(is_near(frame, colour) for colour in (BALL, OWN, OTHER, FIELD)).all()
    return right | {"all of these": bool(field) and all(right.values()), "a ball in sight": there["ball"]}


def plus(shown: tuple[int | None, ...], more: tuple[bool, bool]) -> tuple[int | None, ...]:
    """Scores after a point; None where no number was to be read."""
    return tuple(None if n is None else n + one for n, one in zip(shown, more, strict=True))


def play(game: Game, scores: tuple[dict[bytes, int], ...]) -> dict[str, str]:
    """Shares and numbers by name, in all ticks and in those after the first minute."""
    counts, late = Counter(), Counter()
    for number in range(GAMES):
        frame, player = game.start(UNSEEN + number), Ponger(number, game.keys)
        before = after = due = None
        for tick in range(TICKS):
            frame, reward, ended = game.step(player.act(frame, {}))
            before, after = after, tuple(known.get(half) for half, known in zip(halves(frame), scores, strict=True))
            told = seen(frame, after)
            counts += Counter(told)
            late += Counter(told if tick >= MINUTE else ())
            counts += Counter({"points counted": due is not None and after == due})
            due = None
            if reward:
                counts += Counter({"points": 1, "of the enemy": reward < 0})
                due = before and plus(before, (reward < 0, reward > 0))
            if ended:
                counts += Counter({"ends": 1})
                frame = game.start(UNSEEN + number + GAMES)
                after = due = None
    names = [*SIZES, "score", "all of these", "a ball in sight"]
    shares = {n: f"{counts[n] / GAMES / TICKS:.3f} / {late[n] / GAMES / (TICKS - MINUTE):.3f}" for n in names}
    return shares | {n: str(counts[n]) for n in ("points", "of the enemy", "points counted", "ends")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", help="of weights of pong")
    flags, config = parser.parse_args(), load(CONFIGS / "pong.yaml")
    real, scores = Game(config), numbers(config.world)
    try:
        neural = {Path(folder).name: Neural(folder, real) for folder in flags.folders}
    except WorldError as error:
        parser.error(str(error))
    measured = {name: play(game, scores) for name, game in ({"the game": real} | neural).items()}
    table = Table("", *measured["the game"], title=f"{GAMES} games of {TICKS} ticks: all / after the first minute")
    for name, said in measured.items():
        table.add_row(name, *said.values())
    Console(width=None if sys.stdout.isatty() else 160).print(table)


if __name__ == "__main__":
    main()
