"""Train a world's model from recordings, stage by stage as its YAML says, and write a folder that play.py plays."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
from pathlib import Path

EPILOG = """
examples
  python train.py --config configs/keep.yaml --data recordings                   every stage, into runs/keep
  python train.py --config configs/keep.yaml --data recordings --minutes 90      the same, within 90 minutes
  python train.py --config configs/keep.yaml --data recordings --resume          go on where it was stopped or killed
  python train.py --config configs/keep.yaml --data mine --out runs/mine --resume assets/worlds/keep --minutes 30
                                                                                 teach a trained world your own play
  torchrun --nproc_per_node=4 train.py --config configs/keep.yaml --data recordings
  python train.py --new-world ALE/Breakout-v5                                    a world of somebody else's game
  python play.py --checkpoint runs/keep                                          play what came out

Recordings are made by play.py --engine --config configs/keep.yaml --record FOLDER: yours; with --bot mix --headless
besides, a bot's.

stages, in this order, of which a world has those under "training:" in its YAML
  autoencoder      frames to latents and back; a world with codec.kind patches has none
  teacher          denoises whole clips
  student_init     the teacher's weights under play's own window; the first weights that play
  student_rollout  games played by the student and supervised by their recordings; can start from random weights
  student_dmd      the student's own rollouts, scored by the teacher
Each leaves a checkpoint (at its start, every so many steps, every three minutes, and when Ctrl-C or SIGTERM stops it),
weights, and sample pictures or films in its folder: real on the left or above, generated on the right or below. The
last student becomes the world. Losses: tensorboard --logdir runs/keep.
"""


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(
        prog="train.py", description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument("--config", type=Path, help="the world's YAML, such as configs/arena.yaml")
    p.add_argument("--data", type=Path, help="a folder of recorded sessions")
    p.add_argument("--new-world", metavar="ID", help="write configs/<name>.yaml for a Gymnasium game; train nothing")
    p.add_argument("--name", help="with --new-world: the world's name (from the id)")
    stages = ["autoencoder", "teacher", "student_init", "student_rollout", "student_dmd", "all"]
    p.add_argument("--stage", default="all", choices=stages, help="one that the YAML has (default: all)")
    p.add_argument("--out", type=Path, help="where everything goes (default: runs/<the configuration's file name>)")
    p.add_argument(
        "--resume",
        nargs="?",
        const=True,
        metavar="WORLD",
        help="alone: go on with the run in --out, from its checkpoint, or if it has none yet, from what it began with. "
        "With a trained world's folder: start from its weights, keep its autoencoder, and train its first student "
        "stage (or --stage) on --data, at a tenth of the learning rates if those are others than its own; --out "
        "remembers the folder, so that later --resume alone will do",
    )
    p.add_argument("--generated", action="store_true", help="also train on sessions that a model generated")
    p.add_argument("--device", default="auto", choices=["auto", "cpu", "cuda"])
    p.add_argument(
        "--precision",
        default="auto",
        choices=["auto", "float32", "bfloat16"],
        help="auto: bfloat16 on a GPU; on a CPU, whichever multiplies faster at the start",
    )
    p.add_argument("--no-compile", dest="compile", action="store_false", help="on a GPU: without torch.compile")
    p.add_argument("--seed", type=_seed, default=0)
    p.add_argument(
        "--steps-scale", type=_positive, default=1.0, help="multiply every stage's steps, to fit the time at hand"
    )
    p.add_argument(
        "--minutes",
        type=_positive,
        help="end within this time, reading, samples and export included, playable if it reaches a student; each "
        "stage gets its share, and its learning rate falls by then. Without time for the ONNX graphs, PyTorch plays "
        "the world. --resume goes on",
    )
    p.add_argument("--profile", action="store_true", help="show where the time of a few steps goes, and train nothing")
    return p


def _positive(text: str) -> float:
    value = float(text)
    if not 0 < value <= 1e6:
        raise argparse.ArgumentTypeError(f"{text} is not a positive number, at most a million")
    return value


def _seed(text: str) -> int:
    value = int(text)
    if not 0 <= value < 2**63:
        raise argparse.ArgumentTypeError(f"{text} is not between 0 and 2**63 - 1")
    return value


def main() -> int:
    began = time.perf_counter()
    arguments = parser().parse_args()
    new, name = arguments.__dict__.pop("new_world"), arguments.__dict__.pop("name")
    if new is not None:
        return _new_world(new, name)
    if not (arguments.config and arguments.data):
        parser().error("--config and --data say what to train (or --new-world ID what to begin)")
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        from world_model.checkpoint import CheckpointError
        from world_model.config import ConfigError
        from world_model.episode import EpisodeError
        from world_model.episode.dataset import DataError
        from world_model.training import TrainingError
        from world_model.training.command import Choices, run
    except ModuleNotFoundError as error:
        print(f'train.py: {error.name} is not installed; training needs: pip install -e ".[train]"', file=sys.stderr)
        return 2

    choices = Choices(**vars(arguments))
    try:
        names = ("RANK", "LOCAL_RANK", "WORLD_SIZE")
        run(choices, {name: os.environ[name] for name in names if name in os.environ}, began)
    except (CheckpointError, ConfigError, DataError, EpisodeError, TrainingError, OSError) as error:
        print(f"train.py: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130  # the run has printed how to go on, if it can
    return 0


def _new_world(env: str, name: str | None) -> int:
    from game.worlds.new_world import new_world

    try:
        print(new_world(env, name))
    except (ValueError, OSError) as error:
        print(f"train.py: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
