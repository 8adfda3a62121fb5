"""A keep's map while it is drawn: tiles that are put down, filled, mirrored and taken back; four pictures at any time.

The four pictures are all that a neural keep needs: they are its sinks. Nothing here knows a model or a window.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from game.worlds.keep_rooms import FLOOR, SIDE, TILE, WALL, Room, make_rooms, make_style, picture

KEPT, BURROW = -1, 7
"""Kinds beside those of the rooms: a tile of an opened picture, as it is; where the slime lives."""
HISTORY = 500
"""Strokes that can be taken back."""
OUTSIDE = 0, SIDE - 1
ROOMS = 4

Tile = tuple[int, int, int]
"""Room, row, column."""


class PlanError(ValueError):
    """Pictures that are no map; the message says what is wrong with which."""


@dataclass(frozen=True, eq=False)
class Moment:
    """What a stroke changes: rooms, and the pictures uint8 [4, 64, 64, 3] that KEPT tiles show."""

    rooms: tuple[Room, ...]
    kept: np.ndarray


class Plan:
    """Four rooms being drawn: ``put`` or ``fill`` tiles, ``mirror`` or ``recolour`` a room, ``undo``; ``pictures``."""

    def __init__(self, moment: Moment):
        self._now: Moment = moment
        self._before: deque[Moment] = deque(maxlen=HISTORY)
        self._colours = 0

    @classmethod
    def of_seed(cls, seed: int) -> Plan:
        """The map of a keep."""
        rooms = tuple(make_rooms(seed))
        return cls(Moment(rooms, np.stack([picture(room) for room in rooms])))

    @classmethod
    def of_pictures(cls, pictures: np.ndarray) -> Plan:
        """Four pictures uint8 [4, 64, 64, 3] as they are, to draw on."""
        style = make_style(np.random.default_rng(0), 0.0)
        kinds = np.full((SIDE, SIDE), KEPT)
        return cls(Moment((Room(kinds, None, style),) * ROOMS, pictures.copy()))

    def pictures(self) -> np.ndarray:
        """The map as sink frames, uint8 [4, 64, 64, 3]."""
        drawn = []
        for room, kept in zip(self._now.rooms, self._now.kept, strict=True):
            as_it_is = (room.kinds == KEPT).repeat(TILE, 0).repeat(TILE, 1)
            drawn.append(np.where(as_it_is[..., None], kept, picture(room)))
        return np.stack(drawn)

    def put(self, at: Tile, kind: int, begins: bool = True) -> bool:
        """One tile; on a wall between two rooms, a doorway or a wall in both. Whether anything changed.

        ``begins`` starts a stroke: what follows without it is taken back together with it.
        """
        return self._become(self._changed(dict.fromkeys(self._together(at, kind), kind)), begins)

    def fill(self, at: Tile, kind: int) -> bool:
        """The tile and all like it that it hangs together with, inside the walls of its room."""
        room, row, column = at
        kinds = self._now.rooms[room].kinds
        if kind == BURROW or _at_wall(at) or kinds[row, column] == kind:
            return self.put(at, kind)
        mask = (kinds == kinds[row, column])[1:-1, 1:-1].astype(np.uint8)
        _, labels = cv2.connectedComponents(mask, connectivity=4)
        alike = np.argwhere((labels == labels[row - 1, column - 1]) & (mask > 0)) + 1
        return self._become(self._changed({(room, int(r), int(c)): kind for r, c in alike}), True)

    def mirror(self, room: int) -> bool:
        """What stands inside the walls of a room, left to right."""
        old = self._now.rooms[room]
        kinds, kept = old.kinds.copy(), self._now.kept.copy()
        kinds[1:-1, 1:-1] = kinds[1:-1, -2:0:-1]
        for row in range(1, SIDE - 1):
            for column in range(1, SIDE - 1):
                kept[room][_area(row, column)] = self._now.kept[room][_area(row, SIDE - 1 - column)]
        burrow = (old.burrow[0], SIDE - 1 - old.burrow[1]) if old.burrow else None
        return self._become(Moment(self._with(room, Room(kinds, burrow, old.style)), kept), True)

    def recolour(self, room: int) -> bool:
        """Other colours and patterns for a room's own tiles."""
        self._colours += 1
        random = np.random.default_rng([self._colours, room])
        style = make_style(random, float(random.uniform()))
        return self._become(Moment(self._with(room, self._now.rooms[room]._replace(style=style)), self._now.kept), True)

    def undo(self) -> bool:
        """Take the last stroke back."""
        if not self._before:
            return False
        self._now = self._before.pop()
        return True

    def _together(self, at: Tile, kind: int) -> list[Tile]:
        """The tiles that change with one: both sides of a doorway; none of the walls around it all."""
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
    """Pictures of any kind and size as uint8 [n, height, width, 3]: cut to the shape, then made smaller or larger.

    PlanError for what is no picture.
    """
    return np.stack([_fitted(_opened(path), size) for path in paths])


def _opened(path: Path) -> np.ndarray:
    found = cv2.imread(str(path), cv2.IMREAD_COLOR) if path.is_file() else None
    if found is None:
        raise PlanError(f"{path}: no picture that can be read (PNG, JPEG, ...)")
    return found[..., ::-1]


def _fitted(found: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The middle of a picture, as large as has the shape of ``size`` (height, width), scaled to it."""
    (height, width), (high, wide) = size, found.shape[:2]
    scale = min(high / height, wide / width)
    cut_high, cut_wide = max(1, round(height * scale)), max(1, round(width * scale))
    top, left = (high - cut_high) // 2, (wide - cut_wide) // 2
    cut = np.ascontiguousarray(found[top : top + cut_high, left : left + cut_wide])
    how = cv2.INTER_AREA if scale > 1 else cv2.INTER_NEAREST
    return cv2.resize(cut, (width, height), interpolation=how)


def _at_wall(at: Tile) -> bool:
    return at[1] in OUTSIDE or at[2] in OUTSIDE


def _beyond(at: Tile) -> Tile | None:
    """The tile at the other side of a wall between two rooms; None for the outer walls and for corners."""
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
