"""A player of Atari's Pong that sees what a person sees, for recordings with rallies and points on either side.

    python play.py --engine --config configs/pong.yaml --record recordings/pong \
        --bot docs/pong_player.py:Ponger --headless --sessions 66 --frames 1500
"""

from __future__ import annotations

import numpy as np

from game.actions import to_action
from game.worlds.bots import Bot

BALL, OWN, OTHER, FIELD = (236, 236, 236), (92, 186, 92), (213, 130, 74), (144, 72, 17)
"""Colours of the ball, the player's paddle, the enemy's, and the field."""
TOP, BOTTOM = 20, 100
"""Rows of the picture between which the field is."""


def is_near(frame: np.ndarray, colour: tuple[int, int, int]) -> np.ndarray:
    """Which pixels of the field [80, W] of a frame uint8 [H, W, 3] have a colour."""
    return np.abs(frame[TOP:BOTTOM].astype(int) - colour).sum(-1) < 30


class Ponger(Bot):
    """Mostly its paddle goes where the ball is, and not always in time; at times it wanders."""

    following = 0
    aim = 0

    def act(self, frame, info):
        if self.following == 0 and self.remaining == 0 and self.rng.random() < 0.5:
            self.following, self.aim = self.ticks(20, 120), int(self.rng.integers(-4, 5))
        if self.following == 0:
            return super().act(frame, info)
        self.following -= 1
        return to_action(self.next_keys(frame), self.keys)

    def plan(self):
        return self.choose(((), ("a",), ("d",), ("a", "space"), ("d", "space"), ("space",))), self.ticks(1, 12)

    def next_keys(self, frame):
        ball, own = is_near(frame, BALL).nonzero()[0], is_near(frame, OWN).nonzero()[0]
        serve = ("space",) if self.rng.random() < 0.2 else ()
        if not len(ball) or not len(own):
            return serve
        away = ball.mean() + self.aim - own.mean()
        return ("a",) if away > 2 else ("d",) if away < -2 else ()
