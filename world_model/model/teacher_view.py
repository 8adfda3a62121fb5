"""The teacher's passes: x0 of a whole clip with bidirectional attention, and denoising of a clip by Euler steps."""

from __future__ import annotations

import torch
from torch import Tensor

from world_model.model import context
from world_model.model.noise import shifted
from world_model.model.transformer import Transformer


def view_clip(model: Transformer, sinks: Tensor, x: Tensor, sigma: Tensor, actions: Tensor, per_block: int) -> Tensor:
    """x0 of a clip x [n, F, C, h, w] behind clean sinks, attention both ways; sigma [n, F], actions [n, T, keys]."""
    count = sinks.shape[1]
    actions = actions.repeat_interleave(per_block, 1)
    unknown = actions.new_full((len(actions), count, actions.shape[-1]), torch.nan)
    layout = context.clip(count, x.shape[1])
    sigma = torch.cat([sigma.new_zeros(len(sigma), count), sigma], 1)
    x0, *_ = model(torch.cat([sinks, x], 1), sigma, torch.cat([unknown, actions], 1), layout)
    return x0[:, count:]


def denoise_clip(
    model: Transformer, sinks: Tensor, latents: Tensor, actions: Tensor, past: int, noise: Tensor, steps: int
) -> Tensor:
    """A clip [n, T, B, C, h, w]: its first ``past`` blocks from ``latents``, the others denoised from noise
    [n or 1, F, C, h, w] in ``steps`` Euler steps."""
    per_block = latents.shape[2]
    real = latents.flatten(1, 2)
    is_past = (torch.arange(real.shape[1], device=real.device) < past * per_block)[:, None, None, None]
    x = torch.where(is_past, real, noise.expand_as(real))
    sigmas = [shifted(1 - index / steps, 3.0) for index in range(steps + 1)]
    for sigma, lower in zip(sigmas[:-1], sigmas[1:], strict=True):
        of_frames = (sigma * ~is_past.flatten()).expand(len(x), -1)
        x0 = view_clip(model, sinks, x, of_frames, actions, per_block).float()
        x = torch.where(is_past, real, x0 + (lower / sigma) * (x - x0))
    return x.unflatten(1, latents.shape[1:3])
