"""The place: is it still this room, does it come back when one turns round, and do its lights stay as switched?

What a key does is asked of the real game, never assumed: a *loop* is a key that, held, brings the very first picture
back; a *toggle* is one whose single press changes the picture for good, and whose second press undoes it.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from world_model.evaluate.metrics import measure, ssim
from world_model.evaluate.subject import HALF_WINDOW, Measures, NotMeasured, Subject, Walk, label

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


def room_identity(subject: Subject) -> Measures:
    """The share of windows, a minute into the walk and later, whose likeliest of 16 rooms is their own.

    A room is known by its colours: how often each occurs in real walks there under other keys, lights on and off. One
    frame may show nothing but a bare wall, so all frames of a window are judged together. ``@real`` is how often real
    frames are told right, which is what a perfect game scores.
    """
    suite, rooms = subject.suite, subject.rooms + _others(subject)
    known = np.stack([_likelihood(subject, room) for room in subject.watch(rooms, "looks of rooms")])
    last = suite.seconds[-1]
    moments = {"": range(max(last % HALF_WINDOW + HALF_WINDOW, last - LAST_SECONDS), last + 1, 2 * HALF_WINDOW)}
    moments |= {f"_{label(second)}": (second,) for second in suite.late_seconds}
    found = {}
    for name, seconds in moments.items():
        walks = [(walk, second) for walk in subject.walks for second in seconds if walk.has(second)]
        for look in ("", "@real", "@floor", "@copy_last") if walks else ():
            told = [rooms[_likeliest(known, _looked(subject, walk, second, look))] for walk, second in walks]
            own = [walk.room for walk, _ in walks]
            found[f"room_identity_share{name}{look}"] = measure(np.equal(told, own), own)
    return found


def _others(subject: Subject) -> list[int]:
    """Seeds of further rooms, to make as many as the suite tells apart."""
    seeds = (seed for seed in range(10**6) if seed not in subject.rooms)
    return [next(seeds) for _ in range(subject.suite.identity_rooms - len(subject.rooms))]


def _looked(subject: Subject, walk: Walk, second: int, look: str) -> np.ndarray:
    """The frames of a window that are looked at, as one of the games and baselines shows them."""
    if look == "@copy_last":
        return walk.real[:1]
    pair = walk.window(second)
    frames = (pair.real if look else pair.made)[::STRIDE]
    return subject.neural.runtime.decode(subject.neural.runtime.encode(frames)) if look == "@floor" else frames


def _likelihood(subject: Subject, room: int) -> np.ndarray:
    """Logarithm of how often each colour occurs in a room, [BINS^3]; colours next to those seen count a little."""
    ticks = subject.suite.reference_ticks // 2
    walks = [subject.play_real(room, subject.keys(room, ticks, salt))[:: 2 * STRIDE] for salt in REFERENCE_SALTS]
    counts = np.bincount(_colours(np.concatenate(walks)).ravel(), minlength=BINS**3).astype(float)
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


def loop_closure(subject: Subject) -> Measures:
    """What is lost on the way round: SSIM(real before, after) - SSIM(made before, after), over every loop.

    A frozen picture closes every loop, so ``loop_halfway_ssim`` says how like the real view the generated one is at a
    quarter, a half and three quarters of the way.
    """
    gaps, halfway, groups, loops = {"": [], "@copy_last": []}, {"": [], "@copy_last": []}, [], 0
    for room in subject.watch(subject.rooms, "loops"):
        for loop in _loops(subject, room):
            keys = np.zeros((loop.ticks, subject.config.action_size), np.int8)
            keys[:, loop.key] = 1
            real = subject.play_real(room, keys)
            subject.meet(room)
            before = subject.neural.step(keys[0] * 0)[0]
            made = subject.play_neural(keys)
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


def _loops(subject: Subject, room: int) -> list[Loop]:
    """Keys that lead round in this room, in more ticks than the model looks back: less would need no memory of it."""
    shape, size = subject.config.rolling, subject.config.action_size
    seen = (shape.recent_blocks + 1 + shape.window_blocks) * shape.frames_per_block
    found = []
    for key in range(size):
        held = np.eye(size, dtype=np.int8)[key]
        first = subject.begin(room)[0][-1]
        still = True
        for tick in range(1, subject.suite.longest_loop + 1):
            frame = subject.real.step(held)[0]
            back = np.array_equal(frame, first)
            if back and not still:
                if tick > seen:
                    found.append(Loop(key, tick))
                break
            still = still and back
            if still and tick > seen:
                break
    return found


def lights_kept(subject: Subject) -> Measures:
    """The share of seconds at which the picture is as bright as the toggle was left, rather than as if untouched.

    Each toggle is pressed once, then the other keys lead a walk; the real game takes it both pressed and not.
    """
    toggles = _toggles(subject)
    if not toggles:
        raise NotMeasured("no key of the real game switches its picture for good")
    fps = subject.config.world.fps
    kept, groups = {"": [], "@floor": [], "@copy_last": []}, []
    for room in subject.watch(subject.rooms, "lights"):
        for key in toggles:
            keys = subject.keys(room, subject.suite.kept_seconds * fps, salt=9)
            keys[:, toggles] = 0
            pressed = keys.copy()
            pressed[fps // 4, key] = 1
            first = subject.meet(room)
            made = subject.play_neural(pressed)[fps - 1 :: fps]
            untouched, switched = (subject.play_real(room, way)[fps::fps] for way in (keys, pressed))
            floor = subject.neural.runtime.decode(subject.neural.runtime.encode(switched))
            clear = np.abs(_light(switched) - _light(untouched)) > LEAST_LIGHT
            looks = {"": made, "@floor": floor, "@copy_last": first[None].repeat(len(made), 0)}
            for look, frames in looks.items():
                kept[look].extend((_apart(frames, switched) < _apart(frames, untouched))[clear])
            groups.extend([room] * clear.sum())
    if not groups:
        raise NotMeasured("the toggles of the real game change the brightness of no picture that was met")
    return {f"lights_kept_share{look}": measure(values, groups) for look, values in kept.items()}


def _toggles(subject: Subject) -> list[int]:
    """Keys of which one press changes the picture for good and a second undoes it, in the first room."""
    size, room, rest = subject.config.action_size, subject.rooms[0], subject.config.world.fps
    found = []
    for key in range(size):
        once = np.zeros((2 * rest, size), np.int8)
        once[0, key] = 1
        twice = once.copy()
        twice[rest, key] = 1
        left, undone = subject.play_real(room, once), subject.play_real(room, twice)
        if not np.array_equal(left[-1], left[0]) and np.array_equal(undone[-1], left[0]):
            found.append(key)
    return found


def _light(frames: np.ndarray) -> np.ndarray:
    return frames.mean((1, 2, 3), dtype=np.float64)


def _apart(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.abs(_light(a) - _light(b))
