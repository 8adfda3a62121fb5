"""Frame <-> latent, by whichever codec a world has: plain patches here, or the autoencoder.

A codec maps frames float [..., 3, H, W] in [-1, 1] to latents [..., C, h, w] (``encode``) and back (``decode``).
``canvas`` and ``cells`` turn a latent into a grid of picture elements and back: where the codec is patches, the
picture's own pixels; where it is an autoencoder, the latent itself. What copies or moves works on canvases.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from world_model.config import Config
from world_model.model.autoencoder import Autoencoder

SPREAD = 2.0
"""Latents of patches are pixels times this: pixels in [-1, 1] deviate by about half, noise by one."""


class Patches(nn.Module):
    """Each cell's pixels as they are: lossless, and nothing to train."""

    def __init__(self, config: Config):
        super().__init__()
        self.cell = config.codec.cell

    def encode(self, frames: Tensor) -> Tensor:
        """frames [..., 3, H, W] in [-1, 1] -> latents [..., 3 * cell^2, H / cell, W / cell]."""
        return cells(frames * SPREAD, self.cell)

    def decode(self, latents: Tensor) -> Tensor:
        """Inverse of ``encode``."""
        return canvas(latents, self.cell) / SPREAD


Codec = Autoencoder | Patches


def make_codec(config: Config) -> Codec:
    """The codec of a configuration, untrained."""
    return Autoencoder(config) if config.codec.kind == "autoencoder" else Patches(config)


def canvas(latents: Tensor, unfold: int) -> Tensor:
    """Latents [..., c * unfold^2, h, w] -> [..., c, h * unfold, w * unfold]."""
    return F.pixel_shuffle(latents, unfold)


def cells(pictures: Tensor, unfold: int) -> Tensor:
    """Inverse of ``canvas``."""
    return F.pixel_unshuffle(pictures, unfold)
