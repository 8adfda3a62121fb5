"""Stage 1: the autoencoder. L1 on pixels and on their gradients; latents get a little noise, because the decoder will
be given latents that a network predicts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from world_model import checkpoint
from world_model.config import Config
from world_model.model.autoencoder import Autoencoder, to_frames, to_network
from world_model.training.distributed import DistributedContext, StepNoise
from world_model.training.samples import write_strip
from world_model.training.stage import Update, average_of, optimizers_for

LATENT_NOISE = 0.05
CALIBRATION_FRAMES = 4096


class AutoencoderTraining:
    """The stage: frames and shown uint8 [n, H, W, 3], to train on and to sample."""

    name = "autoencoder"

    def __init__(self, config: Config, distributed: DistributedContext, frames: np.ndarray, shown: np.ndarray):
        self.config, self.distributed, self.settings = config, distributed, config.training.autoencoder
        self.frames, self.shown = torch.from_numpy(frames), torch.from_numpy(shown)
        torch.manual_seed(distributed.seed)
        network = Autoencoder(config).to(distributed.device, memory_format=torch.channels_last)
        self.average = average_of(network)
        optimizers = optimizers_for(network, self.settings.learning_rate, self.settings.weight_decay, muon=False)
        self.updates = {"autoencoder": Update(network, self.loss, optimizers)}
        self._bounded, self._picture = network.bounded, network.picture
        if distributed.compile:
            self._bounded, self._picture = torch.compile(network.bounded), torch.compile(network.picture)

    def loss(self, step_noise: StepNoise) -> tuple[Tensor, dict]:
        picks = (step_noise.uniform().cpu() * len(self.frames)).long()
        real = to_network(self.frames[picks].to(self.distributed.device))
        with self.distributed.precision():
            latents = self._bounded(real)
            latents = latents + LATENT_NOISE * step_noise.normal(*latents.shape[1:])
            made = self._picture(latents).float()
        pixel, slope = (made - real).abs().mean(), gradient_l1(made, real)
        psnr = -10 * torch.log10((made.detach() - real).square().mean() / 4)
        return pixel + self.settings.gradient_weight * slope, {"pixel_l1": pixel.detach(), "psnr_db": psnr}

    @torch.no_grad()
    def sample(self, folder: Path, step: int) -> None:
        real = self.shown[:: max(1, len(self.shown) // 8)][:8]
        made = to_frames(self.average.picture(self.average.bounded(to_network(real.to(self.distributed.device)))))
        write_strip(folder / f"sample_{step:06d}.png", [real.numpy(), made.cpu().numpy()])

    @torch.no_grad()
    def finish(self, folder: Path, about: dict[str, str]) -> None:
        """Calibrate the latents on training frames and write the averaged weights."""
        chosen = self.frames[:: max(1, len(self.frames) // CALIBRATION_FRAMES)]
        pictures = (to_network(part.to(self.distributed.device)) for part in chosen.split(64))
        self.average.calibrate(torch.cat([self.average.bounded(picture) for picture in pictures]))
        tensors = {f"autoencoder.{name}": t.cpu().numpy() for name, t in self.average.state_dict().items()}
        checkpoint.save(folder / checkpoint.WEIGHTS, tensors, self.config, about)


def gradient_l1(a: Tensor, b: Tensor) -> Tensor:
    """Mean absolute difference of the horizontal and vertical pixel differences, which blur changes most."""
    error = a - b
    return error.diff(dim=-1).abs().mean() + error.diff(dim=-2).abs().mean()
