"""``python -m world_model.episode DIR``: what is in there, and is it whole? ``... import FILE``: make a session of what
a published page recorded."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from world_model.episode import EpisodeError, find_sessions, listing
from world_model.episode.from_browser import import_file


def main(arguments: list[str] | None = None) -> int:
    """List and check sessions, or import one; returns the exit status: 1 when something is damaged."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if arguments[:1] == ["import"]:
        return _import(arguments[1:])
    parser = argparse.ArgumentParser(
        prog="python -m world_model.episode",
        description="List the recorded sessions in a directory and check every frame against its checksum. "
        "Shares are of the recorded ticks; a gap is more than 1.5 ticks between two frames.",
        epilog="python -m world_model.episode import FILE makes a session of what a published page recorded.",
    )
    parser.add_argument("folder", type=Path, help="a session, or a directory that holds sessions")
    parser.add_argument("--quick", action="store_true", help="do not decode the videos")
    options = parser.parse_args(arguments)
    try:
        paths = find_sessions(options.folder)
    except EpisodeError as error:
        print(error, file=sys.stderr)
        return 2
    if not paths:
        print(f"{options.folder}: no sessions in this directory; record some first", file=sys.stderr)
        return 2
    return 0 if listing.show(options.folder, paths, decode=not options.quick) else 1


def _import(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m world_model.episode import",
        description="Make a session of a file that a published page recorded (R there).",
    )
    parser.add_argument("file", type=Path)
    into = "where the session goes (recordings/)"
    parser.add_argument("--into", type=Path, default=Path("recordings"), metavar="DIR", help=into)
    options = parser.parse_args(arguments)
    try:
        path, frames = import_file(options.file, options.into)
    except EpisodeError as error:
        print(error, file=sys.stderr)
        return 2
    print(f"{path}: {frames} frames; train.py takes it with --generated")
    return 0


if __name__ == "__main__":
    sys.exit(main())
