"""Student rollout: games in progress, played by the student with play's own tick and held to their recordings.

A pool of games; each step a batch of them takes one tick from the student's *own* frames, under the recorded keys, and
every tick learns: the world is deterministic, so the recording holds what should have come. Later blocks of the window
count while the held key stayed held. A game returns to a recording when it strays past a bound, or after a random
length whose mean grows from one tick (which is teacher forcing) to many. Half of those that strayed are played again
from a few ticks before: what fails is practised most. No gradient crosses a tick. The pool is part of a checkpoint, and
chance comes from ``StepNoise`` alone: a run that was killed goes on as if it had not been.

The loss is the negative log-likelihood (nll) of the head's mixture (``head.py``). It is next to nothing wherever the
picture stays, so what is small and moves needs no weight of its own.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from world_model.config import Config, PickSize, ViewSize
from world_model.episode.dataset import DataError, Episode
from world_model.model import rolling
from world_model.model.rolling import State
from world_model.model.transformer import Transformer
from world_model.model.view_head import missed, moves
from world_model.training.clips import TrainingData, TransformerStage, load_transformer
from world_model.training.loop import StepNoise
from world_model.training.student_init import show_rollout

CHANGED = 0.2
"""A cell has changed, in a latent's units, from this difference of its worst element."""
WRONG = 0.15
"""A cell is wrong from this mean difference of its elements."""
EVENT, COMES = 0.5, 3
"""Share of a frame's cells whose change is an event; cells by which what stands before its sink grows or shrinks at
once when something comes or goes, which is one too."""
STRANGE = 0.03
"""Metres, or radians, by which a move is another than the same keys mostly make: an event, too."""
OTHERS, STRANGE_SHARE = 8, 0.5
"""How many other frames of a game's recording teach moves, and how many of them are strange: leaving the ground is
hardly ever seen, and the median of what Space does is nothing."""
BEFORE_EVENT = 6
"""A game that begins for an event begins fewer ticks than this before it, and than games last."""
AGAIN = 0.5
"""Share of the games that strayed that are played again, from at most ``BEFORE_EVENT`` ticks before."""
LATER = 0.5
"""Weight of the window's later blocks: they are only guesses to start the next tick from."""
PALETTE_EPISODES, PALETTE_EVERY = 200, 16
"""Sessions, and one in how many of their frames, in which the palette's colours are counted."""
SINKS_EVERY = 4
"""Steps from one prefill of the sinks to the next, so that what encodes them learns, too."""
GAMES = ("which", "at", "left", "strayed")
"""Of each game: the recording that it is held to, its next block there, the ticks it still has, whether it strayed."""
BATCHED = ("keys", "values")
"""Arrays of a state whose games lie along the second dimension; in the others they lie along the first."""


class StudentRolloutTraining(TransformerStage):
    name, prefix = "student_rollout", "student"

    def __init__(self, data: TrainingData, weights: Path | None):
        self.data, self.config, self.distributed = data, data.config, data.distributed
        self.settings, self.rolling = self.config.training.student_rollout, self.config.rolling
        self.lead, per_block = self.rolling.recent_blocks + 1, self.rolling.frames_per_block
        self.start_sampler = StartSampler(data.train, self.lead, self.rolling.window_blocks, per_block)
        if isinstance(self.config.head, ViewSize) and not (self.start_sampler.posed and self.start_sampler.deep):
            raise DataError("head.kind view learns from where each frame was seen, and from how far away what the "
                            "anchors show is, and these recordings do not say both: record a game whose info holds a "
                            "pose and which has a spot() and depths()")  # fmt: skip
        self.pool: State | None = None
        self.rounds = self.settings.pool // self.settings.batch  # steps until a game's next turn
        count = self.rounds * (self.settings.batch // self.distributed.processes)
        self.which, self.at, self.left = (np.zeros(count, int) for _ in range(3))
        self.strayed = np.zeros(count, bool)
        self.length = 1.0
        model = load_transformer(self.config, self.distributed, weights, self.prefix)
        if weights is None and isinstance(self.config.head, PickSize):
            colours = colours_drawn(data.train, self.config.head.palette, self.config.codec.unfold)
            model.local.palette.copy_(torch.from_numpy(colours))
        self.flops = tick_flops(model, self.config) * self.settings.batch / self.distributed.processes
        self.take(model, self.loss, muon=True)

    def loss(self, step_noise: StepNoise) -> tuple[Tensor, dict]:
        games = np.arange(step_noise.local) * self.rounds + step_noise.step % self.rounds
        self.length = self.settings.length ** min(1.0, step_noise.share / self.settings.grow)  # from 1, geometrically
        self._return(games, step_noise)
        true, actions, poses = self._cut(games, 0, self.rolling.window_blocks)
        state = {name: value[_at(name, games)] for name, value in self.pool.items()}
        with self.distributed.precision():
            noise = step_noise.normal(*true.shape[1:])
            if step_noise.step % SINKS_EVERY == SINKS_EVERY - 1:
                state = rolling.replace_sinks(self.model, self.rolling, state, state["sinks"])
            extra = {} if poses is None else {"window_poses": poses}
            moved, x0, outputs = rolling.tick(self.model, self.rolling, state, actions[:, 0], noise, extra)
        wrong = self._keep(games, moved, x0, true)
        held = (actions == actions[:, :1]).all(-1).float().cumprod(1)
        held[:, 1:] *= LATER
        elements, choice = self.model.local.nll(outputs, true.flatten(1, 2), state["sinks"])
        nll = (elements + choice).unflatten(1, true.shape[1:3])
        loss = (nll.mean(2) * held).mean()
        if isinstance(self.config.head, ViewSize):
            loss = loss + self._place(games, state["relief"], step_noise).mean()
        logs = {
            "elements": elements[:, 0].mean().detach(),
            "choice": choice[:, 0].mean().detach(),
            "cells_right": 1 - wrong.mean() / x0[0, 0, :, 0].numel(),
            "strayed": float(self.strayed[games].mean()),
            "mean_length": self.length,
        }
        return loss, logs

    def _place(self, games: np.ndarray, relief: Tensor, step_noise: StepNoise) -> Tensor:
        """What is wrong [n] with moves in other frames of these games' recordings, and with the relief, where it was
        made with gradient. Neither needs a picture, so that both learn from many times as many frames."""
        which, chance = self.which[games], _chances(step_noise, OTHERS * 3).reshape(-1, 3)
        told = map(self.start_sampler.told, which.repeat(OTHERS), chance)
        poses, actions = (self._tensor(np.stack(part)) for part in zip(*told, strict=True))
        sigma = rolling.sigmas(self.rolling.window_blocks, self.rolling.shift)[1]
        _, condition = self.model.condition(torch.full_like(poses[:, 1:, 0], sigma), actions[:, 1:], 0)
        around = relief.detach().repeat_interleave(OTHERS, 0)
        strayed = self.model.local.strayed(around, poses, actions[:, 0], condition[:, 0])
        wrong = strayed.unflatten(0, (-1, OTHERS)).mean(1)
        if not relief.requires_grad:
            return wrong
        return wrong + missed(relief, self._tensor(np.stack([self.start_sampler.episodes[i].depths for i in which])))

    @torch.no_grad()
    def _keep(self, games: np.ndarray, state: State, x0: Tensor, true: Tensor) -> Tensor:
        """Put the games that took a tick back into the pool; [n], the wrong cells of the frames that they showed."""
        for name, value in state.items():
            if name in self.pool:
                self.pool[name][_at(name, games)] = value.detach().to(self.pool[name].dtype)
        wrong = ((x0[:, 0].float() - true[:, 0]).abs().mean(2) > WRONG).sum((1, 2, 3)).float()
        self.at[games] += 1
        lengths = np.array([len(self.start_sampler.actions[i]) for i in self.which[games]])
        self.strayed[games] = wrong.cpu().numpy() > self.settings.stray_cells
        over = self.strayed[games] | (self.at[games] + self.rolling.window_blocks > lengths)
        self.left[games] = np.where(over, 0, self.left[games] - 1)
        return wrong

    @torch.no_grad()
    def _return(self, games: np.ndarray, step_noise: StepNoise) -> None:
        """Begin those of these games anew from recordings that are over. Chance is drawn for all of them: which are
        over is another matter on another process."""
        chance = _chances(step_noise, 7)
        noise = step_noise.normal(self.rolling.window_blocks, self.rolling.frames_per_block, *self.config.latent_shape)
        over = self.left[games] <= 0
        if not over.any():
            return
        games, chance, noise = games[over], chance[over], noise[torch.from_numpy(over)]
        before = min(BEFORE_EVENT, math.ceil(self.length))
        which, at = self.start_sampler.take(chance[:, :4], self.settings.event_share, before)
        again = self.strayed[games] & (chance[:, 4] < AGAIN)
        earlier = self.at[games] - 1 - (chance[:, 5] * before).astype(int)
        self.which[games] = np.where(again, self.which[games], which)
        self.at[games] = np.where(again, np.maximum(earlier, self.lead), at)
        self.left[games] = _geometric(chance[:, 6], self.length)
        frames, actions, poses = self._cut(games, -self.lead, 0)
        sinks = torch.from_numpy(np.stack([self.start_sampler.episodes[i].sinks for i in self.which[games]])).float()
        with self.distributed.precision():
            primed = rolling.prime(self.model, self.rolling, sinks.to(frames.device), frames, actions, noise)
        primed["tick"] = torch.zeros(len(games), dtype=torch.int64, device=frames.device)  # each game counts its own
        if "pose" in primed:
            primed["pose"] = poses[:, -1]
        if self.pool is None:
            self.pool = {name: _empty(name, value, len(self.left)) for name, value in primed.items()}
        for name, value in primed.items():
            self.pool[name][_at(name, games)] = value.to(self.pool[name].dtype)

    def _cut(self, games: np.ndarray, first: int, end: int) -> tuple[Tensor, Tensor, Tensor | None]:
        """Blocks ``first`` .. ``end`` of these games' recordings, counted from the next: true frames
        [n, T, B, C, h, w], the actions that made them [n, T, keys] and, where all recordings say them, poses
        [n, T, 8]."""
        starts = zip(self.which[games], self.at[games], strict=True)
        cuts = [self.start_sampler.cut(which, at + first, at + end) for which, at in starts]
        frames, actions, *poses = (self._tensor(np.stack(part)) for part in zip(*cuts, strict=True))
        return frames, actions, poses[0] if poses else None

    def _tensor(self, array: np.ndarray) -> Tensor:
        return torch.from_numpy(array).to(self.distributed.device).float()

    def state(self) -> dict[str, Tensor]:
        """The games in progress, along the first dimension; a process has those of its positions in the batch."""
        if self.pool is None:
            return {}
        known = {name: torch.from_numpy(getattr(self, name)).to(self.distributed.device) for name in GAMES}
        return known | {name: part.movedim(1, 0) if name in BATCHED else part for name, part in self.pool.items()}

    def restore(self, state: dict[str, Tensor]) -> None:
        if any(len(part) != len(self.left) for part in state.values()):
            raise ValueError("as many games as the pool has")
        self.which, self.at, self.left, self.strayed = (state.pop(name).cpu().numpy() for name in GAMES)
        self.pool = {name: part.movedim(0, 1) if name in BATCHED else part for name, part in state.items()}

    @torch.no_grad()
    def sample(self, folder: Path, step: int) -> None:
        show_rollout(self.average, self.data, folder / f"sample_{step:06d}.mp4")


@torch.no_grad()
def tick_flops(model: Transformer, config: Config) -> float:
    """Floating-point operations of one game's tick and of learning from it: three times those of the tick itself, which
    takes one to count them (Kaplan et al., arXiv 2001.08361)."""
    roll, like = config.rolling, model.place
    window = like.new_zeros(1, roll.window_blocks, roll.frames_per_block, *config.latent_shape)
    frames = like.new_zeros(1, roll.recent_blocks + 1, *window.shape[2:])
    actions = like.new_zeros(1, roll.recent_blocks + 1, config.action_size)
    sinks = like.new_zeros(1, roll.sink_frames, *config.latent_shape)
    state = rolling.prime(model, roll, sinks, frames, actions, window)
    with FlopCounterMode(display=False) as counter:
        rolling.tick(model, roll, state, actions[:, 0], window)
    return 3.0 * counter.get_total_flops()


class StartSampler:
    """Where games may begin in recordings: anywhere, or shortly before an event, when most of a frame changes,
    something comes or goes, or keys lead elsewhere than they mostly do.

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
        self.posed = all(episode.poses is not None for episode in self.episodes)
        self.deep = all(episode.depths is not None for episode in self.episodes)
        found = [_events(episode) for episode in self.episodes]
        self.strange = _strange_moves(self.episodes) if self.posed else [np.array([], int)] * len(self.episodes)
        found = [np.concatenate(pair) for pair in zip(found, self.strange, strict=True)]
        events = [(i, at // per_block) for i, those in enumerate(found) for at in those]
        self.events = np.array(events, int).reshape(-1, 2)

    def take(self, chance: np.ndarray, event_share: float, before: int) -> tuple[np.ndarray, np.ndarray]:
        """For each row of ``chance``, four numbers in [0, 1), an episode and the first block that a game there makes:
        at an event, or fewer than ``before`` blocks ahead of it, or anywhere."""
        flat = (chance[:, 0] * self.ends[-1]).astype(int)
        which = np.searchsorted(self.ends, flat, side="right")
        at = self.lead + self.ends[which] - 1 - flat
        if len(self.events):
            chosen = chance[:, 1] < event_share
            events = self.events[(chance[:, 2] * len(self.events)).astype(int)]
            which = np.where(chosen, events[:, 0], which)
            at = np.where(chosen, events[:, 1] - (chance[:, 3] * before).astype(int), at)
        return which, np.clip(at, self.lead, self.lead + self.counts[which] - 1)

    def cut(self, which: int, first: int, end: int) -> tuple[np.ndarray, ...]:
        """Blocks first .. end of an episode [T, B, C, h, w], their actions [T, keys], and poses [T, 8] where known."""
        episode, frames = self.episodes[which], slice(first * self.per_block, end * self.per_block)
        latents = episode.latents[frames]
        poses = (episode.poses[frames],) if self.posed else ()
        return latents.reshape(-1, self.per_block, *latents.shape[1:]), self.actions[which][first:end], *poses

    def told(self, which: int, chance: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Of a frame of an episode and the one before it, one time in two a strange one where there is one: poses
        [2, 8] and actions [2, keys]. ``chance``: three numbers in [0, 1)."""
        episode, strange = self.episodes[which], self.strange[which]
        at = 1 + int(chance[0] * (len(episode.latents) - 1))
        at = strange[int(chance[1] * len(strange))] if len(strange) and chance[2] < STRANGE_SHARE else at
        return episode.poses[at - 1 : at + 1], episode.actions[at - 1 : at + 1]


def colours_drawn(episodes: list[Episode], count: int, unfold: int) -> np.ndarray:
    """[count, colours]: those most often seen where no sink shows them, in frames that are as light as the sinks."""
    counts: dict[bytes, int] = {}
    for episode in episodes[:PALETTE_EPISODES]:
        sinks = episode.sinks[None]
        frames = episode.latents[::PALETTE_EVERY, None]
        same = frames == sinks
        of_sink = same.mean((2, 3, 4))  # [frames, sinks]
        nearest = of_sink.argmax(1)
        other = ~same[np.arange(len(frames)), nearest]
        other[of_sink.max(1) < 0.5] = False  # another light, or another room
        pixels, changed = (x.reshape(len(x), -1, unfold**2, *x.shape[2:]) for x in (frames[:, 0], other))
        seen, often = np.unique(np.moveaxis(pixels, 1, -1)[changed.any(1)], axis=0, return_counts=True)
        for colour, times in zip(seen, often, strict=True):
            counts[colour.tobytes()] = counts.get(colour.tobytes(), 0) + int(times)
    common = sorted(counts, key=counts.get, reverse=True)[:count]
    if not common:
        raise DataError("in no frame that is as light as the sinks does anything stand that no sink shows")
    common = [common[i % len(common)] for i in range(count)]
    return np.stack([np.frombuffer(colour, episodes[0].latents.dtype) for colour in common]).astype(np.float32)


def _events(episode: Episode) -> np.ndarray:
    """Indices of the frames in which most cells change, or something comes or goes."""
    small, sinks = (part[:, ::4].astype(np.float32) for part in (episode.latents, episode.sinks))  # a quarter tells
    changed = (np.abs(np.diff(small, axis=0)).max(1) > CHANGED).mean((1, 2)) > EVENT
    stands = np.min([(np.abs(small - sink).max(1) > CHANGED).sum((1, 2)) for sink in sinks], 0)
    seen = stands < EVENT * small[0, 0].size  # in another light than the sinks' everything would stand
    comes = (np.abs(np.diff(stands)) >= COMES) & seen[1:] & seen[:-1]
    return np.flatnonzero(changed | comes) + 1


def _strange_moves(episodes: list[Episode]) -> list[np.ndarray]:
    """Of episodes with poses, indices of the first frames that one came to otherwise than the same keys mostly lead: a
    wall is met, the ground is left."""
    poses = [torch.tensor(episode.poses) for episode in episodes]
    went = [moves(pose[:, :4] - pose[:, 4:], pose[:, None])[:, 0].numpy() for pose in poses]
    keys = np.concatenate([episode.actions for episode in episodes])
    _, which = np.unique(keys, axis=0, return_inverse=True)
    every = np.concatenate(went)
    usual = np.stack([np.median(every[which == number], 0) for number in range(which.max() + 1)])
    strange = (np.abs(every - usual[which]) > STRANGE).any(1)
    ends = np.cumsum([len(part) for part in went])
    return [np.flatnonzero(part[1:] & ~part[:-1]) + 1 for part in np.split(strange, ends[:-1])]


def _chances(step_noise: StepNoise, count: int) -> np.ndarray:
    """Uniform on [0, 1), float64 [local batch, count]."""
    return step_noise.uniform(count).cpu().numpy().astype(np.float64)


def _geometric(chance: np.ndarray, mean: float) -> np.ndarray:
    """From uniform numbers, how many ticks games last that end at each with one chance in ``mean``."""
    ends = min(1 / mean, 1 - 1e-12)
    return np.maximum(1, np.ceil(np.log1p(-chance) / np.log1p(-ends))).astype(int)


def _at(name: str, games: np.ndarray) -> tuple:
    return (slice(None), games) if name in BATCHED else (games,)


def _empty(name: str, like: Tensor, count: int) -> Tensor:
    shape = list(like.shape)
    shape[1 if name in BATCHED else 0] = count
    return like.new_zeros(shape)
