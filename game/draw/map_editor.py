"""What a person does to the map of a running game: draw on it, take another, pin a view, drop a picture on it.

Each returns the pictures that are to replace the sinks, or raises MapEditorError; ``player.py`` replaces them.
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
from game.worlds.sources import optional
from world_model.play.maps import nearest

MAPS = Path("maps")
Pictures = np.ndarray
"""uint8 [n, H, W, 3], as ``anchors`` gives them and ``NeuralGame.redraw`` takes them."""


class MapEditorError(ValueError):
    """What cannot be done to this game's map; the message is for the person."""


def drawable(source: gymnasium.Env) -> bool:
    """Whether the sinks of a game that was reset are a map of four rooms and can be replaced."""
    game = source.unwrapped
    return bool(game.metadata.get("map")) and hasattr(game, "redraw") and game.anchors().shape == (4, SCREEN, SCREEN, 3)


class MapEditor:
    """``canvas`` is the map being drawn, None while it is closed. ``say`` shows the person a line."""

    def __init__(self, source: gymnasium.Env, say):
        self._source, self._say = source, say
        self.canvas: MapCanvas | None = None
        self._teleports, self._dropped = 0, ""

    def refresh(self) -> None:
        """Begin the canvas again where the game's sinks are no longer those that are drawn on."""
        if self.canvas is not None and not np.array_equal(self._pictures(), self.canvas.pictures):
            self.canvas = self._new_canvas()

    def toggle(self) -> None:
        """Open the canvas, or close it."""
        self.canvas = None if self.canvas is not None else self._new_canvas()

    def touch(self, event: Event) -> None:
        """Handle the mouse on the canvas, or a picture that is dropped on the window."""
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

    def take_drawing(self) -> Pictures | None:
        """The map, if it was changed since the last call."""
        return self.canvas.pictures if self.canvas is not None and self.canvas.take_change() else None

    def elsewhere(self, seed: int) -> Pictures:
        """The map of the next room after ``seed``, and of another one at each call."""
        if not hasattr(self._source.unwrapped, "place"):
            raise MapEditorError("Only a neural game can be put into another map")
        self._teleports += 1
        return self._source.unwrapped.place(seed + self._teleports)

    def pinned(self, frame: np.ndarray) -> Pictures:
        """The sinks with ``frame`` in place of the one that is most like it."""
        pictures = self._pictures()
        if pictures is None or not hasattr(self._source.unwrapped, "redraw"):
            raise MapEditorError("Only a neural game has sinks to pin a view to")
        pictures[nearest(frame, pictures)] = frame
        return pictures

    def dropped(self, frame: np.ndarray) -> Pictures:
        """The map with the picture that was dropped in place of the room that ``frame`` shows."""
        pictures = self._map()
        try:
            pictures[nearest(frame, pictures)] = planning.read([Path(self._dropped)], pictures.shape[1:3])[0]
        except PlanError as error:
            raise MapEditorError(str(error)) from error
        return pictures

    def _new_canvas(self) -> MapCanvas:
        """A canvas with the present map: as tiles where it is the map of a seed, else as pictures."""
        pictures = self._map()
        scene = str(optional(self._source, "provenance", {}).get("scene"))
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
        return optional(self._source, "anchors")

    def _map(self) -> Pictures:
        """The four rooms of a neural keep; MapEditorError for any other game."""
        if not drawable(self._source):
            raise MapEditorError("Only a neural keep's map can be drawn")
        return self._pictures()
