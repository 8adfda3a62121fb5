"""Stage 3: the student learns the tick from recordings. Teacher's weights, play's mask and play's inputs.

One pass trains several ticks: [sinks | clean clip | a staircase window at each start], masked so that every window sees
exactly what play would show it, under the keys held at its first block (Causal Forcing, arXiv 2602.02214: start the
student under the mask it will play with). The loss of a window counts only until the keys change, because what comes
after a change does not follow from the keys held now.

In play, a window's noisy contents were predicted under the keys held before. So a share of the windows here is *stale*:
the noised contents are from some blocks earlier or later in the clip, the target is the recording. Otherwise the
student relies on the contents of the window more than on the keys.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from world_model.config import Rolling
from world_model.model import context, rolling
from world_model.model.noise import renoise, sigmas
from world_model.model.transformer import Conditioning, Transformer
from world_model.training.clips import (
    TrainingData,
    TransformerStage,
    batch_of,
    drop_actions,
    load_transformer,
    still_held,
    velocity_loss,
)
from world_model.training.distributed import StepNoise

SAMPLE_BLOCKS = 80


class StudentInitTraining(TransformerStage):
    name, prefix = "student_init", "student"

    def __init__(self, data: TrainingData, weights: Path, prefix: str = "teacher"):
        """``weights`` holds the teacher, or with ``prefix`` student, a student to teach further."""
        super().__init__(data)
        self.starts = window_starts(self.rolling, self.settings.clip_blocks, self.settings.windows)
        self.set_model(load_transformer(self.config, self.distributed, weights, prefix), self.loss, muon=True)

    def loss(self, step_noise: StepNoise) -> tuple[Tensor, dict]:
        sinks, latents, actions = batch_of(self.clips, step_noise, self.distributed.device)
        actions = drop_actions(actions, self.settings.drop_action, step_noise)
        shape, per_block, size = self.rolling, self.rolling.frames_per_block, self.rolling.window_blocks
        # Added, not blended in: a blend shrinks the past, and the student, which is not given its level, learns to undo
        # that with a gain above one, which grows to white in a long game.
        past = latents + self.settings.context_noise * step_noise.uniform(1, 1, 1, 1, 1) * step_noise.normal(
            *latents.shape[1:]
        )
        noised = torch.cat([latents[:, index] for index in self._window_indices(step_noise)], 1)
        real = torch.cat([latents[:, start : start + size] for start in self.starts], 1)
        levels = torch.tensor(sigmas(size, shape.shift)[1:], device=real.device).repeat(len(self.starts))
        windows = renoise(noised, step_noise.normal(*real.shape[1:]), levels[:, None, None, None, None])
        held = torch.cat([actions[:, start : start + 1].expand(-1, size, -1) for start in self.starts], 1)
        layout = context.packed(per_block, shape.sink_blocks, shape.recent_blocks, latents.shape[1], self.starts, size)
        x = torch.cat([sinks, past.flatten(1, 2), windows.flatten(1, 2)], 1)
        sigma = torch.cat([levels.new_zeros(x.shape[1] - len(levels) * per_block), levels.repeat_interleave(per_block)])
        unknown = actions.new_full((len(x), sinks.shape[1], actions.shape[-1]), torch.nan)
        frame_actions = torch.cat([unknown, torch.cat([actions, held], 1).repeat_interleave(per_block, 1)], 1)
        count = real.shape[1] * per_block
        last = torch.cat([past[:, start - 1, -1:].expand(-1, size * per_block, -1, -1, -1) for start in self.starts], 1)
        actions_before = [actions[:, start - 1 : start].expand(-1, size * per_block, -1) for start in self.starts]
        conditioning = Conditioning(last, torch.cat(actions_before, 1), sinks)
        with self.distributed.precision():
            x0, *_ = self.model(x, sigma.expand(len(x), -1), frame_actions, layout, conditioning=conditioning)
        losses = velocity_loss(x0, real.flatten(1, 2), sigma[-count:].expand(len(x), -1))
        losses = losses.unflatten(1, (len(self.starts), size, per_block))
        true_actions = torch.cat([actions[:, start : start + size] for start in self.starts], 1)
        valid = still_held(*(acts.unflatten(1, losses.shape[1:3]) for acts in (true_actions, held)))
        return (losses * valid[..., None]).mean(), {"first_block": losses[:, :, 0].detach().mean()}

    def _window_indices(self, step_noise: StepNoise) -> list[Tensor]:
        """For each start the block numbers [K] whose latents are noised into the window, the same for all clips."""
        size, last = self.rolling.window_blocks, self.settings.clip_blocks - 1
        indices = []
        for start in self.starts:
            stale = step_noise.shared(1000) < 1000 * self.settings.stale_share
            offset = step_noise.shared(2 * size - 1) - (size - 1) if stale else 0
            blocks = torch.arange(start, start + size) + offset
            indices.append(blocks.clamp(start - 1, last).to(self.distributed.device))
        return indices

    @torch.no_grad()
    def sample(self, folder: Path, step: int) -> None:
        show_rollout(self.average, self.data, folder / f"sample_{step:06d}.mp4")


def window_starts(shape: Rolling, blocks: int, windows: int) -> tuple[int, ...]:
    """The blocks where a clip's windows start: evenly from where the recent blocks are full, as they always are in
    play, to the clip's last whole window."""
    first, last = shape.recent_blocks + 1, blocks - shape.window_blocks
    spread = torch.linspace(first, last, windows).round().int().tolist()
    return tuple(sorted(set(spread)))


def show_rollout(model: Transformer, data: TrainingData, path: Path) -> None:
    """A film of a rollout with play's own step, from a held-out start under the recorded keys, beside the recording."""
    distributed = data.distributed
    shape = data.config.rolling
    lead = shape.recent_blocks + 1
    sinks, latents, actions = data.held_out_clip(lead + SAMPLE_BLOCKS)
    step_noise = StepNoise(distributed, 0, 98, distributed.processes)
    state = prime_from_clip(model, shape, sinks, latents, actions, step_noise)
    made = []
    for at in range(lead, latents.shape[1]):
        noise = step_noise.normal(shape.window_blocks, *latents.shape[2:])[:1]
        state, latent = rolling.step(model, shape, state, actions[:, at], noise)
        made.append(latent)
    data.show(path, latents[0, lead:], torch.stack(made, 1)[0], actions[0, lead:])


def prime_from_clip(
    model: Transformer, shape: Rolling, sinks: Tensor, latents: Tensor, actions: Tensor, step_noise: StepNoise
) -> rolling.State:
    """Prime on a clip's first R+1 blocks."""
    lead = shape.recent_blocks + 1
    noise = step_noise.normal(shape.window_blocks, *latents.shape[2:])[: len(latents)]
    return rolling.prime(model, shape, sinks, latents[:, :lead], actions[:, :lead], noise)
