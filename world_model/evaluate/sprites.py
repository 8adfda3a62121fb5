"""What stands on a map: for worlds whose sinks are a map and whose game says where its sprites are.

The game's ``info`` names the room, the lights and the box of every sprite (x, y, width, height). A generated frame is
held to the real one under the same keys, by cells and by sprites; beside every figure stands that of the first frame
kept for ever, so that no still picture scores by standing still.
"""

from __future__ import annotations

from collections import Counter

import numpy as np

from world_model.evaluate.evaluation_context import EvaluationContext, Measures, NotMeasured, PairedRollout
from world_model.evaluate.metrics import measure
from world_model.evaluate.picture import next_from_real, past_frames
from world_model.play.maps import nearest
from world_model.play.pictures import cells_apart

REACH = 2
"""Pixels within which a sprite is where it should be."""
ALIKE = 24
"""Mean difference of a sprite's pixels, in grey levels, up to which it is that sprite."""
SETTLED = 20
"""Ticks round a moment over which a share is taken."""


OWN, LOOKS = 0.6, 16
"""Of a sprite's box, the share of pixels that are not the room's, from which it is a look to search for; how many of
the commonest looks are searched for."""


def sprites(context: EvaluationContext) -> Measures:
    """Cells, hero, flips, lights and the other sprites after 10 and 60 seconds; baseline: the first frame, kept."""
    if context.config.world.map is None:
        raise NotMeasured("the sinks of this world are no map")
    found: dict[str, list[tuple[float, int]]] = {}
    for paired in context.watch(context.rollouts, "sprites"):
        if "sprites" not in paired.infos[0]:
            raise NotMeasured("the game does not say where its sprites are")
        context.meet(paired.room)
        rooms = context.real.unwrapped.anchors()
        for suffix, made in {"": paired.made, "@first_kept": paired.real[:1].repeat(len(paired.made), 0)}.items():
            for name, values in _figures(paired, made, rooms).items():
                found.setdefault(name + suffix, []).extend((float(value), paired.room) for value in values)
        for name, values in _next_cells(context, paired).items():
            found.setdefault(name, []).extend((value, paired.room) for value in values)
    return {name: measure(*zip(*samples, strict=True)) for name, samples in found.items() if samples}


def _next_cells(context: EvaluationContext, paired: PairedRollout) -> dict[str, list[float]]:
    """Cells of the next frame from a real past, at moments spread over the rollout; beside it, the last frame copied."""
    each = max(1, context.suite.next_frames // len(context.rooms))
    picks = np.linspace(past_frames(context), len(paired.real) - 1, each, dtype=int)
    made = [_equal(next_from_real(context, paired, at)[0], paired.real[at]) for at in picks]
    return {"cells_equal_next": made,
            "cells_equal_next@copy_last": [_equal(paired.real[at - 1], paired.real[at]) for at in picks]}  # fmt: skip


def _figures(paired: PairedRollout, made: np.ndarray, maps: np.ndarray) -> dict[str, list[float]]:
    """Every figure's samples in one rollout; ``maps`` uint8 [n, H, W, 3] are the rooms' pictures."""
    real, infos = paired.real[1:], paired.infos[1:]
    equal = np.array([_equal(a, b) for a, b in zip(made, real, strict=True)])
    rooms = np.array([nearest(frame, maps) for frame in made])
    right = rooms == [info["room"] for info in infos]
    lit = np.array([_lit(frame, maps[room]) for frame, room in zip(made, rooms, strict=True)])
    lights = lit == [info["lights"] for info in infos]
    looks = _looks(real, infos, maps, "hero")
    figures: dict[str, list[float]] = {}
    for seconds in (10, 60):
        ticks = seconds * paired.fps
        if ticks + SETTLED // 2 > len(made):
            continue
        around = slice(ticks - SETTLED // 2, ticks + SETTLED // 2)
        figures[f"cells_equal_{seconds}s"] = equal[:ticks].tolist()
        figures[f"room_right_{seconds}s"] = right[around].tolist()
        figures[f"lights_right_{seconds}s"] = lights[around].tolist()
        lit_ticks = [i for i in range(around.start, around.stop, 4) if infos[i]["lights"]]
        figures[f"hero_somewhere_{seconds}s"] = [_seen(made[i], looks) for i in lit_ticks]
        for name in ("hero", "slime", "spark"):
            span = around if name == "hero" else slice(0, ticks)  # a spark is too seldom there for a moment
            there = [
                _there(made[i], real[i], infos[i]["sprites"][name])
                for i in range(*span.indices(len(made)))
                if name in infos[i]["sprites"]
            ]
            figures[f"{name}_there_{seconds}s"] = there
    flips = [i for i in range(1, len(made)) if infos[i]["room"] != infos[i - 1]["room"] and right[i - 1]]
    flips = [i for i in flips if _there(made[i - 1], real[i - 1], infos[i - 1]["sprites"]["hero"])]
    figures["flip_room_right"] = [right[i] for i in flips]
    figures["flip_cells_equal"] = [equal[i] for i in flips]
    return figures


def _looks(real: np.ndarray, infos: list[dict], maps: np.ndarray, name: str) -> list[tuple[np.ndarray, np.ndarray]]:
    """All looks of a sprite in lit frames: its box's pixels [h, w, 3] and which of them are not the room's [h, w]."""
    looks, often = {}, Counter()
    for frame, info in zip(real, infos, strict=True):
        x, y, width, height = info["sprites"][name]
        if info["lights"]:
            area = slice(max(y, 0), y + height), slice(max(x, 0), x + width)
            box, own = frame[area], (frame[area] != maps[info["room"]][area]).any(-1)
            if own.shape == (height, width) and own.mean() > OWN:
                key = np.where(own[..., None], box, 0).tobytes()
                looks[key] = (box, own)
                often[key] += 1
    return [looks[key] for key, _ in often.most_common(LOOKS)]


def _seen(frame: np.ndarray, looks: list[tuple[np.ndarray, np.ndarray]]) -> bool:
    """Whether a sprite stands anywhere in a frame."""
    for box, own in looks:
        windows = np.lib.stride_tricks.sliding_window_view(frame, own.shape, (0, 1))[..., own]  # [y, x, 3, pixels]
        if np.abs(windows - box[own].T.astype(np.int16)).mean((2, 3)).min() <= ALIKE:
            return True
    return False


def _equal(made: np.ndarray, real: np.ndarray) -> float:
    """Share of the cells that are the real ones."""
    return float(1 - cells_apart(made, real).mean())


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
