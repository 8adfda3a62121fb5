"""A screen with scripted events, for tests of the player's loop."""

import gymnasium

from game.play.keyboard import Event
from game.play.player import Options, Player
from game.play.screen import Headless


class Script(Headless):
    """plan: {number of frames shown until then: events}. Keeps every frame, and the HUD that was shown with it."""

    def __init__(self, plan: dict[int, list[Event]]):
        self.plan, self.shown, self.huds = dict(plan), [], []

    def poll(self):
        due = [count for count in self.plan if count <= len(self.shown)]
        return [event for count in due for event in self.plan.pop(count)]

    def show(self, frame, hud):
        self.shown.append(frame.copy())
        self.huds.append(hud)


def play(source, plan, recording=None, **options) -> Script:
    """Play a source by a plan, as fast as it goes."""
    screen = Script(plan)
    Player(source, screen, Options(source.metadata["keys"], fps=0, **options), recording=recording).run()
    return screen


def down(*keys: str) -> list[Event]:
    return [Event("down", key) for key in keys]


class Short(gymnasium.Wrapper):
    """A game whose episodes are over after so many ticks."""

    def __init__(self, game: gymnasium.Env, length: int):
        super().__init__(game)
        self.length = length

    def reset(self, **options):
        self.ticks = 0
        return self.env.reset(**options)

    def step(self, action):
        self.ticks += 1
        observation, reward, _, truncated, info = self.env.step(action)
        return observation, reward, self.ticks == self.length, truncated, info
