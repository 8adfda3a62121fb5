"""Student rollout: a pool of games that the student plays with play's own tick, supervised by their recordings.

Each step, a batch of the pool takes one tick from the student's *own* frames under the recorded keys. Where the world
is deterministic, the recording holds the right next frames; where it is not, classes tell which way the recording's
dice fell (``mixture_head.py``), and a game that was not told all of it goes on from the recorded frame,
as long as it has made no mistake of its own: so there are games that teach odds, and games that teach mending.
Later blocks of the window count while the keys stay the same. A game restarts from a recording when too many of its
cells are wrong, or after a random length whose mean grows from one tick (teacher forcing) to many; half of those that
were wrong restart a few ticks earlier in the same recording. No gradient crosses a tick. The pool is part of the
checkpoint, so a killed run resumes exactly.

The loss is the negative log-likelihood (nll) of the head's mixture (``head.py``). It is close to zero wherever the
picture stays the same, so what is small and moves needs no weight of its own.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from world_model.config import Config, MixtureSize, PickSize, ViewSize
from world_model.episode.dataset import DataError, Episode
from world_model.model import rolling
from world_model.model.mixture_head import ALONE, MixtureHead, wrong_cells
from world_model.model.rolling import BATCHED, State
from world_model.model.transformer import Transformer
from world_model.model.view_head import missed, moves
from world_model.training.clips import TrainingData, TransformerStage, load_transformer, still_held
from world_model.training.distributed import StepNoise
from world_model.training.loop import FALLS
from world_model.training.student_init import show_rollout

WRONG_CELL = 0.15
"""Mean difference, in latent units, from which on a cell is wrong where the head does not look at single pixels: a view
is never right in all of them."""
CHANGED = 0.2
"""A cell has changed when one of its elements differs by more than this, in latent units."""
EVENT, APPEARED = 0.5, 3
"""A frame is an event when more than this share of its cells changes, or when the number of cells that differ from the
nearest sink changes by at least ``APPEARED``: something appeared or vanished."""
UNUSUAL = 0.03
"""A move is unusual, and an event, when it differs by more than this, in metres or radians, from the median move under
the same keys."""
OTHERS, UNUSUAL_SHARE = 8, 0.5
"""Other frames of a game's recording that teach moves, and the share of them that are unusual: jumps are rare."""
BEFORE_EVENT, AFTER_EVENT = 6, 2
"""A game that starts for an event starts fewer ticks than the first before it, and fewer than games last; or up to the
second after it: the points on the screen may change a tick after the reward."""
OUTCOMES = 0.5
"""Share of the games starting for an event that do so for a reward or an end: what games are about, and few of the
events."""
REPEATED = 0.5
"""Share of the games that strayed that restart in the same recording, at most ``BEFORE_EVENT`` ticks earlier."""
LATER = 0.5
"""Weight of the window's later blocks, which are only where the next tick starts from."""
PALETTE_EPISODES, PALETTE_EVERY = 200, 16
"""Sessions, and one in how many of their frames, in which the palette's colours are counted."""
SINKS_EVERY = 4
"""Every so many steps the sinks are prefilled with gradient, so that their encoding is trained too."""
RAREST = 30.0
"""Largest weight of a rare reward or of the end: the square root of one over its share of the frames."""
GAMES = ("which", "at", "left", "strayed", "odds", "fair", "grown")
"""Of each game: the number of its recording, its next block there, its remaining ticks, whether it strayed; the weight
of what it says of how often things happen, less where starts around events are preferred; whether chance may be
learned from it: not once it went on from wrong cells, nor where it begins again because one strayed; and how far games
have grown, of 1, below 0 in teacher forcing: that does not fall where a resumed run has done less of its new time."""


class StudentRolloutTraining(TransformerStage):
    name, prefix = "student_rollout", "student"

    def __init__(self, data: TrainingData, weights: Path | None):
        super().__init__(data)
        self.lead, per_block = self.rolling.recent_blocks + 1, self.rolling.frames_per_block
        device = self.distributed.device
        mixture = isinstance(self.config.head, MixtureSize)
        # what play shows must be trained up to the last frame, with which an episode ends
        self.span = 1 if mixture else self.rolling.window_blocks
        self.start_sampler = StartSampler(data.train, self.lead, self.span, per_block, device, poses=not mixture)
        if mixture and self.config.head.rewards and any(e.rewards is None for e in self.start_sampler.episodes):
            raise DataError("head.rewards learns from rewards, and some of these recordings have none: record them "
                            "again, or say rewards: 0")  # fmt: skip
        if isinstance(self.config.head, ViewSize) and not (self.start_sampler.posed and self.start_sampler.deep):
            raise DataError("head.kind view learns from where each frame was seen, and from how far away what the "
                            "anchors show is, and these recordings do not say both: record a game whose info holds a "
                            "pose and which has a spot() and depths()")  # fmt: skip
        self.pool: State | None = None
        self.rounds = self.settings.pool // self.settings.batch  # the batch is every rounds-th game of the pool
        count = self.rounds * (self.settings.batch // self.distributed.processes)
        self.which, self.at, self.left = (np.zeros(count, int) for _ in range(3))
        self.strayed, self.odds, self.fair = np.zeros(count, bool), np.zeros(count), np.zeros(count, bool)
        # a world that goes on has learned its rules: it would only forget what its dice say
        self.forced_share = self.settings.teacher_forcing if weights is None else 0.0
        self.grown = np.full(count, -1.0)
        self.length = 1.0
        self.strict = self.stray_cells = self.settings.first_stray_cells or self.settings.stray_cells
        model = load_transformer(self.config, self.distributed, weights, self.prefix)
        if weights is None and isinstance(self.config.head, PickSize):
            colours = count_palette(data.train, self.config.head.palette, self.config.codec.unfold)
            model.local.palette.copy_(torch.from_numpy(colours))
        if weights is None and isinstance(self.config.head, MixtureSize):
            count_outputs(model.local, self.start_sampler.episodes)
        self.flops = tick_flops(model, self.config) * self.settings.batch / self.distributed.processes
        self.set_model(model, self.loss, muon=True)

    def phase(self, progress: float) -> float:
        """The share that is done of what comes before the prior learns alone, or of that."""
        share = self.settings.prior_share
        return (progress + share - 1) / share if self._is_settled(progress) else progress / (1 - share)

    def _is_settled(self, progress: float) -> bool:
        """Whether the prior learns alone."""
        return self.settings.prior_share > 0 and progress >= 1 - self.settings.prior_share

    def loss(self, step_noise: StepNoise) -> tuple[Tensor, dict]:
        games = np.arange(step_noise.local) * self.rounds + step_noise.step % self.rounds
        past_forcing = step_noise.progress - self.forced_share
        if past_forcing >= 0:
            self.grown = np.maximum(self.grown, min(1.0, past_forcing / self.settings.grow))
        forced, grown = self.grown.max() < 0, max(0.0, self.grown.max())
        self.length = self.settings.length**grown  # from 1, geometrically
        self.stray_cells = self.strict ** (1 - grown) * self.settings.stray_cells**grown
        self._restart(games, step_noise)
        true, actions, poses = self._cut(games, 0, self.rolling.window_blocks)
        outcomes = self._outcomes(games) if getattr(self.config.head, "rewards", 0) else None
        state = {name: value[_at(name, games)] for name, value in self.pool.items()}
        with self.distributed.precision():
            noise = step_noise.normal(*true.shape[1:])
            settled = self._is_settled(step_noise.progress)
            if step_noise.step % SINKS_EVERY == SINKS_EVERY - 1 and not settled:
                state = rolling.replace_sinks(self.model, self.rolling, state, state["sinks"])
            held = still_held(actions, actions[:, :1])
            extra = self._extra(games, poses, forced, ALONE * (1 - grown))
            with torch.set_grad_enabled(not settled):  # the prior has its gradient all the same
                moved, x0, outputs = rolling.tick(self.model, self.rolling, state, actions[:, 0], noise, extra)
        weights = held * self._recorded(games)  # before the games go on
        weights[:, 1:] *= LATER
        odds, fair = self._tensor(self.odds[games])[:, None], self._tensor(self.fair[games])[:, None]
        if isinstance(self.config.head, MixtureSize):  # what it was not told is no mistake of the student's
            own = (outputs.told == outputs.classes).flatten(1).all(1) | (fair[:, 0] == 0)
            moved["clean"] = torch.where(own.reshape(-1, 1, 1, 1, 1), moved["clean"], true[:, 0].to(moved["clean"]))
        wrong = self._store(games, moved, true)
        elements, choice = self.model.local.nll(outputs, true.flatten(1, 2), state["sinks"])
        if isinstance(self.config.head, MixtureSize):
            choice = choice * odds * fair
            if self.phase(step_noise.progress) < FALLS and not settled:  # later, two that are one could not part
                counts = self.model.local.class_counts(outputs, x0[:, 0], true[:, 0])
                self.model.local.share_classes(self.distributed.gather(counts[None]).sum(0))
        if outcomes is not None:
            choice = choice + self.model.local.outcome_nll(outputs, *outcomes) * odds
        nll = (elements + choice).unflatten(1, true.shape[1:3])
        loss = (nll.mean(2) * weights).mean()
        if isinstance(self.config.head, ViewSize):
            loss = loss + self._pose_loss(games, state["relief"], step_noise).mean()
        logs = {
            "elements": elements[:, 0].mean().detach(),
            "choice": choice[:, 0].mean().detach(),
            "cells_right": 1 - wrong.mean() / x0[0, 0, :, 0].numel(),
            "strayed": float(self.strayed[games].mean()),
            "mean_length": self.length,
        }
        return loss, logs

    def _extra(self, games: np.ndarray, poses: Tensor | None, forced: bool, alone: float) -> State:
        """What only training gives to the head."""
        if poses is not None:
            return {"window_poses": poses}
        if not isinstance(self.config.head, MixtureSize):
            return {}
        if forced:
            return {"forced": torch.ones(1)}
        future = self._latents(games, -1, 1).flatten(1, 2)[:, self.rolling.frames_per_block - 1 :]
        return {"future": future, "alone": torch.tensor(alone)}

    def _recorded(self, games: np.ndarray) -> Tensor:
        """1 for those blocks of these games' windows [n, K] that the recording has, 0 beyond its end."""
        lengths = np.array([len(self.start_sampler.actions[i]) for i in self.which[games]])
        return self._tensor(self.at[games, None] + np.arange(self.rolling.window_blocks) < lengths[:, None])

    def _outcomes(self, games: np.ndarray) -> tuple[Tensor, Tensor]:
        """Rewards and ends [n, F] of the recorded frames in these games' windows."""
        count, per_block = self.rolling.window_blocks * self.rolling.frames_per_block, self.rolling.frames_per_block
        cuts = [self.start_sampler.outcomes(which, at * per_block, count)
                for which, at in zip(self.which[games], self.at[games], strict=True)]  # fmt: skip
        return tuple(self._tensor(np.stack(part)) for part in zip(*cuts, strict=True))

    def _pose_loss(self, games: np.ndarray, relief: Tensor, step_noise: StepNoise) -> Tensor:
        """The errors [n] of moves in ``OTHERS`` other frames of these games' recordings and, where the relief has a
        gradient, of the relief. Neither needs a picture, so many more frames teach both."""
        which, chance = self.which[games], _chances(step_noise, OTHERS * 3).reshape(-1, 3)
        pairs = map(self.start_sampler.frame_pair, which.repeat(OTHERS), chance)
        poses, actions = (self._tensor(np.stack(part)) for part in zip(*pairs, strict=True))
        sigma = rolling.sigmas(self.rolling.window_blocks, self.rolling.shift)[1]
        _, condition = self.model.condition(torch.full_like(poses[:, 1:, 0], sigma), actions[:, 1:], 0)
        around = relief.detach().repeat_interleave(OTHERS, 0)
        strayed = self.model.local.strayed(around, poses, actions[:, 0], condition[:, 0])
        wrong = strayed.unflatten(0, (-1, OTHERS)).mean(1)
        if not relief.requires_grad:
            return wrong
        return wrong + missed(relief, self._tensor(np.stack([self.start_sampler.episodes[i].depths for i in which])))

    @torch.no_grad()
    def _store(self, games: np.ndarray, state: State, true: Tensor) -> Tensor:
        """Put the games' new states into the pool; returns the wrong cells [n] of the frames that they go on from."""
        for name, value in state.items():
            if name in self.pool:
                self.pool[name][_at(name, games)] = value.detach().to(self.pool[name].dtype)
        wrong = self._wrong_cells(state["clean"].float(), true[:, 0]).sum((1, 2, 3)).float()
        self.at[games] += 1
        lengths = np.array([len(self.start_sampler.actions[i]) for i in self.which[games]])
        self.strayed[games] = wrong.cpu().numpy() > self.stray_cells
        self.fair[games] &= wrong.cpu().numpy() <= self.strict  # else the prior learns to expect what mends
        over = self.strayed[games] | (self.at[games] + self.span > lengths)
        self.left[games] = np.where(over, 0, self.left[games] - 1)
        return wrong

    def _wrong_cells(self, clean: Tensor, true: Tensor) -> Tensor:
        """Which cells [n, B, h, w] of frames [n, B, C, h, w] are not as in the recording."""
        if isinstance(self.config.head, MixtureSize):
            return wrong_cells(clean, true, self.config.codec.unfold)
        return (clean - true).abs().mean(2) > WRONG_CELL

    @torch.no_grad()
    def _restart(self, games: np.ndarray, step_noise: StepNoise) -> None:
        """Restart those of these games that are over. All of them take random numbers, because each process sees only
        its own games."""
        chance = _chances(step_noise, 7)
        noise = step_noise.normal(self.rolling.window_blocks, self.rolling.frames_per_block, *self.config.latent_shape)
        over = self.left[games] <= 0
        if not over.any():
            return
        games, chance, noise = games[over], chance[over], noise[torch.from_numpy(over)]
        before = min(BEFORE_EVENT, math.ceil(self.length))
        which, at, odds = self.start_sampler.take(chance[:, :4], self.settings.event_share, before)
        repeated = self.strayed[games] & (chance[:, 4] < REPEATED)
        earlier = self.at[games] - 1 - (chance[:, 5] * before).astype(int)
        self.which[games] = np.where(repeated, self.which[games], which)
        self.at[games] = np.where(repeated, np.maximum(earlier, self.lead), at)
        self.odds[games] = np.where(repeated, 1.0, odds)
        self.fair[games] = ~repeated
        self.left[games] = _geometric(chance[:, 6], self.length)
        frames, actions, poses = self._cut(games, -self.lead, 0)
        sinks = self.start_sampler.sinks(self.which[games])
        with self.distributed.precision():
            primed = rolling.prime(self.model, self.rolling, sinks, frames, actions, noise)
        primed["tick"] = torch.zeros(len(games), dtype=torch.int64, device=frames.device)  # each game counts its own
        if "pose" in primed:
            primed["pose"] = poses[:, -1]
        if self.pool is None:
            self.pool = {name: _empty(name, value, len(self.left)) for name, value in primed.items()}
        for name, value in primed.items():
            self.pool[name][_at(name, games)] = value.to(self.pool[name].dtype)

    def _cut(self, games: np.ndarray, first: int, end: int) -> tuple[Tensor, Tensor, Tensor | None]:
        """Blocks ``first`` .. ``end`` of these games' recordings, 0 being the next: true frames [n, T, B, C, h, w], the
        actions that made them [n, T, keys] and, where all recordings have them, poses [n, T, 8]."""
        starts = zip(self.which[games], self.at[games], strict=True)
        cuts = [self.start_sampler.cut(which, at + first, at + end) for which, at in starts]
        actions, *poses = (self._tensor(np.stack(part)) for part in zip(*cuts, strict=True))
        return self._latents(games, first, end), actions, poses[0] if poses else None

    def _latents(self, games: np.ndarray, first: int, end: int) -> Tensor:
        """Blocks ``first`` .. ``end`` of these games' recordings, 0 being the next: [n, T, B, C, h, w]."""
        return self.start_sampler.latents(self.which[games], self.at[games] + first, end - first)

    def _tensor(self, array: np.ndarray) -> Tensor:
        return torch.from_numpy(array).to(self.distributed.device).float()

    def state(self) -> dict[str, Tensor]:
        """This process's games, along the first dimension; {} before the first step."""
        if self.pool is None:
            return {}
        games = {name: torch.from_numpy(getattr(self, name)).to(self.distributed.device) for name in GAMES}
        return games | {name: part.movedim(1, 0) if name in BATCHED else part for name, part in self.pool.items()}

    def restore(self, state: dict[str, Tensor]) -> None:
        if any(len(part) != len(self.left) for part in state.values()):
            raise ValueError("as many games as the pool has")
        for name in GAMES:
            setattr(self, name, state.pop(name).cpu().numpy())
        self.pool = {name: part.movedim(0, 1) if name in BATCHED else part for name, part in state.items()}

    @torch.no_grad()
    def sample(self, folder: Path, step: int) -> None:
        show_rollout(self.average, self.data, folder / f"sample_{step:06d}.mp4")


@torch.no_grad()
def tick_flops(model: Transformer, config: Config) -> float:
    """Floating-point operations of one game's tick, forward and backward: three times those of the tick (Kaplan et al.,
    arXiv 2001.08361), which is run once to count them."""
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
    """Where games start in recordings: anywhere, or around an event (``EVENT``, ``APPEARED``, ``UNUSUAL``), half of
    these a reward or an end.

    Everything is counted in blocks. ``lead`` of them come before a game's first, ``span`` must follow.
    """

    def __init__(
        self, episodes: list[Episode], lead: int, span: int, per_block: int, device: torch.device | str = "cpu",
        poses: bool = True,
    ):  # fmt: skip
        actions = [episode.block_actions(per_block) for episode in episodes]
        long = [index for index, blocks in enumerate(actions) if len(blocks) >= lead + span]
        if not long:
            raise DataError(f"no session is as long as {(lead + span) * per_block} frames: record longer ones")
        self.episodes, self.actions = [episodes[i] for i in long], [actions[i] for i in long]
        self.lead, self.per_block, self.device = lead, per_block, torch.device(device)
        self.frames_there = self.sinks_there = None
        if self.device.type == "cuda":  # all frames: a gather there is much faster than cuts here
            self.frames_there = torch.cat([torch.from_numpy(np.array(e.latents)).to(device) for e in self.episodes])
            self.sinks_there = torch.stack([torch.from_numpy(np.array(e.sinks)) for e in self.episodes]).to(device)
        self.offsets = np.cumsum([0, *(len(episode.latents) for episode in self.episodes)])
        self.counts = np.array([len(blocks) - span - lead + 1 for blocks in self.actions])
        self.ends = np.cumsum(self.counts)
        self.posed = poses and all(episode.poses is not None for episode in self.episodes)
        self.deep = all(episode.depths is not None for episode in self.episodes)
        self.unusual = _unusual_moves(self.episodes) if self.posed else [np.array([], int)] * len(self.episodes)
        self.longest = max(map(len, self.actions)) + BEFORE_EVENT + AFTER_EVENT
        with ThreadPoolExecutor() as pool:
            seen = list(pool.map(_events, self.episodes))
        seen = self._numbers([*part, *unusual] for part, unusual in zip(seen, self.unusual, strict=True))
        told = self._numbers(map(_outcomes, self.episodes))
        kinds = (told, OUTCOMES), (seen, 1 - OUTCOMES)
        odds = np.concatenate([np.full(len(part), share / max(1, len(part))) for part, share in kinds])
        events = np.concatenate([told, seen])
        order = np.argsort(events)
        odds = np.cumsum([0.0, *odds[order]])
        self.events, self.event_odds = events[order], odds / max(odds[-1], 1e-9)  # of one kind alone, it has all
        self.start_odds: dict[int, np.ndarray] = {}

    def _numbers(self, frames: Iterable[Iterable[int]]) -> np.ndarray:
        """The blocks of frames [..] of each episode, all episodes counted through."""
        blocks = [i * self.longest + frame // self.per_block for i, numbers in enumerate(frames) for frame in numbers]
        return np.array(blocks, int)

    def take(self, chance: np.ndarray, event_share: float, before: int) -> tuple[np.ndarray, ...]:
        """chance [n, 4], uniform on [0, 1) -> episodes [n] and the first blocks [n] that games there make: with
        probability ``event_share`` ``before`` - 1 blocks before to ``AFTER_EVENT`` after an event, otherwise
        anywhere; and importance weights [n]: how likely such a start is anywhere, over how likely it is so."""
        flat = (chance[:, 0] * self.ends[-1]).astype(int)
        which = np.searchsorted(self.ends, flat, side="right")
        at = self.lead + self.ends[which] - 1 - flat
        chosen = (chance[:, 1] < event_share) & (len(self.events) > 0)
        if len(self.events):
            events = self.events[np.searchsorted(self.event_odds, chance[:, 2], side="right") - 1]
            which = np.where(chosen, events // self.longest, which)
            around = AFTER_EVENT - (chance[:, 3] * (before + AFTER_EVENT)).astype(int)
            at = np.where(chosen, events % self.longest + around, at)
        at = np.clip(at, self.lead, self.lead + self.counts[which] - 1)
        if not len(self.events):
            return which, at, np.ones(len(at))
        preferred = self._start_odds(before)[which * self.longest + at] * self.ends[-1]
        likelier = 1 - event_share + event_share * preferred
        return which, at, np.divide(1, likelier, out=np.zeros(len(at)), where=likelier > 0)

    def _start_odds(self, before: int) -> np.ndarray:
        """How likely each block, all episodes counted through, is to be where a game starts for an event."""
        if before not in self.start_odds:
            around = np.arange(1 - before, AFTER_EVENT + 1)
            which, block = np.divmod(self.events[:, None], self.longest)
            at = np.clip(block + around, self.lead, self.lead + self.counts[which] - 1)  # at an episode's end they meet
            odds = np.zeros(len(self.actions) * self.longest)
            np.add.at(odds, which * self.longest + at, np.diff(self.event_odds)[:, None] / len(around))
            self.start_odds[before] = odds
        return self.start_odds[before]

    def cut(self, which: int, first: int, end: int) -> tuple[np.ndarray, ...]:
        """Of blocks first .. end of an episode the actions [T, keys], and poses [T, 8] if there are any."""
        frames = slice(first * self.per_block, end * self.per_block)
        poses = (self.episodes[which].poses[frames],) if self.posed else ()
        blocks = np.minimum(np.arange(first, end), len(self.actions[which]) - 1)
        return self.actions[which][blocks], *poses

    def latents(self, which: np.ndarray, first: np.ndarray, count: int) -> Tensor:
        """``count`` blocks of each of n episodes, from the block ``first`` [n] on, its last frame again beyond the end:
        [n, count, B, C, h, w]."""
        rows = first[:, None] * self.per_block + np.arange(count * self.per_block)
        rows = np.minimum(rows, np.diff(self.offsets)[which, None] - 1)
        if self.frames_there is None:
            cuts = [self.episodes[i].latents[at] for i, at in zip(which, rows, strict=True)]
            frames = torch.from_numpy(np.stack(cuts)).to(self.device)
        else:
            frames = self.frames_there[torch.from_numpy(self.offsets[which, None] + rows).to(self.device)]
        return frames.float().unflatten(1, (count, self.per_block))

    def sinks(self, which: np.ndarray) -> Tensor:
        """The sinks of n episodes: [n, S*B, C, h, w]."""
        if self.sinks_there is None:
            return torch.from_numpy(np.stack([self.episodes[i].sinks for i in which])).to(self.device).float()
        return self.sinks_there[torch.from_numpy(which).to(self.device)].float()

    def outcomes(self, which: int, first: int, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Rewards and ends [count] of an episode's frames from ``first`` on."""
        episode = self.episodes[which]
        rows = np.minimum(np.arange(first, first + count), len(episode.rewards) - 1)
        return episode.rewards[rows], episode.ends[rows]

    def frame_pair(self, which: int, chance: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """A random frame of an episode and the one before it: poses [2, 8] and actions [2, keys]. It is an unusual move
        with probability ``UNUSUAL_SHARE`` if there is one. ``chance`` [3], uniform on [0, 1)."""
        episode, unusual = self.episodes[which], self.unusual[which]
        at = 1 + int(chance[0] * (len(episode.latents) - 1))
        at = unusual[int(chance[1] * len(unusual))] if len(unusual) and chance[2] < UNUSUAL_SHARE else at
        return episode.poses[at - 1 : at + 1], episode.actions[at - 1 : at + 1]


def count_palette(episodes: list[Episode], count: int, unfold: int) -> np.ndarray:
    """[count, 3]: the colours that are most frequent where a frame differs from its sink, in frames as light as it."""
    counts: dict[bytes, int] = {}
    for episode in episodes[:PALETTE_EPISODES]:
        sinks = episode.sinks[None]
        frames = episode.latents[::PALETTE_EVERY, None]
        same = frames == sinks
        of_sink = same.mean((2, 3, 4))  # [frames, sinks]
        nearest = of_sink.argmax(1)
        other = ~same[np.arange(len(frames)), nearest]
        other[of_sink.max(1) < 0.5] = False  # another light, or another room
        _add_colours(counts, frames[:, 0], other, unfold)
    if not counts:
        raise DataError("in no frame that is as light as the sinks does anything stand that no sink shows")
    return _most_frequent(counts, count, episodes[0].latents.dtype)


def count_outputs(head: MixtureHead, episodes: list[Episode]) -> None:
    """Put into a new head what is counted in recordings: the palette, the colours that are most frequent where a frame
    differs from the one before it; the rewards; and weights of rewards and end, higher for what is rare."""
    # where most changes, another place or light came, whose colours would be most of them; or the camera always moves
    choices = [(every, most) for every in (PALETTE_EVERY, 1) for most in (EVENT, 1.0)]
    counts = next(filter(None, (_changing_colours(episodes, head.unfold, *choice) for choice in choices)), None)
    if not counts:
        raise DataError("in no recording does anything change: nothing can be learned from them")
    head.palette.copy_(torch.from_numpy(_most_frequent(counts, len(head.palette), episodes[0].latents.dtype)))
    if not head.rewards:
        return
    rewards = np.concatenate([episode.rewards for episode in episodes])
    values, numbers = np.unique(rewards, return_counts=True)
    order = np.argsort(-numbers)[: head.rewards]
    share = np.pad(numbers[order] / len(rewards), (0, head.rewards - len(order)))
    head.reward_values.copy_(torch.from_numpy(np.resize(values[order], head.rewards)))
    ended = max(np.concatenate([episode.ends for episode in episodes]).mean(), 1e-9)
    weights = np.append(1 / np.maximum(share, 1e-9), 1 / ended) ** 0.5
    head.outcome_weights.copy_(torch.from_numpy(np.minimum(weights, RAREST)))


def _changing_colours(episodes: list[Episode], unfold: int, every: int, most: float) -> dict[bytes, int]:
    """How often each colour stands where a frame, one of ``every``, differs from the one before, in no more than
    ``most`` of itself."""
    counts: dict[bytes, int] = {}
    for episode in episodes[:PALETTE_EPISODES]:
        at = np.arange(1, len(episode.latents), every)
        changed = episode.latents[at] != episode.latents[at - 1]
        changed[changed.mean((1, 2, 3)) > most] = False
        _add_colours(counts, episode.latents[at], changed, unfold)
    return counts


def _add_colours(counts: dict[bytes, int], latents: np.ndarray, where: np.ndarray, unfold: int) -> None:
    """Count the colours of latents [n, C, h, w] in those picture elements of which ``where`` [n, C, h, w] has one."""
    pixels, chosen = (x.reshape(len(x), -1, unfold**2, *x.shape[2:]) for x in (latents, where))
    unique, numbers = np.unique(np.moveaxis(pixels, 1, -1)[chosen.any(1)], axis=0, return_counts=True)
    for colour, number in zip(unique, numbers, strict=True):
        counts[colour.tobytes()] = counts.get(colour.tobytes(), 0) + int(number)


def _most_frequent(counts: dict[bytes, int], count: int, dtype: np.dtype) -> np.ndarray:
    """[count, colours]: the most frequent colours, again from the first where there are fewer."""
    common = sorted(counts, key=counts.get, reverse=True)[:count]
    return np.stack([np.frombuffer(common[i % len(common)], dtype) for i in range(count)]).astype(np.float32)


def _events(episode: Episode) -> np.ndarray:
    """Indices of the frames in which most cells change, or something appears or vanishes."""
    small, sinks = (part[:, ::4].astype(np.float32) for part in (episode.latents, episode.sinks))  # a quarter will do
    changed = (np.abs(np.diff(small, axis=0)).max(1) > CHANGED).mean((1, 2)) > EVENT
    different = np.min([(np.abs(small - sink).max(1) > CHANGED).sum((1, 2)) for sink in sinks], 0)
    same_light = different < EVENT * small[0, 0].size  # in another light than the sink's, most cells differ
    appeared = (np.abs(np.diff(different)) >= APPEARED) & same_light[1:] & same_light[:-1]
    return np.flatnonzero(changed | appeared) + 1


def _outcomes(episode: Episode) -> np.ndarray:
    """Indices of the frames with a reward or an end."""
    return np.array([], int) if episode.rewards is None else np.flatnonzero((episode.rewards != 0) | episode.ends)


def _unusual_moves(episodes: list[Episode]) -> list[np.ndarray]:
    """Of each episode, which must have poses, the first frames of unusual moves: a wall is met, the ground is left."""
    poses = [torch.tensor(episode.poses) for episode in episodes]
    moved = np.concatenate([moves(pose[:, :4] - pose[:, 4:], pose[:, None])[:, 0].numpy() for pose in poses])
    keys = np.concatenate([episode.actions for episode in episodes])
    _, which = np.unique(keys, axis=0, return_inverse=True)
    medians = np.stack([np.median(moved[which == number], 0) for number in range(which.max() + 1)])
    unusual = (np.abs(moved - medians[which]) > UNUSUAL).any(1)
    ends = np.cumsum([len(pose) for pose in poses])
    return [np.flatnonzero(part[1:] & ~part[:-1]) + 1 for part in np.split(unusual, ends[:-1])]


def _chances(step_noise: StepNoise, count: int) -> np.ndarray:
    """Uniform on [0, 1), float64 [local batch, count]."""
    return step_noise.uniform(count).cpu().numpy().astype(np.float64)


def _geometric(chance: np.ndarray, mean: float) -> np.ndarray:
    """Uniform numbers on [0, 1) -> lengths >= 1 of games that end at each tick with probability 1 / ``mean``."""
    ends = min(1 / mean, 1 - 1e-12)
    return np.maximum(1, np.ceil(np.log1p(-chance) / np.log1p(-ends))).astype(int)


def _at(name: str, games: np.ndarray) -> tuple:
    """The index of games in a state's array."""
    return (slice(None), games) if name in BATCHED else (games,)


def _empty(name: str, like: Tensor, count: int) -> Tensor:
    shape = list(like.shape)
    shape[1 if name in BATCHED else 0] = count
    return like.new_zeros(shape)
