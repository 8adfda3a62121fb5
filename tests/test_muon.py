"""Our Muon against PyTorch's, which works in bfloat16."""

from __future__ import annotations

import pytest
import torch

from world_model.training.muon import Muon, orthogonal

SHAPES = ((48, 16), (16, 48), (32, 32))
RATE, DECAY = 1e-2, 0.1


def take_steps(optimizer, parameters, steps: range) -> None:
    """Random gradients, the same in each step for every optimizer."""
    for step in steps:
        generator = torch.Generator().manual_seed(step)
        for p in parameters:
            p.grad = torch.randn(p.shape, generator=generator)
        optimizer.step()


def parameters() -> list[torch.nn.Parameter]:
    torch.manual_seed(0)
    return [torch.nn.Parameter(torch.randn(shape)) for shape in SHAPES]


def test_it_moves_as_pytorchs_does():
    initial, ours, theirs = parameters(), parameters(), parameters()
    take_steps(Muon(ours, RATE, DECAY), ours, range(8))
    take_steps(torch.optim.Muon(theirs, RATE, DECAY, adjust_lr_fn="match_rms_adamw"), theirs, range(8))
    for start, our, their in zip(initial, ours, theirs, strict=True):
        moved = (their - start).norm().item()
        assert (our - their).norm().item() < 0.02 * moved, "further apart than bfloat16 explains"
        assert (our - start).norm().item() == pytest.approx(moved, rel=0.01), "another scale of the update"


def test_it_works_in_float32_on_a_processor():
    """In bfloat16 one product alone is off by 1/256; against float64 nothing of that may be left."""
    matrix = torch.randn(24, 40, generator=torch.Generator().manual_seed(1))
    exact = matrix.double() / matrix.double().norm()
    for _ in range(5):
        gram = exact @ exact.T
        exact = 3.4445 * exact + (-4.7750 * gram + 2.0315 * gram @ gram) @ exact
    made = orthogonal(matrix)
    assert made.dtype == torch.float32 and (made - exact).abs().max() < 1e-4


def test_it_resumes_where_it_was():
    straight, stopped = parameters(), parameters()
    take_steps(Muon(straight, RATE, DECAY), straight, range(6))
    first = Muon(stopped, RATE, DECAY)
    take_steps(first, stopped, range(3))
    second = Muon(stopped, RATE, DECAY)
    second.load_state_dict(first.state_dict())
    take_steps(second, stopped, range(3, 6))
    assert all(torch.equal(a, b) for a, b in zip(straight, stopped, strict=True))
