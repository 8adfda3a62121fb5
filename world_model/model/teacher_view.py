"""How a teacher is asked: x0 of a whole clip seen both ways, and a clip denoised from nothing."""

from __future__ import annotations

import torch
from torch import Tensor

from world_model.model import context
from world_model.model.noise import shifted
from world_model.model.transformer import Transformer


def view_clip(model: Transformer, sinks: Tensor, x: Tensor, sigma: Tensor, actions: Tensor, per_block: int) -> Tensor:
    """x0 of a clip seen both ways behind its clean sinks: x [n, F, C, h, w], sigma [n, F], actions [n, T, keys]."""
    count = sinks.shape[1]
    acted = actions.repeat_interleave(per_block, 1)
    unknown = acted.new_full((len(acted), count, acted.shape[-1]), torch.nan)
    layout = context.clip(count, x.shape[1])
    shares = torch.cat([sigma.new_zeros(len(sigma), count), sigma], 1)
    x0, *_ = model(torch.cat([sinks, x], 1), shares, torch.cat([unknown, acted], 1), layout)
    return x0[:, count:]


def denoise_clip(
    model: Transformer, sinks: Tensor, latents: Tensor, actions: Tensor, past: int, noise: Tensor, steps: int
) -> Tensor:
    """Euler's way down in ``steps`` for all blocks after the first ``past``, which stay: [n, T, B, C, h, w];
    noise [n or 1, F, C, h, w]."""
    per_block = latents.shape[2]
    real = latents.flatten(1, 2)
    known = (torch.arange(real.shape[1], device=real.device) < past * per_block).float()
    x = torch.where(known[None, :, None, None, None] > 0, real, noise.expand_as(real))
    shares = [shifted(1 - index / steps, 3.0) for index in range(steps + 1)]
    for now, then in zip(shares[:-1], shares[1:], strict=True):
        sigma = (now * (1 - known)).expand(len(x), -1)
        x0 = view_clip(model, sinks, x, sigma, actions, per_block).float()
        x = torch.where(known[None, :, None, None, None] > 0, real, x0 + (then / now) * (x - x0))
    return x.unflatten(1, latents.shape[1:3])
