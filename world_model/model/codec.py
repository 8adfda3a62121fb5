"""Frame <-> latent, by a world's codec: patches, defined here, or the autoencoder.

A codec maps frames float [..., 3, H, W] in [-1, 1] to latents [..., C, h, w] (``encode``) and back (``decode``).
``canvas`` and ``cells`` convert a latent to a grid of picture elements and back: pixels where the codec is patches, the
latent itself where it is an autoencoder. Copies and displacements work on canvases.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from world_model.config import Config
from world_model.model.autoencoder import Autoencoder

SPREAD = 2.0
"""Latents of patches are pixels times this, for unit variance: pixels in [-1, 1] have a deviation of about half."""


class Patches(nn.Module):
    """A latent cell is the pixels of a patch: lossless, without parameters."""

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
