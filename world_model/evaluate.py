"""How good a world is, by one command: ``python -m world_model.evaluate --world arena``.

The real game, driven by the same keys, is the reference for everything; beside each figure stand the autoencoder's own
floor and the copy of the last frame, which is what a model must beat to have learned anything.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import gymnasium
import numpy as np
from rich.console import Console
from rich.progress import track
from rich.table import Table

from world_model import scenes
from world_model.checkpoint import WEIGHTS, digest
from world_model.config import Config, ConfigError
from world_model.dataset import held_out_seed
from world_model.hardware import cores, cpu_name
from world_model.metrics import Measure, measure, motion, obeyed, psnr, ratio, sharpness, sticky_keys
from world_model.neural_game import NeuralGame
from world_model.runtime import WorldError

Measures = dict[str, Measure]
NEXT_FRAMES, CHANGES, AFTER = 96, 12, 4
LEAST_MOTION = 1.0
"""Mean change of a pixel, of 255, above which a frame counts as moved."""
SECONDS = (10, 60)


@dataclass
class Subject:
    """What is measured: the neural game, the real one, and the rooms they meet in (seeds of the real game)."""

    neural: NeuralGame
    real: gymnasium.Env
    rooms: list[int]

    @property
    def config(self) -> Config:
        return self.neural.config

    def meet(self, room: int) -> np.ndarray:
        """Put both games at the start of a room; returns the real first frame."""
        frame, _ = self.real.reset(seed=room)
        self.neural.reset(seed=room, options={"anchors": self.real.unwrapped.anchors()})
        return frame

    def play_real(self, room: int, keys: np.ndarray) -> np.ndarray:
        """Real frames [T + 1, H, W, 3] of a room under keys [T, k]; the first is the reset frame."""
        frame, _ = self.real.reset(seed=room)
        return np.stack([frame, *(self.real.step(key)[0] for key in keys)])

    def play_neural(self, keys: np.ndarray) -> np.ndarray:
        """Generated frames [T, H, W, 3] under keys [T, k], from where the game is."""
        return np.stack([self.neural.step(key)[0] for key in keys])

    @cached_property
    def journeys(self) -> list[tuple[int, np.ndarray, np.ndarray]]:
        """(room, keys, real frames) of one long walk in each room."""
        ticks = (max(SECONDS) + 2) * self.config.world.fps
        walks = [(room, sticky_keys(room, ticks, self.config.action_size)) for room in self.rooms]
        return [(room, keys, self.play_real(room, keys)) for room, keys in walks]


def autoencoder(subject: Subject) -> Measures:
    """The decoder's floor: PSNR of a real frame, encoded and decoded."""
    runtime, samples, groups = subject.neural.runtime, [], []
    for room, _, frames in subject.journeys:
        some = frames[:: max(1, len(frames) // NEXT_FRAMES)]
        samples.extend(psnr(runtime.decode(runtime.encode(some)), some))
        groups.extend([room] * len(some))
    return {"autoencoder_psnr_db": measure(samples, groups)}


def next_frame(subject: Subject) -> Measures:
    """PSNR of the next frame from a real past, where something moved; the copy of the last real frame beside it, and
    the autoencoder's floor on the same frames."""
    shape, rows, groups = subject.config.rolling, [], []
    for room, keys, frames in subject.journeys:
        subject.meet(room)
        first = shape.recent_blocks + 1
        moved = first + np.flatnonzero(motion(frames[first - 1 :]) > LEAST_MOTION)  # elsewhere a copy is perfect
        for at in moved[np.linspace(0, len(moved) - 1, NEXT_FRAMES // len(subject.rooms), dtype=int)]:
            made = _next_from_real(subject, frames[at - first : at], keys[at - first : at], at)
            floor = subject.neural.runtime.decode(subject.neural.runtime.encode(frames[at : at + 1]))[0]
            rows.append([psnr(picture, frames[at]) for picture in (made, frames[at - 1], floor)])
            groups.append(room)
    made, copied, floor = np.array(rows).T
    return {
        "next_frame_psnr_db": measure(made, groups),
        "next_frame_floor_psnr_db": measure(floor, groups),
        "next_frame_copy_last_psnr_db": measure(copied, groups),
        "next_frame_gain_over_copy_last_db": measure(made - copied, groups),
    }


def _next_from_real(subject: Subject, past: np.ndarray, keys: np.ndarray, tick: int) -> np.ndarray:
    """One generated frame behind R+1 real ones: keys[i] made the frame after past[i]; the window starts as noise."""
    game, shape = subject.neural, subject.config.rolling
    runtime = game.runtime
    latents = runtime.encode(past)[:, None]
    blocks = np.concatenate([latents, latents[-1:].repeat(shape.window_blocks, 0)])
    sinks = runtime.encode(game.anchors()[: shape.sink_frames])
    under = np.concatenate([np.zeros_like(keys[:1]), keys[:-1]])
    state = runtime.prime(sinks[None], blocks[None], under[None], game.noise(tick))
    state = runtime.ramp(state, keys[-1:], game.ramp_noise(tick))
    return runtime.decode(runtime.step(state, keys[-1:], game.noise(tick + 1))[1])[-1]


def rollout(subject: Subject, ticks: int = 64) -> Measures:
    """PSNR of the generated frame 63 ticks after the start, against the real game under the same keys."""
    rows = []
    for room, keys, frames in subject.journeys:
        subject.meet(room)
        made = subject.play_neural(keys[:ticks])
        rows.append((psnr(made[-1], frames[ticks]), psnr(frames[0], frames[ticks])))
    made, copied = np.array(rows).T
    return {"rollout63_psnr_db": measure(made), "rollout63_gain_over_copy_last_db": measure(made - copied)}


def onset(subject: Subject) -> Measures:
    """The share of key changes that show within 1, 2 and 4 frames; changes from stillness and from another key."""
    firsts, groups = [], []
    for room in subject.rooms:
        for before, after in _changes(subject.config.action_size, room):
            first = _first_obeyed(subject, room, before, after)
            if first is not None:
                firsts.append(first)
                groups.append(room)
    firsts = np.array(firsts)
    names = {"onset_first_frame_share": 1, "onset_two_frames_share": 2, "onset_four_frames_share": 4}
    return {name: measure(firsts <= frames, groups) for name, frames in names.items()}


def _changes(keys: int, seed: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Pairs of actions: every key from stillness, and some keys exchanged for others."""
    random, one = np.random.default_rng(seed), np.eye(keys, dtype=np.int8)
    pairs = [(np.zeros(keys, np.int8), key) for key in one]
    swaps = [random.choice(keys, 2, replace=False) for _ in range(CHANGES - keys)]
    return pairs + [(one[a], one[b]) for a, b in swaps]


def _first_obeyed(subject: Subject, room: int, before: np.ndarray, after: np.ndarray, lead: int = 10) -> float | None:
    """Frames from a key change to the first that shows it, infinite if none of AFTER does; None where the real game
    shows nothing either (a wall is in the way)."""
    held, changed = np.tile(before, (lead + AFTER, 1)), np.tile(after, (AFTER, 1))
    real_without = subject.play_real(room, held)[-AFTER:]
    real = subject.play_real(room, np.concatenate([held[:lead], changed]))[-AFTER:]
    subject.meet(room)
    subject.play_neural(held[:lead])
    instant = subject.neural.get_state()
    made_without = subject.play_neural(held[lead:])
    subject.neural.set_state(instant)
    made = subject.play_neural(changed)
    if np.array_equal(real, real_without):
        return None
    good = obeyed(made, made_without, real, real_without)
    return float(np.argmax(good) + 1) if good.any() else np.inf


def persistence(subject: Subject) -> Measures:
    """Sharpness and motion of the generated game relative to the real one, after 10 and 60 seconds of the same keys."""
    fps, sums = subject.config.world.fps, {}
    for room, keys, frames in subject.journeys:
        subject.meet(room)
        made = subject.play_neural(keys)
        for seconds in SECONDS:
            span = slice(seconds * fps - fps, seconds * fps + fps)
            for name, number in (("sharpness", sharpness), ("motion", motion)):
                pair = number(made[span]).mean(), number(frames[1:][span]).mean()
                sums.setdefault(f"{name}_ratio_{seconds}s", []).append(pair)
    return {name: ratio(*zip(*pairs, strict=True)) for name, pairs in sums.items()}


SUITE = (autoencoder, next_frame, rollout, onset, persistence)


def evaluate(subject: Subject, console: Console | None = None) -> Measures:
    """Every measure of the suite, by name."""
    measures: Measures = {}
    for part in track(SUITE, "measuring", console=console, disable=console is None):
        measures |= part(subject)
    return measures


def shipped_rooms(neural: NeuralGame, held_out: bool) -> list[int]:
    """The rooms of a world's start scenes, either those it was trained on or those it never saw."""
    numbers = [int(name) for name in scenes.names(neural.folder) if name.isdigit()]
    return [number for number in numbers if held_out_seed(number) == held_out][:4]


def show(groups: dict[str, Measures], about: dict[str, str], console: Console) -> None:
    table = Table(title="  ".join(f"{key} {value}" for key, value in about.items()), title_justify="left")
    table.add_column("measure", no_wrap=True)
    for title in groups:
        table.add_column(title, justify="right")
    for name in next(iter(groups.values())):
        cells = (group[name] for group in groups.values())
        table.add_row(name, *(f"{m.value:.2f} [{m.low:.2f}, {m.high:.2f}] {m.n}" for m in cells))
    console.print(table)


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m world_model.evaluate",
        description="Measure a world against the real game under the same keys. Prints a table with 95 %% intervals.",
    )
    parser.add_argument("--world", default="arena")
    parser.add_argument("--checkpoint", type=Path, help="a trained folder, instead of the shipped world")
    parser.add_argument("--runtime", default="auto", choices=["auto", "onnx", "torch"])
    parser.add_argument("--device", default="auto", choices=["auto", "cpu", "cuda"])
    parser.add_argument("--report", type=Path, help="a folder for report.json")
    arguments, console = parser.parse_args(), Console()
    try:
        neural = NeuralGame(arguments.world, arguments.checkpoint, arguments.runtime, arguments.device)
        size = neural.config.world
        real = gymnasium.make(size.env, disable_env_checker=True, height=size.height, width=size.width)
    except (ConfigError, WorldError) as error:
        print(f"evaluate: {error}", file=sys.stderr)
        return 2
    rooms = {"held-out rooms": shipped_rooms(neural, True), "rooms trained on": shipped_rooms(neural, False)}
    if not any(rooms.values()):
        print(f"evaluate: {neural.folder}: has no start scenes named by the seed of a room", file=sys.stderr)
        return 2
    groups = {title: evaluate(Subject(neural, real, seeds), console) for title, seeds in rooms.items() if seeds}
    about = {
        "checkpoint": digest(neural.folder / WEIGHTS),
        "runtime": neural.runtime.name,
        "device": neural.runtime.device,
        "hardware": f"{cores()} cores of {cpu_name()}",
    }
    show(groups, about, console)
    if arguments.report:
        arguments.report.mkdir(parents=True, exist_ok=True)
        named = {title: {name: m.as_dict() for name, m in group.items()} for title, group in groups.items()}
        report = about | {
            "rooms": rooms,
            "measures": named.get("held-out rooms", {}),
            "trained": named.get("rooms trained on", {}),
        }
        (arguments.report / "report.json").write_text(json.dumps(report, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
