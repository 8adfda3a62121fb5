"""The undistilled teacher as a baseline: what the student's own training aimed at, with all the time it wants."""

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
    """``follow`` a real past under given keys, clip by clip."""

    def __init__(self, weights: Path, device: str = "cpu"):
        self.config, _ = checkpoint.describe(weights)
        self.device = device
        model = Transformer(self.config)
        arrays = checkpoint.tensors(weights, PREFIX)
        model.load_state_dict({name: torch.from_numpy(array) for name, array in arrays.items()})
        self._model = model.to(device).eval()

    @torch.inference_mode()
    def follow(
        self, sinks: np.ndarray, past: np.ndarray, acted: np.ndarray, keys: np.ndarray, steps: int
    ) -> np.ndarray:
        """Latents [at least T, C, h, w] that follow ``past`` [R+1, B, C, h, w] under keys [T, k].

        sinks [S*B, C, h, w]; acted [R+1, k] led to the past. Clips are as long as those that it was trained on: each is
        denoised in ``steps`` behind the newest blocks of the one before. Where the keys end, the last are held.
        """
        per_block, known = past.shape[1], len(past)
        fresh = max(1, self.config.training.teacher.clip_blocks - known)
        blocks = -(-len(keys) // (per_block * fresh)) * fresh
        held = keys[np.minimum(np.arange(blocks * per_block), len(keys) - 1)]
        actions = np.concatenate([acted, held.reshape(blocks, per_block, -1).max(1)]).astype(np.float32)
        latents = self._here(past)
        generator = torch.Generator().manual_seed(0)
        for start in range(0, blocks, fresh):
            clip = torch.cat([latents[-known:], latents[-1:].expand(fresh, *latents.shape[1:])])
            noise = torch.randn((1, len(clip) * per_block, *latents.shape[2:]), generator=generator).to(self.device)
            under = self._here(actions[start : start + known + fresh])
            made = denoise_clip(self._model, self._here(sinks)[None], clip[None], under[None], known, noise, steps)
            latents = torch.cat([latents, made[0, known:]])
        return latents[known:].flatten(0, 1).cpu().numpy()

    def _here(self, array: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(array, np.float32)).to(self.device)


def find(folder: Path, config: Config, device: str = "cpu") -> Teacher | None:
    """The teacher that training left in a folder, if it did, and if it knows the world's latents."""
    weights = weights_in(folder)
    teacher = Teacher(weights, device) if weights else None
    return teacher if teacher and teacher.config.latent_shape == config.latent_shape else None


def weights_in(folder: Path) -> Path | None:
    places = folder / PREFIX / WEIGHTS, folder / f"{PREFIX}.safetensors"
    return next((path for path in places if path.is_file()), None)
