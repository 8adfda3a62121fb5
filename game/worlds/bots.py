"""Bots: scripted players, for data and headless play. Those of ``GENERIC_MIX`` press the keys of any world.

``bot = make_bot(name, seed, keys)``, then ``bot.act(observation, info) -> int8 [len(keys)]`` once a tick.
A bot is deterministic in its seed and in its inputs. The tourist, the doorseeker, the hunter and the meddler use
``info``; where it lacks what they need, they play like the explorer.
"""

from __future__ import annotations

import runpy
from collections.abc import Sequence

import numpy as np

from game.actions import ARENA_KEYS, KEEP_KEYS, to_action

Keys = tuple[str, ...]


class Bot:
    """A player that holds keys for some ticks: subclasses implement ``plan() -> (keys to hold, ticks)``."""

    def __init__(self, seed: int, keys: Sequence[str] = ARENA_KEYS):
        self.keys = tuple(keys)
        self.rng = np.random.default_rng([int(seed), 0xB07])
        self.held: Keys = ()
        self.remaining = 0

    def act(self, observation, info) -> np.ndarray:
        """The keys to hold during the next tick, as an int8 vector in key order."""
        if self.remaining == 0:
            self.held, self.remaining = self.plan()
        self.remaining -= 1
        return to_action([key for key in self.held if key in self.keys], self.keys)

    def plan(self) -> tuple[Keys, int]:
        raise NotImplementedError

    def ticks(self, low: int, high: int) -> int:
        return int(self.rng.integers(low, high + 1))

    def choose(self, options, weights=None):
        """One of ``options``, by weight; taken by index, so that options may be tuples."""
        weights = None if weights is None else np.asarray(weights) / np.sum(weights)
        return options[int(self.rng.choice(len(options), p=weights))]


class Explorer(Bot):
    """Sticky random keys: a movement and a turn, each held for a while, with a jump or the light switch at times."""

    MOVES = ((), ("w",), ("s",), ("a",), ("d",), ("w", "a"), ("w", "d"), ("s", "a"), ("s", "d"))
    MOVE_WEIGHTS = (0.22, 0.36, 0.09, 0.09, 0.09, 0.05, 0.04, 0.03, 0.03)
    TURNS = ((), ("left",), ("right",))
    TURN_WEIGHTS = (0.42, 0.29, 0.29)

    move: Keys = ()
    turn: Keys = ()

    def plan(self):
        if self.rng.random() < 0.06:
            return (), self.ticks(8, 30)
        if self.rng.random() < 0.6:
            self.move = self.choose(self.MOVES, self.MOVE_WEIGHTS)
        if self.rng.random() < 0.6:
            self.turn = self.choose(self.TURNS, self.TURN_WEIGHTS)
        extra = [key for key, chance in (("space", 0.09), ("e", 0.07)) if self.rng.random() < chance]
        ticks = self.ticks(1, 5) if extra else self.ticks(2, 14)
        return (*self.move, *self.turn, *extra), ticks


class Tourist(Explorer):
    """Walks up to one landmark after another and looks around there."""

    target: int | None = None
    patience = 0  # ticks until it gives up a landmark that it does not reach
    queue: Sequence[tuple[Keys, int]] = ()

    def act(self, observation, info):
        if self.remaining == 0 and not self.queue and _has_map(info):
            held = self._walk(np.asarray(info["pose"], float), np.asarray(info["landmarks"], float))
            if held is not None:
                return to_action([key for key in held if key in self.keys], self.keys)
        return super().act(observation, info)

    def plan(self):
        return self.queue.pop(0) if self.queue else super().plan()

    def _walk(self, pose, landmarks) -> Keys | None:
        """Keys toward the target, or None when it is reached (or given up) and a look around is queued."""
        if self.target is None:
            self.target, self.patience = int(self.rng.integers(len(landmarks))), self.ticks(60, 110)
        x, y, radius = landmarks[self.target]
        offset = np.array([x, y]) - pose[:2]
        turn = (np.arctan2(offset[1], offset[0]) - pose[2] + np.pi) % (2 * np.pi) - np.pi
        self.patience -= 1
        if np.linalg.norm(offset) < radius + 1.1 and abs(turn) < 0.1 or self.patience <= 0:
            self.queue, self.target = self._look_around(), None
            return None
        held = ("left",) if turn > 0.05 else ("right",) if turn < -0.05 else ()
        far = np.linalg.norm(offset) >= radius + 1.1
        return (*held, "w") if far and abs(turn) < 0.8 else held

    def _look_around(self) -> list[tuple[Keys, int]]:
        """A pause, then some of: a turn, a walk around it, a jump, the lights; then steps away."""
        side, turn = self.choose([("a", "right"), ("d", "left")])
        sights = [
            (((), self.ticks(4, 14)), 0.6),
            (((turn,), self.ticks(10, 60)), 0.7),
            (((side, turn), self.ticks(10, 40)), 0.4),
            ((("space",), self.ticks(1, 4)), 0.5),
            ((("e",), self.ticks(1, 3)), 0.7),
            (((), self.ticks(8, 20)), 0.4),
        ]
        chosen = [sight for sight, chance in sights if self.rng.random() < chance]
        return [*chosen, (("s", turn), self.ticks(6, 16))]


def _has_map(info) -> bool:
    return bool(info) and "pose" in info and len(info.get("landmarks", ())) > 0


class Spinner(Bot):
    """Long turns, whole circles among them, and walks out and back, to measure loop closure on."""

    queue: Sequence[tuple[Keys, int]] = ()

    def plan(self):
        self.queue = self.queue or self._figure()
        return self.queue.pop(0)

    def _figure(self) -> list[tuple[Keys, int]]:
        turn = self.choose(("left", "right"))
        pause: tuple[Keys, int] = ((), self.ticks(2, 12))
        kind = self.choose(("circle", "arc", "out and back", "curve", "hop"), (0.3, 0.3, 0.2, 0.12, 0.08))
        if kind == "circle":
            return [((turn,), 80), pause]
        if kind == "arc":
            return [((turn,), self.ticks(8, 60)), pause]
        if kind == "out and back":
            out, back = self.choose((("w", "s"), ("s", "w"), ("a", "d"), ("d", "a")))
            ticks = self.ticks(8, 24)
            return [((out,), ticks), pause, ((back,), ticks), pause]
        if kind == "curve":
            return [((turn, "w"), self.ticks(15, 40))]
        return [((turn, "space"), self.ticks(1, 8)), ((turn,), self.ticks(5, 20))]


class Nobody(Bot):
    """Presses nothing."""

    def plan(self):
        return (), 1


class Random(Bot):
    """No key, or one or two random ones, held for a while."""

    def plan(self):
        count = min(self.choose((0, 1, 2), (0.15, 0.5, 0.35)), len(self.keys))
        picks = self.rng.choice(len(self.keys), count, replace=False)
        return tuple(self.keys[i] for i in picks), self.ticks(1, 20)


class Dawdler(Bot):
    """Nothing for long, then one or two keys for a moment."""

    def plan(self):
        if self.held or self.rng.random() < 0.2:
            return (), self.ticks(25, 140)
        weights = np.array([0.25 if key == "e" else 1.0 for key in self.keys])
        count = min(self.ticks(1, 2), len(self.keys))
        picks = self.rng.choice(len(self.keys), count, replace=False, p=weights / weights.sum())
        return tuple(self.keys[i] for i in picks), self.ticks(1, 8)


class Masher(Bot):
    """Taps and rapid changes of any keys together, opposite ones too."""

    def plan(self):
        if self.rng.random() < 0.3:
            return (), self.ticks(1, 3)
        count = min(self.choose((1, 2, 3), (0.5, 0.38, 0.12)), len(self.keys))
        picks = [self.keys[i] for i in self.rng.choice(len(self.keys), count, replace=False)]
        if "e" in picks and self.rng.random() < 0.7:
            picks.remove("e")
        return tuple(picks), self.choose((1, 2, 3), (0.75, 0.15, 0.1))


class Doorseeker(Explorer):
    """Walks from room to room of a keep, by the shortest way to a doorway; plays like the explorer now and then."""

    room: int | None = None
    goal: tuple[int, int] = (0, 0)  # row and column of the doorway's tile

    def act(self, observation, info):
        held = self._walk(info) if self.remaining == 0 and "solid" in info else None
        if held is None:
            return super().act(observation, info)
        return to_action(held, self.keys)

    def _walk(self, info) -> Keys | None:
        """Keys toward a coin nearby, or a doorway of this room and through it; None to play like the explorer for a
        while."""
        (x, y), solid = info["position"], info["solid"]
        if info["room"] != self.room:
            self.room = info["room"]
            doors = [(int(r), int(c)) for r, c in np.argwhere(~solid) if r in (0, 7) or c in (0, 7)]
            far = [door for door in doors if abs(door[0] * 8 - y) + abs(door[1] * 8 - x) > 16]
            self.goal = self.choose(far or doors)
        if self.rng.random() < 0.03:
            return None
        near = [(v // 8, u // 8) for u, v in info.get("coins", ()) if abs(u - x) + abs(v - y) <= 24]
        held = near and _toward(solid, (x, y), near[0], out=False) or _toward(solid, (x, y), self.goal, out=True)
        if held and self.rng.random() < 0.04:
            return (*held, "space")
        return held


class Hunter(Doorseeker):
    """Lines up with a keep's slime and throws sparks at it; when it is gone, walks into the next room."""

    def _walk(self, info):
        (x, y), (slime_x, slime_y, alive) = info["position"], info["slime"]
        if not alive or self.rng.random() < 0.02:
            return super()._walk(info)
        if abs(y - slime_y) <= 2 and info["facing"] == (3 if slime_x > x else 1):
            return () if info["spark"][2] else ("space",)  # it flies when it is let go
        if abs(y - slime_y) <= 2 and abs(x - slime_x) > 10:
            return ("d",) if slime_x > x else ("a",)
        target = round(slime_y / 8), round(min(max(x, 8), 48) / 8)
        if info["solid"][target]:
            target = round(slime_y / 8), round(slime_x / 8)
        return _toward(info["solid"], info["position"], target, out=False)


class Meddler(Doorseeker):
    """A doorseeker that plays like the masher for a while at doorways and beside the slime."""

    def __init__(self, seed: int, keys: Sequence[str] = ARENA_KEYS):
        super().__init__(seed, keys)
        self.masher, self.mashing = Masher(seed, keys), 0

    def act(self, observation, info):
        if not self.mashing and "solid" in info and _at_an_edge_or_slime(info) and self.rng.random() < 0.25:
            self.mashing = self.ticks(4, 40)
        if self.mashing:
            self.mashing -= 1
            return self.masher.act(observation, info)
        return super().act(observation, info)


def _at_an_edge_or_slime(info) -> bool:
    """Whether the hero stands on a tile at the screen's edge, or a step from touching the slime."""
    (x, y), (slime_x, slime_y, alive) = info["position"], info["slime"]
    return not (8 <= x <= 48 and 8 <= y <= 48) or (alive and abs(x - slime_x) <= 10 and abs(y - slime_y) <= 10)


def _toward(solid: np.ndarray, position: tuple[int, int], goal: tuple[int, int], out: bool) -> Keys | None:
    """Keys for one step from a position (x, y) in pixels along the shortest way to the tile ``goal``; out: from the
    goal, off the screen. None where there is no way."""
    x, y = position
    tile = round(y / 8), round(x / 8)
    if tile == goal and not out:
        return None
    if tile == goal:
        row, column = (8 if goal[0] else -1, goal[1]) if goal[0] in (0, 7) else (goal[0], 8 if goal[1] else -1)
    else:
        row, column = _next_tile(solid, tile, goal) or tile
    down, right = row * 8 - y, column * 8 - x
    if row != tile[0] and right:  # first in line with the gap, then through it
        return ("d",) if right > 0 else ("a",)
    if column != tile[1] and down and tile[0] == row:
        return ("s",) if down > 0 else ("w",)
    vertical = ("s",) if down > 0 else ("w",) if down < 0 else ()
    return vertical or (("d",) if right > 0 else ("a",) if right < 0 else None)


def _next_tile(solid: np.ndarray, start: tuple[int, int], goal: tuple[int, int]) -> tuple[int, int] | None:
    """The tile after ``start`` on a shortest way to ``goal``, by breadth-first search from the goal."""
    reached, todo = {goal}, [goal]
    for tile in todo:
        for dr, dc in ((0, 1), (0, -1), (1, 0), (-1, 0)):
            near = tile[0] + dr, tile[1] + dc
            if near == start:
                return tile
            if near not in reached and min(near) >= 0 and max(near) < len(solid) and not solid[near]:
                reached.add(near)
                todo.append(near)
    return None


BOTS = {"explorer": Explorer, "tourist": Tourist, "spinner": Spinner, "dawdler": Dawdler, "masher": Masher,
        "doorseeker": Doorseeker, "hunter": Hunter, "meddler": Meddler, "random": Random, "nobody": Nobody}  # fmt: skip
MIXES = {
    ARENA_KEYS: {"explorer": 0.42, "tourist": 0.24, "spinner": 0.12, "dawdler": 0.08, "masher": 0.14},
    KEEP_KEYS: {
        "explorer": 0.14,
        "doorseeker": 0.22,
        "hunter": 0.16,
        "dawdler": 0.06,
        "masher": 0.14,
        "meddler": 0.28,
    },
}
"""Probabilities with which ``mix`` picks a bot, by the keys of the world."""
GENERIC_MIX = {"random": 0.7, "masher": 0.15, "dawdler": 0.15}
"""The same for every other world."""
NAMES = (*BOTS, "mix")


def knows(name: str, keys: Sequence[str]) -> bool:
    """Whether the named bot presses any of a world's keys; True for the bot that never presses any, and for a
    person's own."""
    return name in (*GENERIC_MIX, "nobody", "mix") or name not in BOTS or bool(set(keys) & set(ARENA_KEYS))


def make_bot(name: str, seed: int, keys: Sequence[str] = ARENA_KEYS) -> Bot:
    """The named bot (see ``find_bot``); ``mix`` picks one of ours by its seed. ValueError lists the names."""
    if name == "mix":
        mix = MIXES.get(tuple(keys), GENERIC_MIX)
        name = str(np.random.default_rng([int(seed), 0x317]).choice(list(mix), p=list(mix.values())))
    return find_bot(name)(seed, keys)


def find_bot(name: str) -> type[Bot]:
    """The class of a bot of ours, or of one of yours as ``FILE.py:CLASS``, made and asked as ours are. ValueError."""
    file, _, kind = name.rpartition(":")
    if not file.endswith(".py"):
        if name not in BOTS:
            raise ValueError(f"no bot {name!r}; there are: {', '.join(NAMES)}, or yours as FILE.py:CLASS")
        return BOTS[name]
    try:
        return runpy.run_path(file)[kind]
    except KeyError as error:
        raise ValueError(f"{file}: has no class {kind!r}") from error
    except Exception as error:  # anybody's code
        raise ValueError(f"{file}: {type(error).__name__}: {' '.join(str(error).split())}") from error
