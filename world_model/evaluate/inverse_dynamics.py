"""From video back to keys: three consecutive frames say which keys acted in the last.

    model = load(WORLDS / "arena" / FILE)
    chances = model.keys_seen(frames)     # [n - 2, keys], for frames[2:]
    model.thresholds                      # [keys]: a key was seen where its chance is at least this
    numbers = model.features(frames)      # [n - 2, d], to compare the looks and the motion of videos by

What it is trained to see is an effect, not a press (``effects.py``). It judges pictures and makes
none: generated video is measured by what this reader, trained on the real game alone, finds in it.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from world_model import checkpoint
from world_model.checkpoint import CheckpointError
from world_model.config import Config
from world_model.model.autoencoder import Residual
from world_model.play.runtime import WorldError

FILE = "inverse_dynamics.safetensors"
PREFIX = "inverse_dynamics"
FRAMES = 3
SIDE = 64
"""Pixels a side that motion is looked for in: a step of the player still moves the picture by about one."""
GRID = 32
"""Pixels a side that the network sees."""
WIDTHS = (48, 96, 128)
FEATURES = 64
BATCH = 256
PICTURE, MOTION = 3, 6
CHANNELS = PICTURE + 2 * MOTION


@dataclass(frozen=True)
class Glance:
    """One frame as motion is looked for in it: every frame at one brightness and contrast, so that a dark room moves
    as clearly as a lit one, and its brightness beside it.

    colours float32 [SIDE, SIDE, 3], greys uint8 [SIDE, SIDE], brightness the logarithm of the mean
    """

    colours: np.ndarray
    greys: np.ndarray
    brightness: float

    @classmethod
    def at(cls, frame: np.ndarray) -> Glance:
        """Of a frame uint8 [H, W, 3]."""
        small = cv2.resize(frame, (SIDE, SIDE), interpolation=cv2.INTER_AREA).astype(np.float32)
        mean = float(small.mean())
        colours = (small - mean) / (float(small.std()) + 4)
        greys = cv2.cvtColor(colours, cv2.COLOR_RGB2GRAY)
        return cls(colours, np.clip(40 * greys + 128, 0, 255).astype(np.uint8), float(np.log(mean + 4)))


def motion(before: Glance, after: Glance) -> np.ndarray:
    """What changed between two frames, float32 [GRID, GRID, MOTION]: optical flow in pixels, the change of colours, and
    the change of brightness everywhere. The flow is classical (DIS, arXiv 1603.03590): it needs no learning, and knows
    no difference between real and generated pictures."""
    finder = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    finder.setFinestScale(0)
    flow = finder.calc(before.greys, after.greys, None)
    brighter = np.full((GRID, GRID, 1), after.brightness - before.brightness, np.float32)
    return np.concatenate([_gridded(flow), 4 * _gridded(after.colours - before.colours), brighter], 2)


def evidence(now: Glance, motion_before: np.ndarray, motion_now: np.ndarray) -> np.ndarray:
    """What the network is given of three frames, float16 [CHANNELS, GRID, GRID]."""
    together = np.concatenate([_gridded(now.colours), motion_now, motion_before], 2)
    return together.transpose(2, 0, 1).astype(np.float16)


def _gridded(picture: np.ndarray) -> np.ndarray:
    return cv2.resize(picture, (GRID, GRID), interpolation=cv2.INTER_AREA)


def evidence_of(frames: np.ndarray) -> np.ndarray:
    """float16 [n - 2, CHANNELS, GRID, GRID] of a video uint8 [n, H, W, 3]."""
    glances = [Glance.at(frame) for frame in frames]
    motions = [motion(*pair) for pair in pairwise(glances)]
    return np.stack([evidence(now, *both) for now, both in zip(glances[2:], pairwise(motions), strict=True)])


class Network(nn.Module):
    """Evidence [n, CHANNELS, GRID, GRID] -> logits [n, keys], over ``features`` [n, FEATURES]."""

    def __init__(self, keys: int):
        super().__init__()
        parts: list[nn.Module] = [nn.Conv2d(CHANNELS, WIDTHS[0], 4, stride=2, padding=1)]
        for before, width in pairwise(WIDTHS):
            parts += [Residual(before), nn.SiLU(), nn.Conv2d(before, width, 4, stride=2, padding=1)]
        self.look = nn.Sequential(*parts, Residual(WIDTHS[-1]), nn.SiLU(), nn.Flatten(), nn.Dropout(0.1))
        self.gather = nn.Linear(WIDTHS[-1] * (GRID // 2 ** len(WIDTHS)) ** 2, FEATURES)
        self.tell = nn.Linear(FEATURES, keys)

    def forward(self, given: Tensor) -> Tensor:
        return self.tell(F.silu(self.features(given)))

    def features(self, given: Tensor) -> Tensor:
        return self.gather(self.look(given.float()))


@dataclass(frozen=True)
class InverseDynamics:
    """A trained reader of one world's video: ``keys_seen`` and ``features``.

    thresholds  float32 [keys], in the order of ``config.world.keys``
    about       what it was trained on and how well it reads real video it never saw, as text
    """

    network: Network
    config: Config
    thresholds: np.ndarray
    about: dict[str, str]

    def keys_seen(self, frames: np.ndarray) -> np.ndarray:
        """Chance that each key had an effect, float32 [n - 2, keys] for frames[2:] of uint8 [n, H, W, 3]."""
        return self._over(frames, lambda given: self.network(given).sigmoid())

    def features(self, frames: np.ndarray) -> np.ndarray:
        """float32 [n - 2, FEATURES] for frames[2:] of uint8 [n, H, W, 3]."""
        return self._over(frames, self.network.features)

    @torch.inference_mode()
    def _over(self, frames: np.ndarray, what: Callable[[Tensor], Tensor]) -> np.ndarray:
        world = self.config.world
        if frames.dtype != np.uint8 or frames.shape[1:] != (world.height, world.width, 3) or len(frames) < FRAMES:
            raise ValueError(
                f"frames are {frames.dtype} {list(frames.shape)}; the inverse dynamics of {self.config.name} reads "
                f"uint8 [n, {world.height}, {world.width}, 3] with n at least {FRAMES}"
            )
        device = next(self.network.parameters()).device
        parts = torch.from_numpy(evidence_of(frames)).split(BATCH)
        return torch.cat([what(part.to(device)).cpu() for part in parts]).numpy()


def save(path: Path, model: InverseDynamics) -> None:
    """Write a model, its weights in half precision, with its configuration and thresholds inside."""
    tensors = {f"{PREFIX}.{name}": t.half().cpu().numpy() for name, t in model.network.state_dict().items()}
    about = model.about | {"thresholds": json.dumps([round(float(t), 3) for t in model.thresholds])}
    checkpoint.save(path, tensors, model.config, about)


def load(path: str | Path, config: Config | None = None, device: str = "cpu") -> InverseDynamics:
    """Read a trained model; ``config`` is that of the video it is to read.

    Raises CheckpointError (no such file, damaged, not inverse dynamics) and WorldError (made for another world).
    """
    path = Path(path)
    theirs, about = checkpoint.describe(path)
    found = checkpoint.tensors(path, PREFIX)
    for part in ("name", "world") if config is not None else ():
        if getattr(theirs, part) != getattr(config, part):
            raise WorldError(
                f"{path}: reads the video of another world (its {part} is {getattr(theirs, part)}, not "
                f"{getattr(config, part)}). Train one: python -m world_model.training.inverse_dynamics --world "
                f"{config.name}"
            )
    network = Network(theirs.action_size)
    try:
        network.load_state_dict({name: torch.from_numpy(array).float() for name, array in found.items()})
        thresholds = np.array(json.loads(about.pop("thresholds")), np.float32)
    except (RuntimeError, KeyError) as error:
        raise CheckpointError(f"{path}: inverse dynamics of another version of this program; train it again") from error
    return InverseDynamics(network.to(device).eval(), theirs, thresholds, about)
