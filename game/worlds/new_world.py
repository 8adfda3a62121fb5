"""From a Gymnasium id to a world: asks the game what it shows and takes, and writes a YAML that explains itself.

The model's part is one for all games: nothing in it describes this one.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np

from game.worlds.adapter import GameError, opened, seen_size, settles
from game.worlds.adapter_keys import Controls, meanings, suggested
from world_model import config as configuration
from world_model.config import Game

GRID = 16
"""Pixels a token side of the model below (codec.stride * transformer.patch): the world's sides are multiples of it."""
LONGEST, SHORTEST = 112, 48
"""Pixels that a picture's longer side is scaled down to: what two cores denoise in a tick, and what is still seen."""
FPS, FASTEST = 20, 30
"""Ticks a second of a game that says none; a faster game than the other takes several steps a tick."""
REST = 3
"""Ticks, where a game is turn-based."""
ATARI = 60
"""Frames a second of the machine whose games are made with a ``frameskip``."""

YAML = """\
# {env}, as the game itself says it. Every line may be changed before the first recording; afterwards, what is recorded
# and what is trained hold to it.
name: {name}

world:
  env: {env}
  height: {height}   # multiples of {grid}: codec.stride * transformer.patch
  width: {width}
  fps: {fps}   # ticks a second of play: {fps_why}
  keys: {keys}   # names of a keyboard's keys, as pygame has them; one bit each in recordings
  meanings: {meanings}   # what each does, in a few words; F1 shows them
  rest: {rest}   # ticks for which a held key does nothing after its first: some where a press is one turn
  game:{module}
    kwargs: {{}}   # what the game is made with{known}
    picture: {picture}   # observation, render, or the name of an entry of a Dict
    crop: [0, 0, 0, 0]   # the game's pixels cut off at the top, bottom, left and right, of {seen}
    scale: {scale}   # the game's pixels a side of one of the world's: {shown}; what is missing to the size is black
    filter: area   # their mean; nearest: one of them, for pixel art that stands on whole multiples
    skip: {skip}   # the game's steps a tick, under the same keys
    wait: {wait}   # the game's steps of no key before an episode's first frame, the sink: {wait_why}
    # Which keys are which action: {space}
    # Keys held together that are no action are their largest part that is one.{idle}
    actions:{actions}

# The model: for any game, sized for two cores. More width, blocks and layers see more, and cost time in every tick.
codec: {{kind: patches, cell: 2}}   # the network's cells are 2x2 pixels, as they are

transformer: {{width: 128, layers: 3, heads: 4, patch: 8}}   # {tokens} tokens a frame

# Every pixel is picked: from the last frame, from up to reach pixels beside it there, from a sink, from a palette, or
# drawn. dice: classes of what each token leaves to chance; rewards: how many are told apart, and the end.
head: {{kind: mixture, width: 48, blocks: 2, reach: 2, palette: 32, dice: 16, rewards: 8}}

# window_blocks: denoising steps a frame gets; sink_blocks: frames kept for ever, the first of an episode;
# recent_blocks: frames remembered behind it.
rolling: {{frames_per_block: 1, window_blocks: 2, sink_blocks: 1, recent_blocks: 3, shift: 5.0}}

training:   # the student plays from its own frames, held to the recordings; --minutes ends it where that is earlier
  student_rollout:
    steps: 8000
    batch: 8
    learning_rate: 2.0e-3
    pool: 16   # games; a batch of them takes a tick a step
    length: 16   # ticks of a game, at the end of training; one at its beginning
    teacher_forcing: 0.3   # of the steps, the first: each frame follows recorded ones, so that rules are learned first
    grow: 0.4
    first_stray_cells: 1   # more wrong cells than this, and a game begins again
    stray_cells: 8   # the same at the end: it has to learn to mend what it has drawn wrong
    event_share: 0.3   # of games begin around something that happens, half of them around a reward or an end
    prior_share: 0.25   # of the steps, the last, the odds alone learn; a game without chance needs none
    ema: 0.998
"""

NEXT = """\
{path}: {env}, {width}x{height} at {fps} ticks a second, keys {keys}
play and record it   python play.py --engine --config {path} --record recordings/{name}
or let a bot         python play.py --engine --config {path} --record recordings/{name} --bot random --headless --sessions 20
train on that        python train.py --config {path} --data recordings/{name} --minutes 60
play what came out   python play.py --checkpoint runs/{name}"""  # noqa: E501


def new_world(env: str, name: str | None = None, folder: Path = configuration.CONFIGS) -> str:
    """Write ``folder/<name>.yaml`` for the game ``env`` (``module:id`` for one that a module of yours registers); what
    to do next, in words. Raises GameError or ConfigError; nothing is overwritten."""
    if not re.fullmatch(r"(\w+(\.\w+)*:)?[^:\s]+", env):
        raise GameError(f"--new-world {env!r}: an id is like ALE/Pong-v5, or my_module:my/Game-v0")
    module, _, env = env.rpartition(":")
    name = name or re.sub(r"[^a-z0-9]+", "_", re.sub(r"-v\d+$", "", env.rpartition("/")[2]).lower())
    if not re.fullmatch(r"[\w-]+", name):
        raise GameError(f"--name {name!r}: a world's name is of letters, digits, _ and -")
    path, said = folder / f"{name}.yaml", _said(env, module) | {"name": name}
    if path.exists():
        raise configuration.ConfigError(f"{path}: is there already; give another name with --name, or delete it")
    folder.mkdir(parents=True, exist_ok=True)
    path.write_text(YAML.format(**said))
    try:
        world = configuration.load(path).world
    except configuration.ConfigError:
        path.unlink()
        raise
    where = path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
    return NEXT.format(path=where, env=said["env"], name=name, width=world.width, height=world.height, fps=world.fps,
                       keys=" ".join(world.keys))  # fmt: skip


def _said(env: str, module: str) -> dict[str, str | int]:
    """What the template asks of the game."""
    game, picture = opened(env, Game(module=module or None))
    try:
        keys, actions = suggested(game)
        controls, words = Controls(game.action_space, actions, keys), meanings(game, actions)
        idle, pressed = (controls.action(bits) for bits in (np.zeros(len(keys)), np.eye(len(keys))[0]))
        height, width = seen_size(game, env, picture, idle if pressed is None else pressed)
        pace = _pace(game) | _wait(game, env, picture, idle)
    except ValueError as error:
        raise GameError(f"{env}: its actions: {error}" if not isinstance(error, GameError) else str(error)) from error
    finally:
        game.close()
    scale = _scale(height, width)
    shown = height // scale, width // scale
    sides = [-(-side // GRID) * GRID for side in shown]
    tables = (actions,) if isinstance(actions, dict) else actions
    return pace | {
        "env": game.spec.id,  # with its version, if that was left out
        "module": f"\n    module: {module}   # registers the id" if module else "",
        "height": sides[0], "width": sides[1], "grid": GRID, "tokens": sides[0] * sides[1] // GRID**2,
        "keys": json.dumps(keys),
        "meanings": json.dumps(words),
        "rest": 0 if all("" in table for table in tables) else REST,
        "known": _known(game),
        "picture": picture, "seen": f"{height}x{width}", "scale": scale, "shown": f"{shown[0]}x{shown[1]}",
        "space": " ".join(str(game.action_space).split()),
        "idle": _idle(tables),
        "actions": _written(actions),
    }  # fmt: skip


def _scale(height: int, width: int) -> int:
    """The smallest that fits; rather one that divides both sides, if that leaves enough to see."""
    longest = max(height, width)
    least = -(-longest // LONGEST)
    even = (k for k in range(least, longest // SHORTEST + 1) if not height % k and not width % k)
    return next(even, least)


def _pace(game: gymnasium.Env) -> dict[str, str | int]:
    """Ticks a second, and steps a tick."""
    frames, said = game.spec.kwargs.get("frameskip"), game.metadata.get("render_fps")
    if isinstance(frames, int) and frames > 0:
        steps, why = ATARI / frames, f"{ATARI} frames of the machine, {frames} a step"
    else:
        steps, why = (said, f"the game's own {said} steps") if said else (FPS, "the game says none")
    skip = max(1, -(-int(steps) // FASTEST))
    return {"fps": max(1, round(steps / skip)), "fps_why": why, "skip": skip}


def _wait(game: gymnasium.Env, env: str, picture: str, idle: Any | None) -> dict[str, str | int]:
    """Steps before the first frame."""
    if idle is None:
        return {"wait": 0, "wait_why": "it waits for its player"}
    wait = settles(game, env, picture, idle)
    return {
        "wait": wait,
        "wait_why": "until then its picture changes more than later" if wait else "it changes as later",
    }


def _known(game: gymnasium.Env) -> str:
    """The arguments that the id itself gives, which ``kwargs`` could say otherwise."""
    own = {name: value for name, value in game.spec.kwargs.items() if name != "render_mode"}
    return f"; its own: {' '.join(json.dumps(own, default=str).split())}" if own else ""


def _idle(tables: tuple[configuration.Table, ...]) -> str:
    if all("" in table for table in tables):
        return ' "" is no key.'
    return (
        "\n    # No action is known to do nothing, so the game waits while no key is held. If it is not turn-based, say"
        '\n    # which action that is, as in "": 0.'
    )


def _written(actions: configuration.Table | tuple[configuration.Table, ...]) -> str:
    if isinstance(actions, dict):
        return "".join(f"\n      {json.dumps(keys)}: {json.dumps(action)}" for keys, action in actions.items())
    return "".join(f"\n      - {json.dumps(table)}" for table in actions)
