"""The second built-in world: a keep of four rooms seen from above, a screen each, walked with six keys at 20 ticks a
second. W A S D walk, Space holds a spark, which flies when it is let go, E switches the lights; a doorway leads into
the next room. Everything follows from (seed, actions), and the frame shows all of the state but whether E is held.
"""

from __future__ import annotations

import gymnasium
import numpy as np
from gymnasium.spaces import Box, MultiBinary
from numba import njit

from game.actions import KEEP_KEYS
from game.worlds.keep_rooms import SCREEN, TILE, art, make_keep
from world_model.play.actions import checked

FPS = 20
STEP, FLIGHT, CRAWL = 2, 4, 2
"""Pixels a tick: the hero, a spark, the slime. All even, so that everything stands on whole cells of two pixels and
no contact has to be told from less than a cell."""
EDGE = SCREEN - TILE
DOWN, LEFT, UP, RIGHT = range(4)
W, A, S, D, SPACE, E = range(6)
NIGHT_GAIN, NIGHT_OFFSET = np.array([0.36, 0.42, 0.58]), np.array([3.0, 5.0, 18.0])
"""With the lights off: frame * gain + offset, for each colour channel."""

# Fields of a keep's state, int64 [14].
ROOM, X, Y, FACING, LIGHTS, E_HELD = range(6)
SLIME_X, SLIME_Y, SLIME_TURN, SLIME_ALIVE, SPARK_X, SPARK_Y, SPARK_FACING, SPARK_ALIVE = range(6, 14)
FIELDS = ("room", "x", "y", "facing", "lights", "e_held", "slime_x", "slime_y", "slime_turn", "slime_alive",
          "spark_x", "spark_y", "spark_facing", "spark_alive")  # fmt: skip
LOWEST = np.array([0, 0, 0, 0, 0, 0, 0, 0, -1, 0, -8, -8, 0, 0])
HIGHEST = np.array([3, EDGE, EDGE, 3, 1, 1, EDGE, EDGE, 1, 1, 64, 64, 3, 1])

# Numba compiles TILE and SCREEN in, and its cache does not watch keep_rooms.py: after changing one, save this file.


class Keep(gymnasium.Env):
    """The keep as a Gymnasium environment: ``rollplay/Keep-v0``.

    Observation: uint8 [64, 64, 3]. Action: one bit a key, in the order of ``metadata["keys"]``. Reward is 0 and an
    episode never ends. ``reset(seed=s)`` makes keep s; without a seed it is drawn from ``np_random``. ``info`` holds
    room, position (x, y), facing, lights, slime and spark (x, y, alive), sprites (name -> x, y, width, height) and
    solid bool [8, 8], the tiles of the present room that stop.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": FPS, "keys": KEEP_KEYS, "map": (2, 2)}

    def __init__(self, height: int = SCREEN, width: int = SCREEN, render_mode: str | None = "rgb_array"):
        if render_mode not in (None, "rgb_array"):
            raise ValueError(f"render_mode {render_mode!r}: the keep draws 'rgb_array' only")
        if (height, width) != (SCREEN, SCREEN):
            raise ValueError(f"frame of {height}x{width}: the keep is drawn pixel by pixel, at {SCREEN}x{SCREEN} only")
        self.render_mode = render_mode
        self.observation_space = Box(0, 255, (SCREEN, SCREEN, 3), np.uint8)
        self.action_space = MultiBinary(len(KEEP_KEYS))
        self._seed: int | None = None

    def reset(self, *, seed: int | None = None, options: dict | None = None):
        super().reset(seed=seed)
        if seed is None:
            seed = int(self.np_random.integers(2**31))
        self._enter(seed)
        return self._draw(), self._info()

    def step(self, action):
        _advance(self._state, self._map.solid, self._map.burrows, checked(action, KEEP_KEYS))
        return self._draw(), 0.0, False, False, self._info()

    def render(self):
        return None if self.render_mode is None else self._draw()

    def anchors(self) -> np.ndarray:
        """uint8 [4, 64, 64, 3]: the map, the four rooms lit and without sprites."""
        return self._map.pictures.copy()

    def get_state(self) -> dict[str, np.ndarray]:
        """A snapshot (seed included); continuing from it is exact."""
        return {"seed": np.array(self._seed), "state": self._state.copy()}

    def set_state(self, state: dict[str, np.ndarray]) -> None:
        """Continue from ``get_state``'s answer. ValueError for anything that is no such answer."""
        if set(state) != {"seed", "state"}:
            raise ValueError(f"a keep's state has the arrays seed and state, not {', '.join(sorted(state))}")
        seed, row = np.asarray(state["seed"]), np.asarray(state["state"])
        if seed.shape != () or seed.dtype.kind not in "iu" or not 0 <= seed < 2**63:
            raise ValueError("a keep's seed is one whole number, 0 or more and less than 2^63")
        if row.shape != LOWEST.shape or row.dtype.kind not in "iu":
            raise ValueError(f"a keep's state is {len(FIELDS)} whole numbers: {', '.join(FIELDS)}")
        wrong = [name for name, bad in zip(FIELDS, (row < LOWEST) | (row > HIGHEST), strict=True) if bad]
        if wrong:
            raise ValueError(f"a keep's state is out of range: {', '.join(wrong)}")
        if self._seed != seed:
            self._enter(seed)
        self._state[:] = row

    def provenance(self) -> dict:
        """Where these frames come from, for a recording's metadata."""
        return {"source": "engine", "world": "keep", "env": "rollplay/Keep-v0", "seed": self._seed}

    def _enter(self, seed: int) -> None:
        """Make the keep of ``seed`` and begin in it."""
        self._seed, self._map = int(seed), make_keep(seed)
        self._begin()

    def _begin(self) -> None:
        """Put the hero at the keep's spawn point, lights on."""
        self._state = np.zeros(len(FIELDS), np.int64)
        self._state[[X, Y]], self._state[[SLIME_X, SLIME_Y]] = self._map.spawn, self._map.burrows[0]
        self._state[[LIGHTS, SLIME_TURN, SLIME_ALIVE]] = 1

    def _draw(self) -> np.ndarray:
        frame = self._map.pictures[self._state[ROOM]].copy()
        _draw_sprites(self._state, HEROES, SLIMES, SPARKS, COLOURS, NIGHT, frame)
        return frame

    def _info(self) -> dict:
        row = self._state.tolist()
        sprites = {"hero": (row[X], row[Y], TILE, TILE)}
        if row[SLIME_ALIVE]:
            sprites["slime"] = (row[SLIME_X], row[SLIME_Y], TILE, TILE)
        if row[SPARK_ALIVE]:
            sprites["spark"] = (row[SPARK_X], row[SPARK_Y], TILE, TILE)
        return {
            "room": row[ROOM],
            "position": (row[X], row[Y]),
            "facing": row[FACING],
            "lights": bool(row[LIGHTS]),
            "slime": (row[SLIME_X], row[SLIME_Y], bool(row[SLIME_ALIVE])),
            "spark": (row[SPARK_X], row[SPARK_Y], bool(row[SPARK_ALIVE])),
            "sprites": sprites,
            "solid": self._map.solid[row[ROOM]].copy(),
        }


# ---------------------------------------------------------------- rules


@njit(cache=True)
def _advance(row, solids, burrows, keys):
    """One tick of a state, in place: the hero walks; if he stays in his room, the rest of it moves too."""
    before = row[ROOM]
    _walk(row, solids, keys)
    if row[ROOM] != before:
        _enter_room(row, burrows)
    else:
        _act(row, solids[row[ROOM]], keys)
    row[E_HELD] = keys[E]


@njit(cache=True)
def _act(row, solid, keys):
    """What else happens in a tick that passes no doorway."""
    _throw(row, solid, keys)
    if row[SLIME_ALIVE]:
        _crawl(row, solid)
    if row[SPARK_ALIVE] and row[SLIME_ALIVE] and _meet(row):
        row[SPARK_ALIVE], row[SLIME_ALIVE] = 0, 0
    if keys[E] and not row[E_HELD]:
        row[LIGHTS] = 1 - row[LIGHTS]


@njit(cache=True)
def _walk(row, solids, keys):
    """Through a doorway straight on, without turning; or else turn and move along each axis that is free."""
    dx, dy = STEP * (keys[D] - keys[A]), STEP * (keys[S] - keys[W])
    x, y, solid = row[X] + dx, row[Y] + dy, solids[row[ROOM]]
    if (x < 0 or x > EDGE) and not _blocked(solid, x, row[Y]):
        row[ROOM] += 1 if x > EDGE else -1
        row[X] = 0 if x > EDGE else EDGE
    elif (y < 0 or y > EDGE) and not _blocked(solid, row[X], y):
        row[ROOM] += 2 if y > EDGE else -2
        row[Y] = 0 if y > EDGE else EDGE
    else:
        _stroll(row, solid, dx, dy)


@njit(cache=True)
def _stroll(row, solid, dx, dy):
    """Turn to where the keys point and move within the room."""
    if dy != 0:
        row[FACING] = DOWN if dy > 0 else UP
    elif dx != 0:
        row[FACING] = RIGHT if dx > 0 else LEFT
    if dx != 0 and not _blocked(solid, row[X] + dx, row[Y]) and not _bumps(row, dx, 0):
        row[X] += dx
    if dy != 0 and not _blocked(solid, row[X], row[Y] + dy) and not _bumps(row, 0, dy):
        row[Y] += dy


@njit(cache=True)
def _enter_room(row, burrows):
    """A room is entered: its slime is at its burrow, the spark is gone."""
    row[SLIME_X], row[SLIME_Y] = burrows[row[ROOM], 0], burrows[row[ROOM], 1]
    row[SLIME_TURN], row[SLIME_ALIVE], row[SPARK_ALIVE] = 1, 1, 0


@njit(cache=True)
def _throw(row, solid, keys):
    """While Space is held a spark glows in the hero's hand; let go, it flies."""
    if keys[SPACE]:
        row[SPARK_X], row[SPARK_Y], row[SPARK_FACING] = row[X], row[Y], row[FACING]
        _fly(row, TILE)
        row[SPARK_ALIVE] = 1
    elif row[SPARK_ALIVE]:
        _fly(row, FLIGHT)
    if row[SPARK_ALIVE] and _stopped(solid, row):
        row[SPARK_ALIVE] = 0


@njit(cache=True)
def _fly(row, far):
    facing = row[SPARK_FACING]
    row[SPARK_X] += far * ((facing == RIGHT) - (facing == LEFT))
    row[SPARK_Y] += far * ((facing == DOWN) - (facing == UP))


@njit(cache=True)
def _stopped(solid, row):
    """Whether the spark's middle is in something solid or off the screen."""
    x, y = row[SPARK_X] + TILE // 2, row[SPARK_Y] + TILE // 2
    return x < 2 or y < 2 or x >= SCREEN - 2 or y >= SCREEN - 2 or solid[y // TILE, x // TILE]


@njit(cache=True)
def _crawl(row, solid):
    """The slime moves on, or turns round where it is stopped."""
    step = CRAWL * row[SLIME_TURN]
    x = row[SLIME_X] + step
    if x < 0 or x > EDGE or _blocked(solid, x, row[SLIME_Y]) or _bumps(row, -step, 0):
        row[SLIME_TURN] = -row[SLIME_TURN]
    else:
        row[SLIME_X] = x


@njit(cache=True)
def _bumps(row, dx, dy):
    """Whether the hero, moved by (dx, dy), would touch a living slime that he does not touch yet. Where they touch
    already, nothing stops them: they may part."""
    x, y = row[X] - row[SLIME_X], row[Y] - row[SLIME_Y]
    touch = abs(x) < TILE and abs(y) < TILE
    return row[SLIME_ALIVE] and not touch and abs(x + dx) < TILE and abs(y + dy) < TILE


@njit(cache=True)
def _meet(row):
    return abs(row[SPARK_X] - row[SLIME_X]) < 6 and abs(row[SPARK_Y] - row[SLIME_Y]) < 6


@njit(cache=True)
def _blocked(solid, x, y):
    """Whether an 8x8 box at (x, y) touches a solid tile; off the screen there is none."""
    for row in range(max(y, 0) // TILE, min(y + TILE - 1, SCREEN - 1) // TILE + 1):
        for column in range(max(x, 0) // TILE, min(x + TILE - 1, SCREEN - 1) // TILE + 1):
            if solid[row, column]:
                return True
    return False


# ---------------------------------------------------------------- pictures


@njit(cache=True)
def _draw_sprites(row, heroes, slimes, sparks, colours, night, frame):
    """Draw the sprites of a state, and then the dark, onto the picture uint8 [64, 64, 3] of its room."""
    if row[SLIME_ALIVE]:
        _blit(frame, row[SLIME_X], row[SLIME_Y], slimes[(row[SLIME_TURN] + 1) // 2], colours)
    _blit(frame, row[X], row[Y], heroes[row[FACING], (row[X] + row[Y]) // 4 % 2], colours)
    if row[SPARK_ALIVE]:
        _blit(frame, row[SPARK_X], row[SPARK_Y], sparks[row[SPARK_FACING]], colours)
    if not row[LIGHTS]:
        _darken(night, frame)


@njit(cache=True)
def _darken(night, frame):
    for y in range(SCREEN):
        for x in range(SCREEN):
            for c in range(3):
                frame[y, x, c] = night[c, frame[y, x, c]]


@njit(cache=True)
def _blit(frame, x, y, sprite, colours):
    for row in range(TILE):
        for column in range(TILE):
            colour = sprite[row, column]
            if colour >= 0 and 0 <= y + row < SCREEN and 0 <= x + column < SCREEN:
                frame[y + row, x + column] = colours[colour]


COLOURS = np.array(
    [[26, 20, 38], [240, 64, 56], [255, 214, 170], [52, 104, 232], [250, 240, 250],
     [96, 220, 90], [40, 140, 70], [255, 236, 90], [255, 150, 40], [120, 70, 40]], np.uint8)  # fmt: skip
NIGHT = np.round(np.arange(256) * NIGHT_GAIN[:, None] + NIGHT_OFFSET[:, None]).astype(np.uint8)


def _heroes() -> np.ndarray:
    """int8 [4 facings, 2 steps, 8, 8]: a red cap, a blue coat."""
    front = "..0000.. .011110. 01111110 02022020 .022220. 03333330 02333320"
    back = "..0000.. .011110. 01111110 01111110 .011110. 03333330 02333320"
    side = "..0000.. .011110. 01111110 .020222. .022220. .033330. .032330."
    steps = ("..0..0..", ".0....0.")

    def both(top: str) -> list[np.ndarray]:
        return [art(f"{top} {legs}") for legs in steps]

    left = both(side)
    return np.array([both(front), left, both(back), [art[:, ::-1] for art in left]], np.int8)


def _sparks() -> np.ndarray:
    """int8 [4 facings, 8, 8]: a bright head and a tail."""
    right = art("........ ........ ...8777. .8.87447 8.887447 ...8777. ........ ........")
    return np.array([np.rot90(right, -1), right[:, ::-1], np.rot90(right), right], np.int8)


HEROES, SPARKS = _heroes(), _sparks()
_SLIME = art("........ ..0000.. .055550. 05555540 05545540 05555550 06655660 .000000.")
SLIMES = np.array([_SLIME[:, ::-1], _SLIME], np.int8)
