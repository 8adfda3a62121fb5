"""The menu: what is listed, what a person's keys choose, and what a world that cannot be played says."""

import time

import gymnasium
import numpy as np
import pytest

from game.play import command, menu
from game.play.keyboard import Event
from play import parser
from world_model import config as configuration
from world_model.play.runtime import WorldError


class Counting(gymnasium.Env):
    """Every frame is brighter by one."""

    metadata = {"keys": ("w", "a"), "render_fps": 20}  # noqa: RUF012

    def reset(self, *, seed=None, options=None):
        self.frame = np.zeros((8, 8, 3), np.uint8)
        return self.frame, {}

    def step(self, action):
        self.frame = self.frame + 1
        return self.frame, 0.0, False, False, {}


class Mapped(Counting):
    """Its sinks are a map that can be drawn."""

    metadata = Counting.metadata | {"map": (2, 2)}

    def anchors(self):
        return np.zeros((4, 64, 64, 3), np.uint8)

    def redraw(self, pictures): ...


class Script:
    """A screen on which keys are pressed one by one, each once every world that can play is there to be seen."""

    def __init__(self, *keys: str, plays: int = 2):
        self.keys, self.plays, self.polled, self.shown = list(keys), plays, [], None

    def poll(self):
        if self.shown is None or sum(entry.picture is not None for entry in self.shown.menu.entries) < self.plays:
            return []
        self.polled.append(self.shown)
        key = self.keys.pop(0)
        if isinstance(key, Event):
            return [key]
        return [Event("quit")] if key == "close" else [Event("down", key)] if key else []

    def show(self, frame, hud):
        self.frame, self.shown = frame, hud


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(menu, "FPS", 1000)


WORLDS = [menu.World("one", "the first", True), menu.World("two", "", True), menu.World("new", "", False)]


def mouse(kind: str, entry: int) -> Event:
    """In the middle of an entry's row."""
    (box,) = [box for number, box in menu.Menu((None,) * 3, 0).rows() if number == entry]
    return Event(kind, where=(box.x + box.width / 2, box.y + box.height / 2))


def chosen(*keys, opened=lambda name: Mapped() if name == "two" else Counting(), plays: int = 2):
    screen = Script(*keys, plays=plays)
    return menu.choose(screen, WORLDS, opened), screen


@pytest.mark.parametrize(
    "keys, picked",
    [
        (["return"], ("play", "one")),
        (["down", "return"], ("play", "two")),
        (["up", "up", "space"], ("play", "two")),
        (["2"], ("play", "two")),
        (["3", "1"], ("play", "one")),  # the third cannot be played
        (["down", "d"], ("draw", "two")),
        (["d", "return"], ("play", "one")),  # the first has no map that can be drawn
        ([mouse("hover", 1), "return"], ("play", "two")),
        ([mouse("press", 1)], ("play", "two")),
        ([mouse("press", 2), Event("press", where=(0.1, 0.95)), mouse("press", 0)], ("play", "one")),
        ([Event("wheel", "down"), Event("wheel", "down"), Event("wheel", "up"), "return"], ("play", "two")),
        (["9", "escape"], None),
        (["close"], None),
    ],
)
def test_what_keys_choose(keys, picked):
    assert chosen(*keys)[0] == picked


def test_worlds_play_while_one_looks_and_the_one_that_is_looked_at_is_large():
    _, screen = chosen("down", "", "", "escape")
    first, last = screen.polled[0].menu, screen.polled[-1].menu
    assert (first.chosen, last.chosen) == (0, 1)
    assert all(last.entries[i].picture.max() > first.entries[i].picture.max() for i in (0, 1))
    assert screen.frame is last.entries[1].picture


def test_a_world_that_plays_itself_begins_again_after_an_end():
    class Short(Counting):
        def step(self, action):
            frame, *_, info = super().step(action)
            return frame, 0.0, bool(frame.max() == 3), False, info

    demo, shown = menu.Demo(Short()), []
    for _ in range(5):
        demo.step()
        shown.append(demo.frame.max())
    assert shown == [1, 2, 0, 1, 2]


def test_a_world_without_weights_says_how_to_get_them():
    _, screen = chosen("3", mouse("hover", 2), "escape")
    assert "train.py --config configs/new.yaml" in screen.shown.notice, "and goes on to say it under a moving mouse"
    assert screen.shown.menu.entries[2].picture is None


def test_a_world_that_cannot_be_opened_says_why_and_the_others_play():
    def opened(name):
        if name == "one":
            raise WorldError("its weights are damaged")
        return Counting()

    picked, screen = chosen("", "2", opened=opened, plays=1)
    assert picked == ("play", "two") and screen.shown.menu.entries[0].about == "its weights are damaged"


def test_who_leaves_does_not_wait_for_what_is_loading():
    opened = []

    def slowly(name):
        opened.append(name)
        time.sleep(0.3)
        return Counting()

    assert chosen("escape", opened=slowly, plays=0)[0] is None
    assert opened in ([], ["one"])


def test_all_worlds_are_listed_those_that_play_first(tmp_path, monkeypatch):
    for name in ("b", "keep"):
        (tmp_path / "worlds" / name).mkdir(parents=True)
        (tmp_path / "worlds" / name / "weights.safetensors").touch()
    shipped = (configuration.CONFIGS / "keep.yaml").read_text()
    (tmp_path / "keep.yaml").write_text("# Four rooms.\n" + shipped)
    (tmp_path / "mine.yaml").write_text(shipped.replace("name: keep", "name: mine"))
    (tmp_path / "toy.yaml").write_text(shipped)  # keep, at another size
    (tmp_path / "wrong.yaml").write_text("name: [")
    monkeypatch.setattr(configuration, "WORLDS", tmp_path / "worlds")
    monkeypatch.setattr(configuration, "CONFIGS", tmp_path)
    listed = menu.worlds(("keep",))
    names = [(world.name, world.ready) for world in listed]
    assert names == [("keep", True), ("b", True), ("mine", False), ("wrong", False)]
    assert listed[0].about == "Four rooms." and listed[1].about == "" and "wrong.yaml" in listed[3].about


def test_a_long_list_has_pages_and_every_entry_is_under_its_own_place():
    for chosen in range(12):
        listed = menu.Menu((None,) * 12, chosen)
        numbers = [number for number, _ in listed.rows()]
        assert chosen in numbers and len(numbers) <= 5
        assert [listed.at(0.2, box.y + box.height / 2) for _, box in listed.rows()] == numbers
        assert max(box.y + box.height for _, box in listed.rows()) < 0.86, "the last lines are the keys'"


def test_shipped_worlds_say_what_one_does_there():
    listed = [world for world in menu.worlds(command.SHIPPED) if world.name in command.SHIPPED]
    assert len(listed) == len(command.SHIPPED) and all("walk" in world.about.lower() for world in listed)
    for world in listed:
        keys = configuration.load(configuration.CONFIGS / f"{world.name}.yaml").world.keys
        assert ("Space" in world.about) == ("space" in keys)


@pytest.mark.parametrize("flags", [(), ("--record",), ("--scale", "4")])
def test_who_does_not_say_what_to_play_is_asked(flags, monkeypatch):
    monkeypatch.setattr(command, "_chosen", lambda flags: None)
    assert command.play(parser().parse_args(flags)) == 0, "who leaves the menu plays nothing"


@pytest.mark.parametrize(
    "flags",
    [("--world", "keep"), ("--checkpoint", "x"), ("--engine",), ("--draw",), ("--serve",), ("--frames", "3")],
)
def test_who_says_what_to_play_is_not_asked(flags, monkeypatch):
    monkeypatch.setattr(command, "_chosen", lambda flags: pytest.fail("asked"))
    monkeypatch.setattr(command, "_source", lambda *_: (_ for _ in ()).throw(WorldError("played")))
    with pytest.raises(WorldError, match="played"):
        command.play(parser().parse_args(flags))
