"""A player of MiniGrid's Dynamic-Obstacles that sees what a person sees, and seldom walks into anything.

    python play.py --engine --config configs/dodge.yaml --record recordings/dodge \
        --bot docs/dodge_player.py:Dodger --headless --sessions 360 --frames 300
"""

import numpy as np

from game.actions import to_action
from game.worlds.bots import Bot

STEPS = (1, 0), (0, 1), (-1, 0), (0, -1)  # right, down, left, up, as it turns


class Dodger(Bot):
    """Mostly it wanders, and at times it walks to the goal, below and to the right."""

    walking = 0

    def act(self, frame, info):  # uint8 [n * 8, n * 8, 3]
        if self.walking == 0 and self.remaining == 0 and self.rng.random() < 0.05:
            self.walking = self.ticks(3, 12)
        if self.walking > 0:
            self.walking -= 1
            return to_action((self.next_key(frame),), self.keys)
        action = super().act(frame, info)
        if action[self.keys.index("w")] and not self.seen(frame)[3] and self.rng.random() < 0.9:
            return to_action((str(self.rng.choice(["a", "d"])),), self.keys)
        return action

    def plan(self):
        return self.choose((("w",),) * 3 + (("a",), ("d",)) * 2), self.ticks(1, 3)

    def next_key(self, frame):
        """The key that brings it nearer to the goal, past the balls."""
        place, heading, last, clear = self.seen(frame)
        wanted = [way for way in (0, 1) if place[way] < last - 1] or [2, 3]
        if heading in wanted and clear:
            return "w"
        turns = (wanted[self.rng.integers(len(wanted))] - heading) % 4
        return str(self.rng.choice(["a", "d"])) if turns == 0 else "d" if turns < 3 else "a"

    def seen(self, frame):
        """Where it stands (x, y), which way it looks, the last column's number, and whether it may walk."""
        n = len(frame) // 8
        tiles = frame.reshape(n, 8, n, 8, 3).swapaxes(1, 2).reshape(n, n, 64, 3).astype(int)
        red = (tiles[..., 0] > 60) & (tiles[..., 1] < 40)
        y, x = np.unravel_index(red.sum(-1).argmax(), (n, n))
        rows, columns = np.nonzero(red[y, x].reshape(8, 8))
        middle = np.array([columns.mean(), rows.mean()]) - 3.5  # a triangle's lies away from where it points
        heading = min(range(4), key=lambda way: middle @ STEPS[way])
        ahead = x + STEPS[heading][0], y + STEPS[heading][1]
        ball = ((tiles[..., 2] > 150) & (tiles[..., 0] < 120)).sum(-1) > 15
        return (x, y), heading, n - 1, min(ahead) > 0 and max(ahead) < n - 1 and not ball[ahead[1], ahead[0]]
