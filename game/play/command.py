"""From flags to a played game: frame source, screen and controller, and the recording, film and report of it."""

from __future__ import annotations

import re
import sys
import time
from argparse import Namespace
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path
from shlex import quote
from typing import Any

import gymnasium
import numpy as np

from game.draw import plan as planning
from game.play import menu, viewer
from game.play.controllers import BotController, RecordedController, Remembered
from game.play.player import Options, Player
from game.play.report import draft_of, hardware, peak_rss_mb, seconds_since_start, write_report
from game.play.screen import Headless, Screen
from game.record.recorder import Recorder
from game.record.replay import Replay, caveats
from game.worlds.bots import find_bot, knows
from game.worlds.sources import is_compiled, optional, real_game
from world_model import config as configuration
from world_model.checkpoint import WEIGHTS, describe
from world_model.config import Config, World
from world_model.episode import Session
from world_model.episode.film import Film
from world_model.play.neural_game import NeuralGame
from world_model.play.real_game import open_game

RECORDINGS = Path("recordings")
SHIPPED = ("keep", "arena", "doorkey", "dodge")
"""The built-in worlds, the default one first."""
LOCAL = ("checkpoint", "config", "replay")
"""Flags that name a file or folder to read."""
NETWORK = ("auto", "auto", "hold", "watch")
"""How a network is run unless flags say it: see ``_network``."""


class PlayError(ValueError):
    """Flags that do not go together, or no display; the message is for the person."""


def check(flags: Namespace) -> None:
    """Raise PlayError for flags that do not go together."""
    try:
        if flags.bot not in (None, "mix"):
            find_bot(flags.bot)
    except ValueError as error:
        raise PlayError(f"--bot: {error}") from error
    remote = [f"--{name}" for name in LOCAL if re.match(r"\w{2,}:/", str(getattr(flags, name)))]
    wrong = {
        f"{' and '.join(remote)}: must be on this machine; download it first, then name the folder or file": remote,
        "--headless needs somebody to play: --bot NAME (or --replay)": flags.headless
        and not flags.bot
        and not flags.replay,
        "--headless needs an end: --frames N": flags.headless and not (flags.frames or flags.sessions or flags.replay),
        "--sessions needs --engine, --headless, --bot NAME and --record DIR": flags.sessions
        and not (flags.engine and flags.headless and flags.bot and flags.record),
        "--rooms goes with --sessions": flags.rooms and not flags.sessions,
        "--verify goes with --replay": flags.verify and not flags.replay,
        "--replay takes what the session says: leave out --record and --bot": flags.replay
        and (flags.record or flags.bot),
        "--checkpoint is a neural game's: leave out --engine": flags.checkpoint and flags.engine,
        "--config goes with --engine, or --replay": flags.config and not (flags.engine or flags.replay),
        "--map and --draw are a neural game's: leave out --engine and --replay": (flags.map or flags.draw)
        and (flags.engine or flags.replay),
        "--draw needs a window: leave out --headless and --serve": flags.draw
        and (flags.headless or flags.serve is not None),
        "--serve is for a person: leave out --headless and --verify": flags.serve is not None
        and (flags.headless or flags.verify),
        "--host goes with --serve": flags.host and flags.serve is None,
        "--serve must be a port, from 0 to 65535": flags.serve is not None and not 0 <= flags.serve < 2**16,
        "--publish writes a neural game's site and plays nothing: only --world, --checkpoint and --onnxruntime-web go "
        "with it": flags.publish and _plays(flags),
        "--onnxruntime-web goes with --publish": flags.onnxruntime_web and not flags.publish,
        "--runtime, --device, --policy and --collapse are a neural game's: leave them out with --engine": flags.engine
        and _network(flags) != NETWORK,
        "--report and --video are of one game: leave them out with --sessions": flags.sessions
        and (flags.report or flags.video),
        "--seed must be from 0 to 2**62": not 0 <= flags.seed <= 2**62,  # the next rooms' seeds count up from it
        "--scale must be at least 1": flags.scale is not None and flags.scale < 1,
        "--fps must be 0, or from 0.1 to 1000": flags.fps and not 0.1 <= flags.fps <= 1000,
        "--frames must be at least 1": flags.frames is not None and flags.frames < 1,
        "--sessions must be at least 1": flags.sessions is not None and flags.sessions < 1,
        "--rooms must be at least 1": flags.rooms is not None and flags.rooms < 1,
        "--video is an MP4 file: its name must end in .mp4": flags.video and flags.video.suffix.lower() != ".mp4",
        "--report is a JSON file: its name must end in .json": flags.report and flags.report.suffix.lower() != ".json",
    }
    for message, is_wrong in wrong.items():
        if is_wrong:
            raise PlayError(message)


def _plays(flags: Namespace) -> bool:
    """Whether a flag says that, or how, something is played."""
    named = flags.replay, flags.map, flags.bot, flags.frames, flags.sessions, flags.record, flags.report, flags.video
    how = flags.engine, flags.draw, flags.headless, flags.seed, flags.scale, flags.pixels
    given = flags.serve is not None or flags.fps is not None  # 0 is a port, and as fast as it goes
    return any(named) or any(how) or given or _network(flags) != NETWORK


def _network(flags: Namespace) -> tuple[str, ...]:
    """How a neural game's network is run."""
    return flags.runtime, flags.device, flags.policy, flags.collapse


def play(flags: Namespace) -> int:
    """Do what the flags say; the exit code."""
    if flags.publish:
        return _publish(flags)
    _check_outputs(flags)
    if flags.verify:
        flags.headless, flags.fps = True, flags.fps or 0
    flags.world = flags.world or (_chosen(flags) if _needs_menu(flags) else _default_world(flags))
    if flags.world is None:
        return 0
    if flags.sessions:
        return _collect(flags)
    session = Session.open(flags.replay) if flags.replay else None
    damage = session.check() if flags.verify else []
    for problem in damage:
        print(f"{session.path}: {problem}")
    if damage and (damage != session.damage or len(session) < 2):
        return 1  # frames that cannot be read, or none to play
    makes_anew = flags.headless or flags.report or flags.video or flags.frames or flags.serve is not None
    if session is not None and not makes_anew:
        return _view(flags, session)
    with ExitStack() as stack:
        return _play(flags, stack) if session is None else max(_replay(flags, session, stack), int(bool(damage)))


def _check_outputs(flags: Namespace) -> None:
    """PlayError where an output could not be written: before the game, not after an hour of it."""
    outputs = {"report": flags.report, "video": flags.video, "record": flags.record and flags.record / "session"}
    for name, path in outputs.items():
        try:
            if path:
                draft_of(path).unlink()
        except OSError as error:
            advice = "name a place in a folder that you may write to"
            raise PlayError(
                f"--{name} {getattr(flags, name)}: cannot be written ({error.strerror}); {advice}"
            ) from error


def _check_bot(flags: Namespace, keys: Sequence[str]) -> None:
    if flags.bot and not knows(flags.bot, keys):
        raise PlayError(f"--bot {flags.bot}: presses none of this world's keys ({' '.join(keys)}); take random, or mix")


def _needs_menu(flags: Namespace) -> bool:
    """Whether no flag says what to play, and a person is there to choose."""
    named = flags.checkpoint, flags.config, flags.replay, flags.map, flags.sessions, flags.frames, flags.bot
    return not (any(named) or flags.engine or flags.draw or flags.headless or flags.serve is not None)


def _chosen(flags: Namespace) -> str | None:
    """The world that a person picks in the menu; None when they leave."""
    with ExitStack() as stack:
        window = _window(flags, menu.KEYS, menu.SIZE, stack)
        picked = menu.choose(window, menu.worlds(SHIPPED), lambda world: NeuralGame(world, None, *_network(flags)))
    if picked is None:
        return None
    flags.draw = picked[0] == "draw"
    return picked[1]


def _default_world(flags: Namespace) -> str:
    """The world that the configuration or the checkpoint names, or else the first shipped one that is there."""
    if flags.config:
        return configuration.load(flags.config).name
    if flags.checkpoint and (flags.checkpoint / WEIGHTS).is_file():
        return describe(flags.checkpoint / WEIGHTS)[0].name
    ready = (name for name in SHIPPED if flags.engine or (configuration.WORLDS / name / WEIGHTS).is_file())
    return next(ready, SHIPPED[0])


def _play(flags: Namespace, stack: ExitStack) -> int:
    """A person or a bot plays."""
    config = _config(flags) if flags.engine else None
    source, world = _source(flags, config), config.name if config else flags.world
    stack.callback(source.close)
    _check_bot(flags, source.metadata["keys"])
    if flags.draw and not source.metadata["map"]:
        raise PlayError(f"--draw: {world} has no map to draw on; --world keep has one")
    remembered = Remembered(source)
    recorder = _recorder(flags, remembered, world, config and config.world, lambda message: player.say(message))
    stack.callback(recorder.close)  # however the game ends, its recording is finished
    controller = BotController(flags.bot, remembered, source.metadata["keys"], flags.seed) if flags.bot else None
    options = _options(flags, source, world, "real game" if flags.engine else "neural")
    options.map, options.draws = _map(flags, source), flags.draw
    player = Player(recorder, _screen(flags, source, stack), options, controller, recorder, _film(flags, source, stack))
    try:
        _run(flags, player, source)
    finally:
        if recorder.recording:
            print(f"recorded to {recorder.path}")
    return 0


def _publish(flags: Namespace) -> int:
    from game.publish import site

    shipped = [world.name for world in menu.worlds(SHIPPED) if world.ready]
    one = flags.world or flags.checkpoint or not shipped
    worlds = [flags.world or _default_world(flags)] if one else shipped
    games = [NeuralGame(world, flags.checkpoint, "onnx", "cpu") for world in worlds]
    for game in games:
        game.reset(seed=0)  # whether its graphs fit its weights
    try:
        size = site.publish(games, flags.publish, flags.onnxruntime_web)
    except site.PublishError as error:
        raise PlayError(f"--publish {error}") from error
    print(
        f"{flags.publish}: {size / 1e6:.1f} MB; try it: python -m http.server --directory {quote(str(flags.publish))}"
    )
    return 0


def _view(flags: Namespace, session: Session) -> int:
    with ExitStack() as stack:
        window = _window(flags, viewer.KEYS, (session.meta.height, session.meta.width), stack)
        viewer.Viewer(session, window).run()
    return 0


def _replay(flags: Namespace, session: Session, stack: ExitStack) -> int:
    """Play the recorded actions again; with --verify, compare every frame with the recording."""
    source = _source_of(session, flags)
    stack.callback(source.close)
    replay = Replay(source, session)
    options = _options(flags, source, session.meta.world, "replay")
    options.frames = min(flags.frames or len(session), len(session) - 1)
    if not options.frames:
        raise PlayError(f"{session.path}: has only the first frame, there is nothing to play")
    controller = RecordedController(session)
    player = Player(replay, _screen(flags, source, stack), options, controller, None, _film(flags, source, stack))
    _run(flags, player, source)
    for caveat in caveats(session, source):
        print(f"play.py: {caveat}", file=sys.stderr)
    if flags.headless:
        print(f"{session.path}: {replay.verdict}")
    return int(flags.verify and not replay.verdict.holds)


def _map(flags: Namespace, source: gymnasium.Env) -> np.ndarray | None:
    """The pictures of ``--map`` at the game's size, uint8 [n, H, W, 3]. PlayError unless one a sink."""
    if not flags.map:
        return None
    wanted = source.unwrapped.config.rolling.sink_frames
    if len(flags.map) != wanted:
        raise PlayError(f"--map takes {wanted} pictures for this world, here are {len(flags.map)}")
    try:
        return planning.read(flags.map, source.observation_space.shape[:2])
    except planning.PlanError as error:
        raise PlayError(f"--map {error}") from error


def _run(flags: Namespace, player: Player, source: gymnasium.Env) -> None:
    """Print what runs, play, and write the report however the game ends."""
    if runs := optional(source, "runs"):
        print(runs, file=sys.stderr)
    startup = seconds_since_start()
    try:
        player.run()
    finally:
        if flags.report:
            circumstances = _circumstances(flags, source, startup, player.first_frame_s)
            write_report(flags.report, player.ledger.summary() | circumstances)


def _options(flags: Namespace, source: gymnasium.Env, world: str, kind: str) -> Options:
    return Options(
        tuple(source.metadata["keys"]),
        _fps(flags, source),
        flags.seed,
        flags.frames,
        world,
        kind,
        game_fps=source.metadata["render_fps"],
        **_for_the_person(flags),
    )


def _for_the_person(flags: Namespace) -> dict[str, Any]:
    """Other keys for the world's, what these do, and how held ones act (see Options): from the world's YAML and not
    from its weights."""
    file = flags.config or configuration.CONFIGS / f"{flags.world}.yaml"
    if not file.is_file():
        return {"stands_for": {}}
    world = configuration.load(file).world
    return {"stands_for": world.stands_for, "meanings": world.meanings, "rest": world.rest}


def _fps(flags: Namespace, source: gymnasium.Env) -> float:
    return source.metadata["render_fps"] if flags.fps is None else flags.fps


def _source(flags: Namespace, config: Config | None) -> gymnasium.Env:
    """The real game of a configuration, or the neural game that the flags name."""
    if config is None:
        return NeuralGame(flags.world, flags.checkpoint, *_network(flags))
    if not is_compiled(config.name):
        print("starting the real game; its first start on a machine compiles for some seconds", file=sys.stderr)
    return real_game(config)


def _source_of(session: Session, flags: Namespace) -> gymnasium.Env:
    """The game that a session was recorded from, at its size."""
    meta = session.meta
    if meta.source == "neural":
        if flags.engine or flags.config:
            raise PlayError(f"{session.path}: recorded from a neural game: leave out --engine and --config")
        recorded = meta.provenance
        runtime = flags.runtime if flags.runtime != "auto" else recorded.get("runtime", "auto")
        device = flags.device if flags.device != "auto" else recorded.get("device", "auto")
        how = runtime, device, recorded.get("policy", "hold"), recorded.get("collapse", "watch")
        return NeuralGame(meta.world, flags.checkpoint, *how)
    try:
        as_seen = {"env": meta.env, "height": meta.height, "width": meta.width}
        return open_game(_recorded_world(session, flags.config).model_copy(update=as_seen))
    except ValueError as error:
        raise PlayError(f"{session.path}: {error}") from error


def _recorded_world(session: Session, file: Path | None) -> World:
    """The world of ``file``, or else of the session, or else, for a session that tells none, of its name."""
    recorded, name = session.meta.config, session.meta.world
    if file or recorded is None:
        return configuration.load(file or configuration.CONFIGS / f"{name}.yaml").world
    return configuration.with_module(recorded, name)


def _config(flags: Namespace) -> Config:
    """The world's configuration: the file of --config, the shipped one, or the one inside the weights."""
    if flags.config:
        return configuration.load(flags.config)
    weights = configuration.WORLDS / flags.world / WEIGHTS
    shipped = configuration.CONFIGS / f"{flags.world}.yaml"
    return describe(weights)[0] if weights.is_file() and not shipped.is_file() else configuration.load(shipped)


def _screen(flags: Namespace, source: gymnasium.Env, stack: ExitStack) -> Screen:
    if flags.headless:
        return Headless()
    if flags.serve is not None:
        return _page(flags, source, stack)
    also = _for_the_person(flags)["stands_for"]
    return _window(flags, source.metadata["keys"], source.observation_space.shape[:2], stack, also)


def _window(
    flags: Namespace, keys: Sequence[str], size: tuple[int, int], stack: ExitStack, also: Iterable[str] = ()
) -> Screen:
    from game.play.window import DisplayError, KeyNameError, Window  # a headless game needs no pygame

    try:
        window = Window(keys, size, flags.scale, pixels=flags.pixels, also=also)
    except DisplayError as error:
        instead = "--verify" if flags.replay else "--headless --bot mix --frames 1000, or --serve"
        raise PlayError(f"{error}. Without one: {instead}; with a virtual one: xvfb-run -a python play.py") from error
    except KeyNameError as error:
        raise PlayError(str(error)) from error
    stack.callback(window.close)
    return window


def _page(flags: Namespace, source: gymnasium.Env, stack: ExitStack) -> Screen:
    try:
        from game.serve.page import Page  # only who serves needs a server
    except ImportError as error:
        raise PlayError(f'--serve needs {error.name}: pip install -e ".[serve]"') from error
    also = _for_the_person(flags)["stands_for"]
    page = Page(tuple(source.metadata["keys"]), flags.world, flags.host or "127.0.0.1", flags.serve, also)
    stack.callback(lambda: print(f"key to photon in the page: {page.latency()}"))
    stack.callback(page.close)
    print(f"play at {page.address}   (Ctrl-C ends it)", flush=True)
    return page


def _recorder(
    flags: Namespace, source: gymnasium.Env, world: str, config: World | None, say: Callable[[str], None]
) -> Recorder:
    """Records at once with ``--record``, or when R is pressed.

    A recording that fails does not end a person's game, but does end one without a person: it was played for it.
    """

    def tell(message: str) -> None:
        print(f"play.py: not recording: {message}", file=sys.stderr)
        say(f"Not recording: {message}")

    return Recorder(
        source,
        flags.record or RECORDINGS,
        world=world,
        config=config,
        player=flags.bot or "person",
        clock=None if flags.headless and flags.fps == 0 else time.perf_counter,
        recording=flags.record is not None,
        on_error=None if flags.headless else tell,
    )


def _film(flags: Namespace, source: gymnasium.Env, stack: ExitStack) -> Callable[[np.ndarray, np.ndarray], None] | None:
    if not flags.video:
        return None
    fps = round(_fps(flags, source)) or source.metadata["render_fps"]
    return stack.enter_context(Film(flags.video, source.metadata["keys"], fps)).add


def _circumstances(
    flags: Namespace, source: gymnasium.Env, startup: float, first_frame: float | None
) -> dict[str, Any]:
    """What was played, and on which machine, for the report."""
    provenance = optional(source, "provenance", {})
    return {
        "peak_rss_mb": peak_rss_mb(),
        "startup_s": round(startup, 3),
        "first_frame_s": first_frame and round(first_frame, 3),
        "device": provenance.get("device", "cpu"),
        "runtime": provenance.get("runtime", "engine"),
        "runs": optional(source, "runs"),
        "checkpoint": provenance.get("checkpoint"),
        "source": provenance.get("source"),
        "policy": provenance.get("policy"),
        "collapse": provenance.get("collapse"),
        "world": flags.world,
        "seed": flags.seed,
        "bot": flags.bot,
        "hardware": hardware(),
    }


def _collect(flags: Namespace) -> int:
    from game.record.collect import collect

    config = _config(flags)
    _check_bot(flags, config.world.keys)
    done = collect(
        config,
        out=flags.record,
        bot=flags.bot,
        sessions=flags.sessions,
        frames=flags.frames or 300,
        seed=flags.seed,
        rooms=flags.rooms,
    )
    print(
        f"{done.made} sessions recorded, {done.frames:,} frames in {done.seconds:.0f} s; "
        f"{done.skipped} were there already"
    )
    print(f"look at them: python -m world_model.episode {flags.record}")
    return 0
