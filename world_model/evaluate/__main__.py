"""The measuring command; ``--help`` says what it takes."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import gymnasium
from rich.console import Console
from rich.progress import track
from rich.table import Table

from world_model import scenes
from world_model.checkpoint import WEIGHTS, digest
from world_model.config import ConfigError
from world_model.dataset import held_out_seed
from world_model.evaluate.control import onset
from world_model.evaluate.picture import autoencoder, next_frame, persistence, rollout
from world_model.evaluate.subject import Measures, Subject
from world_model.hardware import cores, cpu_name
from world_model.neural_game import NeuralGame
from world_model.runtime import WorldError

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
