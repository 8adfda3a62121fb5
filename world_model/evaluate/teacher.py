"""The undistilled teacher as a baseline: many denoising steps, attention both ways."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from world_model import checkpoint
from world_model.checkpoint import WEIGHTS
from world_model.config import Config
from world_model.model.teacher_view import denoise_clip
from world_model.model.transformer import Transformer

PREFIX = "teacher"


class Teacher:
    """Continues real frames under given keys, clip by clip (``follow``)."""

    def __init__(self, weights: Path, device: str = "cpu"):
        self.config, _ = checkpoint.describe(weights)
        self.device = device
        model = Transformer(self.config)
        checkpoint.load(model, weights, PREFIX)
        self._model = model.to(device).eval()

    @torch.inference_mode()
    def follow(
        self, sinks: np.ndarray, past: np.ndarray, acted: np.ndarray, keys: np.ndarray, steps: int
    ) -> np.ndarray:
        """Latents [at least T, C, h, w] that follow ``past`` [R+1, B, C, h, w] under keys [T, k].

        sinks [S*B, C, h, w]; acted [R+1, k]: the keys of the past. Clips are as long as in training; each is denoised
        in ``steps`` after the newest R+1 blocks of the one before. After the last key, that key is held.
        """
        per_block, context = past.shape[1], len(past)
        fresh = max(1, self.config.training.teacher.clip_blocks - context)
        blocks = -(-len(keys) // (per_block * fresh)) * fresh
        held = keys[np.minimum(np.arange(blocks * per_block), len(keys) - 1)]
        actions = np.concatenate([acted, held.reshape(blocks, per_block, -1).max(1)]).astype(np.float32)
        latents, sinks = self._tensor(past), self._tensor(sinks)
        generator = torch.Generator().manual_seed(0)
        for start in range(0, blocks, fresh):
            clip = torch.cat([latents[-context:], latents[-1:].expand(fresh, *latents.shape[1:])])
            noise = torch.randn((1, len(clip) * per_block, *latents.shape[2:]), generator=generator).to(self.device)
            action = self._tensor(actions[start : start + context + fresh])
            made = denoise_clip(self._model, sinks[None], clip[None], action[None], context, noise, steps)
            latents = torch.cat([latents, made[0, context:]])
        return latents[context:].flatten(0, 1).cpu().numpy()

    def _tensor(self, array: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(array, np.float32)).to(self.device)


def find(folder: Path, config: Config, device: str = "cpu") -> Teacher | None:
    """The teacher that training left in a folder, if there is one and its latents have the world's shape."""
    for weights in (folder / PREFIX / WEIGHTS, folder / f"{PREFIX}.safetensors"):
        if weights.is_file():
            teacher = Teacher(weights, device)
            return teacher if teacher.config.latent_shape == config.latent_shape else None
    return None
