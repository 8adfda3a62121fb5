"""Stage 2: the teacher, a transformer with bidirectional attention over a clip, trained by flow matching.

The noise of each clip is one of three kinds: independent levels for every block (diffusion forcing, arXiv 2407.01392);
the window's staircase behind a nearly clean past; one level for all, which a score for DMD needs.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from world_model.model.noise import renoise, shifted, sigmas
from world_model.model.teacher_view import denoise_clip, view_clip
from world_model.training.clips import (
    TrainingData,
    TransformerStage,
    batch_of,
    drop_actions,
    load_transformer,
    velocity_loss,
)
from world_model.training.distributed import StepNoise

SAMPLE_STEPS = 24


class TeacherTraining(TransformerStage):
    name, prefix = "teacher", "teacher"

    def __init__(self, data: TrainingData):
        super().__init__(data)
        self.set_model(load_transformer(self.config, self.distributed, None, self.prefix), self.loss, muon=True)

    def loss(self, step_noise: StepNoise) -> tuple[Tensor, dict]:
        sinks, latents, actions = batch_of(self.clips, step_noise, self.distributed.device)
        sigma = self._noise_shares(step_noise).repeat_interleave(self.rolling.frames_per_block, 1)
        actions = drop_actions(actions, self.settings.drop_action, step_noise)
        real = latents.flatten(1, 2)
        noise = step_noise.normal(*real.shape[1:])
        x = renoise(real, noise, sigma[:, :, None, None, None])
        with self.distributed.precision():
            x0 = view_clip(self.model, sinks, x, sigma, actions, self.rolling.frames_per_block)
        losses = velocity_loss(x0, real, sigma)
        return losses.mean(), {}

    def _noise_shares(self, step_noise: StepNoise) -> Tensor:
        """Noise shares of the blocks [n, T], of one of the three kinds."""
        settings, rolling, count = self.settings, self.rolling, self.settings.clip_blocks
        independent = shifted(step_noise.uniform(count), 2.0)
        one = shifted(step_noise.uniform(1), rolling.shift).expand(-1, count)
        levels = torch.tensor(sigmas(rolling.window_blocks, rolling.shift), device=one.device)
        start = (step_noise.uniform(1) * (count - rolling.window_blocks + 1)).long()
        level = (torch.arange(count, device=one.device) - start + 1).clamp(0, rolling.window_blocks)
        staircase = torch.maximum(levels[level], settings.context_noise * step_noise.uniform(1))
        kind = step_noise.uniform(1)
        shares = torch.where(kind < settings.staircase_share, staircase, independent)
        return torch.where(kind >= 1 - settings.uniform_share, one, shares)

    @torch.no_grad()
    def sample(self, folder: Path, step: int) -> None:
        """A held-out clip: its first third as recorded, the rest denoised from pure noise under the same keys."""
        step_noise = StepNoise(self.distributed, 0, 99, self.distributed.processes)
        sinks, latents, actions = self.data.held_out_clip(self.settings.clip_blocks)
        past = latents.shape[1] // 3
        noise = step_noise.normal(*latents.flatten(1, 2).shape[1:])
        made = denoise_clip(self.average, sinks, latents, actions, past, noise, SAMPLE_STEPS)
        self.data.show(folder / f"sample_{step:06d}.mp4", latents[0], made[0], actions[0])
