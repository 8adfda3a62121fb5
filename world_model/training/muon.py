"""Muon: momentum, made nearly orthogonal, for hidden matrices (Keller Jordan 2024; arXiv 2502.16982).

``torch.optim.Muon`` computes in bfloat16, in which a CPU without bfloat16 instructions is some fifty times slower than
in float32. This one uses bfloat16 on a GPU and float32 elsewhere, and is otherwise the same.
"""

from __future__ import annotations

import math
from collections import defaultdict
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
            alike = defaultdict(list)  # parameters of one shape go together: one launch instead of many
            for p in group["params"]:
                if p.grad is not None:
                    alike[p.shape].append(p)
            for parameters in alike.values():
                self._move(parameters, group["lr"], group["weight_decay"], group["momentum"])

    def _move(self, parameters: list[nn.Parameter], rate: float, decay: float, momentum: float) -> None:
        for p in parameters:
            if not self.state[p]:
                self.state[p]["momentum_buffer"] = torch.zeros_like(p)
        means, gradients = [self.state[p]["momentum_buffer"] for p in parameters], [p.grad for p in parameters]
        torch._foreach_lerp_(means, gradients, 1 - momentum)
        ahead = torch._foreach_lerp(gradients, means, momentum)
        matrices = torch.stack(ahead).flatten(2)  # a kernel is a matrix of outputs and all that each sees
        updates = orthogonal(matrices).to(matrices.dtype).view(len(parameters), *parameters[0].shape)
        torch._foreach_mul_(parameters, 1 - rate * decay)
        torch._foreach_add_(parameters, updates.unbind(), alpha=-rate * 0.2 * math.sqrt(max(matrices.shape[1:])))


def orthogonal(matrices: Tensor) -> Tensor:
    """Of matrices [.., a, b] the nearest ones with orthonormal rows (or columns), roughly: Newton-Schulz in the
    device's fast precision."""
    x = matrices.to(torch.bfloat16 if matrices.is_cuda else torch.float32)
    tall = x.shape[-2] > x.shape[-1]
    x = x.mT if tall else x  # the products are of the shorter side
    x = x / x.norm(dim=(-2, -1), keepdim=True).clamp(min=1e-7)
    a, b, c = QUINTIC
    for _ in range(ITERATIONS):
        gram = x @ x.mT
        x = a * x + (b * gram + c * (gram @ gram)) @ x
    return x.mT if tall else x
