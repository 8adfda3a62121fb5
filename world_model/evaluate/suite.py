"""All measures in order. A measure that a world or a suite does not allow is reported as skipped, with the reason."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from world_model.evaluate.control import onset
from world_model.evaluate.drift import drift
from world_model.evaluate.evaluation_context import EvaluationContext, Measures, NotMeasured
from world_model.evaluate.picture import autoencoder, next_frame, persistence, rollout
from world_model.evaluate.place import lights_kept, loop_closure, room_identity
from world_model.evaluate.sprites import sprites

EXPECTED = (
    "autoencoder_psnr_db",
    "next_frame_psnr_db",
    "next_frame_gain_over_copy_last_db",
    "rollout63_psnr_db",
    "rollout63_gain_over_copy_last_db",
    "onset_first_frame_share",
    "onset_two_frames_share",
    "drift_ratio_60s",
    "drift_ratio_10min",
    "drift_ratio_60min",
    "sharpness_ratio",
    "motion_ratio",
    "room_identity_share",
    "loop_closure_ssim_gap",
    "lights_kept_share",
    "cells_equal_10s",
    "cells_equal_60s",
    "hero_there_10s",
    "hero_there_60s",
    "flip_room_right",
    "flip_cells_equal",
)
"""Names that every report has: measured, or skipped with a reason."""


@dataclass(frozen=True)
class Part:
    """A function that measures, and the names in EXPECTED that it gives."""

    measure: Callable[[EvaluationContext], Measures]
    names: tuple[str, ...]


def _part(measure: Callable[[EvaluationContext], Measures], *starts: str) -> Part:
    return Part(measure, tuple(name for name in EXPECTED if name.startswith(starts)))


PARTS = (
    _part(autoencoder, "autoencoder"),
    _part(next_frame, "next_frame"),
    _part(rollout, "rollout"),
    _part(persistence, "sharpness", "motion"),
    _part(onset, "onset"),
    _part(drift, "drift"),
    _part(room_identity, "room"),
    _part(loop_closure, "loop"),
    _part(lights_kept, "lights_kept"),
    _part(sprites, "cells", "hero", "flip"),
)


def evaluate(context: EvaluationContext) -> tuple[Measures, dict[str, str]]:
    """Every measure by name, and the reason for each that is missing."""
    measures: Measures = {}
    skipped: dict[str, str] = {}
    for part in PARTS:
        reason = f"the suite {context.suite.name!r} is too short for it"
        try:
            measures |= part.measure(context)
        except NotMeasured as error:
            reason = str(error)
        skipped |= {name: reason for name in part.names if name not in measures}
    if context.teacher is None:
        why = "no teacher/weights.safetensors or teacher.safetensors that fits in the folder"
        skipped |= {f"{name}@teacher": why for name in ("next_frame_psnr_db", "rollout63_psnr_db")}
    return measures, skipped
