"""The place: is it still this room, does it come back when one turns round, and do its lights stay as switched?

What a key does is asked of the real game, never assumed: a *loop* is a key that, held, brings the very first picture
back; a *toggle* is one whose single press changes the picture for good, and whose second press undoes it.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from world_model.evaluate.evaluation_context import (
    HALF_WINDOW,
    EvaluationContext,
    Measures,
    NotMeasured,
    PairedRollout,
    label,
)
from world_model.evaluate.metrics import measure, ssim

BINS = 32
"""Steps of brightness and of each of two colour differences, all logarithmic, that a pixel's colour is told by."""
SIDE = 32
RARE = 1e-5
"""Share that a colour which a room never showed is given."""
LAST_SECONDS = 20
"""How long before the end of the minute the windows begin in which rooms are told."""
STRIDE = 5
"""Ticks between the frames of a window that are looked at."""
REFERENCE_SALTS = (1, 2, 3)
LEAST_LIGHT = 3.0
"""Difference in mean brightness, of 255, from which it can be told which way a toggle stands."""


def room_identity(context: EvaluationContext) -> Measures:
    """The share of windows, a minute into the rollout and later, whose likeliest of 16 rooms is their own.

    A room is known by its colours: how often each occurs in real rollouts there under other keys, lights on and off. One
    frame may show nothing but a bare wall, so all frames of a window are judged together. ``@real`` is how often real
    frames are told right, which is what a perfect game scores.
    """
    suite, rooms = context.suite, context.rooms + _others(context)
    known = np.stack([_likelihood(context, room) for room in context.watch(rooms, "looks of rooms")])
    last = suite.seconds[-1]
    moments = {"": range(max(last % HALF_WINDOW + HALF_WINDOW, last - LAST_SECONDS), last + 1, 2 * HALF_WINDOW)}
    moments |= {f"_{label(second)}": (second,) for second in suite.late_seconds}
    found = {}
    for name, seconds in moments.items():
        rollouts = [(paired, second) for paired in context.rollouts for second in seconds if paired.has(second)]
        for look in ("", "@real", "@floor", "@copy_last") if rollouts else ():
            infos = [rooms[_likeliest(known, _looked(context, paired, second, look))] for paired, second in rollouts]
            own = [paired.room for paired, _ in rollouts]
            found[f"room_identity_share{name}{look}"] = measure(np.equal(infos, own), own)
    return found


def _others(context: EvaluationContext) -> list[int]:
    """Seeds of further rooms, to make as many as the suite tells apart."""
    seeds = (seed for seed in range(10**6) if seed not in context.rooms)
    return [next(seeds) for _ in range(context.suite.identity_rooms - len(context.rooms))]


def _looked(context: EvaluationContext, paired: PairedRollout, second: int, look: str) -> np.ndarray:
    """The frames of a window that are looked at, as one of the games and baselines shows them."""
    if look == "@copy_last":
        return paired.real[:1]
    pair = paired.window(second)
    frames = (pair.real if look else pair.made)[::STRIDE]
    return context.neural.runtime.decode(context.neural.runtime.encode(frames)) if look == "@floor" else frames


def _likelihood(context: EvaluationContext, room: int) -> np.ndarray:
    """Logarithm of how often each colour occurs in a room, [BINS^3]; colours next to those seen count a little."""
    ticks = context.suite.reference_ticks // 2
    rollouts = [context.play_real(room, context.keys(room, ticks, salt))[:: 2 * STRIDE] for salt in REFERENCE_SALTS]
    counts = np.bincount(_colours(np.concatenate(rollouts)).ravel(), minlength=BINS**3).astype(float)
    shares = (counts / counts.sum()).reshape(BINS, BINS, BINS)
    for axis in range(3):
        shares = (np.roll(shares, 1, axis) + 2 * shares + np.roll(shares, -1, axis)) / 4
    return np.log(shares.ravel() + RARE)


def _colours(frames: np.ndarray) -> np.ndarray:
    """Frames uint8 [n, H, W, 3] -> the number of each pixel's colour, [n, SIDE * SIDE]."""
    small = np.stack([cv2.resize(frame, (SIDE, SIDE), interpolation=cv2.INTER_AREA) for frame in frames])
    logs = np.log(small.reshape(len(small), -1, 3).astype(np.float32) + 8)
    axes = (
        (logs.mean(-1), 2.0, 5.6),
        (logs[..., 0] - logs[..., 1], -1.5, 1.5),
        (logs[..., 1] - logs[..., 2], -1.5, 1.5),
    )
    steps = [np.clip(((value - low) / (high - low) * BINS).astype(int), 0, BINS - 1) for value, low, high in axes]
    return (steps[0] * BINS + steps[1]) * BINS + steps[2]


def _likeliest(known: np.ndarray, frames: np.ndarray) -> int:
    return int(known[:, _colours(frames)].mean((1, 2)).argmax())


@dataclass(frozen=True)
class Loop:
    """A key that brings the first picture back after ``ticks``."""

    key: int
    ticks: int


def loop_closure(context: EvaluationContext) -> Measures:
    """What is lost on the way round: SSIM(real before, after) - SSIM(made before, after), over every loop.

    A frozen picture closes every loop, so ``loop_halfway_ssim`` says how like the real view the generated one is at a
    quarter, a half and three quarters of the way.
    """
    gaps, halfway, groups, loops = {"": [], "@copy_last": []}, {"": [], "@copy_last": []}, [], 0
    for room in context.watch(context.rooms, "loops"):
        for loop in _loops(context, room):
            keys = np.zeros((loop.ticks, context.config.action_size), np.int8)
            keys[:, loop.key] = 1
            real = context.play_real(room, keys)
            context.meet(room)
            before = context.neural.step(keys[0] * 0)[0]
            made = context.play_neural(keys)
            lost = ssim(real[:1], real[-1:])[0]
            gaps[""].append(lost - ssim(before[None], made[-1:])[0])
            gaps["@copy_last"].append(lost - 1)
            parts = np.arange(1, 4) * loop.ticks // 4
            halfway[""].append(ssim(real[parts], made[parts - 1]).mean())
            halfway["@copy_last"].append(ssim(real[parts], real[:1].repeat(3, 0)).mean())
            groups.append(room)
            loops += 1
    if not loops:
        raise NotMeasured("no key of the real game, held, brings its first picture back")
    found = {f"loop_closure_ssim_gap{look}": measure(values, groups) for look, values in gaps.items()}
    return found | {f"loop_halfway_ssim{look}": measure(values, groups) for look, values in halfway.items()}


def _loops(context: EvaluationContext, room: int) -> list[Loop]:
    """Keys that lead round in this room, in more ticks than the model looks back: less would need no memory of it."""
    shape, size = context.config.rolling, context.config.action_size
    seen = (shape.recent_blocks + 1 + shape.window_blocks) * shape.frames_per_block
    found = []
    for key in range(size):
        held = np.eye(size, dtype=np.int8)[key]
        first = context.begin(room)[0][-1]
        still = True
        for tick in range(1, context.suite.longest_loop + 1):
            frame = context.real.step(held)[0]
            back = np.array_equal(frame, first)
            if back and not still:
                if tick > seen:
                    found.append(Loop(key, tick))
                break
            still = still and back
            if still and tick > seen:
                break
    return found


def lights_kept(context: EvaluationContext) -> Measures:
    """The share of seconds at which the picture is as bright as the toggle was left, rather than as if untouched.

    Each toggle is pressed once, then the other keys lead a rollout; the real game takes it both pressed and not.
    """
    toggles = _toggles(context)
    if not toggles:
        raise NotMeasured("no key of the real game switches its picture for good")
    fps = context.config.world.fps
    kept, groups = {"": [], "@floor": [], "@copy_last": []}, []
    for room in context.watch(context.rooms, "lights"):
        for key in toggles:
            keys = context.keys(room, context.suite.kept_seconds * fps, salt=9)
            keys[:, toggles] = 0
            pressed = keys.copy()
            pressed[fps // 4, key] = 1
            first = context.meet(room)
            made = context.play_neural(pressed)[fps - 1 :: fps]
            untouched, switched = (context.play_real(room, way)[fps::fps] for way in (keys, pressed))
            floor = context.neural.runtime.decode(context.neural.runtime.encode(switched))
            clear = np.abs(_light(switched) - _light(untouched)) > LEAST_LIGHT
            looks = {"": made, "@floor": floor, "@copy_last": first[None].repeat(len(made), 0)}
            for look, frames in looks.items():
                kept[look].extend((_apart(frames, switched) < _apart(frames, untouched))[clear])
            groups.extend([room] * clear.sum())
    if not groups:
        raise NotMeasured("the toggles of the real game change the brightness of no picture that was met")
    return {f"lights_kept_share{look}": measure(values, groups) for look, values in kept.items()}


def _toggles(context: EvaluationContext) -> list[int]:
    """Keys of which one press changes the picture for good and a second undoes it, in the first room."""
    size, room, rest = context.config.action_size, context.rooms[0], context.config.world.fps
    found = []
    for key in range(size):
        once = np.zeros((2 * rest, size), np.int8)
        once[0, key] = 1
        twice = once.copy()
        twice[rest, key] = 1
        left, undone = context.play_real(room, once), context.play_real(room, twice)
        if not np.array_equal(left[-1], left[0]) and np.array_equal(undone[-1], left[0]):
            found.append(key)
    return found


def _light(frames: np.ndarray) -> np.ndarray:
    return frames.mean((1, 2, 3), dtype=np.float64)


def _apart(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.abs(_light(a) - _light(b))
