"""The picture: the autoencoder's floor, the next frame, the rollout, and what is left of it after a while."""

from __future__ import annotations

import numpy as np

from world_model.evaluate import subject as subjects
from world_model.evaluate.subject import Measures, Subject
from world_model.metrics import measure, motion, psnr, ratio, sharpness

NEXT_FRAMES = 96
LEAST_MOTION = 1.0
"""Mean change of a pixel, of 255, above which a frame counts as moved."""


def autoencoder(subject: Subject) -> Measures:
    """The decoder's floor: PSNR of a real frame, encoded and decoded."""
    runtime, samples, groups = subject.neural.runtime, [], []
    for room, _, frames in subject.journeys:
        some = frames[:: max(1, len(frames) // NEXT_FRAMES)]
        samples.extend(psnr(runtime.decode(runtime.encode(some)), some))
        groups.extend([room] * len(some))
    return {"autoencoder_psnr_db": measure(samples, groups)}


def next_frame(subject: Subject) -> Measures:
    """PSNR of the next frame from a real past, where something moved; the copy of the last real frame beside it, and
    the autoencoder's floor on the same frames."""
    shape, rows, groups = subject.config.rolling, [], []
    for room, keys, frames in subject.journeys:
        subject.meet(room)
        first = shape.recent_blocks + 1
        moved = first + np.flatnonzero(motion(frames[first - 1 :]) > LEAST_MOTION)  # elsewhere a copy is perfect
        for at in moved[np.linspace(0, len(moved) - 1, NEXT_FRAMES // len(subject.rooms), dtype=int)]:
            made = _next_from_real(subject, frames[at - first : at], keys[at - first : at], at)
            floor = subject.neural.runtime.decode(subject.neural.runtime.encode(frames[at : at + 1]))[0]
            rows.append([psnr(picture, frames[at]) for picture in (made, frames[at - 1], floor)])
            groups.append(room)
    made, copied, floor = np.array(rows).T
    return {
        "next_frame_psnr_db": measure(made, groups),
        "next_frame_floor_psnr_db": measure(floor, groups),
        "next_frame_copy_last_psnr_db": measure(copied, groups),
        "next_frame_gain_over_copy_last_db": measure(made - copied, groups),
    }


def _next_from_real(subject: Subject, past: np.ndarray, keys: np.ndarray, tick: int) -> np.ndarray:
    """One generated frame behind R+1 real ones: keys[i] made the frame after past[i]; the window starts as noise."""
    game, shape = subject.neural, subject.config.rolling
    runtime = game.runtime
    latents = runtime.encode(past)[:, None]
    blocks = np.concatenate([latents, latents[-1:].repeat(shape.window_blocks, 0)])
    sinks = runtime.encode(game.anchors()[: shape.sink_frames])
    under = np.concatenate([np.zeros_like(keys[:1]), keys[:-1]])
    state = runtime.prime(sinks[None], blocks[None], under[None], game.noise(tick))
    state = runtime.ramp(state, keys[-1:], game.ramp_noise(tick))
    return runtime.decode(runtime.step(state, keys[-1:], game.noise(tick + 1))[1])[-1]


def rollout(subject: Subject, ticks: int = 64) -> Measures:
    """PSNR of the generated frame 63 ticks after the start, against the real game under the same keys."""
    rows = []
    for room, keys, frames in subject.journeys:
        subject.meet(room)
        made = subject.play_neural(keys[:ticks])
        rows.append((psnr(made[-1], frames[ticks]), psnr(frames[0], frames[ticks])))
    made, copied = np.array(rows).T
    return {"rollout63_psnr_db": measure(made), "rollout63_gain_over_copy_last_db": measure(made - copied)}


def persistence(subject: Subject) -> Measures:
    """Sharpness and motion of the generated game relative to the real one, after 10 and 60 seconds of the same keys."""
    fps, sums = subject.config.world.fps, {}
    for room, keys, frames in subject.journeys:
        subject.meet(room)
        made = subject.play_neural(keys)
        for seconds in subjects.SECONDS:
            span = slice(seconds * fps - fps, seconds * fps + fps)
            for name, number in (("sharpness", sharpness), ("motion", motion)):
                pair = number(made[span]).mean(), number(frames[1:][span]).mean()
                sums.setdefault(f"{name}_ratio_{seconds}s", []).append(pair)
    return {name: ratio(*zip(*pairs, strict=True)) for name, pairs in sums.items()}
