"""Sprites, for worlds whose sinks are a map and whose game says where its sprites are.

The game's ``info`` names the room, the lights and the box of every sprite (x, y, width, height). A generated frame is
compared with the real one under the same keys, sprite by sprite; the baseline of a rollout is its first frame, kept.
"""

from __future__ import annotations

from collections import Counter

import numpy as np

from world_model.evaluate.evaluation_context import EvaluationContext, Measures, NotMeasured, PairedRollout
from world_model.evaluate.metrics import measure
from world_model.evaluate.picture import cells_equal
from world_model.play.maps import nearest

REACH = 2
"""Pixels by which a sprite may be displaced and still count as in place."""
ALIKE = 24
"""Mean absolute difference of a sprite's pixels, in grey levels, up to which it counts as that sprite."""
SETTLED = 20
"""Ticks round a moment over which a share is taken."""
OPAQUE, TEMPLATES = 0.6, 16
"""Share of a sprite's box that must differ from the room for a template; how many of the commonest are searched for."""


def sprites(context: EvaluationContext) -> Measures:
    """Hero, flips, lights and the other sprites after 10 and 60 seconds; baseline: the first frame, kept."""
    if context.config.world.map is None:
        raise NotMeasured("the sinks of this world are no map")
    samples: dict[str, list[tuple[float, int]]] = {}
    for paired in context.progress(context.rollouts, "sprites"):
        if "sprites" not in paired.infos[0]:
            raise NotMeasured("the game does not say where its sprites are")
        context.reset(paired.room)
        maps, first_kept = context.real.unwrapped.anchors(), paired.real[:1].repeat(len(paired.made), 0)
        figures = _figures(paired, paired.made, maps)
        figures |= {f"{name}@first_kept": values for name, values in _figures(paired, first_kept, maps).items()}
        for name, values in figures.items():
            samples.setdefault(name, []).extend((float(value), paired.room) for value in values)
    return {name: measure(*zip(*pairs, strict=True)) for name, pairs in samples.items() if pairs}


def _figures(paired: PairedRollout, made: np.ndarray, maps: np.ndarray) -> dict[str, list[float]]:
    """Samples of every figure in one rollout; ``maps`` uint8 [n, H, W, 3] are the rooms' pictures."""
    real, infos = paired.real[1:], paired.infos[1:]
    rooms = np.array([nearest(frame, maps) for frame in made])
    right = rooms == [info["room"] for info in infos]
    lit = np.array([_lit(frame, maps[room]) for frame, room in zip(made, rooms, strict=True)])
    lights = lit == [info["lights"] for info in infos]
    templates = _templates(real, infos, maps, "hero")
    figures: dict[str, list[float]] = {}
    for seconds in (10, 60):
        ticks = seconds * paired.fps
        if ticks + SETTLED // 2 > len(made):
            continue
        around = slice(ticks - SETTLED // 2, ticks + SETTLED // 2)
        figures[f"room_right_{seconds}s"] = right[around].tolist()
        figures[f"lights_right_{seconds}s"] = lights[around].tolist()
        lit_ticks = [i for i in range(around.start, around.stop, 4) if infos[i]["lights"]]
        figures[f"hero_somewhere_{seconds}s"] = [_anywhere(made[i], templates) for i in lit_ticks]
        for name in ("hero", "slime", "spark"):
            span = around if name == "hero" else slice(0, ticks)  # sparks are too rare for 20 ticks
            figures[f"{name}_there_{seconds}s"] = [
                _in_place(made[i], real[i], infos[i]["sprites"][name])
                for i in range(span.start, span.stop)
                if name in infos[i]["sprites"]
            ]
    flips = [i for i in range(1, len(made)) if infos[i]["room"] != infos[i - 1]["room"] and right[i - 1]]
    flips = [i for i in flips if _in_place(made[i - 1], real[i - 1], infos[i - 1]["sprites"]["hero"])]
    figures["flip_room_right"] = [right[i] for i in flips]
    figures["flip_cells_equal"] = [cells_equal(made[i], real[i]) for i in flips]
    return figures


def _templates(real: np.ndarray, infos: list[dict], maps: np.ndarray, name: str) -> list[tuple[np.ndarray, np.ndarray]]:
    """A sprite's commonest looks in lit frames: its box's pixels [h, w, 3] and which of them are its own [h, w]."""
    templates, counts = {}, Counter()
    for frame, info in zip(real, infos, strict=True):
        x, y, width, height = info["sprites"][name]
        if info["lights"]:
            area = slice(max(y, 0), y + height), slice(max(x, 0), x + width)
            box, own = frame[area], (frame[area] != maps[info["room"]][area]).any(-1)
            if own.shape == (height, width) and own.mean() > OPAQUE:
                key = np.where(own[..., None], box, 0).tobytes()
                templates[key] = (box, own)
                counts[key] += 1
    return [templates[key] for key, _ in counts.most_common(TEMPLATES)]


def _anywhere(frame: np.ndarray, templates: list[tuple[np.ndarray, np.ndarray]]) -> bool:
    """Whether one of a sprite's templates matches anywhere in a frame."""
    for box, own in templates:
        windows = np.lib.stride_tricks.sliding_window_view(frame, own.shape, (0, 1))[..., own]  # [y, x, 3, pixels]
        if np.abs(windows - box[own].T.astype(np.int16)).mean((2, 3)).min() <= ALIKE:
            return True
    return False


def _lit(frame: np.ndarray, room: np.ndarray) -> bool:
    """Whether the lights are on: the frame has over three quarters of its room's brightness."""
    return float(frame.mean()) > 0.75 * float(room.mean())


def _in_place(made: np.ndarray, real: np.ndarray, box: tuple[int, int, int, int]) -> bool:
    """Whether the sprite in the real frame's ``box`` is in the generated frame, displaced by REACH at most."""
    x, y, width, height = box
    left, top, right, bottom = max(x, 0), max(y, 0), min(x + width, real.shape[1]), min(y + height, real.shape[0])
    sprite = real[top:bottom, left:right].astype(int)
    for dy in range(max(-REACH, -top), min(REACH, real.shape[0] - bottom) + 1):
        for dx in range(max(-REACH, -left), min(REACH, real.shape[1] - right) + 1):
            displaced = made[top + dy : bottom + dy, left + dx : right + dx]
            if np.abs(displaced - sprite).mean() <= ALIKE:
                return True
    return False
