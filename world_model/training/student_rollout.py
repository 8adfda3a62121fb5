"""Student rollout: games in progress, played by the student with play's own tick and held to their recordings.

A pool of games; each step a batch of them takes one tick from the student's *own* frames, under the recorded keys, and
every tick learns: the world is deterministic, so the recording holds what should have come. Later blocks of the window
count while the held key stayed held. A game returns to a recording when it strays past a bound, or after a random
length whose mean grows from one tick (which is teacher forcing) to many. No gradient crosses a tick, but the sinks'
keys are written anew in each, so that they learn too.

The loss is L1 (a median is a picture, a mean is fog), and cells that matter weigh more: those that change, and those
that no sink holds. Both are counted, because a hero is 4 cells of 256 and a new room all of them.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from world_model import rolling
from world_model.dataset import DataError, Episode
from world_model.head import fitted, likeness
from world_model.rolling import State
from world_model.training.clips import Material, TransformerStage, load_transformer
from world_model.training.loop import Draw
from world_model.training.student_init import show_rollout

CHANGED = 0.2
"""A cell has changed, in a latent's units, from this difference of its worst element."""
WRONG = 0.15
"""A cell is wrong from this mean difference of its elements."""
SMALL = 1 / 16
"""Cells that matter keep their whole weight up to this share of a frame; more share what these have."""
EVENT = 0.5
"""Share of a frame's cells whose change is an event."""
BEFORE_EVENT = 6
"""A game that begins for an event begins fewer ticks than this before it, and than games last."""
LATER = 0.5
"""Weight of the window's later blocks: they are only guesses to start the next tick from."""
COPIED, LEAVE = 2.0, 0.5
"""Weights of the sink copies' own errors, and of the choice between them."""
MISSED = 0.15
"""Mean difference from which the sink that was near, as it was lit, is no longer what comes."""
BATCHED = ("keys", "values")
"""Arrays of a state whose games lie along the second dimension; in the others they lie along the first."""


class StudentRolloutTraining(TransformerStage):
    name, prefix = "student_rollout", "student"

    def __init__(self, material: Material, weights: Path | None):
        self.material, self.config, self.machine = material, material.config, material.machine
        self.settings, self.rolling = self.config.training.student_rollout, self.config.rolling
        self.lead, per_block = self.rolling.recent_blocks + 1, self.rolling.frames_per_block
        self.starts = Starts(material.train, self.lead, self.rolling.window_blocks, per_block)
        self.random = np.random.default_rng(self.machine.seed + self.machine.rank)
        self.pool: State | None = None
        count = self.settings.pool // self.machine.processes
        self.which, self.at, self.left = (np.zeros(count, int) for _ in range(3))
        self.turn, self.length = 0, 1.0
        self.take(load_transformer(self.config, self.machine, weights, self.prefix), self.loss, muon=True)

    def loss(self, draw: Draw) -> tuple[Tensor, dict]:
        games = (self.turn * draw.local + np.arange(draw.local)) % len(self.left)
        self.turn += 1
        self.length = self.settings.length ** min(1.0, draw.share / self.settings.grow)  # from 1, geometrically
        self._return(games[self.left[games] <= 0])
        true, actions = self._cut(games, 0, self.rolling.window_blocks)
        state = {name: value[_at(name, games)] for name, value in self.pool.items()}
        with self.machine.precision():
            noise = draw.normal(*true.shape[1:])
            moved = rolling.resink(self.model, self.rolling, state, state["sinks"])
            moved, x0 = rolling.tick(self.model, self.rolling, moved, actions[:, 0], noise)
        wrong = self._keep(games, moved, x0, true)
        held = (actions == actions[:, :1]).all(-1).float().cumprod(1)
        held[:, 1:] *= LATER
        error = (x0.float() - true).abs().mean(3)  # of each cell, [n, K, B, h, w]
        weight = self._weight(true, state)
        sources = self._sources(true.flatten(1, 2)).unflatten(1, true.shape[1:3])
        loss = ((error * weight).mean((2, 3, 4)) * held).mean() + (sources.mean(2) * held).mean()
        logs = {
            "sources": sources[:, 0].mean().detach(),
            "error": error[:, 0].mean().detach(),
            "cells_right": 1 - wrong.mean() / error[0, 0].numel(),
            "mean_length": self.length,
        }
        return loss, logs

    def _sources(self, true: Tensor) -> Tensor:
        """[n, F] for true [n, F, C, h, w]: where the nearest sink, as it was lit, is no longer what comes, there learns
        what is; elsewhere here does; and whether to leave learns which of these it is."""
        sources = self.model.local.sources
        fit, here, there = ((copy - true).abs().mean((2, 3, 4)) for copy in sources[:3])
        missed = (fit > MISSED).float()
        choice = F.binary_cross_entropy_with_logits(sources.leave, missed, reduction="none")
        return COPIED * torch.where(missed > 0, there, here) + LEAVE * choice

    def _weight(self, true: Tensor, state: State) -> Tensor:
        """1, and more where a cell changes or is in no sink: [n, K, B, h, w] for true [n, K, B, C, h, w]."""
        frames, sinks = true.flatten(1, 2), state["sinks"]
        colours = true.shape[3] // self.config.codec.unfold**2
        nearest = likeness(frames, sinks, colours).argmax(-1)
        copy = torch.stack([sinks[game, places] for game, places in enumerate(nearest)])
        gain, offset = fitted(copy, frames, colours)
        differs = [frames - state["clean"][:, -1:], frames - (copy * gain + offset)]
        cells = [(d.abs().amax(2) > CHANGED).float() for d in differs]
        capped = sum(c * (SMALL / c.mean((2, 3), keepdim=True).clamp(min=SMALL)) for c in cells)
        return (1 + self.settings.change_weight * capped).unflatten(1, true.shape[1:3])

    @torch.no_grad()
    def _keep(self, games: np.ndarray, state: State, x0: Tensor, true: Tensor) -> Tensor:
        """Put the games that took a tick back into the pool; [n], the wrong cells of the frames that they showed."""
        for name, value in state.items():
            if name in self.pool:
                self.pool[name][_at(name, games)] = value.detach().to(self.pool[name].dtype)
        wrong = ((x0[:, 0].float() - true[:, 0]).abs().mean(2) > WRONG).sum((1, 2, 3)).float()
        self.at[games] += 1
        lengths = np.array([len(self.starts.actions[i]) for i in self.which[games]])
        over = self.at[games] + self.rolling.window_blocks > lengths
        over |= wrong.cpu().numpy() > self.settings.stray_cells
        self.left[games] = np.where(over, 0, self.left[games] - 1)
        return wrong

    @torch.no_grad()
    def _return(self, games: np.ndarray) -> None:
        """Begin these games anew from recordings."""
        if not len(games):
            return
        self.which[games], self.at[games] = self.starts.take(
            len(games), self.settings.event_share, min(BEFORE_EVENT, math.ceil(self.length)), self.random
        )
        self.left[games] = self.random.geometric(1 / self.length, len(games))
        frames, actions = self._cut(games, -self.lead, 0)
        noise = torch.from_numpy(self.random.standard_normal(frames.shape, np.float32)).to(frames.device)
        share = torch.from_numpy(self.random.random((len(games), 1, 1, 1, 1, 1), np.float32)).to(frames.device)
        ahead, _ = self._cut(games, 0, self.rolling.window_blocks)
        frames = torch.cat([frames + self.settings.lead_noise * share * noise, ahead], 1)
        sinks = torch.from_numpy(np.stack([self.starts.episodes[i].sinks for i in self.which[games]])).float()
        window = torch.from_numpy(self.random.standard_normal(ahead.shape, np.float32)).to(frames.device)
        with self.machine.precision():
            primed = rolling.prime(
                self.model, self.rolling, sinks.to(frames.device), frames, actions, window
            )
        primed["tick"] = torch.zeros(len(games), dtype=torch.int64, device=frames.device)  # each game counts its own
        if self.pool is None:
            self.pool = {name: _empty(name, value, len(self.left)) for name, value in primed.items()}
        for name, value in primed.items():
            self.pool[name][_at(name, games)] = value.to(self.pool[name].dtype)

    def _cut(self, games: np.ndarray, first: int, end: int) -> tuple[Tensor, Tensor]:
        """Blocks ``first`` .. ``end`` of these games' recordings, counted from the next: true frames
        [n, T, B, C, h, w] and the actions that made them [n, T, keys]."""
        starts = zip(self.which[games], self.at[games], strict=True)
        cuts = [self.starts.cut(which, at + first, at + end) for which, at in starts]
        arrays = (np.stack(part) for part in zip(*cuts, strict=True))
        return tuple(torch.from_numpy(array).to(self.machine.device).float() for array in arrays)

    @torch.no_grad()
    def sample(self, folder: Path, step: int) -> None:
        show_rollout(self.average, self.material, folder / f"sample_{step:06d}.mp4")


class Starts:
    """Where games may begin in recordings: anywhere, or shortly before an event, when most of a frame changes.

    Everything is counted in blocks. ``lead`` of them come before a game's first, ``span`` must follow.
    """

    def __init__(self, episodes: list[Episode], lead: int, span: int, per_block: int):
        actions = [episode.block_actions(per_block) for episode in episodes]
        long = [index for index, blocks in enumerate(actions) if len(blocks) >= lead + span]
        if not long:
            raise DataError(f"no session is as long as {(lead + span) * per_block} frames: record longer ones")
        self.episodes, self.actions = [episodes[i] for i in long], [actions[i] for i in long]
        self.lead, self.per_block = lead, per_block
        self.counts = np.array([len(blocks) - span - lead + 1 for blocks in self.actions])
        self.ends = np.cumsum(self.counts)
        events = [(i, at // per_block) for i, episode in enumerate(self.episodes) for at in _events(episode.latents)]
        self.events = np.array(events, int).reshape(-1, 2)

    def take(
        self, count: int, event_share: float, before: int, random: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        """``count`` episodes, and the first block that a game there makes: at an event, or fewer than ``before``
        blocks ahead of it, or anywhere."""
        flat = random.integers(self.ends[-1], size=count)
        which = np.searchsorted(self.ends, flat, side="right")
        at = self.lead + self.ends[which] - 1 - flat
        if len(self.events):
            chosen = random.random(count) < event_share
            events = self.events[random.integers(len(self.events), size=count)]
            which = np.where(chosen, events[:, 0], which)
            at = np.where(chosen, events[:, 1] - random.integers(before, size=count), at)
        return which, np.clip(at, self.lead, self.lead + self.counts[which] - 1)

    def cut(self, which: int, first: int, end: int) -> tuple[np.ndarray, np.ndarray]:
        """Blocks first .. end of an episode [T, B, C, h, w] and their actions [T, keys]."""
        frames = self.episodes[which].latents[first * self.per_block : end * self.per_block]
        return frames.reshape(-1, self.per_block, *frames.shape[1:]), self.actions[which][first:end]


def _events(latents: np.ndarray) -> np.ndarray:
    """Indices of the frames in which most cells change."""
    small = latents[:, ::4].astype(np.float32)  # a quarter of the channels tells
    changed = (np.abs(np.diff(small, axis=0)).max(1) > CHANGED).mean((1, 2))
    return np.flatnonzero(changed > EVENT) + 1


def _at(name: str, games: np.ndarray) -> tuple:
    return (slice(None), games) if name in BATCHED else (games,)


def _empty(name: str, like: Tensor, count: int) -> Tensor:
    shape = list(like.shape)
    shape[1 if name in BATCHED else 0] = count
    return like.new_zeros(shape)
