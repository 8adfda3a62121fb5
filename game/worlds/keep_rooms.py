"""A seed makes a keep: four rooms of 8x8 tiles, as pictures and as what is solid in them.

Rooms lie in a square, room = row * 2 + column, with a doorway between neighbours. Everything is pixel art of 8x8 tiles;
hero, slime and spark look the same in every keep, the rooms differ.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from game.worlds.rooms import oklch

TILE, SIDE, SCREEN = 8, 8, 64
"""Pixels a tile side, tiles a room side, pixels a room side."""
TRIES = 200
OUTLINE = (26, 20, 38)
FLOOR_PATTERNS, WALL_PATTERNS = 8, 6


class KeepMap(NamedTuple):
    """pictures uint8 [4, 64, 64, 3], solid bool [4, 8, 8], spawn [2] and burrows [4, 2] in pixels (x, y of the top
    left corner; spawn is in room 0)."""

    pictures: np.ndarray
    solid: np.ndarray
    spawn: np.ndarray
    burrows: np.ndarray


class Style(NamedTuple):
    """How a room looks: its colours, [3] each, and which of the patterns its floor and its wall have."""

    hue: float
    floor: np.ndarray
    floor2: np.ndarray
    wall: np.ndarray
    joint: np.ndarray
    rug: np.ndarray
    fringe: np.ndarray
    floor_pattern: int
    wall_pattern: int


class Room(NamedTuple):
    """A room before it is drawn: kinds of its tiles [8, 8], the slime's burrow (row, column) if any, its style."""

    kinds: np.ndarray
    burrow: tuple[int, int] | None
    style: Style


def make_keep(seed: int) -> KeepMap:
    """The keep of a seed, 0 or more."""
    rooms = make_rooms(seed)
    burrows = np.array([[column * TILE, row * TILE] for _, (row, column), _ in rooms])
    solid = np.stack([room.kinds >= WALL for room in rooms])
    return KeepMap(np.stack([picture(room) for room in rooms]), solid, np.array([3 * TILE, 3 * TILE]), burrows)


def make_rooms(seed: int) -> list[Room]:
    """The four rooms of a keep."""
    rng = np.random.default_rng([int(seed), 0x6EE9])
    doors = rng.integers(1, 6, 4)  # first of two tiles, for each doorway
    hues = (rng.uniform() + np.array([0, 0.27, 0.5, 0.77]) + rng.uniform(-0.06, 0.06, 4))[rng.permutation(4)]
    return [_make_room(rng, hue, *_openings(doors, room), room == 0) for room, hue in enumerate(hues)]


def _openings(doors: np.ndarray, room: int) -> tuple[list[tuple[int, int]], ...]:
    """The tiles (row, column) of a room's two doorways."""
    row, column = divmod(room, 2)
    beside, across = doors[row], doors[2 + column]
    wall, edge = (SIDE - 1 if column == 0 else 0), (SIDE - 1 if row == 0 else 0)
    return [(beside, wall), (beside + 1, wall)], [(edge, across), (edge, across + 1)]


def _make_room(rng, hue, beside, across, has_spawn) -> Room:
    free = [*beside, *across, *([(3, 3)] if has_spawn else [])]
    for _ in range(TRIES):
        kinds = _furnish(rng, free)
        burrow = _burrow(rng, kinds, has_spawn)
        if burrow is not None and _connected(kinds, [*free, burrow]):
            break
    return Room(kinds, burrow, make_style(rng, hue))


FLOOR, RUG, WALL, PILLAR, WATER, PLANT, CRATE = range(7)


def _furnish(rng, free) -> np.ndarray:
    """Kinds of the tiles [8, 8]: a ring of wall with its doorways, a rug at times, and some furniture."""
    kinds = np.full((SIDE, SIDE), WALL)
    kinds[1:-1, 1:-1] = FLOOR
    for row, column in free:
        kinds[row, column] = FLOOR
    if rng.random() < 0.5:
        row, column = rng.integers(2, 4, 2)
        kinds[row : row + rng.integers(2, 4), column : column + rng.integers(2, 4)] = RUG
    if rng.random() < 0.45:  # a pond
        row, column = rng.integers(1, 6, 2)
        kinds[row : row + rng.integers(1, 3), column : column + 2] = WATER
    for _ in range(rng.integers(2, 6)):
        kinds[tuple(rng.integers(1, 7, 2))] = rng.choice([PILLAR, PLANT, CRATE])
    for row, column in free:
        near = kinds[max(row - 1, 1) : min(row + 2, 7), max(column - 1, 1) : min(column + 2, 7)]
        near[near >= WALL] = FLOOR  # nothing stands in a doorway
    return kinds


def _burrow(rng, kinds, has_spawn) -> tuple[int, int] | None:
    """Where the slime lives: a floor tile with room to walk beside it."""
    inside = kinds[1:-1, 1:-1] < WALL
    long = [(r + 1, c + 1) for r in range(6) for c in range(1, 5) if inside[r, c - 1 : c + 2].all() and r + 1 != 3]
    return long[rng.integers(len(long))] if long else None


def _connected(kinds, places) -> bool:
    """Whether every place can be walked to from the first, a tile at a time."""
    todo, reached = [places[0]], {places[0]}
    while todo:
        row, column = todo.pop()
        for r, c in ((row + 1, column), (row - 1, column), (row, column + 1), (row, column - 1)):
            if 0 <= r < SIDE and 0 <= c < SIDE and kinds[r, c] < WALL and (r, c) not in reached:
                reached.add((r, c))
                todo.append((r, c))
    return reached.issuperset(places)


# ---------------------------------------------------------------- pictures


def _colour(lightness: float, chroma: float, hue: float) -> np.ndarray:
    return np.round(oklch(lightness, chroma, hue % 1) * 255)


def make_style(rng: np.random.Generator, hue: float) -> Style:
    """Colours round a hue (0 to 1 is the whole wheel), and patterns."""
    floor_light = rng.uniform(0.5, 0.8)
    wall_light = rng.choice([floor_light - 0.25, min(floor_light + 0.14, 0.92), 0.42])
    floor, floor2 = _colour(floor_light, 0.09, hue), _colour(floor_light - 0.07, 0.09, hue + rng.uniform(-0.05, 0.05))
    wall, joint = _colour(wall_light, 0.10, hue + rng.uniform(0.05, 0.2)), _colour(wall_light - 0.15, 0.08, hue)
    floor_pattern = int(rng.integers(FLOOR_PATTERNS))
    rug, fringe = _colour(rng.uniform(0.4, 0.65), 0.15, hue + 0.5), _colour(0.82, 0.1, hue + 0.55)
    return Style(hue, floor, floor2, wall, joint, rug, fringe, floor_pattern, int(rng.integers(WALL_PATTERNS)))


def picture(room: Room) -> np.ndarray:
    """The room without sprites, uint8 [64, 64, 3]."""
    y, x = np.mgrid[:SCREEN, :SCREEN]
    kinds, burrow, style = room
    picture = np.where(_floor_pattern(style.floor_pattern, y, x)[..., None], style.floor, style.floor2)
    tiles = kinds.repeat(TILE, 0).repeat(TILE, 1)
    rug = np.where(((x + y) % 4 == 0)[..., None], style.fringe, style.rug)
    picture = np.where((tiles == RUG)[..., None], rug, picture)
    bricks = _wall_pattern(style.wall_pattern, y, x)
    picture = np.where((tiles == WALL)[..., None], np.where(bricks[..., None], style.joint, style.wall), picture)
    water, foam = _colour(0.55, 0.13, 0.68), _colour(0.78, 0.08, 0.6)
    waves = (y % 4 == 1) & ((x + 2 * (y // 4)) % 8 < 3)
    picture = np.where((tiles == WATER)[..., None], np.where(waves[..., None], foam, water), picture)
    shade = (tiles < WALL) & (np.roll(tiles, 2, 0) >= WALL) & (y >= 2)
    picture = np.where(shade[..., None], picture * 0.72, picture)  # what stands throws a shadow
    for kind, stamp in STAMPS.items():
        for row, column in np.argwhere(kinds == kind):
            _stamp(picture, row, column, stamp, _stamp_colours(kind, style.hue))
    if burrow is not None:
        _stamp(picture, *burrow, BURROW, [_colour(0.3, 0.05, 0.3), _colour(0.62, 0.14, 0.36)])
    picture[_rims(kinds >= WALL)] = OUTLINE
    return picture.astype(np.uint8)


def _rims(solid: np.ndarray) -> np.ndarray:
    """bool [64, 64]: pixels of solid tiles beside free ones. A dark line shows what stops, whatever its pattern."""
    solid = solid.repeat(TILE, 0).repeat(TILE, 1)
    around = np.pad(solid, 1, mode="edge")
    free = [
        ~around[1 + dy : 1 + dy + SCREEN, 1 + dx : 1 + dx + SCREEN] for dy, dx in ((0, 1), (0, -1), (1, 0), (-1, 0))
    ]
    return solid & np.any(free, 0)


def _floor_pattern(number, y, x) -> np.ndarray:
    patterns = (
        (x // 4 + y // 4) % 2 == 0,
        (x // 8 + y // 8) % 2 == 0,
        (x % 8 != 0) & (y % 8 != 0),
        (y % 4 != 0) & ((x + 4 * (y // 4 % 2)) % 8 != 0),
        (x + y) % 8 >= 2,
        (x % 4 != 1) | (y % 4 != 1),
        x % 8 >= 2,
        (abs(x % 8 - 4) + abs(y % 8 - 4)) >= 3,
    )
    return patterns[number]


def _wall_pattern(number, y, x) -> np.ndarray:
    patterns = (
        (y % 4 == 3) | ((x + 4 * (y // 4 % 2)) % 8 == 0),
        (x % 8 == 7) | (y % 8 == 7) | ((x % 8 == 3) & (y % 8 == 3)),
        (x % 4 == 3),
        ((x - y) % 8 < 2),
        (y % 8 >= 6) | ((x % 4 == 0) & (y % 8 < 3)),
        (abs(x % 8 - 3.5) + abs(y % 8 - 3.5)) < 3,
    )
    return patterns[number]


def art(text: str) -> np.ndarray:
    """int8 [8, 8] from rows of colour numbers; a dot is transparent, -1."""
    rows = text.split()
    return np.array([[-1 if letter == "." else int(letter) for letter in row] for row in rows], np.int8)


STAMPS = {
    PILLAR: art("..0000.. .022110. 02211110 02111110 02111110 01111110 .011110. ..0000.."),
    PLANT: art("..1..2.. .1121121 1222212. .12212.1 .2121121 ..1221.. ..0330.. ..0330.."),
    CRATE: art("00000000 02222220 02111120 02122120 02122120 02111120 02222220 00000000"),
}
BURROW = art("........ ..1111.. .100001. 10000001 10000001 .100001. ..1111.. ........")


def _stamp_colours(kind: int, hue: float) -> list[np.ndarray]:
    if kind == PLANT:
        return [_colour(0.35, 0.06, 0.1), _colour(0.45, 0.12, 0.4), _colour(0.66, 0.17, 0.38), _colour(0.55, 0.1, 0.1)]
    if kind == CRATE:
        return [_colour(0.3, 0.06, 0.12), _colour(0.62, 0.1, 0.17), _colour(0.48, 0.09, 0.15)]
    return [_colour(0.3, 0.03, hue), _colour(0.68, 0.05, hue + 0.3), _colour(0.86, 0.03, hue + 0.3)]


def _stamp(picture, row, column, stamp, colours) -> None:
    area = picture[row * TILE : (row + 1) * TILE, column * TILE : (column + 1) * TILE]
    for index, colour in enumerate(colours):
        area[stamp == index] = colour
