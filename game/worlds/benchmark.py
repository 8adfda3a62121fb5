"""Speed of the arena on one core: ``python -m game.worlds.benchmark``."""

from __future__ import annotations

import argparse
import time

import numpy as np

from game.worlds import raycast
from game.worlds.arena import ArenaBatch
from game.worlds.bots import make_bot
from world_model.hardware import cores, cpu_name


def measure(rooms: int = 64, seconds: float = 3.0, height: int = 128, width: int = 128) -> dict:
    """Frames a second of CPU time, for drawing alone and for a whole tick, on the seeds 0 .. rooms - 1: each as (rate,
    frames measured)."""
    batch = ArenaBatch(height, width)
    batch.reset(range(rooms))
    bots = [make_bot("explorer", seed) for seed in range(rooms)]
    actions = np.array([[bot.act(None, {}) for bot in bots] for _ in range(100)])
    for action in actions:  # move into the rooms, so that the views are those of play
        batch.step(action)
    poses, out = batch.poses(), batch.frames()
    draw = _rate(lambda tick: raycast.render_batch(batch.rooms, poses, out), rooms, seconds)
    tick = _rate(lambda tick: batch.step(actions[tick % len(actions)]), rooms, seconds)
    return {"draw": draw, "tick": tick}


def _rate(work, frames: int, seconds: float) -> tuple[float, int]:
    """(frames a second of CPU time, frames measured)."""
    start, count = time.process_time(), 0
    while time.process_time() - start < seconds:
        work(count)
        count += 1
    return frames * count / (time.process_time() - start), frames * count


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m game.worlds.benchmark", description=__doc__)
    parser.add_argument("--rooms", type=int, default=64, help="rooms drawn together (default 64)")
    parser.add_argument("--seconds", type=float, default=3.0, help="CPU seconds for each figure (default 3)")
    parser.add_argument("--size", type=int, default=128, help="pixels a side (default 128)")
    args = parser.parse_args()
    if args.rooms < 1 or args.seconds <= 0 or args.size < 8:
        parser.error("--rooms wants 1 or more, --seconds more than 0, --size 8 or more")
    rates = measure(args.rooms, args.seconds, args.size, args.size)
    print(f"arena {args.size}x{args.size}, seeds 0..{args.rooms - 1}, one of {cores()} cores of {cpu_name()}")
    for name, text in (("draw", "draw only"), ("tick", "physics and draw")):
        rate, frames = rates[name]
        print(f"{text:17s} {rate:8.0f} frames/s  ({frames} frames)")


if __name__ == "__main__":
    main()
