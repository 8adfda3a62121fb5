"""The canvas that a map is drawn on with the mouse, beside the game that is played in it.

Places are in units of the canvas's side, from its top left corner, so that a window of any size has the same canvas.
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
    """What the mouse does to a plan: ``press``, ``drag``, ``let_go`` at (x, y); ``take_change`` says whether to look.

    ``kind`` is what is put down, ``room`` what mirror and colours act on; ``save`` is called with the pictures.
    """

    def __init__(self, plan: Plan, save: Callable):
        self.plan, self._save = plan, save
        self.kind, self.room, self.filling = "wall", 0, False
        self.pictures = plan.pictures()
        self._changed = False
        self._drawing: str | None = None  # the kind of the stroke that goes on
        self._begun = False  # whether that stroke changed anything yet

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
            self._see(self.plan.fill(tile, KINDS[kind]))
        else:
            self._drawing = kind
            self._begun = self.plan.put(tile, KINDS[kind])
            self._see(self._begun)

    def drag(self, x: float, y: float) -> None:
        """The stroke goes on."""
        if self._drawing is not None and (tile := tile_at(x, y)) is not None:
            changed = self.plan.put(tile, KINDS[self._drawing], begins=not self._begun)
            self._begun = self._begun or changed
            self._see(changed)

    def let_go(self) -> None:
        self._drawing = None

    def undo(self) -> None:
        self._see(self.plan.undo())

    def take_change(self) -> bool:
        """Whether the map is another one since the last call."""
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
            self._see({"mirror": self.plan.mirror, "colours": self.plan.recolour}[name](self.room))

    def _see(self, changed: bool) -> None:
        if changed:
            self.pictures, self._changed = self.plan.pictures(), True


def tile_at(x: float, y: float) -> Tile | None:
    """The tile under a place of the canvas."""
    for room, box in enumerate(ROOM_BOXES):
        if box.holds(x, y):
            return room, int((y - box.y) / box.height * SIDE), int((x - box.x) / box.width * SIDE)
    return None
