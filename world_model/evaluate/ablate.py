"""Ablations: the same student with one part of its tick changed, under the same measures.

An arm is a game on a changed runtime, so every measure of the student is also one of the arm; its frames are also
compared with those of the unaltered student under the same keys and noise. What must be trained otherwise (another
number of levels, blocks of three frames, a student before DMD) is a checkpoint folder, given by ``--arm NAME=DIR``.
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
from world_model.evaluate.picture import cells, next_frame, persistence, rollout
from world_model.evaluate.place import room_identity
from world_model.evaluate.sprites import sprites
from world_model.model.codec import canvas
from world_model.model.head import HeadOutputs
from world_model.play.neural_game import NeuralGame
from world_model.play.runtime import State, TorchRuntime, WorldError

SUITE = Suite("ablation", trained_rooms=0, seconds=(5, 20), next_frames=48)
Part = Callable[[EvaluationContext], Measures]
PARTS = (next_frame, rollout, cells, onset, persistence, drift, room_identity, sprites)
COLUMNS_PER_TABLE = 5
COLUMNS = {
    "same_pixels_percent": "pixels equal to unaltered, %",
    "same_psnr_db": "PSNR to unaltered, dB",
    "next_frame_gain_over_copy_last_db": "next-frame PSNR over copy, dB",
    "rollout63_psnr_db": "PSNR at frame 63, dB",
    "onset_first_frame_share": "key onset in 1 frame",
    "onset_four_frames_share": "in 4 frames",
    "sharpness_ratio": "sharpness ratio",
    "motion_ratio": "motion ratio",
    "drift_distance_20s": "drift distance, 20 s",
    "room_identity_share": "room identified",
    "cells_equal_next": "cells equal, next frame",
    "cells_equal_10s": "cells equal, 10 s",
    "hero_there_10s": "hero in place, 10 s",
    "hero_somewhere_10s": "hero present, 10 s",
}
"""The measures that the table shows, and the titles of their columns."""
SAME_TICKS = 150
"""Ticks of each rollout over which an arm's frames are compared with those of the unaltered student."""
MEAN_TICKS = 200
"""Ticks of play under random keys that the mean token is taken over."""
SOURCES = {
    "last": "the last frame",
    "moved": "the motion hypotheses",
    "copy": "the sink copy",
    "palette": "the palette",
}
"""The kinds of source that a picking head can do without."""


class Altered(NeuralGame):
    """The game on a changed runtime, whose state may have other shapes: states that it is given are not checked."""

    def _check(self, state: dict[str, np.ndarray]) -> None:
        pass


class OneToken(TorchRuntime):
    """What computes x0 gets ``token`` [D] in place of each of the trunk's output tokens [N, F, P, D]."""

    def __init__(self, folder: Path, device: str, token: Tensor):
        super().__init__(folder, device)
        latents = self._student._latents
        self._student._latents = lambda x, tokens, *rest: latents(x, token.to(tokens).expand_as(tokens), *rest)


def mean_token(game: NeuralGame) -> Tensor:
    """Mean [D] of the trunk's output tokens over MEAN_TICKS of play. The game must not be used afterwards."""
    student, means = game.runtime._student, []
    latents = student._latents

    def recorded(x: Tensor, tokens: Tensor, *rest: Tensor) -> Tensor:
        means.append(tokens.mean((0, 1, 2)))
        return latents(x, tokens, *rest)

    student._latents = recorded
    game.reset(seed=0)
    for keys in sticky_keys(0, MEAN_TICKS, game.config.action_size):
        game.step(keys)
    return torch.stack(means).mean(0)


class NoSinks(TorchRuntime):
    """The sinks leave the cache once the game is primed: only the R newest frames remain."""

    def prime(self, sinks, frames, actions, noise) -> State:
        state = super().prime(sinks, frames, actions, noise)
        cut = self.config.rolling.sink_frames * self._student.tokens
        return state | {name: state[name][:, :, :, cut:] for name in ("keys", "values")}

    def _rolled(self, verb, *arguments, shape=None):
        sinkless = self.config.rolling.model_copy(update={"sink_blocks": 0})
        return super()._rolled(verb, *arguments, shape=None if verb == "prime" else sinkless)


class BlockByBlock(TorchRuntime):
    """No window: every block is denoised alone through all K levels in K passes (Self-Forcing, arXiv 2506.08009)."""

    def step(self, state, action, noise):
        state, x0 = self._rolled("autoregressive_step", state, *self._floats(action, noise))
        return state, x0[:, 0].cpu().numpy()


class JoinedUnder(TorchRuntime):
    """A block keeps the keys held when it joined the window: a key shows K ticks after it is pressed."""

    def prime(self, sinks, frames, actions, noise) -> State:
        state = super().prime(sinks, frames, actions, noise)
        blocks = self.config.rolling.window_blocks
        return state | {"block_actions": state["clean_action"][:, None].expand(-1, blocks, -1)}

    def step(self, state, action, noise):
        action = self._floats(action)[0]
        block_actions = torch.cat([state["block_actions"][:, 1:], action[:, None]], 1)
        state, latent = self._rolled("step", state, block_actions, *self._floats(noise))
        return state | {"block_actions": block_actions}, latent.cpu().numpy()


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


class MeanOfSources(TorchRuntime):
    """The mean of all sources by their shares, instead of the likeliest one."""

    def __init__(self, folder: Path, device: str):
        super().__init__(folder, device)
        self._student.local._picked = self._mean

    def _mean(self, outputs: HeadOutputs) -> Tensor:
        head = self._student.local
        shares = canvas(outputs.mixture_logits.softmax(1).flatten(1, 2), head.unfold).unbind(1)
        return sum(share[:, None] * source for share, source in zip(shares, head._sources(outputs), strict=True))


@dataclass(frozen=True)
class Arm:
    """One ablation: its name, what is different in it, and a function that makes its game."""

    name: str
    different: str
    game: Callable[[], NeuralGame]


def arms(folder: Path, world: str, device: str, trained: dict[str, Path]) -> list[Arm]:
    """The unaltered student of ``folder``, every change to it, and the folders in ``trained`` by the arm's name."""

    def shipped(policy: str = "hold", path: Path = folder) -> NeuralGame:
        return NeuralGame(world, path, "torch", device, policy, endless=True)

    def altered(name: str, different: str, runtime: type[TorchRuntime], *choice: Any) -> Arm:
        def game() -> NeuralGame:
            neural = Altered(world, folder, "torch", device, endless=True)
            neural.runtime = runtime(folder, device, *(value() if callable(value) else value for value in choice))
            neural.config = neural.runtime.config
            return neural

        return Arm(name, different, game)

    config = checkpoint.describe(folder / WEIGHTS)[0]
    made = [
        Arm("as shipped", "the keys held now condition the whole window", shipped),
        altered("tokens_zero", "all tokens of the trunk are zero", OneToken, torch.zeros(())),
        altered("tokens_mean", "... are their mean over all play", OneToken, lambda: mean_token(shipped())),
        Arm("re-forcing", "the window is made anew when a key changes", lambda: shipped("reforce")),
        altered("keys at joining", "a block keeps the keys under which it joined the window", JoinedUnder),
        altered("block by block", "no window: each block alone, same levels", BlockByBlock),
        altered("no sinks", "the sinks leave the cache", NoSinks),
    ]
    for count in sorted({2, 3, 4, 5} - {config.rolling.window_blocks}):
        made.append(altered(f"K = {count}", "the number of levels, with weights for another", OtherLevels, count))
    if isinstance(config.head, PickSize):
        for kind, sources in SOURCES.items():
            made.append(altered(f"no {kind}", f"nothing is picked from {sources}", Without, kind))
        made.append(altered("mean of sources", "the mean of all sources instead of the likeliest", MeanOfSources))
    for name, path in trained.items():
        made.append(Arm(name, f"trained otherwise: {path}", lambda path=path: shipped(path=path)))
    return made


def ablate(arms: list[Arm], context: EvaluationContext, parts: Sequence[Part] = PARTS) -> dict[str, Measures]:
    """The measures of every arm by its name; the first arm is the unaltered student. ``context`` gives the real game,
    the rooms and the suite."""
    by_arm, unaltered = {}, None
    for arm in context.progress(arms, "arms"):
        changed = replace(context, neural=arm.game(), teacher=None)
        unaltered = unaltered or changed
        by_arm[arm.name] = sameness(changed.rollouts, unaltered.rollouts)
        for part in parts:
            try:
                by_arm[arm.name] |= part(changed)
            except NotMeasured:
                continue  # the column stays empty, for every arm
    return by_arm


def sameness(rollouts: list[PairedRollout], unaltered: list[PairedRollout]) -> Measures:
    """An arm's frames against those of the unaltered student under the same keys and noise: share of exactly equal
    pixels, in percent, and PSNR in dB (60: equal); means over the first SAME_TICKS of each rollout."""
    made, reference = (np.concatenate([r.made[:SAME_TICKS] for r in runs]) for runs in (rollouts, unaltered))
    rooms = [paired.room for paired in rollouts for _ in paired.made[:SAME_TICKS]]
    equal, decibels = 100 * (made == reference).all(-1).mean((1, 2)), psnr(made, reference)
    return {"same_pixels_percent": measure(equal, rooms), "same_psnr_db": measure(decibels, rooms)}


def only(arms: list[Arm], names: Sequence[str]) -> list[Arm]:
    """The unaltered student and the arms of these names; all of them where none is named. Raises WorldError."""
    if unknown := set(names) - {arm.name for arm in arms}:
        raise WorldError(f"no arm {', '.join(map(repr, sorted(unknown)))}; there are {', '.join(a.name for a in arms)}")
    return [arm for index, arm in enumerate(arms) if not names or index == 0 or arm.name in names]


def show(by_arm: dict[str, Measures], console: Console) -> None:
    """Print the means, in tables of COLUMNS_PER_TABLE measures; ``write`` has the intervals."""
    measured = [name for name in COLUMNS if any(name in measures for measures in by_arm.values())]
    for first in range(0, len(measured), COLUMNS_PER_TABLE):
        columns = measured[first : first + COLUMNS_PER_TABLE]
        table = Table("arm", title="" if first else "one part changed at a time", title_justify="left", box=SIMPLE_HEAD)
        for column in columns:
            table.add_column(COLUMNS[column], justify="right")
        for name, measures in by_arm.items():
            table.add_row(name, *(f"{measures[c].value:.2f}" if c in measures else "" for c in columns))
        console.print(table)


def write(folder: Path, arms: list[Arm], by_arm: dict[str, Measures], about: dict[str, Any]) -> None:
    """ablations.json with every figure, and ablations.md with the table."""
    folder.mkdir(parents=True, exist_ok=True)
    figures = {arm: {name: m.as_dict() for name, m in measures.items()} for arm, measures in by_arm.items()}
    different = {arm.name: arm.different for arm in arms}
    content = about | {"different": different, "arms": figures}
    (folder / "ablations.json").write_text(json.dumps(content, indent=1) + "\n")
    lines = ["| arm | what is different | " + " | ".join(COLUMNS.values()) + " |", "|---" * (len(COLUMNS) + 2) + "|"]
    for name, measures in by_arm.items():
        cells = " | ".join(_cell(measures, column) for column in COLUMNS)
        lines.append(f"| {name} | {different[name]} | {cells} |")
    (folder / "ablations.md").write_text("\n".join(lines) + "\n")


def _cell(measures: Measures, name: str) -> str:
    m = measures.get(name)
    return "" if m is None else f"{m.value:.2f} [{m.low:.2f}, {m.high:.2f}]"
