"""Somebody else's Gymnasium game as one of our frame sources. Nothing else knows how various such games are.

In come a world's ``env`` and ``game`` (``world_model/config.py``: Game), with any picture and any actions. Out go uint8
[H, W, 3] of the world's size for one bit a key, and ``get_state`` only where it is exact. Keys: ``adapter_keys.py``.
"""

from __future__ import annotations

import copy
import importlib
import pickle
import traceback
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import cv2
import gymnasium
import numpy as np
from gymnasium import spaces

from game.draw.plan import read
from game.worlds.adapter_keys import Controls, suggested
from world_model.config import Game, World
from world_model.play.actions import checked
from world_model.play.real_game import load_plugins
from world_model.play.runtime import WorldError

FAMILIES = {
    "ALE/": ("ale_py", "ale-py"),
    "MiniGrid-": ("minigrid", "minigrid"),
    "BabyAI-": ("minigrid", "minigrid"),
    "Vizdoom": ("vizdoom.gymnasium_wrapper", "vizdoom"),
}
"""Ids that begin so are registered by whoever imports this module, and the module is in this package."""
LEAST = 16
"""Pixels a side: a smaller array is a description and no picture, such as MiniGrid's 7x7 of objects and colours."""
SETTLES = 60
"""Steps within which a game's first pictures are looked at, and as many more that they are held against."""
OBSERVATION, RENDER = "observation", "render"

State = dict[str, np.ndarray]


class GameError(WorldError):
    """A game that is no world, or no longer; the message is for the person."""


class Adapted(gymnasium.Env):
    """``rollplay/Adapted-v0``: the game of a world whose YAML has a ``game``.

    Observation: uint8 [height, width, 3]. Action: one bit a key, in the order of ``metadata["keys"]``; a tick is
    ``game.skip`` steps of the game, or none where the keys held are no action: a game that waits for its player.
    Reward (the sum over a tick's steps), terminated and truncated are the game's, and ``info["game"]`` is its info;
    ``score`` is the sum of the rewards since the reset.
    ``anchors`` are the pictures of ``game.sinks``, its own, or the first frame of the episode. ``get_state`` and
    ``set_state`` are there where the game can be copied exactly, which is tried once when it is opened.
    Raises GameError for a game that cannot be a world, and for one that fails while it is played.
    """

    metadata = {"render_modes": ["rgb_array"]}
    render_mode = "rgb_array"

    def __init__(self, world: World):
        self._world, self._settings = world, world.game or Game()
        self._game, self._picture = opened(world.env, self._settings)
        place = {} if world.map is None else {"map": world.map}
        self.metadata = self.metadata | place | {"render_fps": world.fps, "keys": world.keys}
        self._sinks = _read_sinks(world)
        self.observation_space = spaces.Box(0, 255, (world.height, world.width, 3), np.uint8)
        self.action_space = spaces.MultiBinary(len(world.keys))
        try:
            actions = self._settings.actions or suggested(self._game)[1]
            self._controls = Controls(self._game.action_space, actions, world.keys)
        except ValueError as error:
            raise GameError(f"world.game.actions of {world.env}: {error}") from error
        self._size: tuple[int, ...] | None = None
        if self._proven():
            self.get_state, self.set_state = self._get_state, self._set_state

    def reset(self, *, seed: int | None = None, options: dict | None = None):
        super().reset(seed=seed)
        self._seed = int(self.np_random.integers(2**31)) if seed is None else seed
        observation, info = self._ask(_begun, self._game, seed=self._seed, options=options)
        idle = self._controls.action(np.zeros(len(self._world.keys)))
        if self._settings.wait and idle is not None:
            observation, _, ends, info = self._steps(idle, self._settings.wait)
            if any(ends):
                raise GameError(
                    f"{self._world.env}: its episode ends within the {self._settings.wait} steps of game.wait"
                )
        self._frame = self._first = self._seen(observation)
        self.score = 0.0
        return self._frame, {"game": info}

    def step(self, action):
        chosen = self._controls.action(checked(action, self._world.keys))
        if chosen is None:
            return self._frame, 0.0, False, False, {"game": {}}
        observation, reward, ends, info = self._steps(chosen, self._settings.skip)
        self._frame, self.score = self._seen(observation), self.score + reward
        return self._frame, reward, bool(ends[0]), bool(ends[1]), {"game": info}

    def _steps(self, chosen: Any, count: int) -> tuple[Any, float, list[bool], dict]:
        """The game's steps under one action, fewer where its episode ends: the last observation, the reward of all,
        how it ended, the last info."""
        reward = 0.0
        for _ in range(count):
            observation, gained, *ends, info = self._ask(_stepped, self._game, chosen)
            reward += gained
            if any(ends):
                break
        return observation, reward, ends, info

    def render(self):
        return self._frame

    def anchors(self) -> np.ndarray | None:
        """uint8 [n, H, W, 3]: the pictures of the place that the YAML names, or the game's, or the first frame of the
        episode, unless it is black: that is a picture of nothing."""
        if self._sinks is not None:
            return self._sinks
        if hasattr(self._game.unwrapped, "anchors"):
            return np.stack([fitted(picture, self._world) for picture in self._ask(self._game.unwrapped.anchors)])
        return self._first[None] if self._first.any() else None

    def provenance(self) -> dict:
        """Where these frames come from, for a recording's metadata."""
        return {"source": self._world.env, "env": self._world.env, "seed": self._seed}

    def close(self) -> None:
        self._game.close()

    def _get_state(self) -> State:
        """A snapshot: flat arrays; continuing from it is exact."""
        own = {"seed": np.array(self._seed), "score": np.array(self.score)}
        return self._moments.take() | own | {"first": self._first, "frame": self._frame}

    def _set_state(self, state: State) -> None:
        """Continue from ``get_state``'s answer. ValueError for anything that is no such answer."""
        wanted, frame = set(self._get_state()), self.observation_space
        state = {"score": np.array(0.0)} | state  # older states have none
        if set(state) != wanted or not (state["frame"] in frame and state["first"] in frame):
            raise ValueError(f"a state of {self._world.env} has the arrays {', '.join(sorted(wanted))}")
        try:
            self._moments.go_to(state)
            self._seed, self.score = int(state["seed"]), float(state["score"])
        except Exception as error:  # the game's own code looks at it
            raise ValueError(f"no state of {self._world.env}: {error}") from error
        self._first, self._frame = state["first"], state["frame"]

    def _ask(self, verb: Callable, *arguments, **options) -> Any:
        """What the game answers; whatever goes wrong inside it is a line."""
        try:
            return verb(*arguments, **options)
        except Exception as error:  # anybody's code
            raise GameError(f"{self._world.env} failed: {_line(error)}") from error

    def _seen(self, observation) -> np.ndarray:
        """The frame of what the game shows now."""
        picture = _checked(self._ask(_look, self._game, observation, self._picture), self._world.env)
        size = picture.shape
        if self._size not in (None, size):
            raise GameError(f"{self._world.env}: its picture was {self._size} and is now {size}; a world has one size")
        self._size = size
        return fitted(picture, self._world)

    def _proven(self) -> Moments | None:
        """The first way of copying the game that a few ticks prove to be exact."""
        game, keys = self._game, np.random.default_rng(0).integers(0, 2, (4, len(self._world.keys)))
        ways = [way for way in (Cloned, Own, Copied) if all(hasattr(game.unwrapped, verb) for verb in way.needs)]
        for way in ways:
            self._game = game
            self.reset(seed=0)
            if self._holds(way, keys):
                break
        else:
            self._game, self._moments = game, None
        self._np_random = None  # whoever gives no seed is to be surprised
        return self._moments

    def _holds(self, way: type[Moments], keys: np.ndarray) -> bool:
        """Whether ``keys`` make the same of a moment again and again."""
        try:
            self._moments = way(self)
            self.step(keys[0])
            state = self._get_state()
            runs = [self._run(state, keys) for _ in range(3)]  # the first may have changed what the others begin from
        except Exception:  # games refuse to be copied in every way there is
            return False
        return all(np.array_equal(runs[0], run) for run in runs)

    def _run(self, state: State, keys: np.ndarray) -> np.ndarray:
        """Every pixel and reward of a few ticks from ``state``, as long as the episode goes on."""
        self._set_state(state)
        seen = []
        for held in keys:
            frame, reward, *ends, _ = self.step(held)
            seen.append([*frame.ravel(), reward])
            if any(ends):
                break
        return np.array(seen)


# ---------------------------------------------------------------- opening


def opened(env_id: str, settings: Game) -> tuple[gymnasium.Env, str]:
    """The game as it is, and where its picture is: "observation", "render", or a name in a Dict. GameError."""
    if settings.picture == RENDER:
        return _made(env_id, settings, render_mode="rgb_array"), RENDER
    game = _made(env_id, settings)
    where, space = settings.picture or _where(game.observation_space), game.observation_space
    if where in (space.spaces if isinstance(space, spaces.Dict) else (OBSERVATION,)):
        return game, where
    draws = "rgb_array" in game.metadata.get("render_modes", ())
    game.close()
    if where or not draws:
        wanted = f"world.game.picture {where!r} is not there" if where else "no picture, and it draws none"
        raise GameError(f"{env_id}: {wanted}; it observes {space}")
    return _made(env_id, settings, render_mode="rgb_array"), RENDER


def _made(env_id: str, settings: Game, **options) -> gymnasium.Env:
    start, (module, package) = next(((s, f) for s, f in FAMILIES.items() if env_id.startswith(s)), ("", ("", "")))
    try:
        for name in filter(None, (settings.module, module)):
            importlib.import_module(name)
        load_plugins(env_id)
        return gymnasium.make(env_id, disable_env_checker=True, **options, **settings.kwargs)
    except ModuleNotFoundError as error:
        if settings.module and f"{settings.module}.".startswith(f"{error.name}."):
            file = f"{error.name.replace('.', '/')}.py"
            why = f"no {file} beside train.py, nor on PYTHONPATH, nor a package of that name"
            raise GameError(f"world.env {env_id!r}: {why}") from error
        install = package if start else error.name
        raise GameError(f"world.env {env_id!r}: {error.name} is not installed: pip install {install}") from error
    except gymnasium.error.UnregisteredEnv as error:
        own = "" if start else ". A game of your own: world.game.module names the module that registers it"
        raise GameError(f"world.env {env_id!r}: no such game: {_line(error).rstrip('.')}{own}") from error
    except Exception as error:  # anybody's constructor
        raise GameError(f"world.env {env_id!r} cannot be made: {_line(error)}") from error


def _line(error: Exception) -> str:
    """What went wrong in anybody's code, and where: the last line outside of installed packages and this file."""
    said, name = " ".join(str(error).split()), type(error).__name__
    if isinstance(error, GameError | gymnasium.error.Error):  # written to be read
        return said or name
    lines = [line for line in traceback.extract_tb(error.__traceback__) if line.filename.endswith(".py")]
    theirs = [line for line in lines if "site-packages" not in line.filename and line.filename != __file__]
    last = (theirs or lines)[-1]
    return f"{name}{said and ': '}{said} ({last.filename}:{last.lineno})"


def _begun(game: gymnasium.Env, **options) -> tuple[Any, dict]:
    """``game.reset``: observation and info. GameError where it gives something else."""
    answer = game.reset(**options)
    if not (isinstance(answer, tuple | list) and len(answer) == 2):
        raise GameError("reset has to return two things, observation and info, as since Gym 0.26")
    return answer


def _stepped(game: gymnasium.Env, action: Any) -> tuple[Any, float, bool, bool, dict]:
    """``game.step``: observation, reward, terminated, truncated, info. GameError where it gives something else."""
    answer = game.step(action)
    if not (isinstance(answer, tuple | list) and len(answer) == 5):
        raise GameError("step has to return five things, observation, reward, terminated, truncated and info, as since "
                        "Gym 0.26")  # fmt: skip
    observation, reward, *ends, info = answer
    try:
        reward = float(reward)
    except (TypeError, ValueError):
        raise GameError(f"step returned the reward {reward!r}, which is no number") from None
    return observation, reward, *map(bool, ends), info


# ---------------------------------------------------------------- pictures


def _read_sinks(world: World) -> np.ndarray | None:
    """The pictures that a world's YAML names, at its size. GameError where one is no picture."""
    if not (files := world.game.sinks if world.game else ()):
        return None
    try:
        return read(list(files), (world.height, world.width))
    except ValueError as error:
        raise GameError(f"world.game.sinks: {error}") from error


def _where(space: spaces.Space) -> str | None:
    """Where in an observation a picture is; the largest in a Dict."""
    if _is_picture(space, LEAST):
        return OBSERVATION
    parts = space.spaces if isinstance(space, spaces.Dict) else {}
    inside = {name: part for name, part in parts.items() if _is_picture(part, LEAST)}
    return max(inside, key=lambda name: np.prod(inside[name].shape[:2]), default=None)


def _is_picture(of: Any, least: int) -> bool:
    """Whether a space or an array is of uint8 pictures: grey [H, W], [H, W, 1], RGB or RGBA [H, W, 3 or 4]."""
    shape = getattr(of, "shape", None) or ()
    channels = shape[2] if len(shape) == 3 else 1 if len(shape) == 2 else 0
    return getattr(of, "dtype", None) == np.uint8 and channels in (1, 3, 4) and min(shape[:2]) >= least


def _look(game: gymnasium.Env, observation: Any, where: str) -> np.ndarray:
    if where == RENDER:
        return game.render()
    return observation[where] if isinstance(observation, dict) else observation


def fitted(picture: np.ndarray, world: World) -> np.ndarray:
    """A picture at the world's size: cropped, scaled down by a whole number, with black around it. GameError."""
    settings = world.game or Game()
    picture = shrunk(picture, settings)
    height, width = picture.shape[:2]
    spare = world.height - height, world.width - width
    if min(spare) < 0 or not picture.size:
        told = f"{height}x{width} after world.game.crop and scale, the world is {world.height}x{world.width}"
        raise GameError(f"{world.env}: its picture is {told}; crop or scale it to fit")
    frame = np.zeros((world.height, world.width, 3), np.uint8)
    top, left = (side // 2 for side in spare)
    frame[top : top + height, left : left + width] = picture
    return frame


def shrunk(picture: np.ndarray, settings: Game) -> np.ndarray:
    """RGB, cropped and scaled; what is left over at the bottom and right of whole pixels is left out."""
    picture = np.atleast_3d(picture)[..., :3]
    top, bottom, left, right = settings.crop
    picture = picture[top : picture.shape[0] - bottom, left : picture.shape[1] - right]
    height, width = (side // settings.scale for side in picture.shape[:2])
    picture = picture[: height * settings.scale, : width * settings.scale]
    if settings.filter == "nearest" or not picture.size:
        picture = picture[:: settings.scale, :: settings.scale]
    elif settings.scale > 1:
        picture = cv2.resize(np.ascontiguousarray(picture), (width, height), interpolation=cv2.INTER_AREA)
    return np.broadcast_to(np.atleast_3d(picture), (*picture.shape[:2], 3))


def seen_size(game: gymnasium.Env, env_id: str, where: str, action: Any) -> tuple[int, int]:
    """Height and width of what a game shows at the start of an episode. GameError where that is no picture, or it
    cannot be stepped by an action."""
    try:
        observation, _ = _begun(game, seed=0)
        picture = _look(game, observation, where)
        _stepped(game.unwrapped, action)  # wrappers take apart what it returns before we can look at it
    except Exception as error:  # anybody's code
        raise GameError(f"{env_id} failed: {_line(error)}") from error
    return _checked(picture, env_id).shape[:2]


def settles(game: gymnasium.Env, env_id: str, where: str, idle: Any) -> int:
    """Steps of ``idle`` after which a game's first pictures change no more than later ones do: a palette is
    set, a camera zooms in. 0 where the episode ends before that is known. GameError where the game fails."""
    pictures, ends = [], [False]
    try:
        observation, _ = _begun(game, seed=0)
        while len(pictures) <= 2 * SETTLES and not any(ends):
            pictures.append(_look(game, observation, where).astype(np.float32))
            observation, _, *ends, _ = _stepped(game, idle)
    except Exception as error:  # anybody's code
        raise GameError(f"{env_id} failed: {_line(error)}") from error
    changes = np.array([np.abs(after - before).mean() for before, after in pairwise(pictures)])
    return 0 if any(ends) else int(np.argmax(changes <= changes[SETTLES:].max()))


def _checked(picture: Any, env_id: str) -> np.ndarray:
    if not _is_picture(picture, 1):
        kind, size = getattr(picture, "dtype", type(picture).__name__), np.shape(picture)
        raise GameError(f"{env_id}: shows {kind} {size}, and a picture is uint8 [H, W, 3]")
    return picture


# ---------------------------------------------------------------- moments


class Moments:
    """One way of coming back to a moment of a game that has the verbs which it ``needs``: ``take`` gives flat arrays,
    ``go_to`` continues from them."""

    needs: tuple[str, ...] = ()

    def __init__(self, source: Adapted):
        self._source, self._game = source, source._game.unwrapped

    def take(self) -> State:
        raise NotImplementedError

    def go_to(self, state: State) -> None:
        raise NotImplementedError


class Cloned(Moments):
    """``clone_state`` and ``restore_state``, as the Arcade Learning Environment has them: bytes of the emulator."""

    needs = "clone_state", "restore_state"

    def take(self) -> State:
        clone = self._game.clone_state(include_rng=True)
        self._kind = type(clone)
        return {"clone": np.frombuffer(clone.serialize(), np.uint8)}

    def go_to(self, state: State) -> None:
        self._game.restore_state(self._kind(state["clone"].tobytes()))


class Own(Moments):
    """The game's ``get_state`` and ``set_state``, of arrays by name as ours are."""

    needs = "get_state", "set_state"

    def take(self) -> State:
        return {f"own.{name}": np.array(array) for name, array in self._game.get_state().items()}

    def go_to(self, state: State) -> None:
        self._game.set_state({n.removeprefix("own."): a.copy() for n, a in state.items() if n.startswith("own.")})


class Moment(np.ndarray):
    """A copy of a game, as an array that takes about as many bytes: who keeps moments counts them."""

    game: gymnasium.Env | None = None


class Copied(Moments):
    """A deep copy. It lasts as long as the program: what is read from a file is no game."""

    def __init__(self, source: Adapted):
        super().__init__(source)
        self._bytes, self._taken = len(pickle.dumps(source._game)), 0

    def take(self) -> State:
        self._taken += 1  # no two moments are equal
        moment = np.zeros(1 + self._bytes // 8, np.int64).view(Moment)
        moment[0], moment.game = self._taken, copy.deepcopy(self._source._game)
        return {"copy": moment}

    def go_to(self, state: State) -> None:
        if getattr(state["copy"], "game", None) is None:
            raise ValueError("this game can be copied only while it runs, and the state was saved by another run")
        self._source._game = copy.deepcopy(state["copy"].game)
