"""The command ``python -m world_model.evaluate``: measures a world, or with ``--ablate`` its parts."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import gymnasium
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from world_model.checkpoint import WEIGHTS, CheckpointError, describe, digest, was_trained_on
from world_model.config import ConfigError, with_module
from world_model.episode.dataset import held_out_seed
from world_model.evaluate import report as reports
from world_model.evaluate.evaluation_context import SUITES, EvaluationContext, Suite
from world_model.evaluate.suite import evaluate
from world_model.hardware import cores, cpu_name
from world_model.play import scenes
from world_model.play.neural_game import NeuralGame
from world_model.play.real_game import open_game
from world_model.play.runtime import WorldError

NO_ROOMS = "{}: has no start scenes named by the seed of a room"
NEEDS_TORCH = 'measuring needs PyTorch: pip install -e ".[train]"'


def rooms_of(neural: NeuralGame, held_out: bool, count: int) -> list[int]:
    """Seeds of ``count`` rooms: held-out ones, or at most as many of the start scenes that a world was trained on.
    Weights without a list of their rooms are taken to be trained on all that ``held_out_seed`` does not hold out."""
    about = describe(neural.folder / WEIGHTS)[1]

    def unseen(room: int) -> bool:
        seen = was_trained_on(about, room)
        return held_out_seed(room) if seen is None else not seen

    numbers = [int(name) for name in scenes.names(neural.folder) if name.isdigit()]
    rooms = [number for number in numbers if unseen(number) == held_out][:count]
    if not held_out or not numbers:
        return rooms
    more = (seed for seed in range(10**6) if held_out_seed(seed) and unseen(seed) and seed not in rooms)
    return rooms + [next(more) for _ in range(count - len(rooms))]


def rooms_new_to_all(neural: NeuralGame, count: int, arms: dict[str, Path]) -> list[int]:
    """Seeds of held-out rooms. Raises WorldError where an arm's folder was trained on one of them."""
    rooms = rooms_of(neural, True, count)
    if not rooms:
        raise WorldError(NO_ROOMS.format(neural.folder))
    for name, folder in arms.items():
        about = describe(folder / WEIGHTS)[1]
        if seen := [str(room) for room in rooms if was_trained_on(about, room)]:
            raise WorldError(f"--arm {name}: {folder} was trained on rooms that are held out here: {', '.join(seen)}")
    return rooms


@contextmanager
def progress_bars(console: Console) -> Iterator[Callable[[Iterable, str], Iterable]]:
    """Gives the ``progress`` of an evaluation context: a bar for each long part, removed at its end."""
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()

    def progress(items: Iterable, description: str) -> Iterable:
        items = list(items)
        task = bars.add_task(description, total=len(items))
        for item in items:
            yield item
            bars.advance(task)
        bars.remove_task(task)

    with Progress(*columns, console=console, transient=True) as bars:
        yield progress


def opened(arguments: argparse.Namespace) -> tuple[NeuralGame, gymnasium.Env, Any]:
    """The neural game, the real one, and the teacher or None."""
    from world_model.evaluate import teacher

    named = describe(arguments.checkpoint / WEIGHTS)[0].name if arguments.checkpoint else "keep"
    arguments.world = arguments.world or named
    neural = NeuralGame(arguments.world, arguments.checkpoint, arguments.runtime, arguments.device,
                        endless=True)  # fmt: skip
    real = open_game(with_module(neural.config.world, neural.world))
    return neural, real, teacher.find(neural.folder, neural.config, neural.runtime.device)


def about(neural: NeuralGame, suite: Suite) -> dict[str, Any]:
    return {
        "world": neural.world,
        "checkpoint": digest(neural.folder / WEIGHTS),
        "runtime": neural.runtime.name,
        "device": neural.runtime.device,
        "hardware": f"{cores()} cores of {cpu_name()}",
        "suite": asdict(suite),
        "seed": suite.seed,
    }


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m world_model.evaluate",
        description="Measure a world against the real game under the same keys. Prints a table with 95 % intervals.",
    )
    parser.add_argument("--world", help="a world in assets/worlds (default: the checkpoint's, or keep)")
    parser.add_argument("--checkpoint", type=Path, help="a trained folder, instead of the shipped world")
    parser.add_argument(
        "--suite",
        default="quick",
        choices=list(SUITES),
        help="quick: a minute of play in each room, under five minutes on two cores; "
        "full: also ten and sixty minutes, for a GPU or a night (default: quick)",
    )
    parser.add_argument(
        "--rooms",
        type=_count,
        metavar="N",
        help="held-out rooms to measure (default: the suite's); where they are few, so are the rooms of training and "
        "those to be told apart. More are surer, and slower",
    )
    parser.add_argument("--runtime", default="auto", choices=["auto", "onnx", "torch"])
    parser.add_argument("--device", default="auto", choices=["auto", "cpu", "cuda"])
    parser.add_argument("--report", type=Path, help="a folder for report.json, report.html and their pictures")
    parser.add_argument(
        "--ablate",
        action="store_true",
        help="instead, measure the student with one part changed at a time (tokens, sinks, window, held keys, levels)",
    )
    parser.add_argument(
        "--arm",
        action="append",
        default=[],
        type=_arm,
        metavar="NAME=DIR",
        help="with --ablate: one more row, a folder that was trained otherwise; may be given again",
    )
    parser.add_argument(
        "--only",
        action="append",
        default=[],
        metavar="ARM",
        help="with --ablate: this arm and the unaltered student (tokens_zero, ...); may be given again",
    )
    arguments = parser.parse_args()
    if not arguments.ablate and (arguments.arm or arguments.only):
        parser.error("--arm and --only say which arms --ablate measures; give --ablate too")
    return arguments


def _count(text: str) -> int:
    if not (text.isdecimal() and 0 < int(text) <= 10**4):
        raise argparse.ArgumentTypeError(f"{text!r}: should be a number of rooms, from 1 to 10000")
    return int(text)


def _arm(text: str) -> tuple[str, Path]:
    name, _, folder = text.partition("=")
    if not (name and (Path(folder) / WEIGHTS).is_file()):
        raise argparse.ArgumentTypeError(f"{text!r}: should be NAME=DIR, where DIR holds {WEIGHTS}")
    return name, Path(folder)


def measured(arguments: argparse.Namespace, console: Console) -> tuple[reports.Report, reports.Gathered]:
    """Measure both groups of rooms, one after the other: the rollouts of one are freed before the next."""
    if arguments.report:
        reports.need_plots()
    neural, real, teacher = opened(arguments)
    suite = SUITES[arguments.suite]
    count = arguments.rooms or suite.rooms
    fewer = {"trained_rooms": min(count, suite.trained_rooms), "identity_rooms": min(4 * count, suite.identity_rooms)}
    suite = replace(suite, rooms=count, **fewer)
    rooms = {"measures": rooms_of(neural, True, suite.rooms), "trained": rooms_of(neural, False, suite.trained_rooms)}
    rooms = {name: seeds for name, seeds in rooms.items() if seeds}
    if not rooms:
        raise WorldError(NO_ROOMS.format(neural.folder))
    groups, skipped, gathered = {}, {}, None
    with progress_bars(console) as progress:
        for name, seeds in rooms.items():
            context = EvaluationContext(neural, real, seeds, suite, teacher, progress)
            groups[name], skipped[name] = evaluate(context)
            gathered = gathered or (reports.gather(context) if arguments.report else None)
    return reports.Report(about(neural, suite), rooms, groups, skipped), gathered


def ablated(arguments: argparse.Namespace, console: Console) -> None:
    """Measure every arm, in PyTorch: no exported graph has an arm's tick."""
    from world_model.evaluate import ablate

    neural, real, _ = opened(arguments)
    suite = replace(ablate.SUITE, rooms=arguments.rooms or ablate.SUITE.rooms)
    rooms = rooms_new_to_all(neural, suite.rooms, dict(arguments.arm))
    arms = ablate.arms(neural.folder, arguments.world, arguments.device, dict(arguments.arm))
    arms = ablate.only(arms, arguments.only)
    with progress_bars(console) as progress:
        measures = ablate.ablate(arms, EvaluationContext(neural, real, rooms, suite, None, progress))
    ablate.show(measures, console)
    if arguments.report:
        circumstances = about(neural, suite) | {"runtime": "torch", "rooms": rooms}
        ablate.write(arguments.report, arms, measures, circumstances)
        console.print(f"wrote {arguments.report / 'ablations.md'}")


def main() -> int:
    arguments, console = parsed(), Console()
    try:
        if arguments.ablate:
            ablated(arguments, console)
            return 0
        report, gathered = measured(arguments, console)
    except (ConfigError, WorldError, CheckpointError) as error:
        print(f"evaluate: {error}", file=sys.stderr)
        return 2
    except ImportError as error:
        if error.name != "torch":
            raise
        print(f"evaluate: {NEEDS_TORCH}", file=sys.stderr)
        return 2
    reports.show(report, console)
    if arguments.report:
        reports.write(arguments.report, report, gathered)
        console.print(f"wrote {arguments.report / 'report.html'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
