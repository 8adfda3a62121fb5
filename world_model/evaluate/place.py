"""Memory of the place: which room is shown, what a full turn brings back, and whether lights stay as switched.

What a key does is found by playing the real game: a *loop* is a key that, held, brings the first frame back exactly; a
*toggle* is a key whose single press changes the frame for good, and whose second press undoes it.
"""

from __future__ import annotations

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
"""Bins of a pixel's log brightness and of each of its two log colour differences."""
SIDE = 32
"""Pixels a side of the frames whose colours are counted."""
RARE = 1e-5
"""Added to the share of every colour, so that one which a room never showed has a likelihood."""
LAST_SECONDS = 20
"""Seconds before the end of the rollout within which windows are classified by room."""
STRIDE = 5
"""Ticks between the frames of a window that are used."""
REFERENCE_SALTS = (1, 2, 3)
LEAST_LIGHT = 3.0
"""Difference in mean brightness, in grey levels, from which a toggle's state can be read from a frame."""


def room_identity(context: EvaluationContext) -> Measures:
    """The share of windows, at the end of the rollout and later, whose likeliest of ``identity_rooms`` is their own.

    A room's model is the histogram of colours in real rollouts there under other keys. One frame may show nothing but
    a bare wall, so all frames of a window are classified together. ``@real`` is the share of the real game's windows,
    the best that can be expected.
    """
    suite, rooms = context.suite, context.rooms + _others(context)
    likelihoods = np.stack([_likelihood(context, room) for room in context.progress(rooms, "colours of rooms")])
    last = suite.seconds[-1]
    moments = {"": range(max(last % HALF_WINDOW + HALF_WINDOW, last - LAST_SECONDS), last + 1, 2 * HALF_WINDOW)}
    moments |= {f"_{label(second)}": (second,) for second in suite.late_seconds}
    measures = {}
    for name, seconds in moments.items():
        windows = [(paired, second) for paired in context.rollouts for second in seconds if paired.has(second)]
        own = [paired.room for paired, _ in windows]
        for suffix in ("", "@real", "@floor", "@copy_last") if windows else ():
            frames = (_frames(context, *window, suffix) for window in windows)
            likeliest = [rooms[likelihoods[:, _colours(part)].mean((1, 2)).argmax()] for part in frames]
            measures[f"room_identity_share{name}{suffix}"] = measure(np.equal(likeliest, own), own)
    return measures


def _others(context: EvaluationContext) -> list[int]:
    """Seeds of further rooms, up to ``identity_rooms`` in all."""
    seeds = (seed for seed in range(10**6) if seed not in context.rooms)
    return [next(seeds) for _ in range(context.suite.identity_rooms - len(context.rooms))]


def _frames(context: EvaluationContext, paired: PairedRollout, second: int, suffix: str) -> np.ndarray:
    """Every STRIDE-th frame of a window, of the neural game or of the baseline in ``suffix``."""
    if suffix == "@copy_last":
        return paired.real[:1]
    pair = paired.window(second)
    frames = (pair.real if suffix else pair.made)[::STRIDE]
    return context.round_trip(frames) if suffix == "@floor" else frames


def _likelihood(context: EvaluationContext, room: int) -> np.ndarray:
    """Log-likelihood of each colour in a room, [BINS^3]; the histogram is smoothed over neighbouring bins."""
    ticks = context.suite.reference_ticks // 2
    rollouts = [context.play_real(room, context.keys(room, ticks, salt))[:: 2 * STRIDE] for salt in REFERENCE_SALTS]
    counts = np.bincount(_colours(np.concatenate(rollouts)).ravel(), minlength=BINS**3).astype(float)
    shares = (counts / counts.sum()).reshape(BINS, BINS, BINS)
    for axis in range(3):
        shares = (np.roll(shares, 1, axis) + 2 * shares + np.roll(shares, -1, axis)) / 4
    return np.log(shares.ravel() + RARE)


def _colours(frames: np.ndarray) -> np.ndarray:
    """Frames uint8 [n, H, W, 3] -> the bin of each pixel's colour, [n, SIDE * SIDE]."""
    small = np.stack([cv2.resize(frame, (SIDE, SIDE), interpolation=cv2.INTER_AREA) for frame in frames])
    logs = np.log(small.reshape(len(small), -1, 3).astype(np.float32) + 8)
    axes = (
        (logs.mean(-1), 2.0, 5.6),
        (logs[..., 0] - logs[..., 1], -1.5, 1.5),
        (logs[..., 1] - logs[..., 2], -1.5, 1.5),
    )
    steps = [np.clip(((value - low) / (high - low) * BINS).astype(int), 0, BINS - 1) for value, low, high in axes]
    return (steps[0] * BINS + steps[1]) * BINS + steps[2]


def loop_closure(context: EvaluationContext) -> Measures:
    """What a full turn loses: SSIM(real before, after) - SSIM(generated before, after), over every loop.

    A frozen frame closes every loop, so ``loop_halfway_ssim`` compares generated and real frames at a quarter, a half
    and three quarters of the way.
    """
    samples, groups = {}, []
    for room in context.progress(context.rooms, "loops"):
        for keys in _loops(context, room):
            real = context.play_real(room, keys)
            context.reset(room)
            before = context.neural.step(keys[0] * 0)[0]
            made = context.play_neural(keys)
            real_closure = ssim(real[:1], real[-1:])[0]
            parts = np.arange(1, 4) * len(keys) // 4
            values = {
                "loop_closure_ssim_gap": real_closure - ssim(before[None], made[-1:])[0],
                "loop_closure_ssim_gap@copy_last": real_closure - 1,
                "loop_halfway_ssim": ssim(real[parts], made[parts - 1]).mean(),
                "loop_halfway_ssim@copy_last": ssim(real[parts], real[:1].repeat(3, 0)).mean(),
            }
            for name, value in values.items():
                samples.setdefault(name, []).append(value)
            groups.append(room)
    if not groups:
        raise NotMeasured("no key of the real game, held, brings its first frame back")
    return {name: measure(values, groups) for name, values in samples.items()}


def _loops(context: EvaluationContext, room: int) -> list[np.ndarray]:
    """Held keys [ticks, k] that bring the room's first frame back, after more ticks than the context covers."""
    shape, size = context.config.rolling, context.config.action_size
    covered = (shape.recent_blocks + 1 + shape.window_blocks) * shape.frames_per_block
    loops = []
    for key in np.eye(size, dtype=np.int8):
        first = context.reset_real(room)[0][-1]
        moved = False
        for tick in range(1, context.suite.longest_loop + 1):
            back = np.array_equal(context.real.step(key)[0], first)
            if back and moved and tick > covered:
                loops.append(np.tile(key, (tick, 1)))
            if back and (moved or tick > covered):
                break
            moved = moved or not back
    return loops


def lights_kept(context: EvaluationContext) -> Measures:
    """The share of seconds at which the frame's brightness is nearer to the real game's with the toggle pressed than
    to that without. Each toggle is pressed once, in a rollout under the other keys.
    """
    toggles = _toggles(context)
    if not toggles:
        raise NotMeasured("no key of the real game switches its frame for good")
    fps = context.config.world.fps
    kept, groups = {"": [], "@floor": [], "@copy_last": []}, []
    for room in context.progress(context.rooms, "lights"):
        for key in toggles:
            keys = context.keys(room, context.suite.kept_seconds * fps, salt=9)
            keys[:, toggles] = 0
            pressed = keys.copy()
            pressed[fps // 4, key] = 1
            first, _ = context.reset(room)
            made = context.play_neural(pressed)[fps - 1 :: fps]
            untouched, switched = (context.play_real(room, way)[fps::fps] for way in (keys, pressed))
            on, off = _brightness(switched), _brightness(untouched)
            clear = np.abs(on - off) > LEAST_LIGHT
            copied = first[None].repeat(len(made), 0)
            for suffix, frames in {"": made, "@floor": context.round_trip(switched), "@copy_last": copied}.items():
                light = _brightness(frames)
                kept[suffix].extend((np.abs(light - on) < np.abs(light - off))[clear])
            groups.extend([room] * clear.sum())
    if not groups:
        raise NotMeasured("the toggles of the real game change the brightness of no frame of the rollouts")
    return {f"lights_kept_share{suffix}": measure(values, groups) for suffix, values in kept.items()}


def _toggles(context: EvaluationContext) -> list[int]:
    """Indices of the keys of which one press changes the frame for good and a second undoes it, in the first room."""
    size, room, second = context.config.action_size, context.rooms[0], context.config.world.fps
    toggles = []
    for key in range(size):
        once = np.zeros((2 * second, size), np.int8)
        once[0, key] = 1
        twice = once.copy()
        twice[second, key] = 1
        pressed, undone = context.play_real(room, once), context.play_real(room, twice)
        if not np.array_equal(pressed[-1], pressed[0]) and np.array_equal(undone[-1], pressed[0]):
            toggles.append(key)
    return toggles


def _brightness(frames: np.ndarray) -> np.ndarray:
    """Mean grey level of each frame, [n]."""
    return frames.mean((1, 2, 3), dtype=np.float64)
