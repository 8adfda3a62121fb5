"""A screen that does as it is told, for tests of the player's loop."""

from game.play.keyboard import Event
from game.play.screen import Headless


class Script(Headless):
    """Events by the number of frames shown until then; keeps every frame and what was shown with it."""

    def __init__(self, plan: dict[int, list[Event]]):
        self.plan, self.shown, self.huds = dict(plan), [], []

    def poll(self):
        due = [count for count in self.plan if count <= len(self.shown)]
        return [event for count in due for event in self.plan.pop(count)]

    def show(self, frame, hud):
        self.shown.append(frame.copy())
        self.huds.append(hud)


def down(*keys: str) -> list[Event]:
    return [Event("down", key) for key in keys]
