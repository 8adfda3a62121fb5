"""The menu: a list of all worlds, each of them played by a bot, until one is chosen. The window draws ``Hud.menu``."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import gymnasium
import numpy as np

from game.draw.map_editor import drawable
from game.play.screen import Entry, Hud, Menu, Screen
from game.worlds.bots import make_bot
from game.worlds.sources import is_over
from world_model import config as configuration
from world_model.checkpoint import WEIGHTS

CHOOSES = {"return": "play", "space": "play", "d": "draw"}
MOUSE = {"hover": "look", "press": "play"}
NUMBERS = tuple("123456789")
KEYS = (*CHOOSES, *NUMBERS)
SIZE = 64, 64
"""Height and width of the frame that the menu's window is made for; it scales every frame to it."""
BOT, FPS, ROOM_TICKS = "masher", 20, 200
TRAIN = "no weights yet: record it with --engine --world {0} --record, train it with train.py --config configs/{0}.yaml"
LOADING = "loading"


@dataclass(frozen=True)
class World:
    """A world by name, what its configuration's first line says of it, and whether it has weights."""

    name: str
    about: str
    ready: bool


def worlds(first: Sequence[str]) -> list[World]:
    """All worlds that have weights, those of ``first`` before others; then those that have only a configuration."""
    ready = sorted(path.parent.name for path in configuration.WORLDS.glob(f"*/{WEIGHTS}"))
    ready.sort(key=lambda name: first.index(name) if name in first else len(first))
    trained = [World(name, about(name), True) for name in ready]
    others = (_untrained(path) for path in sorted(configuration.CONFIGS.glob("*.yaml")) if path.stem not in ready)
    return trained + [world for world in others if world is not None]


def _untrained(path: Path) -> World | None:
    """The world of a configuration file; None where the file only changes a world of another name."""
    try:
        named = configuration.load(path).name == path.stem
    except configuration.ConfigError as error:
        return World(path.stem, str(error), False)
    return World(path.stem, about(path.stem), False) if named else None


def about(world: str) -> str:
    """The comment in the first line of a world's configuration; empty where there is none."""
    path = configuration.CONFIGS / f"{world}.yaml"
    first = path.read_text().partition("\n")[0] if path.is_file() else ""
    return first.removeprefix("#").strip() if first.startswith("#") else ""


class Demo:
    """A game that a bot plays, ``ROOM_TICKS`` a room."""

    def __init__(self, game: gymnasium.Env):
        self._game, self._ticks, self._seed = game, 0, 0
        self.frame = self._begin()
        self.drawable = drawable(game)

    def _begin(self) -> np.ndarray:
        self._bot = make_bot(BOT, self._seed, self._game.metadata["keys"])
        return self._game.reset(seed=self._seed)[0]

    def step(self) -> None:
        self._ticks += 1
        self.frame, _, *ends, _ = self._game.step(self._bot.act(self.frame, {}))
        if is_over(self._game, *ends) or self._ticks % ROOM_TICKS == 0:
            self._seed += 1
            self.frame = self._begin()


def choose(screen: Screen, listed: Sequence[World], opened: Callable[[str], gymnasium.Env]) -> tuple[str, str] | None:
    """What a person picks on ``screen``: "play" or "draw", and a world's name; None when they leave. ``opened`` makes
    the game of a world that is ready, on another thread, so that the menu appears at once."""
    chosen, advice = 0, ""
    with ThreadPoolExecutor(1) as loader:
        demos = {w.name: loader.submit(lambda name: Demo(opened(name)), w.name) for w in listed if w.ready}
        while True:
            next_frame = time.perf_counter() + 1 / FPS
            entries = tuple(_entry(world, demos.get(world.name)) for world in listed)
            for wish, number in _wishes(screen, Menu(entries, chosen)):
                if wish == "leave" or (wish != "look" and listed[number].ready):
                    loader.shutdown(wait=False, cancel_futures=True)
                    return None if wish == "leave" else (wish, listed[number].name)
                if wish != "look":
                    advice = TRAIN.format(listed[number].name)
                elif number != chosen:
                    advice = ""
                chosen = number
            frame = entries[chosen].picture
            notice = advice or (LOADING if frame is None and listed[chosen].ready else "")
            frame = np.zeros((*SIZE, 3), np.uint8) if frame is None else frame
            screen.show(frame, Hud(menu=Menu(entries, chosen), notice=notice))
            time.sleep(max(0.0, next_frame - time.perf_counter()))


def _wishes(screen: Screen, menu: Menu) -> Iterable[tuple[str, int]]:
    """The person's events as (wish, number of a world): "leave", "look", "play" or "draw"."""
    chosen, count = menu.chosen, len(menu.entries)
    for event in screen.poll():
        pointed = menu.at(*event.where)
        if event.kind == "quit" or (event.kind == "down" and event.key == "escape"):
            yield "leave", chosen
        elif event.kind in ("down", "wheel") and event.key in ("up", "down"):
            chosen = (chosen + (1 if event.key == "down" else -1)) % count
            yield "look", chosen
        elif event.kind in MOUSE and pointed is not None:
            chosen = pointed
            yield MOUSE[event.kind], chosen
        elif event.kind == "down" and event.key in CHOOSES and (event.key != "d" or menu.entries[chosen].drawable):
            yield CHOOSES[event.key], chosen
        elif event.kind == "down" and event.key in NUMBERS[:count]:
            yield "play", NUMBERS.index(event.key)


def _entry(world: World, demo: Future | None) -> Entry:
    """A world's entry, with the next frame of its demo once it is loaded, or with why it does not load."""
    if demo is None or not demo.done():
        return Entry(world.name, world.about, None)
    if error := demo.exception():
        return Entry(world.name, str(error), None)
    demo.result().step()
    return Entry(world.name, world.about, demo.result().frame, demo.result().drawable)
