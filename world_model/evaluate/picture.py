"""Frame measures: the autoencoder's error, the next frame, equal cells, and sharpness and motion over time."""

from __future__ import annotations

import numpy as np

from world_model.episode.dataset import from_spot
from world_model.evaluate.evaluation_context import EvaluationContext, Measures, NotMeasured, Pair, PairedRollout, label
from world_model.evaluate.metrics import measure, psnr, ratio, ssim
from world_model.play.pictures import cells_apart, motion, sharpness

FLOOR_FRAMES = 96
"""Frames of each rollout over which the autoencoder's error is taken."""
LEAST_MOTION = 1.0
"""Mean absolute change of a frame, in grey levels, above which it counts as moved."""


def autoencoder(context: EvaluationContext) -> Measures:
    """PSNR of a real frame, encoded and decoded."""
    samples, groups = [], []
    for paired in context.rollouts:
        frames = paired.real[:: max(1, len(paired.real) // FLOOR_FRAMES)]
        samples.extend(psnr(context.round_trip(frames), frames))
        groups.extend([paired.room] * len(frames))
    return {"autoencoder_psnr_db": measure(samples, groups)}


def next_frame(context: EvaluationContext) -> Measures:
    """PSNR and SSIM of the next frame from a real past, where something moved.

    Baselines: the last real frame copied, the codec's round trip of the real frame, and the teacher on some of them.
    """
    samples: dict[str, list[tuple[float, float, int]]] = {}
    each = max(1, context.suite.next_frames // len(context.rooms))
    every = max(1, context.suite.next_frames // context.suite.teacher_frames)
    for paired in context.progress(context.rollouts, "next frames"):
        context.reset(paired.room)
        first = past_frames(context)
        moved = first + np.flatnonzero(motion(paired.real[first - 1 :]) > LEAST_MOTION)  # elsewhere a copy is perfect
        picks = moved[np.linspace(0, len(moved) - 1, each, dtype=int)] if len(moved) else moved
        for index, at in enumerate(picks):
            real = paired.real[at : at + 1]
            pictures = {
                "": next_from_real(context, paired, at),
                "@copy_last": paired.real[at - 1 : at],
                "@floor": context.round_trip(real),
            }
            if context.teacher is not None and index % every == 0:
                pictures["@teacher"] = _taught(context, paired, at, 1)[:1]
            for suffix, picture in pictures.items():
                row = psnr(picture, real)[0], ssim(picture, real)[0], paired.room
                samples.setdefault(suffix, []).append(row)
    if not samples:
        raise NotMeasured(f"no frame of the real game changes by more than {LEAST_MOTION} grey levels on average")
    columns = {suffix: np.array(rows).T for suffix, rows in samples.items()}
    measures = {}
    for suffix, (decibels, similarity, rooms) in columns.items():
        measures[f"next_frame_psnr_db{suffix}"] = measure(decibels, rooms)
        measures[f"next_frame_ssim{suffix}"] = measure(similarity, rooms)
    decibels, _, rooms = columns[""]
    return measures | {
        "next_frame_floor_psnr_db": measures["next_frame_psnr_db@floor"],
        "next_frame_copy_last_psnr_db": measures["next_frame_psnr_db@copy_last"],
        "next_frame_gain_over_copy_last_db": measure(decibels - columns["@copy_last"][0], rooms),
    }


def rollout(context: EvaluationContext) -> Measures:
    """PSNR of the generated frame 63 ticks after the first, against the real game under the same keys."""
    rows, taught, ticks = [], [], context.suite.rollout_ticks
    for paired in context.progress(context.rollouts, "frame 63"):
        real = paired.real[ticks]
        floor = context.round_trip(real[None])[0]
        rows.append([psnr(picture, real) for picture in (paired.made[ticks - 1], paired.real[0], floor)])
        if context.teacher is not None:
            context.reset(paired.room)
            taught.append(psnr(_taught(context, paired, 1, ticks)[ticks - 1], real))
    made, copied, floor = np.array(rows).T
    measures = {
        "rollout63_psnr_db": measure(made),
        "rollout63_psnr_db@copy_last": measure(copied),
        "rollout63_psnr_db@floor": measure(floor),
        "rollout63_gain_over_copy_last_db": measure(made - copied),
    }
    return measures | ({"rollout63_psnr_db@teacher": measure(taught)} if taught else {})


def cells(context: EvaluationContext) -> Measures:
    """Share of cells equal to the real game's: in the next frame from a real past, at ticks spread over the rollout;
    over 10 and 60 seconds of the same keys. Baselines: the last real frame copied; the first, kept. Where the game
    throws dice the two part by these, too.
    """
    samples: dict[str, list[tuple[float, int]]] = {}
    each = max(1, context.suite.next_frames // len(context.rooms))
    for paired in context.progress(context.rollouts, "cells"):
        context.reset(paired.room)
        real, made = paired.real, paired.made
        figures = {"cells_equal_next": [], "cells_equal_next@copy_last": []}
        for at in np.linspace(past_frames(context), len(real) - 1, each, dtype=int):
            figures["cells_equal_next"].append(cells_equal(next_from_real(context, paired, at)[0], real[at]))
            figures["cells_equal_next@copy_last"].append(cells_equal(real[at - 1], real[at]))
        for seconds in (10, 60):
            ticks = range(seconds * paired.fps if seconds * paired.fps <= len(made) else 0)
            figures[f"cells_equal_{seconds}s"] = [cells_equal(made[i], real[i + 1]) for i in ticks]
            figures[f"cells_equal_{seconds}s@first_kept"] = [cells_equal(real[0], real[i + 1]) for i in ticks]
        for name, values in figures.items():
            samples.setdefault(name, []).extend((value, paired.room) for value in values)
    return {name: measure(*zip(*pairs, strict=True)) for name, pairs in samples.items() if pairs}


def cells_equal(made: np.ndarray, real: np.ndarray) -> float:
    """Share of equal cells of two frames [H, W, 3]."""
    return float(1 - cells_apart(made, real).mean())


def persistence(context: EvaluationContext) -> Measures:
    """Sharpness and motion of the generated game relative to the real one, after some seconds of the same keys.

    A ratio without seconds in its name is the one at ``seconds[-1]`` of the suite. None where the real game is blank or
    stands still.
    """
    measures, suite = {}, context.suite
    for second in (*suite.seconds, *suite.late_seconds):
        rollouts = [paired for paired in context.rollouts if paired.has(second)]
        pairs = [_middle(paired.window(second), paired.fps) for paired in rollouts]
        for name, number in (("sharpness", sharpness), ("motion", motion)) if pairs else ():
            real = [number(pair.real).mean() for pair in pairs]
            if not any(real):
                continue  # the real game stands still
            means = {
                "": [number(pair.made).mean() for pair in pairs],
                "@floor": [number(context.round_trip(pair.real)).mean() for pair in pairs],
                "@copy_last": [number(np.stack([paired.real[0]] * 2)).mean() for paired in rollouts],
            }
            for suffix, made in means.items():
                measures[f"{name}_ratio_{label(second)}{suffix}"] = ratio(made, real)
                if second == suite.seconds[-1]:
                    measures[f"{name}_ratio{suffix}"] = measures[f"{name}_ratio_{label(second)}{suffix}"]
    return measures


def _middle(pair: Pair, fps: int) -> Pair:
    """The second before and the second after the middle of a window."""
    middle = len(pair.real) // 2
    span = slice(middle - fps, middle + fps)
    return Pair(pair.real[span], pair.made[span])


def past_frames(context: EvaluationContext) -> int:
    """How many real frames precede one that ``next_from_real`` generates."""
    shape = context.config.rolling
    return (shape.recent_blocks + 1) * shape.frames_per_block


def _past(context: EvaluationContext, paired: PairedRollout, at: int) -> tuple[np.ndarray, np.ndarray]:
    """Latents [R+1, B, C, h, w] of the real frames before frame ``at`` and the keys [R+1, k] that led to each block.

    Before the first frame of the rollout, that frame is repeated, without keys.
    """
    ticks = np.arange(at - past_frames(context), at)
    per_block = context.config.rolling.frames_per_block
    keys = np.where(ticks[:, None] > 0, paired.keys[np.maximum(ticks - 1, 0)], 0)
    frames = paired.real[np.maximum(ticks, 0)]
    latents = context.neural.runtime.encode(frames)
    return latents.reshape(-1, per_block, *latents.shape[1:]), keys.reshape(-1, per_block, keys.shape[1]).max(1)


def next_from_real(context: EvaluationContext, paired: PairedRollout, at: int) -> np.ndarray:
    """The generated frame ``at`` [1, H, W, 3] after R+1 real blocks; the window is refilled from noise."""
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
    """The teacher's frames ``at`` .. at + ticks - 1 under the rollout's keys: [at least ticks, H, W, 3]."""
    runtime, shape = context.neural.runtime, context.config.rolling
    sinks = runtime.encode(context.neural.anchors()[: shape.sink_frames])
    past, acted = _past(context, paired, at)
    keys = paired.keys[at - 1 : at - 1 + ticks]
    return runtime.decode(context.teacher.follow(sinks, past, acted, keys, context.suite.teacher_steps))
