"""From video back to keys: a small network looks at three consecutive frames and says which keys acted in the last.

    model = load(WORLDS / "arena" / FILE)
    chances = model.keys_seen(frames)     # [n - 2, keys], for frames[2:]
    model.thresholds                      # [keys]: a key was seen where its chance is at least this
    numbers = model.features(frames)      # [n - 2, d], to compare the looks and the motion of videos by

What it is trained to see is an effect, not a press (``effects.py``). It judges pictures and makes
none: generated video is measured by what this reader, trained on the real game alone, finds in it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from world_model import checkpoint
from world_model.autoencoder import Residual
from world_model.checkpoint import CheckpointError
from world_model.config import Config
from world_model.runtime import WorldError

FILE = "inverse_dynamics.safetensors"
PREFIX = "inverse_dynamics"
FRAMES = 3
SIZE = 64
"""Side of what the network sees, in pixels: a step of the player still moves the picture by about one."""
WIDTHS = (64, 96, 128)
FEATURES = 64
BATCH = 256


class Network(nn.Module):
    """Three frames, oldest first, uint8 [n, 3, SIZE, SIZE, 3] -> logits [n, keys], over ``features`` [n, FEATURES]."""

    def __init__(self, keys: int):
        super().__init__()
        parts: list[nn.Module] = [nn.Conv2d(3 * FRAMES, WIDTHS[0], 8, stride=4, padding=2)]
        for before, width in zip(WIDTHS, WIDTHS[1:], strict=False):
            parts += [Residual(before), nn.SiLU(), nn.Conv2d(before, width, 4, stride=2, padding=1)]
        self.look = nn.Sequential(*parts, Residual(WIDTHS[-1]), nn.SiLU(), nn.Flatten())
        self.gather = nn.Linear(WIDTHS[-1] * (SIZE // 2 ** (len(WIDTHS) + 1)) ** 2, FEATURES)
        self.tell = nn.Linear(FEATURES, keys)

    def forward(self, triples: Tensor) -> Tensor:
        return self.tell(F.silu(self.features(triples)))

    def features(self, triples: Tensor) -> Tensor:
        return self.gather(self.look(prepared(triples)))


def prepared(triples: Tensor) -> Tensor:
    """uint8 or float [n, 3, H, W, 3] in [0, 255] -> float [n, 9, H, W]: the newest frame and the last two changes.

    Each triple is brought to one brightness and contrast, so that a dark room moves as clearly as a lit one.
    """
    frames = triples.movedim(-1, 2).float()
    deviation, mean = torch.std_mean(frames, (1, 2, 3, 4), keepdim=True)
    frames = (frames - mean) / (deviation + 4.0)
    before, last, now = frames.unbind(1)
    return torch.cat([now, 4 * (now - last), 4 * (last - before)], 1)


def shrunk(frames: np.ndarray) -> np.ndarray:
    """uint8 [n, H, W, 3] -> uint8 [n, SIZE, SIZE, 3], each pixel the mean of what it covers."""
    return np.stack([cv2.resize(frame, (SIZE, SIZE), interpolation=cv2.INTER_AREA) for frame in frames])


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
        return self._over(frames, lambda triples: self.network(triples).sigmoid())

    def features(self, frames: np.ndarray) -> np.ndarray:
        """float32 [n - 2, FEATURES] for frames[2:] of uint8 [n, H, W, 3]."""
        return self._over(frames, self.network.features)

    @torch.inference_mode()
    def _over(self, frames: np.ndarray, what) -> np.ndarray:
        world = self.config.world
        if frames.dtype != np.uint8 or frames.shape[1:] != (world.height, world.width, 3) or len(frames) < FRAMES:
            raise ValueError(
                f"frames are {frames.dtype} {list(frames.shape)}; the inverse dynamics of {self.config.name} reads "
                f"uint8 [n, {world.height}, {world.width}, 3] with n at least {FRAMES}"
            )
        small = torch.from_numpy(shrunk(frames))
        triples = small.unfold(0, FRAMES, 1).movedim(-1, 1)
        device = next(self.network.parameters()).device
        return torch.cat([what(part.to(device)).float().cpu() for part in triples.split(BATCH)]).numpy()


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
