"""The measuring command; ``--help`` says what it takes."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import gymnasium
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from world_model.checkpoint import WEIGHTS, CheckpointError, describe, digest, was_trained_on
from world_model.config import ConfigError
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
    """Rooms by their seed: of those a world was trained on, its start scenes; of the others, as many as are wanted.
    Of weights that do not say what they saw, it is taken that they were trained by the rule that holds rooms out."""
    about = describe(neural.folder / WEIGHTS)[1]

    def unseen(room: int) -> bool:
        seen = was_trained_on(about, room)
        return held_out_seed(room) if seen is None else not seen

    numbers = [int(name) for name in scenes.names(neural.folder) if name.isdigit()]
    found = [number for number in numbers if unseen(number) == held_out][:count]
    if not held_out or not numbers:
        return found
    more = (seed for seed in range(10**6) if held_out_seed(seed) and unseen(seed) and seed not in found)
    return found + [next(more) for _ in range(count - len(found))]


def rooms_new_to_all(neural: NeuralGame, count: int, arms: dict[str, Path]) -> list[int]:
    """Held-out rooms by their seed, which no arm's folder may have been trained on. Raises WorldError."""
    rooms = rooms_of(neural, True, count)
    if not rooms:
        raise WorldError(NO_ROOMS.format(neural.folder))
    for name, folder in arms.items():
        said = describe(folder / WEIGHTS)[1]
        if seen := [str(room) for room in rooms if was_trained_on(said, room)]:
            raise WorldError(f"--arm {name}: {folder} was trained on rooms that are held out here: {', '.join(seen)}")
    return rooms


def watching(progress: Progress) -> Callable[[Iterable, str], Iterable]:
    """Shows each long part of the work as a bar that goes when it is done."""

    def watch(items: Iterable, what: str) -> Iterable:
        items = list(items)
        task = progress.add_task(what, total=len(items))
        for item in items:
            yield item
            progress.advance(task)
        progress.remove_task(task)

    return watch


def bars(console: Console) -> Progress:
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    return Progress(*columns, console=console, transient=True)


def opened(arguments: argparse.Namespace) -> tuple[NeuralGame, gymnasium.Env, Any]:
    """The neural game, the real one, and the teacher, which may be None."""
    from world_model.evaluate import teacher

    named = describe(arguments.checkpoint / WEIGHTS)[0].name if arguments.checkpoint else "keep"
    arguments.world = arguments.world or named
    neural = NeuralGame(arguments.world, arguments.checkpoint, arguments.runtime, arguments.device)
    real, device = open_game(neural.config.world), neural.runtime.device
    return neural, real, teacher.find(neural.folder, neural.config, device)


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
        description="Measure a world against the real game under the same keys. Prints a table with 95 %% intervals.",
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
        "--rooms", type=_count, metavar="N", help="held-out rooms, instead of the suite's; more are surer, and slower"
    )
    parser.add_argument("--runtime", default="auto", choices=["auto", "onnx", "torch"])
    parser.add_argument("--device", default="auto", choices=["auto", "cpu", "cuda"])
    parser.add_argument("--report", type=Path, help="a folder for report.json, report.html and their pictures")
    parser.add_argument(
        "--ablate",
        action="store_true",
        help="instead, change one part of the tick at a time (tokens, sinks, window, held keys, levels); measure each",
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


def _suite(suite: Suite, arguments: argparse.Namespace) -> Suite:
    return suite if arguments.rooms is None else replace(suite, rooms=arguments.rooms)


def measured(arguments: argparse.Namespace, console: Console) -> tuple[reports.Report, reports.Gathered]:
    """Both groups of rooms, one after the other: the rollouts of one are forgotten before the next begin."""
    if arguments.report:
        reports.need_plots()
    neural, real, teacher = opened(arguments)
    suite = _suite(SUITES[arguments.suite], arguments)
    rooms = {"measures": rooms_of(neural, True, suite.rooms), "trained": rooms_of(neural, False, suite.trained_rooms)}
    rooms = {name: seeds for name, seeds in rooms.items() if seeds}
    if not rooms:
        raise WorldError(NO_ROOMS.format(neural.folder))
    groups, skipped, gathered = {}, {}, None
    with bars(console) as progress:
        for name, seeds in rooms.items():
            context = EvaluationContext(neural, real, seeds, suite, teacher, watching(progress))
            groups[name], skipped[name] = evaluate(context)
            gathered = gathered or (reports.gather(context) if arguments.report else None)
    return reports.Report(about(neural, suite), rooms, groups, skipped), gathered


def ablated(arguments: argparse.Namespace, console: Console) -> None:
    """Measure every arm, in PyTorch: an arm is a tick that no graph holds."""
    from world_model.evaluate import ablate, teacher

    neural, real, _ = opened(arguments)
    suite = _suite(ablate.SUITE, arguments)
    rooms = rooms_new_to_all(neural, suite.rooms, dict(arguments.arm))
    weights = teacher.weights_in(neural.folder)
    arms = ablate.arms(neural.folder, arguments.world, arguments.device, weights, dict(arguments.arm))
    arms = ablate.only(arms, arguments.only)
    with bars(console) as progress:
        found = ablate.ablate(arms, EvaluationContext(neural, real, rooms, suite, None, watching(progress)))
    ablate.show(found, console)
    if arguments.report:
        circumstances = about(neural, suite) | {"runtime": "torch", "rooms": rooms}
        ablate.write(arguments.report, arms, found, circumstances)
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
