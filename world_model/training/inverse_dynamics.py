"""Train the inverse-dynamics model of a world: ``python -m world_model.training.inverse_dynamics --world arena``.

Its examples are made on the spot by the real game. From an instant in the middle of a walk the game is branched: every
choice of a few pressed keys gives one example, and together the branches say which keys had an effect (``effects.py``).
They share their past, so that nothing but what the keys did tells them apart.

It is to read generated video, and is trained on the real game alone; so every third room passes through the
autoencoder, and half of the examples through changes of light, blur and noise that a reader of motion should not mind.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import cv2
import gymnasium
import numpy as np
import torch
import torch.nn.functional as F
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor

from world_model import checkpoint
from world_model.checkpoint import WEIGHTS, CheckpointError
from world_model.config import WORLDS, Config, Stage
from world_model.episode.dataset import held_out_seed
from world_model.evaluate.effects import choices_of, fewest, play, scripted_keys, told, ways
from world_model.evaluate.inverse_dynamics import (
    BATCH,
    FILE,
    PICTURE,
    Glance,
    InverseDynamics,
    Network,
    evidence,
    evidence_of,
    motion,
    save,
)
from world_model.evaluate.metrics import f1, tally
from world_model.model.autoencoder import to_frames, to_network
from world_model.model.codec import make_codec
from world_model.play.real_game import open_game
from world_model.play.runtime import WorldError
from world_model.training.loop import Draw, Machine, TrainingError, Update, average_of, optimizers_for, train

FIRST_ROOM = 1_000_000
"""Seeds from here on: none that a recording is likely to hold."""
PLACES, PAUSE = 12, 20
"""Branchings in a room, and the longest walk before each, in ticks."""
WALK = 60
"""Ticks that a held-out room is walked for."""
SHIFT, BLIND_SHARE = 2, 0.3
JITTER = 0.2
"""Largest deviation of the noise put on what the network is given."""
CALIBRATION, HELD_OUT = 16, 24
"""Rooms that set the thresholds, and held-out rooms that the result is held to."""
TRIES = np.linspace(0.05, 0.95, 91)
"""Thresholds to choose from."""
LEAST_F1 = 0.98


@dataclass(frozen=True)
class Examples:
    """given float16 [n, CHANNELS, GRID, GRID]; had and clear bool [n, keys]: an effect, and whether it can be told."""

    given: Tensor
    had: Tensor
    clear: Tensor

    @classmethod
    def of(cls, parts: Iterable[tuple[np.ndarray, np.ndarray, np.ndarray]]) -> Examples:
        return cls(*(torch.from_numpy(np.concatenate(arrays)) for arrays in zip(*parts, strict=True)))


class Veil:
    """Real frames as the codec gives them back: how the best generated frame would look."""

    def __init__(self, weights: Path, config: Config, machine: Machine):
        self.machine, self.codec = machine, make_codec(config)
        if config.codec.kind == "autoencoder":
            found = checkpoint.tensors(weights, "autoencoder")
            self.codec.load_state_dict({name: torch.from_numpy(array) for name, array in found.items()})
        self.codec.to(machine.device, memory_format=torch.channels_last).eval()

    @torch.inference_mode()
    def __call__(self, frames: np.ndarray) -> np.ndarray:
        """uint8 [n, H, W, 3] -> the same."""
        parts = torch.from_numpy(frames).split(64)
        with self.machine.precision():
            made = [self.codec.decode(self.codec.encode(to_network(p.to(self.machine.device)))) for p in parts]
        return np.concatenate([to_frames(part).cpu().numpy() for part in made])


def branched(game: gymnasium.Env, room: int, veil: Veil | None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Examples of one room, with every choice of the keys pressed at an instant; half of the instants disturbed."""
    random, keys, given, labels = np.random.default_rng(room), game.action_space.n, [], []
    game.reset(seed=room)
    for _ in range(PLACES):
        walk = scripted_keys(random, 2 + int(random.integers(PAUSE)), keys)
        past = [game.step(held)[0] for held in walk][-2:]
        every = choices_of(_pressed(random, walk[-1]))
        ends = ways(game, every, len(every) - 1)
        acting = fewest(ends, every)
        labels += [told(ends, acting, at) for at in range(len(ends))]
        frames = np.concatenate([past, ends])
        frames = frames if veil is None else veil(frames)
        oldest, last, *news = map(Glance.at, disturbed(frames, random) if random.random() < 0.5 else frames)
        before = motion(oldest, last)
        given += [evidence(now, before, motion(last, now)) for now in news]
    return np.stack(given), *map(np.stack, zip(*labels, strict=True))


Walk = tuple[np.ndarray, np.ndarray, np.ndarray]
"""What ``effects.play`` gives."""


def walked(game: gymnasium.Env, room: int) -> Walk:
    """A room as it is played, WALK ticks on end."""
    random = np.random.default_rng(room)
    game.reset(seed=room)
    return play(game, scripted_keys(random, WALK, game.action_space.n))


def _pressed(random: np.random.Generator, held: np.ndarray) -> np.ndarray:
    """Keys to branch over: half the time those held already, else two drawn anew."""
    if held.any() and random.random() < 0.5:
        return held
    pressed = np.zeros_like(held)
    pressed[random.choice(len(held), 2, replace=False)] = 1  # each alone, and neither, are among its choices
    return pressed


def disturbed(frames: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Frames uint8 [n, H, W, 3] of one instant in another light, blurred alike, each with noise of its own."""
    light = random.uniform(0.7, 1.2) * random.uniform(0.9, 1.1, 3)
    blur, noise = random.uniform(0.2, 2.5), random.uniform(0, 6)
    soft = np.stack([cv2.GaussianBlur(frame, (0, 0), blur) for frame in frames]) * light
    return np.clip(soft + noise * random.standard_normal(frames.shape, np.float32), 0, 255).astype(np.uint8)


def jittered(given: Tensor, draw: Draw) -> Tensor:
    """Evidence with noise, moved by up to SHIFT cells, and for a part of the examples without the picture: rooms are
    few beside what may be built, and the reader should go by what moves, not know its rooms by heart."""
    across, down = draw.shared(2 * SHIFT + 1), draw.shared(2 * SHIFT + 1)
    wide = F.pad(given, (SHIFT,) * 4, mode="replicate")
    moved = wide[..., down : down + given.shape[-2], across : across + given.shape[-1]]
    kept = (draw.uniform(1, 1, 1) > BLIND_SHARE).to(moved.dtype)
    moved = torch.cat([moved[:, :PICTURE] * kept, moved[:, PICTURE:]], 1)
    return moved + JITTER * draw.uniform(1, 1, 1) * draw.normal(*given.shape[1:])


class InverseDynamicsTraining:
    """``train``'s view of the inverse dynamics: examples in memory, drawn at random."""

    name = "inverse_dynamics"

    def __init__(self, config: Config, machine: Machine, settings: Stage, data: Examples):
        self.machine, self.settings, self.data = machine, settings, data
        torch.manual_seed(machine.seed)
        network = Network(config.action_size).to(machine.device, memory_format=torch.channels_last)
        self.average = average_of(network)
        optimizers = optimizers_for(network, settings.learning_rate, settings.weight_decay, muon=False)
        self.updates = {self.name: Update(network, self.loss, optimizers)}

    def loss(self, draw: Draw) -> tuple[Tensor, dict]:
        picks = (draw.uniform().cpu() * len(self.data.given)).long()
        given, had, clear = (part[picks].to(self.machine.device) for part in vars(self.data).values())
        given = jittered(given.float(), draw)
        with self.machine.precision():
            logits = self.updates[self.name].network(given).float()
        each = F.binary_cross_entropy_with_logits(logits, had.float(), reduction="none")
        return (each * clear).sum() / clear.sum(), {}

    def sample(self, folder: Path, step: int) -> None:
        """Nothing to look at: what it reads is in the examples, how well in its F1."""

    def finish(self, folder: Path, about: dict[str, str]) -> None:
        """The weights are written by who asked for them, once they have been held to unseen rooms."""


def rooms(first: int, count: int, held_out: bool = False) -> list[int]:
    """The first ``count`` seeds from ``first`` on that are, or are not, held out from every training."""
    seeds = (seed for seed in itertools.count(first) if held_out_seed(seed) == held_out)
    return list(itertools.islice(seeds, count))


@torch.inference_mode()
def chances(network: Network, given: Tensor) -> np.ndarray:
    """Chance of each key, [n, keys]; in float32, as it will be read."""
    return torch.cat([network(part).sigmoid() for part in given.split(BATCH)]).numpy()


def best_thresholds(network: Network, data: Examples) -> np.ndarray:
    """For each key the threshold with the best F1, float32 [keys]; among equals the middle one."""
    read = chances(network, data.given)
    scores = np.stack([f1(tally(read >= at, data.had.numpy(), data.clear.numpy())) for at in TRIES])
    return np.array([np.median(TRIES[column == column.max()]) for column in scores.T], np.float32)


@dataclass(frozen=True)
class Choices:
    """The command line, as data."""

    folder: Path
    out: Path
    rooms: int
    steps: int
    least: float
    precision: str
    seed: int


def run(choices: Choices, console: Console) -> dict[str, np.ndarray]:
    """Make the data, train, choose thresholds, write. Returns F1 a key on held-out rooms, real and autoencoded.

    Raises TrainingError, and writes nothing, where an F1 is below ``choices.least``.
    """
    config, _ = checkpoint.describe(choices.folder / WEIGHTS)
    machine = Machine(torch.device("cpu"), choices.precision == "bfloat16", seed=choices.seed, console=console)
    game = open_game(config.world)
    veil = Veil(choices.folder / WEIGHTS, config, machine)
    seeds = rooms(FIRST_ROOM, choices.rooms + CALIBRATION)
    shown = track(list(zip(seeds, itertools.cycle((None, None, veil)))), "playing the real game", console=console)
    parts = [branched(game, room, look) for room, look in shown]
    data, calibration = Examples.of(parts[: choices.rooms]), Examples.of(parts[choices.rooms :])
    network = _trained(config, machine, choices.steps, data)
    thresholds = best_thresholds(network, calibration)
    unseen = track(rooms(FIRST_ROOM, HELD_OUT, held_out=True), "playing held-out rooms", console=console)
    walks = [walked(game, room) for room in unseen]
    looks = {"real": lambda frames: frames, "autoencoded": veil}
    found = {name: read_f1(network, thresholds, walks, look) for name, look in looks.items()}
    _show(found, config, console)
    _hold(found, choices.least, config)
    about = _about(choices, config, found, len(data.given))
    save(choices.out, InverseDynamics(network, config, thresholds, about))
    return found


def _trained(config: Config, machine: Machine, steps: int, data: Examples) -> Network:
    settings = Stage(steps=steps, batch=128, learning_rate=1e-3, ema=0.998, warmup=100, weight_decay=0.05)
    stage = InverseDynamicsTraining(config, machine, settings, data)
    with tempfile.TemporaryDirectory() as folder:
        train(stage, machine, Path(folder))
    return stage.average.half().float().eval()  # as it will be stored


def read_f1(network: Network, thresholds: np.ndarray, walks: list[Walk], look: Callable) -> np.ndarray:
    """F1 of each key, [keys], in walks as ``look`` shows their frames."""
    counts = 0
    for frames, had, clear in walks:
        seen = chances(network, torch.from_numpy(evidence_of(look(frames)))) >= thresholds
        counts = counts + tally(seen, had[2:], clear[2:])
    return f1(counts)


def _about(choices: Choices, config: Config, found: dict[str, np.ndarray], count: int) -> dict[str, str]:
    about = {
        "data": f"{count} branched examples of {choices.rooms} rooms from seed {FIRST_ROOM}, every third autoencoded",
        "steps": str(choices.steps),
        "autoencoder": checkpoint.digest(choices.folder / WEIGHTS),
        "held_out": f"walks of {WALK} ticks in {HELD_OUT} held-out rooms from seed {FIRST_ROOM}",
    }
    named = {name: dict(zip(config.world.keys, s.round(4).tolist(), strict=True)) for name, s in found.items()}
    return about | {f"f1_{name}": json.dumps(scores) for name, scores in named.items()}


def _show(found: dict[str, np.ndarray], config: Config, console: Console) -> None:
    table = Table("F1 on held-out rooms", *config.world.keys)
    for name, scores in found.items():
        table.add_row(name, *(f"{score:.3f}" for score in scores))
    console.print(table)


def _hold(found: dict[str, np.ndarray], least: float, config: Config) -> None:
    for name, scores in found.items():
        worst = int(scores.argmin())
        if scores[worst] < least:
            raise TrainingError(
                f"F1 of '{config.world.keys[worst]}' on {name} held-out rooms is {scores[worst]:.3f}, below "
                f"{least}: nothing was written. More --rooms and --steps help; --least asks for less"
            )


def _parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(
        prog="python -m world_model.training.inverse_dynamics",
        description="Train the model that tells which keys acted from three frames, on the real game. It makes its own "
        "data, holds itself to rooms it never saw, and judges generated play in python -m world_model.evaluate.",
    )
    p.add_argument(
        "--world", default="arena", help="a world with weights: frames are shown as its codec gives them back"
    )
    p.add_argument("--checkpoint", type=Path, help="a trained folder, instead of the shipped world")
    p.add_argument("--out", type=Path, help=f"the file to write (default: {FILE} beside the world's weights)")
    p.add_argument("--rooms", type=int, default=1400, help="rooms to make examples in, about 40 each")
    p.add_argument("--steps", type=int, default=3000)
    p.add_argument("--least", type=float, default=LEAST_F1, help="F1 a key below which nothing is written")
    p.add_argument(
        "--precision", default="float32", choices=["float32", "bfloat16"], help="a few CPUs are far faster in bfloat16"
    )
    p.add_argument("--seed", type=int, default=0)
    return p


def main() -> int:
    arguments, console = _parser().parse_args(), Console()
    folder = arguments.checkpoint or WORLDS / arguments.world
    out = arguments.out or folder / FILE
    choices = Choices(
        folder, out, arguments.rooms, arguments.steps, arguments.least, arguments.precision, arguments.seed
    )
    began = time.perf_counter()
    try:
        run(choices, console)
    except (CheckpointError, TrainingError, WorldError) as error:
        print(f"inverse_dynamics: {error}", file=sys.stderr)
        return 2
    console.print(f"written to {out} in {time.perf_counter() - began:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
