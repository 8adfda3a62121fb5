"""A keep's map while it is drawn: tiles to put down, fill, mirror and undo, and the four pictures that they make.

The four pictures are all that a neural keep needs: they are its sinks. Knows no model and no window.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from game.worlds.keep_rooms import FLOOR, SIDE, TILE, WALL, Room, make_rooms, make_style, picture

KEPT, BURROW = -1, 7
"""Kinds besides those of the rooms: a tile of an opened picture, unchanged; where the slime lives."""
HISTORY = 500
"""Strokes that can be undone."""
OUTSIDE = 0, SIDE - 1
ROOMS = 4

Tile = tuple[int, int, int]
"""Room, row, column."""


class PlanError(ValueError):
    """Pictures that are no map; the message says what is wrong with which."""


@dataclass(frozen=True, eq=False)
class Moment:
    """What a stroke changes: the rooms, and the pictures uint8 [4, 64, 64, 3] that KEPT tiles show."""

    rooms: tuple[Room, ...]
    kept: np.ndarray


class Plan:
    """Four rooms being drawn: ``put`` or ``fill`` tiles, ``mirror`` or ``recolour`` a room, ``undo``; ``pictures``."""

    def __init__(self, moment: Moment):
        self._now: Moment = moment
        self._before: deque[Moment] = deque(maxlen=HISTORY)
        self._recolours = 0

    @classmethod
    def of_seed(cls, seed: int) -> Plan:
        """The map of a keep."""
        rooms = tuple(make_rooms(seed))
        return cls(Moment(rooms, np.stack([picture(room) for room in rooms])))

    @classmethod
    def of_pictures(cls, pictures: np.ndarray) -> Plan:
        """The pictures uint8 [4, 64, 64, 3], all of whose tiles are KEPT."""
        style = make_style(np.random.default_rng(0), 0.0)
        kinds = np.full((SIDE, SIDE), KEPT)
        return cls(Moment((Room(kinds, None, style),) * ROOMS, pictures.copy()))

    def pictures(self) -> np.ndarray:
        """The map as sink frames, uint8 [4, 64, 64, 3]."""
        drawn = []
        for room, kept in zip(self._now.rooms, self._now.kept, strict=True):
            is_kept = (room.kinds == KEPT).repeat(TILE, 0).repeat(TILE, 1)
            drawn.append(np.where(is_kept[..., None], kept, picture(room)))
        return np.stack(drawn)

    def put(self, at: Tile, kind: int, begins: bool = True) -> bool:
        """Change one tile; in a wall between two rooms, the same tile of both. Returns whether anything changed.

        begins: whether a stroke begins here; what is put without it is undone together with the stroke before.
        """
        return self._become(self._changed(dict.fromkeys(self._both_sides(at, kind), kind)), begins)

    def fill(self, at: Tile, kind: int) -> bool:
        """Change a tile and all of its kind that are connected to it inside the walls of its room."""
        room, row, column = at
        kinds = self._now.rooms[room].kinds
        if kind == BURROW or _at_wall(at) or kinds[row, column] == kind:
            return self.put(at, kind)
        mask = (kinds == kinds[row, column])[1:-1, 1:-1].astype(np.uint8)
        _, labels = cv2.connectedComponents(mask, connectivity=4)
        alike = np.argwhere((labels == labels[row - 1, column - 1]) & (mask > 0)) + 1
        return self._become(self._changed({(room, int(r), int(c)): kind for r, c in alike}), True)

    def mirror(self, room: int) -> bool:
        """Mirror what is inside the walls of a room, left to right."""
        old = self._now.rooms[room]
        kinds, kept = old.kinds.copy(), self._now.kept.copy()
        kinds[1:-1, 1:-1] = kinds[1:-1, -2:0:-1]
        for row in range(1, SIDE - 1):
            for column in range(1, SIDE - 1):
                kept[room][_area(row, column)] = self._now.kept[room][_area(row, SIDE - 1 - column)]
        burrow = (old.burrow[0], SIDE - 1 - old.burrow[1]) if old.burrow else None
        return self._become(Moment(self._with(room, Room(kinds, burrow, old.style)), kept), True)

    def recolour(self, room: int) -> bool:
        """Give the tiles of a room other colours and patterns; KEPT ones stay."""
        self._recolours += 1
        random = np.random.default_rng([self._recolours, room])
        style = make_style(random, float(random.uniform()))
        return self._become(Moment(self._with(room, self._now.rooms[room]._replace(style=style)), self._now.kept), True)

    def undo(self) -> bool:
        """Undo the last stroke; False where there is none."""
        if not self._before:
            return False
        self._now = self._before.pop()
        return True

    def _both_sides(self, at: Tile, kind: int) -> list[Tile]:
        """The tiles that change with one: both sides of a wall between rooms; none in the outer walls."""
        if not _at_wall(at):
            return [at]
        beyond = _beyond(at)
        return [] if beyond is None or kind not in (FLOOR, WALL) else [at, beyond]

    def _changed(self, tiles: dict[Tile, int]) -> Moment:
        rooms = list(self._now.rooms)
        for (room, row, column), kind in tiles.items():
            kinds, burrow = rooms[room].kinds.copy(), rooms[room].burrow
            if kind == BURROW:
                kind, burrow = FLOOR, (row, column)
            elif burrow == (row, column) and kind >= WALL:
                burrow = None
            kinds[row, column] = kind
            rooms[room] = rooms[room]._replace(kinds=kinds, burrow=burrow)
        return Moment(tuple(rooms), self._now.kept)

    def _with(self, number: int, room: Room) -> tuple[Room, ...]:
        return (*self._now.rooms[:number], room, *self._now.rooms[number + 1 :])

    def _become(self, moment: Moment, begins: bool) -> bool:
        if _same(moment, self._now):
            return False
        if begins:
            self._before.append(self._now)
        self._now = moment
        return True


def save(folder: Path, pictures: np.ndarray) -> None:
    """0.png to 3.png, which any paint program opens. OSError where they cannot be written."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, drawn in enumerate(pictures):
        if not cv2.imwrite(str(folder / f"{number}.png"), drawn[..., ::-1]):
            raise OSError(f"{folder / f'{number}.png'}: cannot be written")


def read(paths: list[Path], size: tuple[int, int]) -> np.ndarray:
    """Pictures of any size as uint8 [n, height, width, 3]: cropped to the shape, then scaled. PlanError where a file is
    not a picture."""
    return np.stack([_fitted(_opened(path), size) for path in paths])


def _opened(path: Path) -> np.ndarray:
    picture = cv2.imread(str(path), cv2.IMREAD_COLOR) if path.is_file() else None
    if picture is None:
        raise PlanError(f"{path}: no picture that can be read (PNG, JPEG, ...)")
    return picture[..., ::-1]


def _fitted(picture: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The largest crop from the middle that has the proportions of ``size`` (height, width), scaled to it."""
    scale = min(picture.shape[0] / size[0], picture.shape[1] / size[1])
    height, width = (max(1, round(side * scale)) for side in size)
    top, left = (picture.shape[0] - height) // 2, (picture.shape[1] - width) // 2
    crop = np.ascontiguousarray(picture[top : top + height, left : left + width])
    interpolation = cv2.INTER_AREA if scale > 1 else cv2.INTER_NEAREST
    return cv2.resize(crop, size[::-1], interpolation=interpolation)


def _at_wall(at: Tile) -> bool:
    return at[1] in OUTSIDE or at[2] in OUTSIDE


def _beyond(at: Tile) -> Tile | None:
    """The tile on the other side of a wall between two rooms; None for outer walls and corners."""
    room, row, column = at
    if row in OUTSIDE and column in OUTSIDE:
        return None
    across, down = room % 2, room // 2
    if column == (0 if across else SIDE - 1):
        return room + (-1 if across else 1), row, SIDE - 1 - column
    if row == (0 if down else SIDE - 1):
        return room + (-2 if down else 2), SIDE - 1 - row, column
    return None


def _area(row: int, column: int) -> tuple[slice, slice]:
    return slice(row * TILE, (row + 1) * TILE), slice(column * TILE, (column + 1) * TILE)


def _same(a: Moment, b: Moment) -> bool:
    rooms = all(
        one.burrow == other.burrow and one.style is other.style and np.array_equal(one.kinds, other.kinds)
        for one, other in zip(a.rooms, b.rooms, strict=True)
    )
    return rooms and np.array_equal(a.kept, b.kept)
