"""A gamepad as keys: its stick and cross walk, its buttons press keys. Knows no pygame: events are numbers.

Buttons are numbered as SDL numbers those of the usual pads.
"""

from __future__ import annotations

from collections.abc import Sequence

from game.play.keyboard import ARROWS, REWIND

BUTTONS = {0: "space", 1: "e", 4: REWIND, 6: "home", 7: "p"}
"""A, B, the left shoulder, back and start."""
DEAD = 0.5
"""How far a stick must lean to press a key; 1 is all the way."""
SIDES = (("left", "right"), ("up", "down"))
"""For each of two axes, the direction of negative and of positive values."""

Changes = list[tuple[str, str]]
"""("down" or "up", key), in order."""


class Gamepad:
    """``lean`` of a stick or cross and ``press`` of a button return the keys that go down and up by it."""

    def __init__(self, keys: Sequence[str]):
        self._key = {side: side if side in keys or letter not in keys else letter for side, letter in ARROWS.items()}
        self._leans: dict[tuple[str, int], str] = {}

    def lean(self, what: str, axis: int, value: float) -> Changes:
        """An axis (0: across, 1: down) of ``what`` (its name) stands at ``value``, -1 to 1."""
        if axis not in (0, 1):
            return []
        side = SIDES[axis][value > 0] if abs(value) > DEAD else None
        key = None if side is None else self._key[side]
        old = self._leans.pop((what, axis), None)
        others = set(self._leans.values())
        if key is not None:
            self._leans[what, axis] = key
        if key == old:
            return []
        released = [("up", old)] if old is not None and old not in others else []
        return released + ([("down", key)] if key is not None and key not in others else [])

    def press(self, button: int, down: bool) -> Changes:
        key = BUTTONS.get(button)
        return [] if key is None else [("down" if down else "up", key)]
