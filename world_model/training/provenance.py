"""What a stage's weights are made of: its part of the configuration, its recordings, and the weights it starts from.

Digests of the three are kept with every checkpoint and inside the weights: a resumed run must not present old weights
as made of something new.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path

from world_model import checkpoint
from world_model.config import Config
from world_model.episode.dataset import DatasetSplit, room_of
from world_model.training import TrainingError
from world_model.training.checkpointing import RESUME, read_state

UNHASHED = {"steps", "checkpoint_every", "sample_every"}
"""Settings that may change when a stage is resumed: how long it trains and what it shows."""
SHAPES = {"name": True, "world": True, "codec": True}
Provenance = dict[str, str]


def provenance_of(stage: str, config: Config, dataset: DatasetSplit, upstream: Iterable[Path]) -> Provenance:
    """Digests by what they are of; upstream weights that are not there yet do not count."""
    shapes = SHAPES if stage == "autoencoder" else SHAPES | {"transformer": True, "head": True, "rolling": True}
    settings = getattr(config.training, stage).model_dump(exclude=UNHASHED)
    scored = config.training.teacher.clip_blocks if stage == "student_dmd" else 0  # windows as long as its clips
    parts = [config.model_dump(include=shapes), settings, scored]
    weights = [checkpoint.digest(path) for path in upstream if path.is_file()]
    return {"configuration": _digest(parts), "recordings": digest_of(dataset), "upstream": _digest(weights)}


def digest_of(dataset: DatasetSplit) -> str:
    """Of the recordings that are trained on."""
    return _digest(sorted((s.path.name, s.meta.created, str(s.meta.seed), len(s)) for s in dataset.train))


def rooms_trained(dataset: DatasetSplit, upstream: Iterable[Path]) -> str:
    """The rooms that a stage's weights were trained on (``checkpoint.ROOMS``), with those of its upstream weights."""
    seeds = {room_of(session) for session in dataset.train}
    rooms = {checkpoint.UNKNOWN if seed is None else str(seed) for seed in seeds}
    for path in upstream:
        rooms |= set(checkpoint.describe(path)[1].get(checkpoint.ROOMS, checkpoint.UNKNOWN).split())
    return " ".join(sorted(rooms))


def stored_provenance(folder: Path) -> tuple[int, Provenance] | None:
    """The steps that made the weights in a stage's folder, 0 where it has only a checkpoint, and its provenance; None
    where it has neither."""
    if (folder / checkpoint.WEIGHTS).is_file():
        about = checkpoint.describe(folder / checkpoint.WEIGHTS)[1]
        if not str(about.get("steps")).isdecimal():
            raise TrainingError(f"{folder}: its weights do not say how many steps made them. Give another --out")
        return int(about["steps"]), about
    if (folder / RESUME).is_file():
        return 0, read_state(folder / RESUME).get("provenance", {})
    return None


def check_unchanged(folder: Path, current: Provenance, stored: Provenance) -> None:
    """Raises TrainingError when what is in ``folder`` is made of something else than what it would be made of now."""
    if not current.keys() <= stored.keys():
        raise TrainingError(f"{folder}: does not say what it is made of, another version left it. Give another --out")
    changed = [part for part in current if stored[part] != current[part]]
    if not changed:
        return
    names = {"configuration": f"the configuration of {folder.name}", "upstream": "the weights it began from"}
    what = " and ".join(names.get(part, f"the {part}") for part in changed)
    back = f"or delete {folder} to train it anew" if changed == ["upstream"] else "or put back what was there"
    more = f". --resume {folder.parent} --out NEW teaches its student more" if "recordings" in changed else ""
    raise TrainingError(f"{folder}: {what} changed since it was trained. Give another --out, {back}{more}")


def _digest(data) -> str:
    return hashlib.sha256(json.dumps(data).encode()).hexdigest()[:16]
