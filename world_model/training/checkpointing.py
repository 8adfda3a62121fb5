"""A stage's checkpoint: all that a resumed run needs to continue as if it had not stopped."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path

import torch

from world_model.training import TrainingError
from world_model.training.distributed import DistributedContext
from world_model.training.stage import TrainingStage

RESUME = "resume.pt"
"""The checkpoint's name in its stage's folder."""
FULL_DISK = 2**20
"""A write that fails with fewer free bytes than this failed for lack of them."""
FORGET = "Delete the file to train this stage anew, or give another --out"


def save(stage: TrainingStage, path: Path, step: int, distributed: DistributedContext, about: dict[str, str]) -> None:
    """Write the checkpoint under a temporary name, then rename it. All processes must call it. Raises TrainingError."""
    extra = {name: distributed.gather(part) for name, part in getattr(stage, "state", dict)().items()}
    if not distributed.first:
        return
    state = {
        "step": step,
        "state": extra,
        "provenance": about,
        "average": stage.average.state_dict(),
        "networks": {name: update.network.state_dict() for name, update in stage.updates.items()},
        "optimizers": {name: [o.state_dict() for o in update.optimizers] for name, update in stage.updates.items()},
    }
    partial = path.with_suffix(".partial")
    try:
        torch.save(state, partial)
    except (OSError, RuntimeError) as error:  # PyTorch's writer hides the OSError of a full disk in a RuntimeError
        full = getattr(error, "errno", None) == errno.ENOSPC or shutil.disk_usage(path.parent).free < FULL_DISK
        partial.unlink(missing_ok=True)
        why = "the disk is full" if full else str(error)
        raise TrainingError(
            f"{path}: could not be written: {why}. The checkpoint before it is kept; free some space and --resume"
        ) from error
    os.replace(partial, path)


def resume(stage: TrainingStage, path: Path, distributed: DistributedContext) -> int:
    """Load the checkpoint into the stage, if there is one; returns how many steps are done. Raises TrainingError."""
    if not path.is_file():
        return 0
    state = read_state(path, distributed.device)
    try:
        stage.average.load_state_dict(state["average"])
        for name, update in stage.updates.items():
            update.network.load_state_dict(state["networks"][name])
            for optimizer, saved in zip(update.optimizers, state["optimizers"][name], strict=True):
                optimizer.load_state_dict(saved)
        if extra := state.get("state"):
            stage.restore({n: part.chunk(distributed.processes)[distributed.rank] for n, part in extra.items()})
    except (RuntimeError, LookupError, ValueError, TypeError, AttributeError) as error:
        raise TrainingError(
            f"{path}: is not a checkpoint of this {stage.name}, or another version's. {FORGET}"
        ) from error
    if distributed.first:
        distributed.console.print(f"{stage.name}: resumed at step {state['step']:,}")
    return state["step"]


def read_state(path: Path, device: torch.device | str = "cpu") -> dict:
    """What ``save`` wrote. Raises TrainingError for anything else."""
    try:
        state = torch.load(path, map_location=device, weights_only=True)
    except Exception as error:  # bytes that are no checkpoint can break the unpickler in any way
        raise TrainingError(f"{path}: empty, cut short, or no checkpoint at all. {FORGET}") from error
    if (
        not isinstance(state, dict)
        or not isinstance(state.get("step"), int)
        or not isinstance(state.get("provenance", {}), dict)
    ):
        raise TrainingError(f"{path}: holds something else than a checkpoint. {FORGET}")
    return state
