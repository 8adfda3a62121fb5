"""Tiny models with random weights for the tests; no weight is zero, so that every path has an effect."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from world_model import checkpoint, config
from world_model.config import Config, MixtureSize
from world_model.episode.dataset import DatasetSplit, encode_session
from world_model.model import rolling
from world_model.model.autoencoder import to_network
from world_model.model.codec import Codec, make_codec
from world_model.model.transformer import Transformer
from world_model.play import scenes
from world_model.training.clips import TrainingData
from world_model.training.distributed import DistributedContext, StepNoise
from world_model.training.loop import train

torch.set_num_threads(1)  # at these sizes a second thread only waits

CPU = DistributedContext(torch.device("cpu"))
SCENES = ("3", "12", "100")


def load(name: str) -> Config:
    return config.load(config.CONFIGS / f"{name}.yaml")


def models(shape: Config, seed: int = 0) -> tuple[Codec, Transformer]:
    torch.manual_seed(seed)
    codec, student = make_codec(shape), Transformer(shape)
    for parameter in (*codec.parameters(), *student.parameters()):
        parameter.data += 0.05 * torch.randn_like(parameter)
    if shape.codec.kind == "autoencoder":
        codec.mean += 0.1
        codec.deviation += 0.2
    if isinstance(shape.head, MixtureSize):
        student.local.out.bias.data.zero_()  # else the last frame is picked, whatever else there is
        student.local.reward_values += 1 + torch.arange(shape.head.rewards)
    return codec, student


def save(folder: Path, shape: Config, seed: int = 0) -> None:
    """Random weights in ``folder``."""
    tensors = {
        f"{name}.{key}": tensor.numpy()
        for name, model in zip(("autoencoder", "student"), models(shape, seed), strict=True)
        for key, tensor in model.state_dict().items()
    }
    checkpoint.save(folder / checkpoint.WEIGHTS, tensors, shape, {"stage": "random"})


def add_scenes(folder: Path, shape: Config) -> None:
    rng = np.random.default_rng(0)
    for name in SCENES:
        scenes.write(folder, scenes.standing(name, pictures(rng, 4, shape)))


def training_data(shape: Config, folder: Path, codec: Codec) -> TrainingData:
    """The recordings in ``folder``, encoded."""
    dataset = DatasetSplit.open(folder, shape)

    @torch.no_grad()
    def encode(frames: np.ndarray) -> np.ndarray:
        return codec.encode(to_network(torch.from_numpy(frames))).numpy()

    parts = [[encode_session(session, shape, encode) for session in part] for part in (dataset.train, dataset.held_out)]
    return TrainingData(shape, CPU, codec, *parts)


def with_settings(data: TrainingData, stage: str, **settings) -> TrainingData:
    """The same data for a stage of other settings."""
    stages = data.config.training
    stages = stages.model_copy(update={stage: getattr(stages, stage).model_copy(update=settings)})
    return replace(data, config=data.config.model_copy(update={"training": stages}))


def predict_outcomes(monkeypatch: pytest.MonkeyPatch) -> None:
    """PyTorch's games have outcomes: the first key earns half a point a block, the last ends the episode."""
    prime, step = rolling.prime, rolling.step

    def primed(*arguments) -> rolling.State:
        state = prime(*arguments)
        return state | {"outcome": state["clean_action"].new_zeros(len(state["clean_action"]), 2)}

    def stepped(model, shape, state, action, noise) -> tuple[rolling.State, torch.Tensor]:
        state, latent = step(model, shape, state, action, noise)
        return state | {"outcome": action[:, [0, -1]] * torch.tensor([0.5, 0.9])}, latent

    monkeypatch.setattr(rolling, "prime", primed)
    monkeypatch.setattr(rolling, "step", stepped)


def pictures(rng: np.random.Generator, count: int, shape: Config) -> np.ndarray:
    """Smooth random pictures uint8 [count, H, W, 3]."""
    coarse = rng.integers(0, 256, (count, 4, 4, 3), dtype=np.uint8)
    return coarse.repeat(shape.world.height // 4, 1).repeat(shape.world.width // 4, 2)


def assert_resumes_alike(make, folder: Path) -> None:
    """Weights of a stage, made by ``make``, that is interrupted in its fifth step and resumed equal those of one that
    is not, bit for bit."""
    whole, stopped, resumed = make(), make(), make()
    train(whole, CPU, folder / "straight")
    first = next(iter(stopped.updates.values()))
    good_loss = first.loss

    def failing(step_noise: StepNoise):
        if step_noise.step >= 4:
            raise KeyboardInterrupt
        return good_loss(step_noise)

    first.loss = failing
    with pytest.raises(KeyboardInterrupt):
        train(stopped, CPU, folder / "killed")
    train(resumed, CPU, folder / "killed")
    for key, value in whole.average.state_dict().items():
        assert torch.equal(value, resumed.average.state_dict()[key]), key
