"""The odds that are read off frames of Dynamic-Obstacles: a game by its rules scores 1, and what is wrong shows."""

import importlib.util
from collections import Counter

import numpy as np
import pytest

from world_model.config import REPOSITORY

SPEC = importlib.util.spec_from_file_location("dodge_odds", REPOSITORY / "docs" / "dodge_odds.py")
odds = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(odds)
SIDE, KINDS = 6, ["wall", "floor", "goal", "ball", *(f"{n}{way}" for n in ("agent", "won") for way in range(4))]
PICTURES = np.random.default_rng(0).integers(0, 255, (len(KINDS), odds.TILE, odds.TILE, 3), np.uint8)
NAMES = {picture.tobytes(): kind for picture, kind in zip(PICTURES, KINDS, strict=True)}


class Rules:
    """The game's rules, written anew; ``broken`` names what does not hold."""

    def __init__(self, broken: str = ""):
        self.broken = broken

    def start(self, seed: int) -> np.ndarray:
        self.rng = np.random.default_rng(seed)
        self.agent, self.heading, self.balls = (1, 1), 0, [(2, 3), (4, 2)]
        return self.drawn()

    def drawn(self) -> np.ndarray:
        grid = np.full((SIDE, SIDE), KINDS.index("wall"))
        grid[1:-1, 1:-1] = KINDS.index("floor")
        grid[-2, -2] = KINDS.index("goal")
        for ball in self.balls:
            grid[ball] = KINDS.index("ball")
        grid[self.agent] = KINDS.index(f"{'won' if self.agent == (4, 4) else 'agent'}{self.heading}")
        return PICTURES[grid].swapaxes(1, 2).reshape(SIDE * odds.TILE, SIDE * odds.TILE, 3)

    def taken(self, place: tuple[int, int]) -> bool:
        return place in (*self.balls, self.agent) or bool({0, SIDE - 1} & set(place))

    def step(self, key: int) -> tuple[np.ndarray, bool]:
        ahead = tuple(np.add(self.agent, odds.STEPS[self.heading]).tolist())
        hit = key == 2 and self.taken(ahead)
        for number, (y, x) in enumerate(self.balls):
            around = [(y + down, x + right) for down in (-1, 0, 1) for right in (-1, 0, 1)]
            free = [place for place in around if not self.taken(place) and place != (4, 4)]
            self.balls[number] = free[0 if self.broken == "odds" else self.rng.integers(len(free))] if free else (y, x)
        if key == 2 and not self.taken(ahead):
            self.agent = ahead
        elif key != 2 and self.broken != "keys":
            self.heading = (self.heading + (1 if key else -1)) % 4
        if self.broken == "balls" and self.rng.random() < 0.1:
            self.balls = self.balls[:1]
        return self.drawn(), (hit or self.agent == (4, 4)) and self.broken != "ends"


def test_a_game_by_its_rules_scores_one_and_has_its_own_odds():
    said, ways = odds.play(Rules(), NAMES)
    assert said.pop("ticks") > 500 and set(said.values()) == {1.0}
    again = odds.play(Rules(), NAMES, odds.GAMES)[1]
    assert odds.apart(ways, again) < 0.06 < 0.3 < odds.apart(odds.play(Rules("odds"), NAMES)[1], again)


@pytest.mark.parametrize(
    ("broken", "measure"),
    [
        ("balls", "frames right"),
        ("balls", "games right to their end"),
        ("keys", "key obeyed"),
        ("ends", "ends foretold"),
    ],
)
def test_what_is_wrong_shows_in_its_measure(broken, measure):
    assert odds.play(Rules(broken), NAMES)[0][measure] < 0.8


def test_balls_are_told_apart_by_the_shortest_ways():
    before, after = (odds.Seen.__new__(odds.Seen) for _ in range(2))
    before.balls, after.balls = [(1, 1), (4, 4)], [(3, 4), (2, 1)]
    assert odds.ways(before, after) == [(1, 0), (-1, 0)]
    assert odds.apart(Counter(a=3, b=1), Counter(a=1, b=1)) == 0.25
