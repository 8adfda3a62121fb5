"""Stage 4: distribution matching distillation of the student's own rollouts (DMD, arXiv 2311.18828; DMD2, 2405.14867).

Rollouts start from recordings, follow their keys and use play's own tick. They go rolling or block by block, at random
(arXiv 2509.25161, section 3.3); rolling, one of every K windows carries gradient. Teacher and critic score a window
behind the blocks that were shown before it, under the actions that the student was given: the keys held now for every
block of the window. Past and window are noised to one level; the gradient goes to the window alone.

The game is deterministic, so the recording holds the true continuation under the same keys. A regression on it can be
added, for blocks before the keys change; its share of the gradient is logged.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from world_model.model import rolling
from world_model.model.noise import renoise, shifted
from world_model.model.teacher_view import view_clip
from world_model.model.transformer import Transformer
from world_model.training.clips import (
    TrainingData,
    TransformerStage,
    batch_of,
    load_transformer,
    still_held,
    velocity_loss,
)
from world_model.training.distributed import StepNoise
from world_model.training.stage import Update, optimizers_for
from world_model.training.student_init import prime_from_clip, show_rollout


@dataclass(frozen=True)
class Windows:
    """Windows to score: past [m, P, B, C, h, w], the student's window [m, K, B, C, h, w], the actions that made both
    [m, P + K, keys], the recording true [m, K, B, C, h, w], and valid [m, K], 1 where the recording counts, else 0."""

    sinks: Tensor
    past: Tensor
    window: Tensor
    actions: Tensor
    true: Tensor
    valid: Tensor


class StudentDmdTraining(TransformerStage):
    name, prefix = "student_dmd", "student"

    def __init__(self, data: TrainingData, student: Path, teacher: Path):
        shape, settings = data.config.rolling, data.config.training
        self.lead, self.ticks = shape.recent_blocks + 1, settings.student_dmd.rollout_windows * shape.window_blocks
        self.past = max(1, settings.teacher.clip_blocks - shape.window_blocks)
        super().__init__(data)
        config, distributed, s = self.config, self.distributed, self.settings
        model = load_transformer(config, distributed, student, "student")
        self.set_model(model, self.student_loss, False, s.critic_steps)
        self.teacher = load_transformer(config, distributed, teacher, "teacher").requires_grad_(False).eval()
        self.critic = load_transformer(config, distributed, teacher, "teacher")
        if distributed.compile:
            self.teacher.compile_run()
            self.critic.compile_run()
        optimizers = optimizers_for(self.critic, s.critic_learning_rate, s.weight_decay, muon=False)
        self.updates["critic"] = Update(self.critic, self.critic_loss, optimizers)

    def student_loss(self, step_noise: StepNoise) -> tuple[Tensor, dict]:
        windows = self.rollout(step_noise, learn=True)
        gradient = dmd_gradient(windows.window, *self._score(windows, step_noise))
        matching = 0.5 * (windows.window - (windows.window - gradient).detach()).square().mean()
        error = (windows.window - windows.true) * windows.valid[:, :, None, None, None, None]
        regression = error.square().mean()
        weight = self.settings.regression_weight
        pull, push = gradient.square().mean().sqrt(), 2 * weight * error.detach().square().mean().sqrt()
        logs = {
            "dmd_gradient": pull,
            "regression": regression.detach(),
            "regression_share": push / (pull + push + 1e-12),
            "motion_ratio": _motion(windows.window) / _motion(windows.true).clamp(min=1e-6),
        }
        return matching + weight * regression, logs

    def critic_loss(self, step_noise: StepNoise) -> tuple[Tensor, dict]:
        with torch.no_grad():
            windows = self.rollout(step_noise, learn=False)
        x, sigma, real = self._noised(windows, step_noise)
        with self.distributed.precision():
            x0 = self._x0(self.critic, windows, x, sigma, windows.actions)
        flat = real.flatten(1, 2)
        return velocity_loss(x0.flatten(1, 2), flat, sigma[:, : flat.shape[1]]).mean(), {}

    def rollout(self, step_noise: StepNoise, learn: bool) -> Windows:
        """Play from recorded starts under recorded keys; returns the windows to score in one batch."""
        sinks, latents, actions = batch_of(self.clips, step_noise, self.distributed.device)
        with torch.no_grad(), self.distributed.precision():
            state = prime_from_clip(self.model, self.rolling, sinks, latents, actions, step_noise)
        roll_out = self._roll if step_noise.shared(1000) < 1000 * self.settings.rolling_share else self._block_by_block
        return roll_out(step_noise, learn, state, sinks, latents, actions)

    def _roll(
        self, step_noise: StepNoise, learn: bool, state, sinks: Tensor, latents: Tensor, actions: Tensor
    ) -> Windows:
        size, phase = self.rolling.window_blocks, step_noise.shared(self.rolling.window_blocks)
        shown, windows = [latents[:, index] for index in range(self.lead)], []
        for at in range(self.lead, self.lead + self.ticks):
            chosen = (at - self.lead) % size == phase
            with torch.set_grad_enabled(learn and chosen), self.distributed.precision():
                noise = step_noise.normal(size, *latents.shape[2:])
                state, x0, _ = rolling.tick(self.model, self.rolling, state, actions[:, at], noise)
            if chosen:
                held = actions[:, at : at + 1].expand(-1, size, -1)
                windows.append(self._window(sinks, latents, actions, shown, x0.float(), held, at))
            shown.append(x0[:, 0].detach().float())
        return _concatenated(windows)

    def _block_by_block(
        self, step_noise: StepNoise, learn: bool, state, sinks: Tensor, latents: Tensor, actions: Tensor
    ) -> Windows:
        size = self.rolling.window_blocks
        last_level = 1 + step_noise.shared(size)
        shown, made, windows = [latents[:, index] for index in range(self.lead)], [], []
        for at in range(self.lead, self.lead + self.ticks):
            with torch.set_grad_enabled(learn), self.distributed.precision():
                noise = step_noise.normal(size, *latents.shape[2:])
                state, x0 = rolling.autoregressive_step(
                    self.model, self.rolling, state, actions[:, at], noise, last_level
                )
            made.append(x0.float())
            if len(made) == size:
                first = at - size + 1
                held = actions[:, first : at + 1]
                windows.append(self._window(sinks, latents, actions, shown, torch.cat(made, 1), held, first))
                shown += [x[:, 0].detach() for x in made]
                made = []
        return _concatenated(windows)

    def _window(
        self, sinks: Tensor, latents: Tensor, actions: Tensor, shown: list[Tensor], x0: Tensor, held: Tensor, at: int
    ) -> Windows:
        """One window [n, K, B, C, h, w] that starts at block ``at``, behind what was shown before it."""
        size, past = self.rolling.window_blocks, min(self.past, at)
        under = torch.cat([actions[:, at - past : at], held], 1)
        same = still_held(actions[:, at : at + size], held)
        return Windows(sinks, torch.stack(shown[-past:], 1), x0, under, latents[:, at : at + size], same)

    def _score(self, windows: Windows, step_noise: StepNoise) -> tuple[Tensor, Tensor]:
        """x0 [m, K, B, C, h, w] of the windows by critic and by (guided) teacher, at one noise level a clip."""
        with torch.no_grad(), self.distributed.precision():
            x, sigma, _ = self._noised(windows, step_noise)
            fake = self._x0(self.critic, windows, x, sigma, windows.actions).float()
            real = self._x0(self.teacher, windows, x, sigma, windows.actions).float()
            if self.settings.guidance != 1:
                unknown = torch.full_like(windows.actions, torch.nan)
                free = self._x0(self.teacher, windows, x, sigma, unknown).float()
                real = free + self.settings.guidance * (real - free)
        return fake, real

    def _noised(self, windows: Windows, step_noise: StepNoise) -> tuple[Tensor, Tensor, Tensor]:
        """Past and window at one noise share a clip: x [m, F, C, h, w], sigma [m, F], and the clean window."""
        clean = torch.cat([windows.past, windows.window.detach()], 1).flatten(1, 2)
        share = shifted(step_noise.uniform(), self.rolling.shift).clamp(
            self.settings.score_low, self.settings.score_high
        )
        repeats = len(clean) // len(share)
        sigma = share.repeat(repeats)[:, None].expand(-1, clean.shape[1])
        noise = torch.cat([step_noise.normal(*clean.shape[1:]) for _ in range(repeats)])
        return renoise(clean, noise, sigma[:, :, None, None, None]), sigma, windows.window.detach()

    def _x0(self, model: Transformer, windows: Windows, x: Tensor, sigma: Tensor, actions: Tensor) -> Tensor:
        per_block = self.rolling.frames_per_block
        x0 = view_clip(model, windows.sinks, x, sigma, actions, per_block)
        return x0.unflatten(1, (-1, per_block))[:, -self.rolling.window_blocks :]

    @torch.no_grad()
    def sample(self, folder: Path, step: int) -> None:
        show_rollout(self.average, self.data, folder / f"sample_{step:06d}.mp4")


def dmd_gradient(sample: Tensor, fake: Tensor, real: Tensor) -> Tensor:
    """DMD's gradient for samples [m, ...] (2311.18828 eq. 7-8): ``(critic x0 - teacher x0)`` over the sample's mean
    distance to the teacher's x0. Zero where critic and teacher agree."""
    dimensions = tuple(range(1, sample.ndim))
    scale = (sample.detach() - real).abs().mean(dimensions, keepdim=True).clamp(min=1e-3)
    return torch.nan_to_num((fake - real) / scale)


def _concatenated(windows: list[Windows]) -> Windows:
    """Windows in one batch, their pasts cut to the shortest (early windows have less behind them)."""
    past = min(window.past.shape[1] for window in windows)
    size = windows[0].window.shape[1]
    cut = [replace(w, past=w.past[:, -past:], actions=w.actions[:, -past - size :]) for w in windows]
    return Windows(*(torch.cat(parts) for parts in zip(*(vars(w).values() for w in cut), strict=True)))


def _motion(windows: Tensor) -> Tensor:
    """Mean absolute change from block to block, which DMD tends to reduce."""
    return windows.detach().diff(dim=1).abs().mean()
