"""Frame <-> latent: a small deterministic convolutional autoencoder.

All convolutions work at a quarter of the picture's size or below (pixel-unshuffle in, pixel-shuffle out), so that the
decoder fits in a CPU tick. Latents are bounded (tanh), then normalised by the training data's mean and deviation, so
that the transformer sees unit variance. No normalisation layers: they would lose the frame's brightness.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from world_model.config import Config

SHUFFLE = 4


class Autoencoder(nn.Module):
    """``encode`` frames to normalised latents, ``decode`` them; ``calibrate`` sets the normalisation."""

    def __init__(self, config: Config):
        super().__init__()
        size = config.codec
        widths = [size.width]
        while SHUFFLE * 2 ** len(widths) <= size.stride:
            widths.append(min(widths[-1] * 2, 3 * size.width))
        self.encoder = _encoder(widths, size.depth, size.channels)
        self.decoder = _decoder(widths[::-1], size.depth, size.channels)
        self.register_buffer("mean", torch.zeros(size.channels, 1, 1))
        self.register_buffer("deviation", torch.ones(size.channels, 1, 1))

    def encode(self, frames: Tensor) -> Tensor:
        """frames [..., 3, H, W] in [-1, 1] -> normalised latents [..., C, h, w]."""
        return (self.bounded(frames) - self.mean) / self.deviation

    def decode(self, latents: Tensor) -> Tensor:
        """Normalised latents [..., C, h, w] -> frames [..., 3, H, W], about [-1, 1]."""
        return self.picture(latents * self.deviation + self.mean)

    def bounded(self, frames: Tensor) -> Tensor:
        """frames -> latents in (-1, 1), before normalisation."""
        return torch.tanh(_folded(self.encoder, frames))

    def picture(self, bounded: Tensor) -> Tensor:
        """Inverse of ``bounded``."""
        return _folded(self.decoder, bounded)

    @torch.no_grad()
    def calibrate(self, bounded: Tensor) -> None:
        """Take mean and deviation of each channel from bounded latents [N, C, h, w] of the training data."""
        self.mean.copy_(bounded.mean((0, 2, 3)).reshape(-1, 1, 1))
        self.deviation.copy_(bounded.std((0, 2, 3)).clamp(min=1e-3).reshape(-1, 1, 1))


def to_network(frames: Tensor) -> Tensor:
    """uint8 [..., H, W, 3] -> float32 [..., 3, H, W] in [-1, 1]."""
    return frames.movedim(-1, -3).float() / 127.5 - 1.0


def to_frames(pictures: Tensor) -> Tensor:
    """float [..., 3, H, W] -> uint8 [..., H, W, 3]; rounds to nearest, clamps."""
    return ((pictures.float() + 1.0) * 127.5).round().clamp(0, 255).to(torch.uint8).movedim(-3, -1)


class Residual(nn.Module):
    """Two 3x3 convolutions around a SiLU, added to the input; the second starts at zero."""

    def __init__(self, width: int):
        super().__init__()
        self.first = nn.Conv2d(width, width, 3, padding=1)
        self.second = nn.Conv2d(width, width, 3, padding=1)
        nn.init.zeros_(self.second.weight)
        nn.init.zeros_(self.second.bias)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.second(F.silu(self.first(F.silu(x))))


def _encoder(widths: list[int], depth: int, channels: int) -> nn.Sequential:
    parts = [nn.PixelUnshuffle(SHUFFLE), nn.Conv2d(3 * SHUFFLE**2, widths[0], 3, padding=1)]
    for index, width in enumerate(widths):
        if index:
            parts.append(nn.Conv2d(widths[index - 1], width, 4, stride=2, padding=1))
        parts.extend(Residual(width) for _ in range(depth))
    return nn.Sequential(*parts, nn.Conv2d(widths[-1], channels, 3, padding=1))


def _decoder(widths: list[int], depth: int, channels: int) -> nn.Sequential:
    parts: list[nn.Module] = [nn.Conv2d(channels, widths[0], 3, padding=1)]
    for index, width in enumerate(widths):
        if index:
            parts.extend([nn.Conv2d(widths[index - 1], 4 * width, 1), nn.PixelShuffle(2)])
        parts.extend(Residual(width) for _ in range(depth))
    return nn.Sequential(*parts, nn.Conv2d(widths[-1], 3 * SHUFFLE**2, 3, padding=1), nn.PixelShuffle(SHUFFLE))


def _folded(network: nn.Module, x: Tensor) -> Tensor:
    """Apply an image network to [..., C, H, W] with any number of leading dimensions."""
    return network(x.reshape(-1, *x.shape[-3:])).unflatten(0, x.shape[:-3])
