"""Distribution matching on a distribution whose score is known: the plane, where nothing can hide."""

from __future__ import annotations

import torch
from torch import nn

from world_model.model.noise import renoise
from world_model.training.student_dmd import dmd_gradient

MODES = torch.tensor([[2.0, 1.0], [-1.0, -2.0]])
WIDTH = 0.3


def target(count: int, generator: torch.Generator) -> torch.Tensor:
    which = torch.randint(len(MODES), (count,), generator=generator)
    return MODES[which] + WIDTH * torch.randn(count, 2, generator=generator)


def true_x0(x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
    """E[x0 | x] of a mixture of two Gaussians under x = (1 - sigma) x0 + sigma noise, in closed form."""
    keep, spread = 1 - sigma, ((1 - sigma) * WIDTH) ** 2 + sigma**2
    offset = x[:, None] - keep[:, None] * MODES  # [n, modes, 2]
    share = torch.softmax(-offset.square().sum(-1) / (2 * spread), 1)
    each = MODES + (keep * WIDTH**2 / spread)[:, None] * offset
    return (share[..., None] * each).sum(1)


def network() -> nn.Sequential:
    return nn.Sequential(nn.Linear(3, 64), nn.SiLU(), nn.Linear(64, 64), nn.SiLU(), nn.Linear(64, 2))


def energy_distance(a: torch.Tensor, b: torch.Tensor) -> float:
    """Zero when, and only when, two samples come from one distribution (up to sampling)."""
    return float(2 * torch.cdist(a, b).mean() - torch.cdist(a, a).mean() - torch.cdist(b, b).mean())


def test_dmd_moves_a_toy_student_to_its_target():
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(1)
    student, critic = network(), network()
    student_steps = torch.optim.Adam(student.parameters(), 1e-3, betas=(0.0, 0.99))
    critic_steps = torch.optim.Adam(critic.parameters(), 2e-3)

    def sampled(count: int) -> torch.Tensor:
        return student(torch.cat([torch.randn(count, 2), torch.ones(count, 1)], 1))

    real = target(1000, generator)
    before = energy_distance(sampled(1000).detach(), real)
    for step in range(1500):
        sample, sigma = sampled(256), torch.rand(256, 1) * 0.96 + 0.02
        x = renoise(sample.detach(), torch.randn(256, 2), sigma)
        loss = ((critic(torch.cat([x, sigma], 1)) - sample.detach()) / sigma.clamp(min=0.2)).square().mean()
        critic_steps.zero_grad()
        loss.backward()
        critic_steps.step()
        if step % 3 == 0:
            with torch.no_grad():
                gradient = dmd_gradient(sample, critic(torch.cat([x, sigma], 1)), true_x0(x, sigma))
            student_steps.zero_grad()
            (0.5 * (sample - (sample - gradient).detach()).square().mean()).backward()
            student_steps.step()
    made = sampled(1000).detach()
    after = energy_distance(made, real)
    near = torch.cdist(made, MODES).argmin(1)
    assert before > 1.0 and after < 0.1, (before, after)
    assert 0.25 < near.float().mean() < 0.75, "one of the two modes was dropped"


def test_no_gradient_where_critic_and_teacher_agree():
    sample, score = torch.randn(8, 4, 3), torch.randn(8, 4, 3)
    assert torch.equal(dmd_gradient(sample, score, score), torch.zeros_like(sample))


def test_the_gradient_points_from_teacher_to_critic_and_is_normalised():
    sample, real = torch.zeros(1, 4), torch.full((1, 4), 2.0)
    fake = torch.tensor([[3.0, 2.0, 2.0, 1.0]])
    torch.testing.assert_close(dmd_gradient(sample, fake, real), torch.tensor([[0.5, 0.0, 0.0, -0.5]]))
    doubled = dmd_gradient(2 * sample, 2 * fake, 2 * real)
    torch.testing.assert_close(doubled, torch.tensor([[0.5, 0.0, 0.0, -0.5]]))
