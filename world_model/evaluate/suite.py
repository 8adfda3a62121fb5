"""All measures in order. A measure that a world or a suite does not allow is reported as skipped, with the reason."""

from __future__ import annotations

from collections.abc import Callable

from world_model.evaluate.control import onset
from world_model.evaluate.drift import drift
from world_model.evaluate.evaluation_context import EvaluationContext, Measures, NotMeasured
from world_model.evaluate.picture import autoencoder, cells, next_frame, persistence, rollout
from world_model.evaluate.place import lights_kept, loop_closure, room_identity
from world_model.evaluate.sprites import sprites

PARTS: dict[Callable[[EvaluationContext], Measures], tuple[str, ...]] = {
    autoencoder: ("autoencoder_psnr_db",),
    next_frame: ("next_frame_psnr_db", "next_frame_gain_over_copy_last_db"),
    rollout: ("rollout63_psnr_db", "rollout63_gain_over_copy_last_db"),
    cells: ("cells_equal_10s", "cells_equal_60s"),
    persistence: ("sharpness_ratio", "motion_ratio"),
    onset: ("onset_first_frame_share", "onset_two_frames_share"),
    drift: ("drift_ratio_60s", "drift_ratio_10min", "drift_ratio_60min"),
    room_identity: ("room_identity_share",),
    loop_closure: ("loop_closure_ssim_gap",),
    lights_kept: ("lights_kept_share",),
    sprites: ("hero_there_10s", "hero_there_60s", "flip_room_right", "flip_cells_equal"),
}
"""Functions that measure, and the names that every report has from them: measured, or skipped with a reason."""
EXPECTED = tuple(name for names in PARTS.values() for name in names)


def evaluate(context: EvaluationContext) -> tuple[Measures, dict[str, str]]:
    """Every measure by name, and the reason for each that is missing."""
    measures: Measures = {}
    skipped: dict[str, str] = {}
    for part, names in PARTS.items():
        reason = f"the suite {context.suite.name!r} is too short for it"
        try:
            measures |= part(context)
        except NotMeasured as error:
            reason = str(error)
        skipped |= {name: reason for name in names if name not in measures}
    if context.teacher is None:
        why = "no teacher/weights.safetensors or teacher.safetensors that fits in the folder"
        skipped |= {f"{name}@teacher": why for name in ("next_frame_psnr_db", "rollout63_psnr_db")}
    return measures, skipped
