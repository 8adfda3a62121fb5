"""What the transformer stages share: batches of clips, losses, and samples."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from world_model import checkpoint
from world_model.config import Config, MixtureSize
from world_model.episode.dataset import Clips, Episode
from world_model.model.autoencoder import to_frames
from world_model.model.codec import Codec
from world_model.model.transformer import Transformer
from world_model.training import TrainingError
from world_model.training.distributed import DistributedContext, StepNoise
from world_model.training.samples import write_video
from world_model.training.stage import Loss, Update, average_of, optimizers_for

LEAST_SIGMA = 0.2
"""Lowest noise share that weights a velocity error: a nearly clean block teaches only to copy itself."""


@dataclass(frozen=True)
class TrainingData:
    """What the stages train on: encoded sessions, the codec that decodes them, and the configuration."""

    config: Config
    distributed: DistributedContext
    codec: Codec
    train: list[Episode]
    held_out: list[Episode]

    def held_out_clip(self, blocks: int) -> tuple[Tensor, Tensor, Tensor]:
        """The first ``blocks`` blocks, or fewer, of a held-out session (of a training one if there is none): sinks
        [1, S*B, C, h, w], latents [1, T, B, C, h, w], actions [1, T, keys]."""
        per_block = self.config.rolling.frames_per_block
        episodes = self.held_out or self.train
        longest = max(len(episode.latents) for episode in episodes) // per_block
        clips = Clips(episodes, min(blocks, longest), per_block)
        return tuple(torch.from_numpy(a).to(self.distributed.device) for a in clips.opening())

    def show(self, path: Path, real: Tensor, made: Tensor, actions: Tensor) -> None:
        """Write a video of latents real and made [T, B, C, h, w], side by side, with their actions [T, keys]."""
        world, per_block = self.config.world, self.config.rolling.frames_per_block
        columns = [to_frames(self.codec.decode(x.flatten(0, 1).float())).cpu().numpy() for x in (real, made)]
        held = actions.repeat_interleave(per_block, 0).cpu().numpy()
        write_video(path, columns, held, world.keys, world.fps)


class TransformerStage:
    """What the stages that train a transformer share; ``prefix`` is that of their weights' names."""

    name: str
    prefix: str
    model: Transformer

    def __init__(self, data: TrainingData):
        self.data, self.config, self.distributed = data, data.config, data.distributed
        self.settings, self.rolling = getattr(self.config.training, self.name), self.config.rolling
        if blocks := self.config.clip_blocks(self.name):
            self.clips = Clips(data.train, blocks, self.rolling.frames_per_block)

    def set_model(self, model: Transformer, loss: Loss, muon: bool, every: int = 1) -> None:
        """Train ``model``, the network that ships, and keep its average."""
        self.model, self.average = model, average_of(model)
        if self.distributed.compile and not isinstance(self.config.head, MixtureSize):  # whose surprises say what runs
            model.compile_run()
        optimizers = optimizers_for(model, self.settings.learning_rate, self.settings.weight_decay, muon)
        self.updates = {self.prefix: Update(model, loss, optimizers, every)}

    def finish(self, folder: Path, about: dict[str, str]) -> None:
        tensors = {f"{self.prefix}.{name}": t.cpu().numpy() for name, t in self.average.state_dict().items()}
        checkpoint.save(folder / checkpoint.WEIGHTS, tensors, self.config, about)


def batch_of(clips: Clips, step_noise: StepNoise, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """This process's share of a batch: sinks [n, S*B, C, h, w], latents [n, T, B, C, h, w], actions [n, T, keys]."""
    picks = step_noise.uniform().cpu().numpy().astype(np.float64)
    return tuple(torch.from_numpy(array).to(device, non_blocking=True) for array in clips.take(picks))


def velocity_loss(x0: Tensor, real: Tensor, sigma: Tensor) -> Tensor:
    """Squared velocity error of an x0 prediction, by frame: x0, real [n, F, C, h, w], sigma [n, F] -> [n, F].

    Both velocities start at the same x, so it cancels: ``((x0 - real) / sigma)^2``.
    """
    error = (x0.float() - real.float()).square().mean((2, 3, 4))
    return error / sigma.clamp(min=LEAST_SIGMA).square()


def drop_actions(actions: Tensor, share: float, step_noise: StepNoise) -> Tensor:
    """Replace all actions of a random share of the clips by NaN, which means "unknown", not "no keys"."""
    dropped = step_noise.uniform() < share
    return actions.masked_fill(dropped.reshape(-1, *[1] * (actions.ndim - 1)), torch.nan)


def still_held(actions: Tensor, held: Tensor) -> Tensor:
    """actions, held [..., K, keys] -> [..., K]: 1 until they first differ, 0 from there on; unknown counts as equal."""
    return ((actions == held) | actions.isnan()).all(-1).float().cumprod(-1)


def load_transformer(config: Config, distributed: DistributedContext, weights: Path | None, prefix: str) -> Transformer:
    """A new transformer, or one with the weights that another stage left."""
    torch.manual_seed(distributed.seed)
    model = Transformer(config)
    if weights is not None:
        if set(checkpoint.FORMER) & checkpoint.tensors(weights, prefix).keys():
            raise TrainingError(f"{weights}: its classes of chance were learned in a way that this version no longer "
                                "has. It plays as it is; trained on, it would lose what it knows: train it anew, "
                                "without --resume")  # fmt: skip
        checkpoint.load(model, weights, prefix)
    return model.to(distributed.device, memory_format=torch.channels_last)
