"""The wild keep: the keep's rooms and rules, with chance in them. The slime turns round as it likes, a bat flutters,
coins come and go, torches flicker, and three hearts are all there is.

A coin, a slime and a bat give a point (reward 1); a touch of slime or bat costs a heart (reward -1) and spares the hero
for a while. Chance is drawn from ``dice``, one number of the game's state: everything follows from (seed, actions), and
the same moment goes on otherwise under other dice. The constants below are all the odds there are.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from game.worlds import keep
from game.worlds.keep import (
    COLOURS,
    E_HELD,
    EDGE,
    FACING,
    HEROES,
    LIGHTS,
    NIGHT,
    ROOM,
    SLIME_ALIVE,
    SLIME_TURN,
    SLIME_X,
    SLIME_Y,
    SLIMES,
    SPARK_ALIVE,
    SPARK_FACING,
    SPARK_X,
    SPARK_Y,
    SPARKS,
    E,
    Keep,
    X,
    Y,
)  # fmt: skip
from game.worlds.keep_rooms import SCREEN, SIDE, TILE, art, make_keep

TURN = 1 / 8
"""Odds that a slime turns round before it leaves a tile, whenever it stands on whole tiles."""
FLUTTER = 1 / 8
"""Odds a tick that the bat takes another of its eight ways, each as likely."""
FLICKER = 1 / 6
"""Odds a tick that a torch takes another of its pictures, each as likely."""
COIN, FADE = 1 / 24, 1 / 160
"""Odds a tick that a coin appears on a free tile, each as likely, where there are fewer than COINS; that it goes."""
COINS, TORCHES, HEARTS, SPARED, MOST = 2, 2, 3, 30, 99
"""At most so many coins and torches in a room; hearts to begin with; ticks that a touch spares; most points."""
FLAP = 2
"""Pixels a tick and axis: the bat."""
NEAR = 24
"""The bat of a room that is entered is at least so many pixels from the hero, both axes together."""

# Fields of what is wild in a state, int64 [16]; a coin has three, a torch one: its picture.
POINTS, HEART, HURT, BAT_X, BAT_Y, BAT_WAY, BAT_WING, BAT_ALIVE, COIN_X, COIN_Y, COIN_ALIVE = range(11)
TORCH = COIN_X + 3 * COINS
FIELDS = ("points", "hearts", "hurt", "bat_x", "bat_y", "bat_way", "bat_wing", "bat_alive",
          "coin_1_x", "coin_1_y", "coin_1_alive", "coin_2_x", "coin_2_y", "coin_2_alive",
          "torch_1", "torch_2")  # fmt: skip
HIGHEST = np.array([MOST, HEARTS, SPARED, EDGE, EDGE, 7, 1, 1, *[EDGE, EDGE, 1] * COINS, *[2] * TORCHES])
WAYS = np.array([[1, 0], [1, 1], [0, 1], [-1, 1], [-1, 0], [-1, -1], [0, -1], [1, -1]])

# Numba compiles what is imported from keep.py in, and its cache does not watch that: after a change, save this file.


class WildKeep(Keep):
    """The wild keep as a Gymnasium environment: ``rollplay/WildKeep-v0``, a Keep but for what follows.

    An episode terminates where no heart is left; the step after that begins the next one, in the same keep (as
    ``gymnasium.wrappers.Autoreset`` does it) but under the dice that are left, so that it takes another course.
    ``info`` holds besides: points, hearts, hurt (ticks that the hero is spared still), bat (x, y, alive), coins and
    torches (a tuple of x, y each). The state has the arrays ``wild`` and ``dice`` (uint64; any number will do) more.
    """

    metadata = Keep.metadata | {"autoreset": True}

    def step(self, action):
        keys = keep.checked(action, keep.KEEP_KEYS)
        reward = 0
        if self._wild[HEART]:
            row, wild, places = self._state, self._wild, self._map
            reward = _advance(row, wild, self._dice, places.solid, places.burrows, self._torches, keys)
        else:
            self._begin()
            self._state[E_HELD] = keys[E]
        return self._draw(), float(reward), not self._wild[HEART], False, self._info()

    def anchors(self) -> np.ndarray:
        """uint8 [4, 64, 64, 3]: the map, the four rooms lit, torches in their first picture, nothing else."""
        pictures = super().anchors()
        for picture, torches in zip(pictures, self._torches, strict=True):
            _draw_torches(picture, torches, np.zeros(TORCHES, np.int64), TORCH_PICTURES, COLOURS)
        return pictures

    @property
    def score(self) -> float:
        """Sum of the episode's rewards so far, as long as the points are fewer than ``MOST``."""
        return float(self._wild[POINTS] + self._wild[HEART] - HEARTS)

    def get_state(self) -> dict[str, np.ndarray]:
        return super().get_state() | {"wild": self._wild.copy(), "dice": np.array(self._dice[0])}

    def set_state(self, state: dict[str, np.ndarray]) -> None:
        if set(state) != {"seed", "state", "wild", "dice"}:
            raise ValueError(f"a wild keep's state has the arrays seed, state, wild and dice, not {', '.join(state)}")
        wild, dice = np.asarray(state["wild"]), np.asarray(state["dice"])
        if dice.shape != () or dice.dtype.kind not in "iu" or dice < 0:
            raise ValueError("a wild keep's dice are one whole number, 0 or more and less than 2^64")
        if wild.shape != HIGHEST.shape or wild.dtype.kind not in "iu":
            raise ValueError(f"a wild keep's wild is {len(FIELDS)} whole numbers: {', '.join(FIELDS)}")
        wrong = [name for name, bad in zip(FIELDS, (wild < 0) | (wild > HIGHEST), strict=True) if bad]
        if wrong:
            raise ValueError(f"a wild keep's state is out of range: {', '.join(wrong)}")
        super().set_state({"seed": state["seed"], "state": state["state"]})
        self._wild[:], self._dice[0] = wild, dice

    def provenance(self) -> dict:
        return super().provenance() | {"world": "wild", "env": "rollplay/WildKeep-v0"}

    def _enter(self, seed: int) -> None:
        rng, solids = np.random.default_rng([int(seed), 0xD1CE]), make_keep(seed).solid
        self._torches = np.stack([_torch_places(rng, solid) for solid in solids])
        self._dice = rng.integers(2**64, size=1, dtype=np.uint64)
        super()._enter(seed)

    def _begin(self) -> None:
        """An episode begins: hero and slime as in the keep, the rest as chance has it."""
        super()._begin()
        self._wild = np.zeros(len(FIELDS), np.int64)
        self._wild[HEART] = HEARTS
        _enter_room(self._state, self._wild, self._dice)

    def _draw(self) -> np.ndarray:
        frame = self._map.pictures[self._state[ROOM]].copy()
        _draw_all(self._state, self._wild, self._torches, frame)
        return frame

    def _info(self) -> dict:
        info, wild = super()._info(), self._wild.tolist()
        rows = [wild[at : at + 3] for at in range(COIN_X, TORCH, 3)]
        coins = {f"coin_{i}": (x, y) for i, (x, y, alive) in enumerate(rows, 1) if alive}
        places = self._torches[self._state[ROOM]].tolist()
        torches = {f"torch_{i}": (x, y) for i, (x, y) in enumerate(places, 1) if x >= 0}
        bat = {"bat": (wild[BAT_X], wild[BAT_Y])} if wild[BAT_ALIVE] else {}
        sprites = {name: (x, y, TILE, TILE) for name, (x, y) in (torches | coins | bat).items()}
        digits = 2 if wild[POINTS] > 9 else 1
        return info | {
            "points": wild[POINTS],
            "hearts": wild[HEART],
            "hurt": wild[HURT],
            "bat": (wild[BAT_X], wild[BAT_Y], bool(wild[BAT_ALIVE])),
            "coins": tuple(coins.values()),
            "torches": tuple(torches.values()),
            "sprites": info["sprites"]
            | sprites
            | {"points": (0, 0, 4 * digits + 1, 7), "hearts": (HEARTS_X, 0, SCREEN - HEARTS_X, 6)},
        }


def _torch_places(rng: np.random.Generator, solid: np.ndarray) -> np.ndarray:
    """int64 [TORCHES, 2]: x and y of one or two tiles of a room's outer wall, none where points or hearts are shown;
    -1 for a torch that the room does not have."""
    places = np.argwhere(solid)
    row, column = places.T
    side = (column % (SIDE - 1) == 0) & (row % (SIDE - 1) != 0)
    along = (row % (SIDE - 1) == 0) & (column > 1) & (column < 5)
    walls = places[side | along]
    chosen = rng.choice(len(walls), TORCHES, replace=False)
    torches = walls[chosen][:, ::-1] * TILE
    if rng.random() < 0.5:
        torches[1] = -1
    return torches


# ---------------------------------------------------------------- dice


@njit(cache=True)
def _roll(dice):
    """The next draw, from [0, 1): splitmix64."""
    dice[0] += np.uint64(0x9E3779B97F4A7C15)
    z = dice[0]
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return ((z ^ (z >> np.uint64(31))) >> np.uint64(11)) * 2.0**-53


@njit(cache=True)
def _pick(dice, count):
    """A whole number from 0 to count - 1."""
    return int(_roll(dice) * count)


@njit(cache=True)
def _another(dice, old, count):
    """One of the other numbers from 0 to count - 1."""
    return (old + 1 + _pick(dice, count - 1)) % count


# ---------------------------------------------------------------- rules


@njit(cache=True)
def _advance(row, wild, dice, solids, burrows, torches, keys):
    """One tick of a state, in place; the reward. A doorway takes the whole tick, as in the keep."""
    before, points, hearts = row[ROOM], wild[POINTS], wild[HEART]
    if row[SLIME_ALIVE] and row[SLIME_X] % TILE == 0 and _roll(dice) < TURN:
        row[SLIME_TURN] = -row[SLIME_TURN]
    had_slime = row[SLIME_ALIVE]
    keep._advance(row, solids, burrows, keys)
    if row[ROOM] != before:
        _enter_room(row, wild, dice)
        return 0
    gained = had_slime - row[SLIME_ALIVE]
    gained += _fly(row, wild, dice) + _coins(row, wild, dice, solids[before])
    for i in range(TORCHES):
        if torches[before, i, 0] >= 0 and _roll(dice) < FLICKER:
            wild[TORCH + i] = _another(dice, wild[TORCH + i], 3)
    _hurt(row, wild)
    wild[POINTS] = min(points + gained, MOST)
    return gained + wild[HEART] - hearts


@njit(cache=True)
def _enter_room(row, wild, dice):
    """A room is entered: its bat is somewhere far from the hero, there is no coin yet."""
    wild[COIN_X:] = 0
    wild[BAT_ALIVE], wild[BAT_WAY] = 1, _pick(dice, 8)
    wild[BAT_X], wild[BAT_Y] = row[X], row[Y]
    while abs(wild[BAT_X] - row[X]) + abs(wild[BAT_Y] - row[Y]) < NEAR:
        wild[BAT_X], wild[BAT_Y] = _pick(dice, SIDE) * TILE, _pick(dice, SIDE) * TILE


@njit(cache=True)
def _fly(row, wild, dice):
    """The bat flutters on, over everything, and is thrown back by the screen's edge; 1 where a spark ends it."""
    if not wild[BAT_ALIVE]:
        return 0
    if _roll(dice) < FLUTTER:
        wild[BAT_WAY] = _another(dice, wild[BAT_WAY], 8)
    wild[BAT_WING] = 1 - wild[BAT_WING]
    dx, dy = WAYS[wild[BAT_WAY], 0], WAYS[wild[BAT_WAY], 1]
    x, y = wild[BAT_X] + FLAP * dx, wild[BAT_Y] + FLAP * dy
    dx, dy = -dx if x < 0 or x > EDGE else dx, -dy if y < 0 or y > EDGE else dy
    for way in range(8):
        if WAYS[way, 0] == dx and WAYS[way, 1] == dy:
            wild[BAT_WAY] = way
    wild[BAT_X] += FLAP * dx
    wild[BAT_Y] += FLAP * dy
    if row[SPARK_ALIVE] and _meet(row[SPARK_X], row[SPARK_Y], wild[BAT_X], wild[BAT_Y]):
        row[SPARK_ALIVE], wild[BAT_ALIVE] = 0, 0
    return 1 - wild[BAT_ALIVE]


@njit(cache=True)
def _coins(row, wild, dice, solid):
    """Coins are taken, fade and appear; the number taken."""
    taken, there = 0, 0
    for coin in range(COIN_X, TORCH, 3):
        if wild[coin + 2] and _meet(row[X], row[Y], wild[coin], wild[coin + 1]):
            wild[coin + 2] = 0
            taken += 1
        elif wild[coin + 2] and _roll(dice) < FADE:
            wild[coin + 2] = 0
        there += wild[coin + 2]
    if there < COINS and _roll(dice) < COIN:
        _toss(row, wild, dice, solid)
    return taken


@njit(cache=True)
def _toss(row, wild, dice, solid):
    """A coin appears: on a free tile within the room where neither a coin nor the hero is."""
    slot, free = 0, np.zeros((SIDE, SIDE), np.bool_)
    free[1:-1, 1:-1] = ~solid[1:-1, 1:-1]
    for r in range(SIDE):
        for c in range(SIDE):
            free[r, c] &= abs(row[X] - c * TILE) >= TILE or abs(row[Y] - r * TILE) >= TILE
    for coin in range(COIN_X, TORCH, 3):
        if wild[coin + 2]:
            free[wild[coin + 1] // TILE, wild[coin] // TILE] = False
        else:
            slot = coin
    places = np.argwhere(free)
    if len(places):
        place = places[_pick(dice, len(places))]
        wild[slot], wild[slot + 1], wild[slot + 2] = place[1] * TILE, place[0] * TILE, 1


@njit(cache=True)
def _hurt(row, wild):
    """A touch of bat or slime costs a heart, but for a while after the last."""
    x, y = abs(row[X] - row[SLIME_X]), abs(row[Y] - row[SLIME_Y])
    slime = row[SLIME_ALIVE] and x <= TILE and y <= TILE and x + y < 2 * TILE  # they stop each other side by side
    bat = wild[BAT_ALIVE] and _meet(row[X], row[Y], wild[BAT_X], wild[BAT_Y])
    if wild[HURT]:
        wild[HURT] -= 1
    elif slime or bat:
        wild[HEART], wild[HURT] = wild[HEART] - 1, SPARED


@njit(cache=True)
def _meet(x, y, other_x, other_y):
    return abs(x - other_x) < 6 and abs(y - other_y) < 6


# ---------------------------------------------------------------- pictures


def _draw_all(row, wild, torches, frame) -> None:
    """Draw a state, and then the dark, onto the picture uint8 [64, 64, 3] of its room."""
    _draw_torches(frame, torches[row[ROOM]], wild[TORCH:], TORCH_PICTURES, COLOURS)
    _draw_wild(row, wild, HEROES, SLIMES, SPARKS, COINS_AND_HEARTS, DIGITS, COLOURS, BATS, BAT_COLOURS, frame)
    if not row[LIGHTS]:
        keep._darken(NIGHT, frame)


@njit(cache=True)
def _draw_torches(frame, places, shown, torches, colours):
    for i in range(TORCHES):
        if places[i, 0] >= 0:
            keep._blit(frame, places[i, 0], places[i, 1], torches[shown[i]], colours)


@njit(cache=True)
def _draw_wild(row, wild, heroes, slimes, sparks, things, digits, colours, bats, bat_colours, frame):
    for coin in range(COIN_X, TORCH, 3):
        if wild[coin + 2]:
            keep._blit(frame, wild[coin], wild[coin + 1], things[0], colours)
    if row[SLIME_ALIVE]:
        keep._blit(frame, row[SLIME_X], row[SLIME_Y], slimes[(row[SLIME_TURN] + 1) // 2], colours)
    if wild[HURT] // 2 % 2 == 0:
        keep._blit(frame, row[X], row[Y], heroes[row[FACING], (row[X] + row[Y]) // 4 % 2], colours)
    if row[SPARK_ALIVE]:
        keep._blit(frame, row[SPARK_X], row[SPARK_Y], sparks[row[SPARK_FACING]], colours)
    if wild[BAT_ALIVE]:
        keep._blit(frame, wild[BAT_X], wild[BAT_Y], bats[wild[BAT_WING]], bat_colours)
    for i in range(HEARTS):
        keep._blit(frame, HEARTS_X + 6 * i, 0, things[1 if i < wild[HEART] else 2], colours)
    if wild[POINTS] > 9:
        keep._blit(frame, 0, 0, digits[wild[POINTS] // 10], colours)
    keep._blit(frame, 4 if wild[POINTS] > 9 else 0, 0, digits[wild[POINTS] % 10], colours)


HEARTS_X = SCREEN - 6 * HEARTS - 2
BAT_COLOURS = np.array([COLOURS[0], [146, 92, 220], COLOURS[1]], np.uint8)
BATS = np.array([
    art("0......0 010..010 01100110 01111110 .012210. ..0110.. ...00... ........"),
    art("........ ..0..0.. ..0110.. .012210. 01111110 01100110 010..010 0......0"),
])  # fmt: skip
COINS_AND_HEARTS = np.array([
    art("..0000.. .077780. 07744780 07747780 07747780 07777880 .078880. ..0000.."),
    art("0000000. 0110110. 0111110. 0011100. 0001000. 0000000. ........ ........"),
    art("0000000. 0000000. 0000000. 0000000. 0000000. 0000000. ........ ........"),
])  # fmt: skip
TORCH_PICTURES = np.array([
    art("..0000.. .008000. 00087800 00877800 00874800 00088000 .009900. ..0990.."),
    art("..0000.. .080000. 00888000 00877800 00074800 00088000 .009900. ..0990.."),
    art("..0000.. .000000. 00000800 00088000 00877800 00088000 .009900. ..0990.."),
])  # fmt: skip


def _digits() -> np.ndarray:
    """int8 [10, 8, 8]: 0 to 9, white on dark, 5x7 with a rim."""
    rows = ("444 .4. 444 444 4.4 444 444 444 444 444", "4.4 44. ..4 ..4 4.4 4.. 4.. ..4 4.4 4.4",
            "4.4 .4. 444 444 444 444 444 .4. 444 444", "4.4 .4. 4.. ..4 ..4 ..4 4.4 .4. 4.4 ..4",
            "444 444 444 444 ..4 444 444 .4. 444 444")  # fmt: skip
    digits = np.full((10, TILE, TILE), -1, np.int8)
    digits[:, :7, :5] = 0
    for y, row in enumerate(rows, 1):
        for digit, bits in enumerate(row.split()):
            digits[digit, y, 1:4] = [4 * (bit == "4") for bit in bits]
    return digits


DIGITS = _digits()
