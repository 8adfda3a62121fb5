"""The first built-in world: a first-person room, made by a seed, walked with eight keys at 20 ticks a second.

``Arena`` is the Gymnasium environment; ``ArenaBatch`` steps and draws many rooms at once (an Arena is a batch of one).
Everything follows from (seed, actions), in any process.
"""

from __future__ import annotations

import gymnasium
import numpy as np
from gymnasium.spaces import Box, MultiBinary
from numba import njit

from game.actions import ARENA_KEYS
from game.worlds import raycast
from game.worlds import rooms as R
from game.worlds.rooms import TURNS, Rooms, make_rooms
from world_model.play.actions import checked

FPS = 20
STRIDE = 0.14  # metres a tick
EYE = 1.6  # metres above the ground
JUMP_TICKS, JUMP_PEAK = 10, 0.6
W, A, S, D, LEFT, RIGHT, SPACE, E = range(8)


class ArenaBatch:
    """B rooms with a player in each.

    ``reset(seeds)`` and ``step(actions)`` return fresh frames, uint8 [B, H, W, 3].
    Attributes: rooms, seeds [B], position [B, 2] in metres, turn [B] (heading in 4.5 degree steps,
    counter-clockwise from +x), jump [B] (ticks since take-off, 0 on the ground), lights [B], e_held [B].
    """

    STATE = ("seeds", "position", "turn", "jump", "lights", "e_held")
    HIGHEST = (2**63 - 1, None, TURNS - 1, JUMP_TICKS - 1, 1, 1)
    """Largest value of each integer in STATE; the smallest is 0."""

    def __init__(self, height: int = 128, width: int = 128):
        if height < 8 or width < 8:
            raise ValueError(f"frame of {height}x{width}: the arena needs at least 8x8 pixels")
        self.height, self.width = height, width

    def reset(self, seeds) -> np.ndarray:
        """Make the rooms of ``seeds`` and put a player at each spawn point, lights on."""
        self.seeds = np.asarray(seeds, np.int64)
        self.rooms: Rooms = make_rooms(self.seeds)
        scene, count = self.rooms.scene, len(self.seeds)
        self.position = scene[:, [R.SPAWN_X, R.SPAWN_Y]].astype(np.float64)
        self.turn = scene[:, R.SPAWN_TURN].astype(np.int64)
        self.jump = np.zeros(count, np.int64)
        self.lights = np.ones(count, np.int64)
        self.e_held = np.zeros(count, np.int64)
        return self.frames()

    def step(self, actions) -> np.ndarray:
        """Advance every room by one tick under ``actions`` [B, 8], 0 or 1 a key."""
        held = checked(actions, ARENA_KEYS, len(self.seeds))
        rooms = self.rooms
        _advance(rooms.walls, rooms.scene, rooms.landmarks, held, *(getattr(self, s) for s in self.STATE[1:]))
        return self.frames()

    def frames(self) -> np.ndarray:
        """Draw every room as its player sees it now."""
        return self._draw(self.rooms, self.poses())

    def poses(self) -> np.ndarray:
        """float32 [B, 5]: x, y, heading in radians, eye height, 1.0 when the lights are on."""
        flight = self.jump / JUMP_TICKS
        eye = EYE + 4 * JUMP_PEAK * flight * (1 - flight)
        heading = self.turn * (2 * np.pi / TURNS)
        return np.column_stack([self.position, heading, eye, self.lights]).astype(np.float32)

    def anchors(self) -> np.ndarray:
        """uint8 [B, 4, H, W, 3]: from the spawn point, a quarter turn to the left apart, lights on."""
        return self._anchors_and_depths()[0]

    def depths(self) -> np.ndarray:
        """float32 [B, 4, H, W]: depth of every pixel of ``anchors``, metres along the view direction."""
        return self._anchors_and_depths()[1]

    def _anchors_and_depths(self) -> tuple[np.ndarray, np.ndarray]:
        count, scene = len(self.seeds), self.rooms.scene
        poses = np.zeros((count, 4, raycast.POSE_FIELDS), np.float32)
        poses[..., raycast.X], poses[..., raycast.Y] = scene[:, [R.SPAWN_X]], scene[:, [R.SPAWN_Y]]
        turn = (scene[:, [R.SPAWN_TURN]].astype(np.int64) + np.arange(4) * (TURNS // 4)) % TURNS
        poses[..., raycast.HEADING] = turn * (2 * np.pi / TURNS)
        poses[..., raycast.EYE], poses[..., raycast.LIGHTS] = EYE, 1
        rooms = self.rooms.take(np.repeat(np.arange(count), 4))
        depths = np.empty((4 * count, self.height, self.width), np.float32)
        frames = self._draw(rooms, poses.reshape(4 * count, -1), depths)
        return frames.reshape(count, 4, *frames.shape[1:]), depths.reshape(count, 4, *depths.shape[1:])

    def get_state(self) -> dict[str, np.ndarray]:
        """Copies of all that the next ticks depend on."""
        return {name: getattr(self, name).copy() for name in self.STATE}

    def set_state(self, state: dict[str, np.ndarray]) -> None:
        """Continue from a ``get_state``, exactly. ValueError for what is not the state of an arena."""
        if set(state) != set(self.STATE):
            raise ValueError(f"an arena's state has the arrays {', '.join(self.STATE)}, not {', '.join(sorted(state))}")
        for name, highest in zip(self.STATE, self.HIGHEST, strict=True):
            array, wanted = np.asarray(state[name]), np.shape(state["seeds"])[:1]
            wanted, kinds = (wanted, "iu") if highest else ((*wanted, 2), "f")
            if array.shape != wanted or array.dtype.kind not in kinds:
                raise ValueError(f"an arena's {name}: {array.dtype} {list(array.shape)}, not numbers {list(wanted)}")
            if highest and ((array < 0) | (array > highest)).any():
                raise ValueError(f"an arena's {name} is out of range, 0 to {highest}")
        if not np.array_equal(state["seeds"], getattr(self, "seeds", None)):  # else the rooms are there
            self.reset(state["seeds"])
        if not self._indoors(state["position"]).all():
            raise ValueError("an arena's position is not inside its room")
        for name in self.STATE:
            setattr(self, name, np.array(state[name], getattr(self, name).dtype))

    def _indoors(self, position: np.ndarray) -> np.ndarray:
        """bool [B]: which of the positions [B, 2] are in their room, clear of the walls; the renderer relies on it."""
        walls = self.rooms.walls
        gaps = (position[:, None] - walls[..., [R.WALL_X, R.WALL_Y]]) * walls[..., [R.WALL_NX, R.WALL_NY]]
        return np.where(walls[..., R.WALL_LENGTH] > 0, gaps.sum(2), np.inf).min(1) > R.PLAYER_RADIUS / 2

    def _draw(self, rooms: Rooms, poses: np.ndarray, depths: np.ndarray | None = None) -> np.ndarray:
        out = np.empty((len(poses), self.height, self.width, 3), np.uint8)
        return raycast.render_batch(rooms, poses, out, depths)


class Arena(gymnasium.Env):
    """The arena as a Gymnasium environment: ``rollplay/Arena-v0``.

    Observation: uint8 [height, width, 3]. Action: one bit a key, in the order of ``metadata["keys"]``.
    Reward is 0 and an episode never ends. ``reset(seed=s)`` makes room s; without a seed the room is drawn
    from ``np_random``. ``info`` holds pose [x, y, heading, eye height], lights (bool) and landmarks [n, 3].
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": FPS, "keys": ARENA_KEYS}

    def __init__(self, height: int = 128, width: int = 128, render_mode: str | None = "rgb_array"):
        if render_mode not in (None, "rgb_array"):
            raise ValueError(f"render_mode {render_mode!r}: the arena draws 'rgb_array' only")
        self.render_mode = render_mode
        self.observation_space = Box(0, 255, (height, width, 3), np.uint8)
        self.action_space = MultiBinary(len(ARENA_KEYS))
        self._batch = ArenaBatch(height, width)

    def reset(self, *, seed: int | None = None, options: dict | None = None):
        super().reset(seed=seed)
        if seed is None:
            seed = int(self.np_random.integers(2**31))
        self._frame = self._batch.reset([seed])[0]
        return self._frame.copy(), self._info()

    def step(self, action):
        self._frame = self._batch.step(np.asarray(action)[None])[0]
        return self._frame.copy(), 0.0, False, False, self._info()

    def render(self):
        if self.render_mode is None:
            return None
        if self._frame is None:
            self._frame = self._batch.frames()[0]
        return self._frame.copy()

    def anchors(self) -> np.ndarray:
        """uint8 [4, H, W, 3]: the room from its spawn point, a quarter turn apart; the first is the reset frame."""
        return self._batch.anchors()[0]

    def depths(self) -> np.ndarray:
        """float32 [4, H, W]: depth of every pixel of ``anchors``, metres along the view direction."""
        return self._batch.depths()[0]

    def spot(self) -> tuple[float, ...]:
        """The pose (as in ``info``) from which the first anchor is seen."""
        x, y, turn = self._batch.rooms.scene[0, [R.SPAWN_X, R.SPAWN_Y, R.SPAWN_TURN]].astype(float)
        return x, y, turn * (2 * np.pi / TURNS), EYE

    def get_state(self) -> dict[str, np.ndarray]:
        """A snapshot (room seed included), from which ``set_state`` continues exactly."""
        return {name: array[0].copy() for name, array in self._batch.get_state().items()}

    def set_state(self, state: dict[str, np.ndarray]) -> None:
        self._batch.set_state({name: np.asarray(value)[None] for name, value in state.items()})
        self._frame = None  # drawn when needed: rollouts from one state step on at once

    def provenance(self) -> dict:
        """Where these frames come from, for a recording's metadata."""
        seed = int(self._batch.seeds[0])
        return {"source": "engine", "world": "arena", "env": "rollplay/Arena-v0", "seed": seed}

    def _info(self) -> dict:
        rooms = self._batch.rooms
        landmarks = rooms.landmarks[0, : int(rooms.scene[0, R.LANDMARK_COUNT])]
        return {
            "pose": self._batch.poses()[0, :4],
            "lights": bool(self._batch.lights[0]),
            "landmarks": landmarks.copy(),
        }


# ---------------------------------------------------------------- physics


@njit(cache=True)
def _advance(walls, scenes, landmarks, held, position, turn, jump, lights, e_held):
    """One tick of every player, in place. Opposite keys cancel; E acts on the edge of its press."""
    for b in range(len(turn)):
        keys = held[b]
        turn[b] = (turn[b] + keys[LEFT] - keys[RIGHT]) % TURNS
        forward, side = keys[W] - keys[S], keys[D] - keys[A]
        if forward != 0 or side != 0:
            angle = turn[b] * (2 * np.pi / TURNS)
            cos, sin = np.cos(angle), np.sin(angle)
            step = STRIDE / np.sqrt(forward * forward + side * side)
            dx, dy = step * (forward * cos + side * sin), step * (forward * sin - side * cos)
            _slide(walls[b], scenes[b], landmarks[b], position[b], dx, dy)
        if jump[b] > 0 or keys[SPACE]:
            jump[b] = (jump[b] + 1) % JUMP_TICKS
        if keys[E] and not e_held[b]:
            lights[b] = 1 - lights[b]
        e_held[b] = keys[E]


@njit(cache=True)
def _slide(walls, scene, landmarks, position, dx, dy):
    """Move by (dx, dy); walls and landmarks push the player out along their normals."""
    x, y = position[0] + dx, position[1] + dy
    deepest = 0.0
    for _ in range(4):
        deepest = 0.0
        for i in range(int(scene[R.LANDMARK_COUNT])):
            ox, oy = x - landmarks[i, 0], y - landmarks[i, 1]
            distance = max(np.sqrt(ox * ox + oy * oy), 1e-6)
            push = landmarks[i, 2] + R.PLAYER_RADIUS - distance
            if push > 0:
                x, y = x + push * ox / distance, y + push * oy / distance
                deepest = max(deepest, push)
        for i in range(int(scene[R.WALL_COUNT])):
            nx, ny = walls[i, R.WALL_NX], walls[i, R.WALL_NY]
            push = R.PLAYER_RADIUS - (x - walls[i, R.WALL_X]) * nx - (y - walls[i, R.WALL_Y]) * ny
            if push > 0:
                x, y = x + push * nx, y + push * ny
                deepest = max(deepest, push)
        if deepest < 1e-4:
            break
    if deepest < 1e-2:  # else the corner is too tight, and the player stays
        position[0], position[1] = x, y
