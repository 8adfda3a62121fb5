"""The canvas on which a map is drawn with the mouse, beside the game that is played in it.

Coordinates are in units of the canvas's side, from its top left corner, whatever the size of the window.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from game.draw.plan import BURROW, KEPT, Plan, Tile
from game.worlds.keep_rooms import CRATE, FLOOR, PILLAR, PLANT, RUG, SIDE, WALL, WATER

KINDS = {"floor": FLOOR, "rug": RUG, "wall": WALL, "pillar": PILLAR, "water": WATER, "plant": PLANT, "crate": CRATE,
         "slime": BURROW, "as it was": KEPT}  # fmt: skip
"""What can be put down; ``slime`` is where it lives."""
ACTIONS = ("fill", "mirror", "colours", "undo", "save")

ROOM, GAP, EDGE, BUTTON, LINE = 0.39, 0.012, 0.02, 0.155, 0.06


@dataclass(frozen=True)
class Box:
    """A rectangle in units of the canvas's side."""

    x: float
    y: float
    width: float
    height: float

    def holds(self, x: float, y: float) -> bool:
        return self.x <= x < self.x + self.width and self.y <= y < self.y + self.height


def _buttons() -> dict[str, Box]:
    right, below = EDGE + 2 * ROOM + 2 * GAP, EDGE + 2 * ROOM + 2 * GAP
    actions = {name: Box(right, EDGE + i * (LINE + GAP), BUTTON, LINE) for i, name in enumerate(ACTIONS)}
    kinds = {name: Box(EDGE + i % 5 * (BUTTON + GAP), below + i // 5 * (LINE + GAP), BUTTON, LINE)
             for i, name in enumerate(KINDS)}  # fmt: skip
    return actions | kinds


ROOM_BOXES = tuple(Box(EDGE + i % 2 * (ROOM + GAP), EDGE + i // 2 * (ROOM + GAP), ROOM, ROOM) for i in range(4))
BUTTONS = _buttons()


class MapCanvas:
    """What the mouse does to a plan: ``press``, ``drag``, ``let_go``; ``take_change`` says if ``pictures`` changed.

    ``kind`` is what is put down, ``room`` what mirror and colours act on; ``save`` is called with the pictures.
    """

    def __init__(self, plan: Plan, save: Callable):
        self.plan, self._save = plan, save
        self.kind, self.room, self.filling = "wall", 0, False
        self.pictures = plan.pictures()
        self._changed = False
        self._stroke: str | None = None  # its kind, while a button is down
        self._stroke_changed = False  # whether it changed anything yet

    def press(self, x: float, y: float, erases: bool = False) -> None:
        """A button is pressed, or a stroke begins; ``erases`` puts down floor, whatever is chosen."""
        for name, box in BUTTONS.items():
            if box.holds(x, y):
                self._choose(name)
                return
        if (tile := tile_at(x, y)) is None:
            return
        self.room, kind = tile[0], "floor" if erases else self.kind
        if self.filling:
            self._update(self.plan.fill(tile, KINDS[kind]))
        else:
            self._stroke = kind
            self._stroke_changed = self.plan.put(tile, KINDS[kind])
            self._update(self._stroke_changed)

    def drag(self, x: float, y: float) -> None:
        """Continue the stroke."""
        if self._stroke is not None and (tile := tile_at(x, y)) is not None:
            changed = self.plan.put(tile, KINDS[self._stroke], begins=not self._stroke_changed)
            self._stroke_changed = self._stroke_changed or changed
            self._update(changed)

    def let_go(self) -> None:
        self._stroke = None

    def undo(self) -> None:
        self._update(self.plan.undo())

    def take_change(self) -> bool:
        """Whether the pictures changed since the last call."""
        changed, self._changed = self._changed, False
        return changed

    def _choose(self, name: str) -> None:
        if name in KINDS:
            self.kind = name
        elif name == "fill":
            self.filling = not self.filling
        elif name == "save":
            self._save(self.pictures)
        elif name == "undo":
            self.undo()
        else:
            self._update({"mirror": self.plan.mirror, "colours": self.plan.recolour}[name](self.room))

    def _update(self, changed: bool) -> None:
        if changed:
            self.pictures, self._changed = self.plan.pictures(), True


def tile_at(x: float, y: float) -> Tile | None:
    """The tile at (x, y), None beside the rooms."""
    for room, box in enumerate(ROOM_BOXES):
        if box.holds(x, y):
            return room, int((y - box.y) / box.height * SIDE), int((x - box.x) / box.width * SIDE)
    return None
