"""What a training stage is to the loop: the networks it updates, their losses and optimizers."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn

from world_model.config import Stage
from world_model.training.distributed import StepNoise
from world_model.training.muon import Muon

HIDDEN = re.compile(r"layers\.\d+\.(?!offset)|local\.(first|(relief\.)?blocks\.\d+\.(first|second|to_column|column))\.")
"""Names of the parameters that Muon trains, where they are matrices or kernels."""
Loss = Callable[[StepNoise], tuple[Tensor, dict[str, float | Tensor]]]
"""The loss of one step, and what else to log."""


@dataclass
class Update:
    """How one network is trained; it takes an optimizer step in every ``every``-th step of the stage."""

    network: nn.Module
    loss: Loss
    optimizers: list[torch.optim.Optimizer]
    every: int = 1


class TrainingStage(Protocol):
    name: str
    settings: Stage
    updates: dict[str, Update]  # the first is of the network that ships
    average: nn.Module  # EMA of that network
    # phase(progress), optional: progress, 0 to 1, within the stage's phase; the learning rate falls in each
    # flops, optional: floating-point operations of a step on this process
    # state() and restore(tensors), optional: what a checkpoint holds besides weights, tensors by name, whose first
    # dimension is this process's part of what all processes hold, in the order of their ranks

    def sample(self, folder: Path, step: int) -> None:
        """Write a picture or film: real beside generated."""

    def finish(self, folder: Path, about: dict[str, str]) -> None:
        """Write the stage's weights with ``about`` inside."""


def optimizers_for(network: nn.Module, learning_rate: float, decay: float, muon: bool) -> list[torch.optim.Optimizer]:
    """AdamW; with ``muon``, hidden matrices and kernels go to Muon, scaled to AdamW's step (arXiv 2502.16982)."""
    named = [(name, p) for name, p in network.named_parameters() if p.requires_grad]
    hidden = [p for name, p in named if muon and HIDDEN.match(name) and p.ndim > 1]
    rest = [p for _, p in named if all(p is not h for h in hidden)]
    optimizers: list[torch.optim.Optimizer] = [
        torch.optim.AdamW(rest, lr=learning_rate, betas=(0.9, 0.95), weight_decay=decay)
    ]
    if hidden:
        optimizers.append(Muon(hidden, learning_rate, decay))
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["base_lr"] = learning_rate
    return optimizers


def average_of(network: nn.Module) -> nn.Module:
    """A frozen copy to hold the exponential moving average."""
    return copy.deepcopy(network).requires_grad_(False).eval()
