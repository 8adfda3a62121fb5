"""A player of MiniGrid's DoorKey that sees what a person sees, for recordings in which doors are opened.

    python play.py --engine --config configs/doorkey.yaml --record recordings/doorkey \
        --bot docs/doorkey_solver.py:Solver --headless --sessions 220 --frames 300
"""

from collections import deque

import numpy as np

from game.actions import to_action
from game.worlds.bots import Bot

STEPS = (1, 0), (0, 1), (-1, 0), (0, -1)  # right, down, left, up, as it turns


class Solver(Bot):
    """For a while it takes the key, opens the door and walks to the goal, and for a while it does anything."""

    solving = 0

    def act(self, frame, info):  # uint8 [64, 64, 3]
        if self.solving == 0 and self.remaining == 0 and self.rng.random() < 0.25:
            self.solving = self.ticks(10, 60)
        if self.solving == 0:
            return super().act(frame, info)
        self.solving -= 1
        return to_action((self.next_key(frame),), self.keys)

    def plan(self):
        return self.choose((("w",),) * 3 + (("a",), ("d",)) * 2 + (("space",), ("e",), ("q",), ())), self.ticks(1, 4)

    def next_key(self, frame):
        """The key that brings it nearer to what comes next: the key, the door, the goal."""
        tiles = frame.reshape(8, 8, 8, 8, 3).swapaxes(1, 2).reshape(8, 8, 64, 3).astype(int)
        things = {(x, y): thing for y in range(8) for x in range(8) if (thing := what(tiles[y, x]))}
        red = (tiles[..., 0] > 60) & (tiles[..., 1] < 40)
        y, x = np.unravel_index(red.sum(-1).argmax(), (8, 8))
        rows, columns = np.nonzero(red[y, x].reshape(8, 8))
        middle = np.array([columns.mean(), rows.mean()]) - 3.5  # a triangle's lies away from where it points
        heading = min(range(4), key=lambda i: middle @ STEPS[i])
        at = {thing: place for place, thing in things.items()}
        wanted, press = ("door", "e") if "door" in at else ("goal", "w")
        if {"door", "key"} <= at.keys():
            wanted, press = "key", "space"
        step = self.first_step((x, y), at.get(wanted), things)
        if step is None:
            return str(self.rng.choice(["a", "d", "w"]))
        turns = (STEPS.index((step[0] - x, step[1] - y)) - heading) % 4
        return ("d" if turns < 3 else "a") if turns else press if step == at[wanted] else "w"

    def first_step(self, start, end, things):
        """The first tile of a shortest way; None where there is none."""
        before, todo = {start: None}, deque([start])
        while todo:
            tile = todo.popleft()
            if tile == end != start:
                while before[tile] != start:
                    tile = before[tile]
                return tile
            for across, down in STEPS:
                new = tile[0] + across, tile[1] + down
                if new not in before and (new == end or things.get(new) in (None, "open")):
                    before[new] = tile
                    todo.append(new)
        return None


def what(tile):
    """tile [64, 3] -> "wall", "goal", "door", "open", "key", or None for a floor that one can walk on."""
    red, green, blue = tile.T
    yellow = ((red > 60) & (green > 60) & (blue < 40)).sum()
    if (tile == 100).all(1).mean() > 0.9:
        return "wall"
    if ((green > 150) & (red < 80)).sum() > 30:
        return "goal"
    return "door" if yellow > 45 else "open" if yellow > 22 else "key" if yellow > 5 else None
