"""Train a world's model from recordings: autoencoder, teacher, student init, student DMD. See --help."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

TEACH = """
examples
  python train.py --config configs/arena.yaml --data recordings                  all four stages, into runs/arena
  python train.py --config configs/arena.yaml --data recordings --minutes 90     the same, as far as that goes
  python train.py --config configs/arena.yaml --data recordings --resume         go on where a killed run stopped
  python train.py --config configs/arena.yaml --data mine --out runs/mine --resume assets/worlds/arena
                                                                                 teach a trained world your own play
  torchrun --nproc_per_node=4 train.py --config configs/arena.yaml --data recordings
  python play.py --checkpoint runs/arena                                         play what came out

Progress is on the terminal; losses: tensorboard --logdir runs/arena; what the model sees: the sample videos and
pictures in each stage's folder, real on the left or above, generated on the right or below.
"""


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(
        prog="train.py", description=__doc__, epilog=TEACH, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument("--config", type=Path, required=True, help="the world's YAML, such as configs/arena.yaml")
    p.add_argument("--data", type=Path, required=True, help="a folder of recorded sessions")
    stages = ["autoencoder", "teacher", "student_init", "student_rollout", "student_dmd", "all"]
    p.add_argument("--stage", default="all", choices=stages, help="one of those that the configuration has (all)")
    p.add_argument("--out", type=Path, help="where everything goes (default: runs/<the configuration's file name>)")
    p.add_argument(
        "--resume",
        nargs="?",
        const=True,
        metavar="WORLD",
        help="alone: go on with the run in --out. With a trained world's folder: start from its weights, keep its "
        "autoencoder, and train the student on --data (--stage student_init unless another is named)",
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
        help="end within this time, playable if it reaches a student; each stage gets its share, and its learning rate "
        "falls by then. --resume goes on",
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
    arguments = parser().parse_args()
    try:
        from world_model.checkpoint import CheckpointError
        from world_model.config import ConfigError
        from world_model.episode import EpisodeError
        from world_model.episode.dataset import DataError
        from world_model.training.loop import TrainingError
        from world_model.training.run import Choices, run
    except ModuleNotFoundError as error:
        print(f'train.py: {error.name} is not installed; training needs: pip install -e ".[train]"', file=sys.stderr)
        return 2

    choices = Choices(**vars(arguments))
    try:
        run(choices, {name: os.environ[name] for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE") if name in os.environ})
    except (CheckpointError, ConfigError, DataError, EpisodeError, TrainingError, OSError) as error:
        print(f"train.py: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("train.py: stopped; the last checkpoint is kept, go on with --resume", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
