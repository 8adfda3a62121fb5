"""What a person does to the map of the game that is being played: draw on it, take another, pin a view, drop a picture.

Each answers with the four pictures that are to become the sinks, or says why not; the player puts them there.
"""

from __future__ import annotations

import itertools
from pathlib import Path

import gymnasium
import numpy as np

from game.draw import plan as planning
from game.draw.map_canvas import MapCanvas
from game.draw.plan import Plan, PlanError
from game.play.keyboard import Event
from game.worlds.keep_rooms import SCREEN
from game.worlds.sources import asked
from world_model.play.maps import nearest

MAPS = Path("maps")
Pictures = np.ndarray
"""uint8 [n, H, W, 3], as ``anchors`` gives them and ``NeuralGame.redraw`` takes them."""


class MapEditorError(ValueError):
    """What cannot be done to this game's map; the message is for the person."""


def drawable(source: gymnasium.Env) -> bool:
    """Whether the sinks of a game that has begun are a map of four rooms, and can be exchanged."""
    game = source.unwrapped
    fits = game.metadata.get("map") and hasattr(game, "redraw")
    return bool(fits) and game.anchors().shape == (4, SCREEN, SCREEN, 3)


class MapEditor:
    """``canvas`` is the one that is drawn on, None while it is closed. ``say`` shows the person a line."""

    def __init__(self, source: gymnasium.Env, say):
        self._source, self._say = source, say
        self.canvas: MapCanvas | None = None
        self._teleports, self._dropped = 0, ""

    def look_around(self) -> None:
        """The game is in another place, or in another time: so is the canvas."""
        if self.canvas is not None and not np.array_equal(self._pictures(), self.canvas.pictures):
            self.canvas = self._new_canvas()

    def toggle(self) -> None:
        """Open the canvas, or close it."""
        self.canvas = None if self.canvas is not None else self._new_canvas()

    def touch(self, event: Event) -> None:
        """The mouse on the canvas, or a picture that is dropped on the window."""
        if event.kind == "drop":
            self._dropped = event.key
        elif self.canvas is None:
            return
        elif event.kind in ("press", "erase"):
            self.canvas.press(*event.where, erases=event.kind == "erase")
        elif event.kind == "drag":
            self.canvas.drag(*event.where)
        elif event.kind == "let_go":
            self.canvas.let_go()

    def drawn(self) -> Pictures | None:
        """What was drawn since the last call, if anything."""
        return self.canvas.pictures if self.canvas is not None and self.canvas.take_change() else None

    def elsewhere(self, seed: int) -> Pictures:
        """The next place's map, for a game that began with ``seed``."""
        self._need(hasattr(self._source.unwrapped, "place"), "Only a neural game can be put into another map")
        self._teleports += 1
        return self._source.unwrapped.place(seed + self._teleports)

    def pinned(self, frame: np.ndarray) -> Pictures:
        """The map with ``frame`` in place of the picture that is most like it."""
        pictures = self._pictures()
        fits = pictures is not None and hasattr(self._source.unwrapped, "redraw")
        self._need(fits, "Only a neural game has sinks to pin a view to")
        pictures[nearest(frame, pictures)] = frame
        return pictures

    def dropped(self, frame: np.ndarray) -> Pictures:
        """The map with the picture that was dropped in place of the room that ``frame`` shows."""
        pictures = self._keep()
        try:
            pictures[nearest(frame, pictures)] = planning.read([Path(self._dropped)], pictures.shape[1:3])[0]
        except PlanError as error:
            raise MapEditorError(str(error)) from error
        return pictures

    def _new_canvas(self) -> MapCanvas:
        """For the map as it is: a keep's own tiles where it is a keep's, its pictures elsewhere."""
        pictures = self._keep()
        scene = str(asked(self._source, "provenance", {}).get("scene"))
        plan = Plan.of_seed(int(scene)) if scene.isdecimal() else None
        if plan is None or not np.array_equal(plan.pictures(), pictures):
            plan = Plan.of_pictures(pictures)
        return MapCanvas(plan, self._save)

    def _save(self, pictures: Pictures) -> None:
        names = (MAPS / str(number) for number in itertools.count())
        folder = next(name for name in names if not name.exists())
        try:
            planning.save(folder, pictures)
            self._say(f"Saved to {folder}; play it again: --map {folder}/*.png")
        except OSError as error:
            self._say(str(error))

    def _pictures(self) -> Pictures | None:
        return asked(self._source, "anchors")

    def _keep(self) -> Pictures:
        """The four rooms of a neural keep. DeskError for any other game."""
        self._need(drawable(self._source), "Only a neural keep's map can be drawn")
        return self._pictures()

    def _need(self, fits: bool, words: str) -> None:
        if not fits:
            raise MapEditorError(words)
