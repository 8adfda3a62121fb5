"""Play a neural game, or the real one that it learned from."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from pathlib import Path

TEACH = """
examples
  python play.py                                    a menu of the worlds, each playing itself
  python play.py --world keep                       the shipped neural keep: four rooms of pixel art
  python play.py --engine                           the real keep, by the very same loop
  python play.py --draw                             draw a keep and walk in it, inside the network
  python play.py --map a.png b.png c.png d.png      four pictures of yours as its rooms
  python play.py --engine --record                  record yourself in it, into recordings/
  python play.py --engine --bot mix --headless --sessions 500 --record data/keep
                                                    a data set, on all cores; train.py takes it from there
  python play.py --checkpoint runs/keep             what train.py made of it
  python play.py --headless --bot explorer --frames 1000 --seed 1 --report out.json --video out.mp4
                                                    no display: figures and a film
  python play.py --headless --bot explorer --frames 72000 --fps 0 --report hour.json
  python -m game.play.report hour.json --plot hour.png   an hour of the game, as fast as it goes, and its curves
  python play.py --serve                            no screen here: play in a browser, by the address it prints
  python play.py --publish site                     a folder that any web server serves: play in the browser
                                                    (all shipped worlds; with --world or --checkpoint, one)
  python play.py --replay recordings/SESSION        look at it: a timeline, step by step, its damage marked
  python play.py --replay recordings/SESSION --verify
                                                    make it again from seed, keys and weights; is every frame the same?

keys in the window: those of the world (W A S D or arrows, Space, E), and
  Esc quit   P pause   N next room   Home start again   R record   H hide the panel   F full screen   F1 help
  Backspace, held: time runs back   F5 save this moment   F9 back to it
  V the real game beside   F12 picture   F11 the last ten seconds as a film
  B another future of this moment beside; B again, and the arrows steer it; Enter takes it
  G pin this view as a sink frame   a gamepad walks, too
  Tab draw the map with the mouse   T the same moment in another map   a picture dropped on the window is a room
"""


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(
        prog="play.py", description=__doc__, epilog=TEACH, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    what = p.add_argument_group("what to play")
    what.add_argument("--world", help="a world in assets/worlds, or a configuration's name (a menu, or keep)")
    what.add_argument(
        "--checkpoint", type=_path, metavar="DIR", help="a folder that train.py made, not the shipped one"
    )
    what.add_argument("--engine", action="store_true", help="the real game")
    what.add_argument("--config", type=_path, metavar="YAML", help="the world of --engine or --replay, from elsewhere")
    what.add_argument("--replay", type=_path, metavar="SESSION", help="look at a recorded session")
    what.add_argument(
        "--verify", action="store_true", help="with --replay: make it anew, no window; exit code 1 if a frame differs"
    )
    what.add_argument("--seed", type=int, default=0, help="the real game's room; the neural game's scene and noise (0)")
    what.add_argument(
        "--map", type=_path, nargs="+", metavar="PICTURE", help="four pictures, any size: the keep's rooms"
    )
    what.add_argument("--draw", action="store_true", help="draw the keep's map while you play in it (Tab in the game)")
    how = p.add_argument_group("how")
    how.add_argument("--fps", type=float, metavar="N", help="ticks a second (the world's); 0: as fast as it goes")
    how.add_argument("--scale", type=int, metavar="N", help="window pixels a frame pixel (what makes 640, if it fits)")
    how.add_argument("--pixels", action="store_true", help="square pixels, as small frames always have")
    how.add_argument(
        "--runtime", default="auto", choices=["auto", "onnx", "torch"], help="what runs the network (auto)"
    )
    how.add_argument("--device", default="auto", choices=["auto", "cpu", "cuda"], help="auto: a GPU if there is one")
    policy = "hold: a new key conditions every frame in flight; reforce: they are also made anew (slower)"
    how.add_argument("--policy", default="hold", choices=["hold", "reforce"], help=policy)
    collapse = (
        "a picture that froze, blurred, snapped to a sink frame or saturated: ignore it; watch: say so, in the window "
        "and the report; reprime: go on from the sink frame that looks most like where you were (watch)"
    )
    how.add_argument("--collapse", default="watch", choices=["ignore", "watch", "reprime"], help=collapse)
    serve = "a web page instead of a window; who opens it first plays, others watch (port 8000; 0: any that is free)"
    how.add_argument("--serve", nargs="?", const=8000, type=int, metavar="PORT", help=serve)
    host = "with --serve: the address to listen on; this machine alone unless told otherwise (127.0.0.1)"
    how.add_argument("--host", metavar="ADDRESS", help=host)
    alone = p.add_argument_group("without a person")
    alone.add_argument("--headless", action="store_true", help="no window")
    alone.add_argument("--bot", metavar="NAME", help="mix, random ... (a wrong one lists them), or FILE.py:CLASS")
    alone.add_argument("--frames", type=int, metavar="N", help="stop after N ticks (--sessions: frames each, 300)")
    alone.add_argument("--sessions", type=int, metavar="N", help="record N sessions on all cores")
    alone.add_argument(
        "--rooms", type=int, metavar="N", help="with --sessions: only N rooms, each played several times"
    )
    out = p.add_argument_group("what it leaves")
    out.add_argument(
        "--record", nargs="?", const=Path("recordings"), type=_path, metavar="DIR", help="record (recordings/)"
    )
    out.add_argument(
        "--report", type=_path, metavar="JSON", help="figures: frame rate, latency, memory, collapses, every minute"
    )
    publish = "a static site in a new folder: any browser plays the neural game there, without Python"
    out.add_argument("--publish", type=_path, metavar="DIR", help=publish)
    package = "with --publish: a folder or tarball of that npm package (npm brings it)"
    out.add_argument("--onnxruntime-web", type=_path, metavar="PATH", help=package)
    out.add_argument("--video", type=_path, metavar="MP4", help="a film with the keys on it")
    return p


def _path(text: str) -> Path:
    if not text:
        raise argparse.ArgumentTypeError("an empty name is no place")
    return Path(text)


def main() -> int:
    arguments = parser().parse_args()
    os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")
    for name in ("SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)
        if number and signal.getsignal(number) is signal.SIG_DFL:  # nohup's stays ignored
            signal.signal(number, _end)
    try:
        return _play(arguments)
    except KeyboardInterrupt:
        return 130


def _end(number: int, _) -> None:
    """Out the way that every game ends, so that films and recordings are finished; a closing terminal says it twice."""
    signal.signal(number, signal.SIG_IGN)
    sys.exit(128 + number)


def _play(arguments: argparse.Namespace) -> int:
    from game.play.command import PlayError, check, play
    from game.record.replay import ReplayError
    from world_model.checkpoint import CheckpointError
    from world_model.config import ConfigError
    from world_model.episode import EpisodeError
    from world_model.play.runtime import WorldError

    try:
        check(arguments)
        return play(arguments)
    except (CheckpointError, ConfigError, EpisodeError, PlayError, ReplayError, WorldError, OSError) as error:
        print(f"play.py: {error}", file=sys.stderr)
        return 1 if arguments.verify and isinstance(error, (EpisodeError, ReplayError)) else 2


if __name__ == "__main__":
    sys.exit(main())
