"""Weights on disk: one safetensors file with its configuration inside. Nothing is ever unpickled.

A *checkpoint* is a folder: ``weights.safetensors`` (tensors named ``autoencoder.*`` and ``student.*``), and for a world
that ships, the ONNX graphs that point into that file, start scenes and a card. Arrays here are numpy's, so that the
play path needs no PyTorch.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from world_model.config import Config, ConfigError

WEIGHTS = "weights.safetensors"
HEADER = "rollplay"
ROOMS, UNKNOWN = "rooms", "unknown"
"""Key of ``about`` for the rooms that weights were trained on: their seeds in one string, and ``UNKNOWN`` among them if
there are others without a seed."""
FORMER = ("local.logit_mean", "local.logit_variance")
"""Arrays that only training once used: weights that have them make the same frames without. But they cannot be trained
on: the way in which their classes were told is no more."""
HEADER_STEP = 2**15
"""The configuration and ``about`` are filled up to a multiple of so many characters: a longer list of rooms moves no
tensor, so that graphs, which point at the tensors' places, serve retrained weights, too."""


class CheckpointError(ValueError):
    """Weights that cannot be used; the message says which, why and what to do."""


def save(path: Path, tensors: dict[str, np.ndarray], config: Config, about: dict[str, str]) -> None:
    """Write tensors with their configuration; complete before it gets its name. ``about``: stage, steps, data..."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    contiguous = {name: np.ascontiguousarray(array) for name, array in sorted(tensors.items())}
    # One key: the library writes several in random order, and equal weights should have equal hashes.
    header = json.dumps({"config": config.to_json(), "about": about})
    header += " " * (-len(json.dumps(header)) % HEADER_STEP)
    try:
        save_file(contiguous, partial, metadata={HEADER: header})
    except (OSError, SafetensorError) as error:
        partial.unlink(missing_ok=True)
        raise CheckpointError(f"{path}: could not be written ({error}); free some space") from error
    partial.chmod(0o644)  # the library writes for the owner alone; weights are to be shared
    os.replace(partial, path)


def describe(path: Path) -> tuple[Config, dict[str, str]]:
    """The configuration inside a weights file, and what else its maker wrote. Reads only the header."""
    config, about = _header(path)
    try:
        return Config.from_json(config, where=str(path)), about
    except ConfigError as error:
        raise CheckpointError(f"{error}. The weights were made by another version of this program") from error


def _header(path: Path) -> tuple[str, dict[str, str]]:
    """What ``save`` wrote into the header: the configuration in JSON, and ``about``."""
    with _opened(path) as file:
        header = (file.metadata() or {}).get(HEADER)
    if header is None:
        raise CheckpointError(f"{path}: has no configuration inside; it was not written by this program")
    try:
        header = json.loads(header)
        return header["config"], dict(header["about"])
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise CheckpointError(f"{path}: what it says of itself cannot be read ({error!r})") from error


def was_trained_on(about: dict[str, str], seed: int) -> bool | None:
    """Whether weights with this ``about`` were trained on a room; None where it does not say."""
    rooms = str(about.get(ROOMS, UNKNOWN)).split()
    return str(seed) in rooms or (None if UNKNOWN in rooms else False)


def tensors(path: Path, prefix: str) -> dict[str, np.ndarray]:
    """The arrays whose names start with ``prefix.``, without it."""
    arrays = {name[len(prefix) + 1 :]: array for name, array in _arrays(path, prefix + ".")}
    if not arrays:
        raise CheckpointError(f"{path}: holds no '{prefix}' weights; train that stage first")
    return arrays


def load(model: Any, path: Path, prefix: str) -> None:
    """Put the arrays of ``prefix`` into a PyTorch module. Raises CheckpointError where they do not fit."""
    import torch  # which playing does without

    arrays, shapes = tensors(path, prefix), {name: tuple(value.shape) for name, value in model.state_dict().items()}
    arrays = {name: array for name, array in arrays.items() if name not in FORMER}
    found = {name: array.shape for name, array in arrays.items()}
    if differing := sorted(name for name in shapes | found if shapes.get(name) != found.get(name)):
        raise CheckpointError(f"{path}: its {prefix} weights do not fit the network that its configuration describes: "
                              f"{len(differing)} arrays differ, such as {differing[0]}. If an older version made them, "
                              "that version plays them; this one must train them anew")  # fmt: skip
    model.load_state_dict({name: torch.from_numpy(array) for name, array in arrays.items()})


def check(path: Path) -> None:
    """Raise CheckpointError unless every weight is finite: the graphs read the file by themselves."""
    for _ in _arrays(path, ""):
        pass


def _arrays(path: Path, start: str) -> Iterator[tuple[str, np.ndarray]]:
    """The tensors whose names begin with ``start``, one by one. Raises CheckpointError for one with NaN in it."""
    with _opened(path) as file:
        for name in file.keys():  # noqa: SIM118 (not a dict)
            if name.startswith(start):
                array = file.get_tensor(name)
                if not np.isfinite(array).all():
                    raise CheckpointError(
                        f"{path}: {name} holds NaN or infinity: its training went wrong, or the file is damaged"
                    )
                yield name, array


def places(path: Path) -> dict[str, tuple[int, int]]:
    """Where each tensor's bytes lie in the file: name -> (offset, length)."""
    header = _header_bytes(path)
    entries = json.loads(header[8:])
    entries.pop("__metadata__", None)
    spans = {name: entry["data_offsets"] for name, entry in entries.items()}
    return {name: (len(header) + start, end - start) for name, (start, end) in spans.items()}


def layout_digest(path: Path) -> str:
    """Digest of the shapes and of where each tensor lies, which a graph depends on; neither values nor the settings of
    training change it."""
    shapes = json.loads(_header(path)[0]) | {"training": None}
    return hashlib.sha256(json.dumps([shapes, places(path)]).encode()).hexdigest()[:16]


def digest(path: Path) -> str:
    """The first 16 hexadecimal digits of the file's SHA-256: what reports and recordings call the checkpoint hash."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


def _header_bytes(path: Path) -> bytes:
    """Eight bytes that say how long the JSON is, and the JSON; the tensors follow."""
    with _opened(path), open(path, "rb") as file:
        length = file.read(8)
        return length + file.read(int.from_bytes(length, "little"))


def _opened(path: Path):
    if not path.is_file():
        raise CheckpointError(f"{path}: no such weights")
    try:
        return safe_open(path, framework="numpy")
    except SafetensorError as error:
        raise CheckpointError(f"{path}: damaged or not a safetensors file ({error})") from error
