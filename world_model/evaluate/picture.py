"""The picture: the autoencoder's floor, the next frame, the rollout, and what is left of it after a while."""

from __future__ import annotations

import numpy as np

from world_model.episode.dataset import from_spot
from world_model.evaluate.evaluation_context import EvaluationContext, Measures, Pair, PairedRollout, label
from world_model.evaluate.metrics import measure, psnr, ratio, ssim
from world_model.play.pictures import motion, sharpness

FLOOR_FRAMES = 96
"""Frames of each rollout that the autoencoder's own error is taken from."""
LEAST_MOTION = 1.0
"""Mean change of a pixel, of 255, above which a frame counts as moved."""


def autoencoder(context: EvaluationContext) -> Measures:
    """The decoder's floor: PSNR of a real frame, encoded and decoded."""
    samples, groups = [], []
    for paired in context.rollouts:
        some = paired.real[:: max(1, len(paired.real) // FLOOR_FRAMES)]
        samples.extend(psnr(_floor(context, some), some))
        groups.extend([paired.room] * len(some))
    return {"autoencoder_psnr_db": measure(samples, groups)}


def next_frame(context: EvaluationContext) -> Measures:
    """PSNR and SSIM of the next frame from a real past, where something moved.

    Beside it the copy of the last real frame, the autoencoder's floor on the same frames, and the teacher on some.
    """
    looks, groups, some, teacher_groups = {"": [], "@copy_last": [], "@floor": []}, [], [], []
    each = max(1, context.suite.next_frames // len(context.rooms))
    every = max(1, context.suite.next_frames // context.suite.teacher_frames)
    for paired in context.watch(context.rollouts, "next frames"):
        context.meet(paired.room)
        first = past_frames(context)
        moved = first + np.flatnonzero(motion(paired.real[first - 1 :]) > LEAST_MOTION)  # elsewhere a copy is perfect
        picks = moved[np.linspace(0, len(moved) - 1, each, dtype=int)] if len(moved) else moved
        for index, at in enumerate(picks):
            real, copied = paired.real[at : at + 1], paired.real[at - 1 : at]
            made = next_from_real(context, paired, at)
            for suffix, picture in {"": made, "@copy_last": copied, "@floor": _floor(context, real)}.items():
                looks[suffix].append((psnr(picture, real)[0], ssim(picture, real)[0]))
            groups.append(paired.room)
            if context.teacher is not None and index % every == 0:
                taught = _taught(context, paired, at, 1)[:1]
                some.append((psnr(taught, real)[0], ssim(taught, real)[0]))
                teacher_groups.append(paired.room)
    rows = {suffix: np.array(values).T for suffix, values in looks.items()}
    found = {}
    for suffix, (decibels, alike) in rows.items():
        found |= {
            f"next_frame_psnr_db{suffix}": measure(decibels, groups),
            f"next_frame_ssim{suffix}": measure(alike, groups),
        }
    gain = rows[""][0] - rows["@copy_last"][0]
    found |= {
        "next_frame_floor_psnr_db": found["next_frame_psnr_db@floor"],
        "next_frame_copy_last_psnr_db": found["next_frame_psnr_db@copy_last"],
        "next_frame_gain_over_copy_last_db": measure(gain, groups),
    }
    if some:
        decibels, alike = np.array(some).T
        found |= {
            "next_frame_psnr_db@teacher": measure(decibels, teacher_groups),
            "next_frame_ssim@teacher": measure(alike, teacher_groups),
        }
    return found


def rollout(context: EvaluationContext) -> Measures:
    """PSNR of the generated frame 63 ticks after the first, against the real game under the same keys."""
    rows, taught, ticks = [], [], context.suite.rollout_ticks
    for paired in context.watch(context.rollouts, "rollouts"):
        real = paired.real[ticks]
        floor = _floor(context, real[None])[0]
        rows.append([psnr(picture, real) for picture in (paired.made[ticks - 1], paired.real[0], floor)])
        if context.teacher is not None:
            context.meet(paired.room)
            taught.append(psnr(_taught(context, paired, 1, ticks)[ticks - 1], real))
    made, copied, floor = np.array(rows).T
    found = {
        "rollout63_psnr_db": measure(made),
        "rollout63_psnr_db@copy_last": measure(copied),
        "rollout63_psnr_db@floor": measure(floor),
        "rollout63_gain_over_copy_last_db": measure(made - copied),
    }
    return found | ({"rollout63_psnr_db@teacher": measure(taught)} if taught else {})


def persistence(context: EvaluationContext) -> Measures:
    """Sharpness and motion of the generated game relative to the real one, after some seconds of the same keys.

    Without seconds in its name a ratio is the one at the end of the rollout that every suite takes.
    """
    found, suite = {}, context.suite
    for second in (*suite.seconds, *suite.late_seconds):
        rollouts = [paired for paired in context.rollouts if paired.has(second)]
        pairs = [_middle(paired.window(second), paired.fps) for paired in rollouts]
        for name, number in (("sharpness", sharpness), ("motion", motion)) if pairs else ():
            real = [number(pair.real).mean() for pair in pairs]
            sets = {
                "": [number(pair.made).mean() for pair in pairs],
                "@floor": [number(_floor(context, pair.real)).mean() for pair in pairs],
                "@copy_last": [number(np.stack([paired.real[0]] * 2)).mean() for paired in rollouts],
            }
            found |= {f"{name}_ratio_{label(second)}{look}": ratio(made, real) for look, made in sets.items()}
            if second == suite.seconds[-1]:
                found |= {f"{name}_ratio{look}": ratio(made, real) for look, made in sets.items()}
    return found


def _middle(pair: Pair, fps: int) -> Pair:
    """The second before and the second after the middle of a window."""
    middle = len(pair.real) // 2
    span = slice(middle - fps, middle + fps)
    return Pair(pair.real[span], pair.made[span])


def _floor(context: EvaluationContext, frames: np.ndarray) -> np.ndarray:
    """Frames as the autoencoder gives them back: the best that any model above it can do."""
    return context.neural.runtime.decode(context.neural.runtime.encode(frames))


def past_frames(context: EvaluationContext) -> int:
    shape = context.config.rolling
    return (shape.recent_blocks + 1) * shape.frames_per_block


def _past(context: EvaluationContext, paired: PairedRollout, at: int) -> tuple[np.ndarray, np.ndarray]:
    """Latents [R+1, B, C, h, w] of the real frames before frame ``at`` and the keys [R+1, k] that led to each block.

    Before the first frame nothing moves.
    """
    ticks = np.arange(at - past_frames(context), at)
    per_block = context.config.rolling.frames_per_block
    keys = np.where(ticks[:, None] > 0, paired.keys[np.maximum(ticks - 1, 0)], 0)
    frames = paired.real[np.maximum(ticks, 0)]
    latents = context.neural.runtime.encode(frames)
    return latents.reshape(-1, per_block, *latents.shape[1:]), keys.reshape(-1, per_block, keys.shape[1]).max(1)


def next_from_real(context: EvaluationContext, paired: PairedRollout, at: int) -> np.ndarray:
    """The generated frame ``at`` [1, H, W, 3] behind R+1 real blocks; the window starts as noise."""
    game, shape, key = context.neural, context.config.rolling, paired.keys[at - 1][None]
    runtime = game.runtime
    past, acted = _past(context, paired, at)
    sinks = runtime.encode(game.anchors()[: shape.sink_frames])
    state = runtime.prime(sinks[None], past[None], acted[None], game.noise(at))
    if "pose" in state and "pose" in paired.infos[0]:
        poses = np.array([info["pose"] for info in paired.infos[:at]])
        state |= runtime.from_numpy({"pose": from_spot(poses, poses[0])[None, -1]})
    state = runtime.refill_window(state, key, game.refill_noise(at))
    return runtime.decode(runtime.step(state, key, game.noise(at + 1))[1])[:1]


def _taught(context: EvaluationContext, paired: PairedRollout, at: int, ticks: int) -> np.ndarray:
    """What the teacher makes of frames ``at`` .. at + ticks - 1: [at least ticks, H, W, 3], under the rollout's keys."""
    runtime, shape = context.neural.runtime, context.config.rolling
    sinks = runtime.encode(context.neural.anchors()[: shape.sink_frames])
    past, acted = _past(context, paired, at)
    keys = paired.keys[at - 1 : at - 1 + ticks]
    return runtime.decode(context.teacher.follow(sinks, past, acted, keys, context.suite.teacher_steps))
