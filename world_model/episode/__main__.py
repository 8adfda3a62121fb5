"""``python -m world_model.episode DIR``: what is in there, and is it whole?"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from world_model.episode import EpisodeError, find_sessions, listing


def main(arguments: list[str] | None = None) -> int:
    """List and check sessions; returns the exit status: 1 when something is damaged."""
    parser = argparse.ArgumentParser(
        prog="python -m world_model.episode",
        description="List the recorded sessions in a directory and check every frame against its checksum. "
        "Shares are of the recorded ticks; a gap is more than 1.5 ticks between two frames.",
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


if __name__ == "__main__":
    sys.exit(main())
