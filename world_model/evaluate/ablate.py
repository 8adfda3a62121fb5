"""What each part does: the same student with one part of its tick changed, under the same measures.

An arm is a runtime, so everything that measures the student measures the arm; and its frames are held to those of the
unaltered student under the same keys and noise. First of all the trunk's tokens go: what is then still drawn, the
head draws alone. The parts that a tick can do without
are changed here, on the shipped weights; what must be trained otherwise (another number of levels, blocks of three
frames, a student before DMD) is a folder, given by ``--arm NAME=DIR``.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from torch import Tensor

from world_model import checkpoint
from world_model.checkpoint import WEIGHTS
from world_model.config import PickSize
from world_model.evaluate.control import onset
from world_model.evaluate.drift import drift
from world_model.evaluate.evaluation_context import EvaluationContext, Measures, NotMeasured, PairedRollout, Suite
from world_model.evaluate.metrics import measure, psnr, sticky_keys
from world_model.evaluate.picture import next_frame, persistence, rollout
from world_model.evaluate.place import room_identity
from world_model.evaluate.sprites import sprites
from world_model.model.codec import canvas
from world_model.model.context import SINK, Layout
from world_model.model.head import HeadOutputs
from world_model.model.noise import renoise, shifted
from world_model.model.teacher_view import view_clip
from world_model.model.transformer import Cache, Conditioning, Rotary, Transformer, rotary_of, time_angles
from world_model.play.neural_game import NeuralGame
from world_model.play.runtime import State, TorchRuntime, WorldError

SUITE = Suite("ablation", trained_rooms=0, seconds=(5, 20), next_frames=48)
Part = Callable[[EvaluationContext], Measures]
PARTS = (next_frame, rollout, onset, persistence, drift, room_identity, sprites)
ABREAST = 5
COLUMNS = {
    "same_pixels_percent": "pixels as shipped, %",
    "same_psnr_db": "PSNR to as shipped, dB",
    "next_frame_gain_over_copy_last_db": "next frame over copy, dB",
    "rollout63_psnr_db": "after 63 frames, dB",
    "onset_first_frame_share": "key shows in 1 frame",
    "onset_four_frames_share": "in 4",
    "sharpness_ratio": "sharpness",
    "motion_ratio": "motion",
    "drift_distance_20s": "distance to real play",
    "room_identity_share": "room told right",
    "cells_equal_next": "next frame, cells equal",
    "cells_equal_10s": "over 10 s",
    "hero_there_10s": "hero in place at 10 s",
    "hero_somewhere_10s": "anywhere",
}
"""What the table shows of the measures, and what it calls them."""
SAME_TICKS = 150
"""Ticks of each rollout over which an arm's frames are held to those of the unaltered student."""
MEAN_TICKS = 200
"""Ticks of play under random keys that the mean token is taken from."""
JITTER = 0.2
"""Largest share by which a head's rotary frequencies are moved (LoL, arXiv 2601.16914, works at such sizes)."""


class Altered(NeuralGame):
    """The game on a changed runtime, whose state may have other shapes and comes from nowhere but itself."""

    def _check(self, state: dict[str, np.ndarray]) -> None:
        pass


class OneToken(TorchRuntime):
    """What makes x0 sees ``token`` [D] instead of each of the trunk's tokens [N, F, P, D], whatever made them."""

    def __init__(self, folder: Path, device: str, token: Tensor):
        super().__init__(folder, device)
        latents = self._student._latents
        self._student._latents = lambda x, tokens, *rest: latents(x, token.to(tokens).expand_as(tokens), *rest)


def mean_token(game: NeuralGame) -> Tensor:
    """Mean [D] of the trunk's tokens over all frames and places of some play; the game is of no use afterwards."""
    student, means = game.runtime._student, []
    latents = student._latents

    def listened(x: Tensor, tokens: Tensor, *rest: Tensor) -> Tensor:
        means.append(tokens.mean((0, 1, 2)))
        return latents(x, tokens, *rest)

    student._latents = listened
    game.reset(seed=0)
    for keys in sticky_keys(0, MEAN_TICKS, game.config.action_size):
        game.step(keys)
    return torch.stack(means).mean(0)


class NoSinks(TorchRuntime):
    """The sinks leave the cache as soon as the game is primed: only the R newest frames remain."""

    def prime(self, sinks, frames, actions, noise) -> State:
        state = super().prime(sinks, frames, actions, noise)
        cut = self.config.rolling.sink_frames * self._student.tokens
        return state | {name: state[name][:, :, :, cut:] for name in ("keys", "values")}

    def _rolled(self, verb, *arguments, shape=None):
        without = self.config.rolling.model_copy(update={"sink_blocks": 0})
        return super()._rolled(verb, *arguments, shape=None if verb == "prime" else without)


class BlockByBlock(TorchRuntime):
    """No window: every block goes down all levels by itself (Self-Forcing, arXiv 2506.08009), at K passes a tick."""

    def step(self, state, action, noise):
        state, x0 = self._rolled("autoregressive_step", state, *self._floats(action, noise))
        return state, x0[:, 0].cpu().numpy()


class JoinedUnder(TorchRuntime):
    """A block keeps the keys that were held when it joined the window: a key shows K ticks after it is pressed."""

    def prime(self, sinks, frames, actions, noise) -> State:
        state = super().prime(sinks, frames, actions, noise)
        return state | {"own": state["clean_action"][:, None].expand(-1, self.config.rolling.window_blocks, -1)}

    def step(self, state, action, noise):
        action = self._floats(action)[0]
        own = torch.cat([state["own"][:, 1:], action[:, None]], 1)
        state, latent = self._rolled("step", state, own, *self._floats(noise))
        return state | {"own": own}, latent.cpu().numpy()


class OtherLevels(TorchRuntime):
    """Another number of levels than the weights were trained for."""

    def __init__(self, folder: Path, device: str, levels: int):
        super().__init__(folder, device)
        changed = self.config.rolling.model_copy(update={"window_blocks": levels})
        self.config = self.config.model_copy(update={"rolling": changed})


class Without(TorchRuntime):
    """The head picks from all sources but those of one kind."""

    def __init__(self, folder: Path, device: str, kind: str):
        super().__init__(folder, device)
        head = self._student.local
        for source in head.kinds[kind]:
            head.out.bias.data[source * head.unfold**2 : (source + 1) * head.unfold**2] = -1e4


class Mixed(TorchRuntime):
    """The mean of all sources by their shares, instead of the likeliest one."""

    def __init__(self, folder: Path, device: str):
        super().__init__(folder, device)
        self._student.local._picked = self._mean

    def _mean(self, outputs: HeadOutputs) -> Tensor:
        head = self._student.local
        mixture_logits = canvas(outputs.mixture_logits.softmax(1).flatten(1, 2), head.unfold).unbind(1)
        return sum(
            share[:, None] * source for share, source in zip(mixture_logits, head._sources(outputs), strict=True)
        )


class Jittered(TorchRuntime):
    """Rotary time with its frequencies moved a little, differently in each head (LoL, arXiv 2601.16914)."""

    def __init__(self, folder: Path, device: str):
        super().__init__(folder, device)
        self._student = self._loaded(JitteredTransformer(self.config), folder / WEIGHTS, "student")


class JitteredTransformer(Transformer):
    def forward(
        self, x, sigma, action, layout: Layout, cache: Cache | None = None, conditioning: Conditioning | None = None
    ):
        rotary = rotary_of(layout, self.grid, self.quarter, x.device, x.dtype)
        return self.run(x, sigma, action, JitteredRotary(rotary, layout, self), cache, conditioning)


class JitteredRotary(Rotary):
    """A layout's rotations with times stretched by a factor of each head's own: [heads, L, 2, d / 2]."""

    def __init__(self, rotary: Rotary, layout: Layout, model: Transformer):
        vars(self).update(vars(rotary))
        times, factors = layout.key_times, 1 + JITTER * np.linspace(-1, 1, model.size.heads)
        heads = [np.where(times == SINK, SINK, times * factor) for factor in factors]
        angles = torch.stack([time_angles(head, model.quarter) for head in heads])
        self._time = angles.repeat_interleave(model.tokens, 1).to(self._time)


class Progressive(TorchRuntime):
    """The teacher itself, undistilled: a long staircase, every block one Euler step down each tick, the clean one
    shown (PA-VDM, arXiv 2410.08151). No cache: past and window are seen whole, both ways, every tick."""

    def __init__(self, folder: Path, device: str, teacher: Path):
        super().__init__(folder, device)
        found = checkpoint.tensors(teacher, "teacher")
        self._student.load_state_dict({name: torch.from_numpy(array) for name, array in found.items()})
        self._length = self.config.training.teacher.clip_blocks // 2

    def prime(self, sinks, frames, actions, noise) -> State:
        sinks, frames, actions, noise = self._floats(sinks, frames, actions, noise)
        past = frames[:, -self._length :]
        ahead = past[:, -1:].expand(-1, self._length, -1, -1, -1, -1)
        start = noise[:, torch.arange(self._length) % noise.shape[1]]
        window = renoise(ahead, start, self._shares(past)[0][None, :, None, None, None, None])
        acted = actions[:, -past.shape[1] :]
        return {"sinks": sinks, "past": past, "acted": acted, "window": window}

    def step(self, state, action, noise):
        action, noise = self._floats(action, noise)
        now, then = self._shares(noise)
        past, window = state["past"], state["window"]
        sigma = torch.cat([now.new_zeros(past.shape[1]), now])[None]
        acted = torch.cat([state["acted"], action[:, None].expand(-1, self._length, -1)], 1)
        per_block = self.config.rolling.frames_per_block
        with torch.inference_mode():
            x = torch.cat([past, window], 1).flatten(1, 2)
            seen = view_clip(self._student, state["sinks"], x, sigma.repeat_interleave(per_block, 1), acted, per_block)
        x0 = seen.unflatten(1, (-1, per_block))[:, past.shape[1] :]
        down = x0 + (then / now)[None, :, None, None, None, None] * (window - x0)
        state = state | {
            "past": torch.cat([past[:, 1:], down[:, :1]], 1),
            "acted": torch.cat([state["acted"][:, 1:], action[:, None]], 1),
            "window": torch.cat([down[:, 1:], noise[:, -1:]], 1),
        }
        return state, down[:, 0].cpu().numpy()

    def refill_window(self, state, action, noise) -> State:
        return state  # its staircase is too long to be thrown away

    def _shares(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """Noise shares of the window's blocks, before and after a tick."""
        mixture_logits = [shifted(level / self._length, 3.0) for level in range(self._length + 1)]
        both = torch.tensor(mixture_logits, dtype=like.dtype, device=like.device)
        return both[1:], both[:-1]


@dataclass(frozen=True)
class Arm:
    """One ablation: its name, what is different in it, and how to make its game."""

    name: str
    different: str
    game: Callable[[], NeuralGame]


def arms(folder: Path, world: str, device: str, teacher: Path | None, trained: dict[str, Path]) -> list[Arm]:
    """The student as it plays, then every way to change it; ``trained`` holds folders that were trained otherwise."""

    def other(kind: Callable[[], TorchRuntime]) -> Callable[[], NeuralGame]:
        def game() -> NeuralGame:
            neural = Altered(world, folder, "torch", device)
            neural.runtime = kind()
            neural.config = neural.runtime.config
            return neural

        return game

    def levels(count: int) -> Arm:
        made = other(lambda: OtherLevels(folder, device, count))
        return Arm(f"K = {count}", f"{count} levels, with weights trained for another number", made)

    def plain(policy: str = "hold") -> Callable[[], NeuralGame]:
        return lambda: NeuralGame(world, folder, "torch", device, policy)

    own = checkpoint.describe(folder / WEIGHTS)[0].rolling.window_blocks
    zero, mean = (lambda: torch.zeros(())), (lambda: mean_token(plain()()))
    made = [
        Arm("as shipped", "the keys held now condition the whole window", plain()),
        Arm("tokens_zero", "all tokens of the trunk are zero", other(lambda: OneToken(folder, device, zero()))),
        Arm("tokens_mean", "... are their mean over all play", other(lambda: OneToken(folder, device, mean()))),
        Arm("re-forcing", "a changed key throws the window away", plain("reforce")),
        Arm("neither", "a block keeps the keys it joined under", other(lambda: JoinedUnder(folder, device))),
        Arm("block by block", "no window: each block alone, same levels", other(lambda: BlockByBlock(folder, device))),
        Arm("no sinks", "the sinks leave the cache", other(lambda: NoSinks(folder, device))),
        Arm("rotary jitter", "each head's times stretched otherwise", other(lambda: Jittered(folder, device))),
        *(levels(count) for count in (2, 3, 4, 5) if count != own),
    ]
    if isinstance(checkpoint.describe(folder / WEIGHTS)[0].head, PickSize):
        kinds = {
            "last": "the last frame",
            "moved": "the motion hypotheses",
            "copy": "the sink copy",
            "palette": "the palette",
        }
        for kind, named in kinds.items():
            without = other(lambda kind=kind: Without(folder, device, kind))
            made.append(Arm(f"no {kind}", f"nothing is picked from {named}", without))
        made.append(
            Arm("mixed", "the mean of all sources instead of the likeliest", other(lambda: Mixed(folder, device)))
        )
    if teacher is not None:
        different = "the teacher, undistilled, one Euler step a tick (PA-VDM)"
        made.append(Arm("teacher", different, other(lambda: Progressive(folder, device, teacher))))
    for name, path in trained.items():
        made.append(Arm(name, f"trained otherwise: {path}", lambda path=path: NeuralGame(world, path, "torch", device)))
    return made


def ablate(arms: list[Arm], context: EvaluationContext, parts: Sequence[Part] = PARTS) -> dict[str, Measures]:
    """The measures of every arm, the unaltered student first; ``context``: against which real game, in which rooms."""
    found, unaltered = {}, None
    for arm in context.watch(arms, "arms"):
        changed = replace(context, neural=arm.game(), teacher=None)
        unaltered = unaltered or changed
        found[arm.name] = sameness(changed.rollouts, unaltered.rollouts)
        for part in parts:
            try:
                found[arm.name] |= part(changed)
            except NotMeasured:
                continue  # the column stays empty, for every arm
    return found


def sameness(rollouts: list[PairedRollout], unaltered: list[PairedRollout]) -> Measures:
    """How much of an arm's frames is what the unaltered student draws under the same keys and noise: pixels that are
    exactly equal, in percent, and PSNR in dB (60: equal); means over the first SAME_TICKS of each rollout."""
    pairs = [
        (paired.made[:SAME_TICKS], other.made[:SAME_TICKS]) for paired, other in zip(rollouts, unaltered, strict=True)
    ]
    rooms = [paired.room for paired in rollouts for _ in paired.made[:SAME_TICKS]]
    equal = np.concatenate([100 * (made == other).all(-1).mean((1, 2)) for made, other in pairs])
    decibels = np.concatenate([psnr(made, other) for made, other in pairs])
    return {"same_pixels_percent": measure(equal, rooms), "same_psnr_db": measure(decibels, rooms)}


def only(arms: list[Arm], names: Sequence[str]) -> list[Arm]:
    """The unaltered student and the arms of these names; all of them where none is named. Raises WorldError."""
    if unknown := set(names) - {arm.name for arm in arms}:
        raise WorldError(f"no arm {', '.join(map(repr, sorted(unknown)))}; there are {', '.join(a.name for a in arms)}")
    return [arm for index, arm in enumerate(arms) if not names or index == 0 or arm.name in names]


def show(found: dict[str, Measures], console: Console) -> None:
    """Means alone, so many measures at a time as a terminal is wide; ``write`` has the intervals."""
    measured = [column for column in COLUMNS if any(column in measures for measures in found.values())]
    for first in range(0, len(measured), ABREAST):
        columns = measured[first : first + ABREAST]
        table = Table("arm", title="" if first else "one part changed at a time", title_justify="left", box=SIMPLE_HEAD)
        for column in columns:
            table.add_column(COLUMNS[column], justify="right")
        for name, measures in found.items():
            table.add_row(name, *(f"{measures[c].value:.2f}" if c in measures else "" for c in columns))
        console.print(table)


def write(folder: Path, arms: list[Arm], found: dict[str, Measures], about: dict[str, Any]) -> None:
    """ablations.json with every figure, and ablations.md with the table."""
    folder.mkdir(parents=True, exist_ok=True)
    figures = {arm: {name: m.as_dict() for name, m in measures.items()} for arm, measures in found.items()}
    different = {arm.name: arm.different for arm in arms}
    whole = about | {"different": different, "arms": figures}
    (folder / "ablations.json").write_text(json.dumps(whole, indent=1) + "\n")
    lines = ["| arm | what is different | " + " | ".join(COLUMNS.values()) + " |", "|---" * (len(COLUMNS) + 2) + "|"]
    for name, measures in found.items():
        cells = " | ".join(_cell(measures, column) for column in COLUMNS)
        lines.append(f"| {name} | {different[name]} | {cells} |")
    (folder / "ablations.md").write_text("\n".join(lines) + "\n")


def _cell(measures: Measures, name: str) -> str:
    found = measures.get(name)
    return "" if found is None else f"{found.value:.2f} [{found.low:.2f}, {found.high:.2f}]"
