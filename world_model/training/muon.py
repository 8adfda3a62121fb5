"""Muon: momentum, made nearly orthogonal, for hidden matrices (Keller Jordan 2024; arXiv 2502.16982).

``torch.optim.Muon`` computes in bfloat16, in which a CPU without bfloat16 instructions is some fifty times slower than
in float32. This one uses bfloat16 on a GPU and float32 elsewhere, and is otherwise the same.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn

QUINTIC = (3.4445, -4.7750, 2.0315)
"""Jordan's coefficients: steepest at zero; singular values end between about 0.7 and 1.2."""
ITERATIONS = 5


class Muon(torch.optim.Optimizer):
    """Nesterov momentum, Newton-Schulz, decoupled weight decay; updates as large as AdamW's, so it shares its rate."""

    def __init__(self, parameters: Iterable[nn.Parameter], lr: float, weight_decay: float, momentum: float = 0.95):
        super().__init__(parameters, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum})

    @torch.no_grad()
    def step(self) -> None:
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    self._move(p, group["lr"], group["weight_decay"], group["momentum"])

    def _move(self, p: nn.Parameter, rate: float, decay: float, momentum: float) -> None:
        state = self.state[p]
        if not state:
            state["momentum_buffer"] = torch.zeros_like(p)
        mean = state["momentum_buffer"]
        mean.lerp_(p.grad, 1 - momentum)
        matrix = p.grad.lerp(mean, momentum).flatten(1)  # a kernel is a matrix of outputs and all that each sees
        update = orthogonal(matrix).view_as(p).to(p.dtype)
        p.mul_(1 - rate * decay).add_(update, alpha=-rate * 0.2 * math.sqrt(max(matrix.shape)))


def orthogonal(matrix: Tensor) -> Tensor:
    """The nearest matrix with orthonormal rows (or columns), roughly: Newton-Schulz in the device's fast precision."""
    x = matrix.to(torch.bfloat16 if matrix.is_cuda else torch.float32)
    x = x.T if len(x) > x.shape[1] else x  # the products are of the shorter side
    x = x / x.norm().clamp(min=1e-7)
    a, b, c = QUINTIC
    for _ in range(ITERATIONS):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.T if len(matrix) > matrix.shape[1] else x
