"""What stands on a map: for worlds whose sinks are a map and whose game says where its sprites are.

The game's ``info`` names the room, the lights and the box of every sprite (x, y, width, height). A generated frame is
held to the real one under the same keys, by cells and by sprites; beside every figure stands that of the first frame
kept for ever, so that no still picture scores by standing still.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from world_model.evaluate.metrics import measure, nearest
from world_model.evaluate.subject import Measures, NotMeasured, Subject

EQUAL = 8
"""Grey levels within which a cell, all of it, equals the real one."""
CELL = 4
"""Pixels a cell side."""
REACH = 2
"""Pixels within which a sprite is where it should be."""
ALIKE = 24
"""Mean difference of a sprite's pixels, in grey levels, up to which it is that sprite."""
SETTLED = 20
"""Ticks round a moment over which a share is taken."""


@dataclass(frozen=True, eq=False)
class Visit:
    """A walk on a map: real [T + 1] and made [T] frames as in ``Walk``, what the game said of each real frame, and the
    map uint8 [n, H, W, 3]."""

    place: int
    real: np.ndarray
    made: np.ndarray
    told: list[dict]
    rooms: np.ndarray


def sprites(subject: Subject) -> Measures:
    """Cells, hero, flips, lights and the other sprites after 10 and 60 seconds; baseline: the first frame, kept."""
    if subject.config.world.map is None:
        raise NotMeasured("the sinks of this world are no map")
    found: dict[str, list[tuple[float, int]]] = {}
    for place in subject.watch(subject.rooms, "visiting"):
        visit = _visit(subject, place)
        for suffix, made in {"": visit.made, "@first_kept": visit.real[:1].repeat(len(visit.made), 0)}.items():
            for name, values in _figures(visit, made, subject.config.world.fps).items():
                found.setdefault(name + suffix, []).extend((float(value), place) for value in values)
    return {name: measure(*zip(*samples, strict=True)) for name, samples in found.items() if samples}


def _visit(subject: Subject, place: int) -> Visit:
    """Both games under the same keys for as long as a walk is."""
    keys = subject.keys(place, (subject.suite.seconds[-1] + 1) * subject.config.world.fps)
    frame, info = subject.real.reset(seed=place)
    if "sprites" not in info:
        raise NotMeasured("the game does not say where its sprites are")
    subject.meet(place)
    real, made, told = [frame], [], [info]
    for key in keys:
        frame, *_, info = subject.real.step(key)
        real.append(frame)
        told.append(info)
        made.append(subject.neural.step(key)[0])
    return Visit(place, np.stack(real), np.stack(made), told, subject.real.unwrapped.anchors())


def _figures(visit: Visit, made: np.ndarray, fps: int) -> dict[str, list[float]]:
    """Every figure's samples in one walk."""
    real, told = visit.real[1:], visit.told[1:]
    equal = np.array([_equal(a, b) for a, b in zip(made, real, strict=True)])
    rooms = np.array([nearest(frame, visit.rooms) for frame in made])
    right = rooms == [info["room"] for info in told]
    lit = np.array([_lit(frame, visit.rooms[room]) for frame, room in zip(made, rooms, strict=True)])
    lights = lit == [info["lights"] for info in told]
    figures: dict[str, list[float]] = {}
    for seconds in (10, 60):
        ticks = seconds * fps
        if ticks + SETTLED // 2 > len(made):
            continue
        around = slice(ticks - SETTLED // 2, ticks + SETTLED // 2)
        figures[f"cells_equal_{seconds}s"] = equal[:ticks].tolist()
        figures[f"room_right_{seconds}s"] = right[around].tolist()
        figures[f"lights_right_{seconds}s"] = lights[around].tolist()
        for name in ("hero", "slime", "spark"):
            span = around if name == "hero" else slice(0, ticks)  # a spark is too seldom there for a moment
            there = [
                _there(made[i], real[i], told[i]["sprites"][name])
                for i in range(*span.indices(len(made)))
                if name in told[i]["sprites"]
            ]
            figures[f"{name}_there_{seconds}s"] = there
    flips = [i for i in range(1, len(made)) if told[i]["room"] != told[i - 1]["room"] and right[i - 1]]
    flips = [i for i in flips if _there(made[i - 1], real[i - 1], told[i - 1]["sprites"]["hero"])]
    figures["flip_room_right"] = [right[i] for i in flips]
    figures["flip_cells_equal"] = [equal[i] for i in flips]
    return figures


def _equal(made: np.ndarray, real: np.ndarray) -> float:
    """Share of the cells that are the real ones."""
    wrong = (np.abs(made.astype(int) - real) > EQUAL).any(-1)
    height, width = wrong.shape
    return float(1 - wrong.reshape(height // CELL, CELL, width // CELL, CELL).any((1, 3)).mean())


def _lit(frame: np.ndarray, room: np.ndarray) -> bool:
    """Whether a room's lights are on: the dark takes more than a quarter of its brightness."""
    return float(frame.mean()) > 0.75 * float(room.mean())


def _there(made: np.ndarray, real: np.ndarray, box: tuple[int, int, int, int]) -> bool:
    """Whether the sprite in the real frame's ``box`` is within REACH of it in the generated one."""
    x, y, width, height = box
    left, top, right, bottom = max(x, 0), max(y, 0), min(x + width, real.shape[1]), min(y + height, real.shape[0])
    sprite = real[top:bottom, left:right].astype(int)
    for dy in range(max(-REACH, -top), min(REACH, real.shape[0] - bottom) + 1):
        for dx in range(max(-REACH, -left), min(REACH, real.shape[1] - right) + 1):
            found = made[top + dy : bottom + dy, left + dx : right + dx]
            if np.abs(found - sprite).mean() <= ALIKE:
                return True
    return False
