"""The neural game: a Gymnasium environment whose frames a student generates.

It has the methods of every frame source (``anchors``, ``get_state``, ``set_state``, ``provenance``), so the player and
the recorder use it like the real game. Equal seed, keys and weights give equal frames, on one backend.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, ClassVar, Literal

import gymnasium
import numpy as np
from gymnasium import spaces

from world_model import config as configuration
from world_model.checkpoint import WEIGHTS, CheckpointError, describe, digest
from world_model.config import Config, Rolling
from world_model.model.noise import seeded
from world_model.play import scenes
from world_model.play.actions import checked
from world_model.play.collapse import Collapse
from world_model.play.maps import nearest, repainted
from world_model.play.runtime import Runtime, State, WorldError, load_runtime
from world_model.play.scenes import Scene

POLICIES = ("hold", "reforce")
REMEDIES = ("ignore", "watch", "reprime")
# Counters of the noise: n for block n, PRIME + n for the n-th priming of an episode, REFILL + n for refilling the
# window before block n. Whether one is drawn changes no other.
PRIME, REFILL = 2**62, 2**63
OUTCOME = "outcome"  # array of the state [N, 2]: reward of the block shown last, chance that the episode ended with it
FINDINGS = "findings."  # prefix of the collapse detector's arrays in a snapshot; older detectors had another


class NeuralGame(gymnasium.Env):
    """A shipped world, or any checkpoint folder, as an environment at the world's frame rate.

    world       name of a folder in assets/worlds
    checkpoint  folder with weights and graphs, instead of the shipped ones
    runtime     onnx, torch or auto
    device      cpu, cuda or auto
    policy      hold: the keys held now condition every block in the window; reforce: when they change, the window is
                also made anew from noise, which takes K - 1 more passes, over shorter windows
    collapse    ignore; watch: detect a collapsed picture (``collapse.py``); reprime: and then prime again, from the
                sink frame most like the last healthy frame

    reset(seed) starts scene ``seed % number of scenes`` with the noise of ``seed``; options {"scene": name} or
    {"anchors": uint8 [n, H, W, 3]} choose another, "frames" [m, H, W, 3] the frames before play (default: the first
    anchor). Where the head predicts outcomes, ``step`` returns reward and end, those of a block with its last frame,
    and ``score`` is the sum of the rewards since the reset; without, rewards are 0 and nothing ends. After an end
    ``step`` raises ResetNeeded; a game made ``endless`` reports no end. ``timing_ms``: milliseconds of the last tick,
    by part; not in ``info``, which is equal in every replay. ``reprimes`` counts since the reset. Raises WorldError
    with a message for the player.
    """

    metadata: ClassVar[dict[str, Any]] = {"render_modes": ["rgb_array"], "render_fps": 20}

    def __init__(
        self,
        world: str = "arena",
        checkpoint: str | Path | None = None,
        runtime: Literal["auto", "onnx", "torch"] = "auto",
        device: Literal["auto", "cpu", "cuda"] = "auto",
        policy: Literal["hold", "reforce"] = "hold",
        collapse: Literal["ignore", "watch", "reprime"] = "watch",
        render_mode: str | None = "rgb_array",
        endless: bool = False,
    ):
        if policy not in POLICIES:
            raise WorldError(f"no policy {policy!r}; there are {', '.join(POLICIES)}")
        if collapse not in REMEDIES:
            raise WorldError(f"no answer {collapse!r} to a collapse; there are {', '.join(REMEDIES)}")
        self.world, self.policy, self.remedy = world, policy, collapse
        self.render_mode, self.endless = render_mode, endless
        self.folder = Path(checkpoint) if checkpoint is not None else _shipped(world)
        self.config, self.runtime = _opened(self.folder, world, runtime, device)
        world_size = self.config.world
        modes = self.metadata["render_modes"]
        self.metadata = {"render_modes": modes, "render_fps": world_size.fps, "keys": world_size.keys,
                         "map": world_size.map}  # fmt: skip
        self.observation_space = spaces.Box(0, 255, (world_size.height, world_size.width, 3), np.uint8)
        self.action_space = spaces.MultiBinary(len(world_size.keys))
        self._digest = digest(self.folder / WEIGHTS)
        self.timing_ms = {"step": 0.0, "decode": 0.0}
        self._warm = False
        self._state: State | None = None
        self._seed: int | None = None
        self._scene: Scene | None = None
        self._watch: Collapse | None = None
        self.reprimes = 0

    @property
    def collapse(self) -> str | None:
        """The kind of collapse at the last tick, one of ``collapse.KINDS``; None while there is none."""
        return self._watch.kind if self._watch else None

    @property
    def score(self) -> float | None:
        """Sum of the rewards of this episode so far; None where the head predicts none."""
        return self._score if OUTCOME in (self._state or ()) else None

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None):
        super().reset(seed=seed)
        self._seed = int(self.np_random.integers(2**31)) if seed is None else seed
        self._scene = self._chosen(self._seed, dict(options or {}))
        self._watch, self.reprimes = self._watcher(), 0
        self._state, clean = self._primed(self._scene.frames)
        self._block, self._score = 0, 0.0
        self._held = np.zeros(self.config.action_size, np.int8)
        self._tapped = self._held.copy()
        self._frame = self.runtime.decode(clean)[-1]
        self._pending = np.empty((0, *self._frame.shape), np.uint8)
        self._warm_up()
        return self._frame.copy(), {}

    def step(self, action: np.ndarray):
        began = time.perf_counter()
        action, self.timing_ms = self.accept(action), {"step": 0.0, "decode": 0.0}
        if self.is_due:
            state, latent = self.runtime.step(*self.request())
            stepped = time.perf_counter()
            self.take_block(state, self.runtime.decode(latent))
            decoded = time.perf_counter()
            self.timing_ms = {"step": (stepped - began) * 1e3, "decode": (decoded - stepped) * 1e3}
        return self.show(action)

    # ``step`` in its parts, so that ``NeuralGames`` can generate the blocks of many games at once.

    @property
    def is_due(self) -> bool:
        """Whether the next block must be generated before the next frame can be shown."""
        return not len(self._pending)

    def accept(self, action: np.ndarray) -> np.ndarray:
        """The keys of a tick, checked and remembered for the block that they act on; int8 [keys]."""
        if self._state is None or self._outcome()[1]:
            raise gymnasium.error.ResetNeeded("the episode is over, or none has begun: call reset()")
        action = checked(action, self.config.world.keys).astype(np.int8)
        self._tapped |= action if self.is_due else action & ~self._held  # else this block is already generated
        return action

    def request(self) -> tuple[State, np.ndarray, np.ndarray]:
        """The arguments with which ``runtime.step`` generates the next block."""
        if self.remedy == "reprime" and self.collapse:
            self._reprime()
        action = self._tapped[None]
        if self.policy == "reforce" and (self._tapped != self._held).any():
            self._state = self.runtime.refill_window(self._state, action, self.refill_noise(REFILL + self._block))
        return self._state, action, self.noise(self._block)

    def take_block(self, state: State, frames: np.ndarray) -> None:
        """The requested block was generated: the state after it, and its frames uint8 [B, H, W, 3]."""
        self._state, self._pending = state, frames
        self._held, self._tapped = self._tapped, np.zeros_like(self._tapped)
        self._block += 1

    def show(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Show the next frame: what ``step`` returns."""
        self._frame, self._pending = self._pending[0], self._pending[1:]
        if self._watch:
            self._watch.look(self._frame, action)
        reward, terminated = self._outcome()
        self._score += reward
        return self._frame.copy(), reward, terminated, False, {}

    def _outcome(self) -> tuple[float, bool]:
        """The reward that came with the frame shown last, and whether the episode ended with it."""
        if OUTCOME not in self._state or len(self._pending):
            return 0.0, False
        reward, end = self.runtime.to_numpy({OUTCOME: self._state[OUTCOME]})[OUTCOME][0].tolist()
        return reward, end > 0.5 and not self.endless

    def render(self) -> np.ndarray | None:
        return self._frame.copy() if self.render_mode == "rgb_array" else None

    def anchors(self) -> np.ndarray:
        """uint8 [n, H, W, 3]: the pictures of this episode's place, the sink frames first."""
        return self._scene.anchors.copy()

    def get_state(self) -> dict[str, np.ndarray]:
        """Everything that the next frames depend on, besides the weights."""
        findings = self._watch.get_state() if self._watch else {}
        return {
            **{f"rolling.{name}": array for name, array in self.runtime.to_numpy(self._state).items()},
            **{f"{FINDINGS}{name}": array for name, array in findings.items()},
            "seed": np.array(self._seed, np.uint64),
            "block": np.array(self._block),
            "reprimes": np.array(self.reprimes),
            "score": np.array(self._score),
            "held": self._held.copy(),
            "tapped": self._tapped.copy(),
            "frame": self._frame.copy(),
            "pending": self._pending.copy(),
            "scene": np.array(self._scene.name),
            "anchors": self._scene.anchors.copy(),
        }

    def set_state(self, state: dict[str, np.ndarray]) -> None:
        """Continue exactly from a result of ``get_state``. Raises WorldError for that of another model. Where it has no
        findings (not watched, or by an older detector) the detector starts afresh."""
        self._check(state)
        self._state = self.runtime.from_numpy(_part(state, "rolling."))
        self._seed, self._block = int(state["seed"]), int(state["block"])
        self._score = float(state.get("score", 0.0))
        self._held, self._tapped = state["held"].copy(), state["tapped"].copy()
        self._frame, self._pending = state["frame"].copy(), state["pending"].copy()
        self._scene = scenes.standing(str(state["scene"]), state["anchors"].copy())
        self._watch, self.reprimes = self._watcher(), int(state.get("reprimes", 0))
        if self._watch and (findings := _part(state, FINDINGS)):
            try:
                self._watch.set_state(findings)
            except (KeyError, ValueError, TypeError) as error:
                raise WorldError(f"not a snapshot of a neural game: its findings cannot be read ({error!r})") from error
        self._warm_up()

    def redraw(self, anchors: np.ndarray) -> None:
        """Replace the sinks by others, uint8 [n, H, W, 3], between two ticks. Where the sinks are a map, what the
        newest frame shows of the old one is painted over with the new; nothing else changes. Raises WorldError for
        pictures that do not fit."""
        scene = scenes.standing("drawn", np.asarray(anchors))
        self._check_scene(scene)
        old, new = (anchors[: self.config.rolling.sink_frames] for anchors in (self._scene.anchors, scene.anchors))
        self._state = self.runtime.replace_sinks(self._state, self.runtime.encode(new)[None])
        if self.config.world.map is not None:
            self._repaint(old, new)
        self._scene, self._watch = scene, self._watcher()

    def place(self, seed: int) -> np.ndarray:
        """The pictures of the scene that ``reset(seed)`` begins in, as ``redraw`` takes them."""
        return self._chosen(seed, {}).anchors

    def start_scenes(self) -> list[Scene]:
        """All scenes that ``reset`` can begin in: seed s takes number ``s % len``. Raises WorldError."""
        home = _home(self.folder, self.world)
        found = [scenes.read(home, name) for name in scenes.names(home)]
        for scene in found:
            self._check_scene(scene)
        return found

    def _repaint(self, old: np.ndarray, new: np.ndarray) -> None:
        """Paint ``new`` sinks [n, H, W, 3] over the ``old`` ones in the newest frame and its latent."""
        last = self._pending[-1] if len(self._pending) else self._frame
        sink = nearest(last, old)
        painted = repainted(last, old[sink], new[sink])
        state = self.runtime.to_numpy(self._state)
        state["clean"][:, -1] = self.runtime.encode(painted[None])
        self._state = self.runtime.from_numpy(state)
        last[...] = painted

    def runs(self) -> str:
        """What computes the frames: backend, device and why these."""
        return self.runtime.description

    def provenance(self) -> dict[str, Any]:
        """What made the frames, for recordings and reports."""
        return {
            "source": "neural",
            "world": self.world,
            "seed": self._seed,
            "scene": self._scene.name if self._scene else None,
            "checkpoint": self._digest,
            "runtime": self.runtime.name,
            "device": self.runtime.device,
            "policy": self.policy,
            "collapse": self.remedy,
        }

    def _watcher(self) -> Collapse | None:
        sinks = self._scene.anchors[: self.config.rolling.sink_frames]
        return None if self.remedy == "ignore" else Collapse(sinks, is_map=self.config.world.map is not None)

    def _reprime(self) -> None:
        """Prime again from the sink frame most like the last healthy frame."""
        sink = self._watch.nearest_sink()
        self.reprimes += 1
        self._state, _ = self._primed(self._scene.anchors[sink : sink + 1])
        self._watch.restart()

    def _primed(self, frames: np.ndarray) -> tuple[State, np.ndarray]:
        """The state primed with ``frames`` uint8 [m, H, W, 3], and its clean block [B, C, h, w]."""
        roll = self.config.rolling
        sinks = self.runtime.encode(self._scene.anchors[: roll.sink_frames])
        blocks = _blocks(self.runtime.encode(frames), roll)
        actions = np.zeros((1, roll.recent_blocks + 1, self.config.action_size), np.float32)
        state = self.runtime.prime(sinks[None], blocks[None], actions, self.noise(PRIME + self.reprimes))
        return state, blocks[-1]

    def _warm_up(self) -> None:
        """Take a tick and discard it, once: a backend's first is slow."""
        if not self._warm:
            nothing = np.zeros((1, self.config.action_size), np.int8)
            if self.policy == "reforce":
                self.runtime.refill_window(self._state, nothing, self.refill_noise(REFILL))
            self.runtime.decode(self.runtime.step(self._state, nothing, self.noise(0))[1])
            self._warm = True

    def noise(self, counter: int, *passes: int) -> np.ndarray:
        """Noise [1, *passes, K, B, C, h, w] of the seed and a counter."""
        roll = self.config.rolling
        blocks = (roll.window_blocks, roll.frames_per_block, *self.config.latent_shape)
        return seeded(self._seed, counter, (1, *passes, *blocks))

    def refill_noise(self, counter: int) -> np.ndarray:
        return self.noise(counter, self.config.rolling.window_blocks)

    def _chosen(self, seed: int, options: dict[str, Any]) -> Scene:
        if unknown := set(options) - {"scene", "anchors", "frames"}:
            raise WorldError(f"reset has no option {', '.join(sorted(unknown))}; there are scene, anchors, frames")
        if "anchors" in options:
            anchors = np.asarray(options["anchors"])
            frames = np.asarray(options.get("frames", anchors[:1]))
            scene = Scene(str(options.get("scene", "given")), anchors, frames)
        else:
            scene = _scene(self.folder, self.world, options.get("scene", seed))
        self._check_scene(scene)
        return scene

    def _check_scene(self, scene: Scene) -> None:
        size, count, sinks = self.config.world, len(scene.anchors), self.config.rolling.sink_frames
        for pictures in (scene.anchors, scene.frames):
            if pictures.dtype != np.uint8 or pictures.shape[1:] != (size.height, size.width, 3):
                given = f"{pictures.dtype} {list(pictures.shape)}"
                raise WorldError(f"scene {scene.name}: {given}, should be uint8 [n, {size.height}, {size.width}, 3]")
        if count < sinks:
            raise WorldError(f"scene {scene.name}: has {count} anchors, the model wants {sinks} sink frames")

    def _check(self, state: dict[str, np.ndarray]) -> None:
        """Raise WorldError unless ``state`` can be played: a backend would fail on it, or play nonsense, much later."""
        expected = _snapshot_shapes(self.config)
        if missing := [name for name in expected if name not in state]:
            raise WorldError(f"not a snapshot of a neural game: it has no {', '.join(missing)}")
        for name, (kind, shape) in expected.items():
            array = state[name]
            if array.ndim != len(shape) or not all(
                size in (None, length) for size, length in zip(shape, array.shape, strict=True)
            ):
                raise WorldError(f"a snapshot of another model: its {name} is {list(array.shape)}, not {list(shape)}")
            if not _holds(array, kind):
                raise WorldError(f"a damaged snapshot: its {name} does not hold {kind}")
        if len(state["anchors"]) < self.config.rolling.sink_frames:
            raise WorldError(f"a damaged snapshot: {len(state['anchors'])} anchors are too few for the sinks")


def _holds(array: np.ndarray, kind: str) -> bool:
    """Whether the values of an array are of a kind."""
    return {
        "text": array.dtype.kind == "U",
        "pixels": array.dtype == np.uint8,
        "numbers": array.dtype == np.float32 and bool(np.isfinite(array).all()),
        "counts": array.dtype.kind in "iu" and bool((array >= 0).all() and (array < 2**63).all()),
        "keys": array.dtype.kind in "iu" and bool(((array == 0) | (array == 1)).all()),
    }[kind]


def _snapshot_shapes(config: Config) -> dict[str, tuple[str, tuple[int | None, ...]]]:
    """Kind and shape of every array that ``get_state`` always returns, by name; None is any size."""
    roll, size, latent, keys = config.rolling, config.transformer, config.latent_shape, (config.action_size,)
    per_block, tokens = roll.frames_per_block, latent[1] * latent[2] // size.patch**2
    heads = size.heads, roll.context_blocks * per_block * tokens, size.width // size.heads
    rolling = {
        "keys": (size.layers, 1, *heads),
        "values": (size.layers, 1, *heads),
        "window": (1, roll.window_blocks, per_block, *latent),
        "clean": (1, per_block, *latent),
        "clean_action": (1, *keys),
        "sinks": (1, roll.sink_frames, *latent),
    }
    if config.head is not None:
        rolling |= {name: (1, *shape) for name, shape in config.head.state_shapes.items()}
    frame = config.world.height, config.world.width, 3
    pictures = {"frame": frame, "pending": (None, *frame), "anchors": (None, *frame)}
    return {
        **{f"rolling.{name}": ("numbers", shape) for name, shape in rolling.items()},
        **{name: ("pixels", shape) for name, shape in pictures.items()},
        "rolling.tick": ("counts", (1,)),
        "seed": ("counts", ()),
        "block": ("counts", ()),
        "scene": ("text", ()),
        "held": ("keys", keys),
        "tapped": ("keys", keys),
    }


def _part(state: dict[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    """The arrays whose names begin with ``prefix``, without it."""
    return {name[len(prefix) :]: array for name, array in state.items() if name.startswith(prefix)}


def _blocks(latents: np.ndarray, roll: Rolling) -> np.ndarray:
    """[n, C, h, w] -> the last R+1 blocks [R+1, B, C, h, w]; where n is too small, the first latent is repeated."""
    past = (roll.recent_blocks + 1) * roll.frames_per_block
    index = np.maximum(np.arange(-past, 0) + len(latents), 0)
    return latents[index].reshape(-1, roll.frames_per_block, *latents.shape[1:])


def _scene(folder: Path, world: str, which: int | str) -> Scene:
    """The scene of a name or a seed, from a checkpoint folder; one without scenes has those of the shipped world."""
    home = _home(folder, world)
    names = scenes.names(home)
    name = names[which % len(names)] if isinstance(which, int) else which
    if name not in names:
        raise WorldError(f"{home}: no scene {name!r}; there are {', '.join(names)}")
    return scenes.read(home, name)


def _home(folder: Path, world: str) -> Path:
    """Where the scenes of a checkpoint folder are."""
    shipped = configuration.WORLDS / world
    home = folder if scenes.names(folder) else shipped
    if not scenes.names(home):
        raise WorldError(f"{folder}: no start scenes, nor in {shipped}; give reset anchors")
    return home


def _shipped(world: str) -> Path:
    folder = configuration.WORLDS / world
    if (folder / WEIGHTS).is_file():
        return folder
    yaml = configuration.CONFIGS / f"{world}.yaml"
    if yaml.is_file():
        raise WorldError(
            f"world {world!r} ships with no weights ({folder / WEIGHTS}). Those that you have: --checkpoint "
            f"runs/{world}, without --world. To make some: python train.py --config configs/{world}.yaml --data DIR"
        )
    shipped = {path.parent.name for path in configuration.WORLDS.glob(f"*/{WEIGHTS}")}
    known = shipped | {path.stem for path in configuration.CONFIGS.glob("*.yaml")}
    raise WorldError(f"no world {world!r}; there are {', '.join(sorted(known))}")


def _opened(folder: Path, world: str, runtime: str, device: str) -> tuple[Config, Runtime]:
    try:
        config, _ = describe(folder / WEIGHTS)
        if config.name != world:
            raise WorldError(f"{folder / WEIGHTS}: weights of the world {config.name!r}, not of {world!r}")
        return config, load_runtime(folder, runtime, device)
    except CheckpointError as error:
        raise WorldError(str(error)) from error
