"""A gamepad as keys: stick or cross walk, buttons do what keys do. Knows no pygame: what comes in is numbers.

Buttons are numbered as SDL numbers those of the usual pads.
"""

from __future__ import annotations

from collections.abc import Sequence

from game.play.keyboard import ARROWS, REWIND

BUTTONS = {0: "space", 1: "e", 4: REWIND, 6: "home", 7: "p"}
"""A, B, the left shoulder, back and start."""
DEAD = 0.5
"""How far a stick must lean to count, of 1."""
SIDES = (("left", "right"), ("up", "down"))
"""Of the two axes, what leaning to less and to more means."""

Changes = list[tuple[str, str]]
"""("down" or "up", key), in order."""


class Gamepad:
    """``lean`` of a stick or cross and ``press`` of a button, as the keys that go down and up by it."""

    def __init__(self, keys: Sequence[str]):
        self._key = {side: side if side in keys or letter not in keys else letter for side, letter in ARROWS.items()}
        self._leans: dict[tuple[str, int], str] = {}

    def lean(self, what: str, axis: int, value: float) -> Changes:
        """An axis (0: across, 1: down) of ``what`` (its name) stands at ``value``, -1 to 1."""
        if axis not in (0, 1):
            return []
        side = SIDES[axis][value > 0] if abs(value) > DEAD else None
        before, now = self._leans.get((what, axis)), None if side is None else self._key[side]
        if now == before:
            return []
        self._leans = {place: key for place, key in self._leans.items() if place != (what, axis)}
        still = set(self._leans.values())
        if now is not None:
            self._leans[what, axis] = now
        gone = [("up", before)] if before is not None and before not in still else []
        return gone + ([("down", now)] if now is not None and now not in still else [])

    def press(self, button: int, down: bool) -> Changes:
        key = BUTTONS.get(button)
        return [] if key is None else [("down" if down else "up", key)]
