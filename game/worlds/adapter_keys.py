"""Held keys -> actions of a Gymnasium space, by tables that are data; and the tables that a game suggests.

A table says which combination of keys is which action: ``{"": 0, "space": 1, "d": 2, "d+space": 4}``. One table is of
whole actions; several are one for each number of an action, as of a Box. A combination that is in no table is its
largest part that is in one; the first such where several are as large.
"""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from world_model.config import Table

PAIRS = (("a", "d"), ("s", "w"), ("left", "right"), ("down", "up"), ("j", "l"), ("k", "i"))
"""Keys for a number that goes both ways: less, more."""
SINGLES = ("w", "s", "space", "e", *"1234567890", *"qzxcviojklym")
NAMED = {"noop": "", "up": "w", "forward": "w", "down": "s", "left": "a", "right": "d", "fire": "space", "toggle": "e"}
"""The key of an action that the game has a name for."""
CODES = {273: "up", 274: "down", 275: "right", 276: "left", 32: "space", 13: "return"}
"""Keys by number, as some games still say them: pygame 1's arrows, or characters."""


class Controls:
    """``action`` of the keys that are held. ValueError for tables whose actions are none of the space."""

    def __init__(self, space: spaces.Space, actions: Table | tuple[Table, ...], keys: tuple[str, ...]):
        self._space, self._keys, self._whole = space, keys, isinstance(actions, dict)
        tables = (actions,) if self._whole else actions
        self._tables = [{frozenset(filter(None, name.split("+"))): a for name, a in table.items()} for table in tables]
        if unknown := {key for table in self._tables for held in table for key in held} - set(keys):
            raise ValueError(f"{', '.join(sorted(unknown))} is none of the world's keys {' '.join(keys)}")
        if not self._whole and any(frozenset() not in table for table in self._tables):
            raise ValueError('a table of one number needs the combination "": what it is when no key is held')
        for table in self._tables:
            for held in table:
                self._check(held)

    def action(self, bits: np.ndarray) -> Any | None:
        """Of one bit a key. None where that is no action: the game waits."""
        return self._of(frozenset(key for key, bit in zip(self._keys, bits, strict=True) if bit))

    def _of(self, held: frozenset[str]) -> Any | None:
        parts = [_largest(table, held) for table in self._tables]
        if None in parts:
            return None
        value = parts[0] if self._whole else parts
        if isinstance(self._space, spaces.Discrete):
            return value
        return np.asarray(value, self._space.dtype).reshape(self._space.shape)

    def _check(self, held: frozenset[str]) -> None:
        try:
            is_one = self._of(held) in self._space
        except (TypeError, ValueError):
            is_one = False
        if not is_one:
            raise ValueError(f'"{"+".join(sorted(held))}" is no action of {self._space}')


def _largest(table: dict[frozenset[str], Any], held: frozenset[str]) -> Any | None:
    parts = [part for part in table if part <= held]
    return table[max(parts, key=len)] if parts else None


def suggested(game: gymnasium.Env) -> tuple[tuple[str, ...], Table | tuple[Table, ...]]:
    """Keys and tables for a game: its own ``get_keys_to_action``, or a key or two for everything that it can do.
    ValueError for actions that keys cannot stand for."""
    actions = _own(game) or _spelled(game)
    tables = (actions,) if isinstance(actions, dict) else actions
    keys = dict.fromkeys(key for table in tables for combination in table for key in combination.split("+") if key)
    return tuple(keys), actions


def meanings(game: gymnasium.Env, actions: Table | tuple[Table, ...]) -> dict[str, str]:
    """What single keys of a table do, in the game's own words; {} where it has none."""
    names, table = _names(game), actions if isinstance(actions, dict) else {}
    single = {key: action for key, action in table.items() if key and "+" not in key and isinstance(action, int)}
    return {key: names[action] for key, action in single.items() if action < len(names)}


def _own(game: gymnasium.Env) -> Table | None:
    """Gymnasium's convention, {keys: action}; the key of doing nothing is not needed, no key says it."""
    try:
        said = game.get_wrapper_attr("get_keys_to_action")()
    except AttributeError:  # it has none, or none for these actions
        return None
    names, table = _names(game), {}
    for pressed, action in said.items():
        keys = (pressed,) if isinstance(pressed, int) else pressed
        value = tuple(np.ravel(action).tolist()) if np.ndim(action) else np.asarray(action).item()
        idle = isinstance(value, int) and names[value : value + 1] == ["noop"]
        table["" if idle else "+".join(map(_key, keys))] = value
    return table


def _key(key: int | str) -> str:
    if isinstance(key, str):
        return "space" if key == " " else key.lower()
    if key in CODES or key < 128:
        return CODES.get(key) or chr(key).lower()
    import pygame  # who says keys by pygame's numbers has it

    return pygame.key.name(key)


def _spelled(game: gymnasium.Env) -> Table | tuple[Table, ...]:
    space = game.action_space
    if isinstance(space, spaces.Discrete):
        return _discrete(space, _names(game))
    if isinstance(space, (spaces.Box, spaces.MultiBinary, spaces.MultiDiscrete)):
        return _numbers(space)
    raise ValueError(f"they are {space}: no keys can stand for that")


def _names(game: gymnasium.Env) -> list[str]:
    """What a game calls its actions, in small letters; it may not say."""
    inner = game.unwrapped
    if hasattr(inner, "get_action_meanings"):
        return [str(name).lower() for name in inner.get_action_meanings()]
    return [name.lower() for name in getattr(getattr(inner, "actions", None), "__members__", ())]


def _discrete(space: spaces.Discrete, names: list[str]) -> Table:
    """A key an action. Where none is known to do nothing, the game waits when no key is held."""
    keys = [NAMED.get(name) for name in names] if len(names) == space.n else [None] * int(space.n)
    spare = (key for key in SINGLES[4:] if key not in keys)
    keys = [next(spare, None) if key is None else key for key in keys]
    if None in keys or len(set(keys)) < len(keys):
        raise ValueError(f"they are {space}: write a table, there are no keys for so many")
    return {key: int(space.start) + number for number, key in enumerate(keys)}


def _numbers(space: spaces.Space) -> tuple[Table, ...]:
    """A table a number: where it rests, and a key for all that it can be."""
    used: set[str] = set()
    tables = []
    for rest, others in map(_choices, *_bounds(space)):
        pool = PAIRS if len(others) == 2 else [SINGLES[i:] for i in range(len(SINGLES))]
        fresh = (keys[: len(others)] for keys in pool if used.isdisjoint(keys[: len(others)]))
        keys = next(fresh, ())
        if len(keys) < len(others):
            raise ValueError(f"they are {space}: write tables, there are no keys for so many")
        used.update(keys)
        tables.append({"": rest} | dict(zip(keys, others, strict=True)))
    return tuple(tables)


def _bounds(space: spaces.Space) -> tuple[list, list]:
    """Least and largest of each number: whole numbers where it counts, fractions where it measures."""
    if isinstance(space, spaces.MultiDiscrete):
        start = space.start.ravel()
        return start.tolist(), (start + space.nvec.ravel() - 1).tolist()
    if isinstance(space, spaces.MultiBinary):
        return [0] * int(np.prod(space.shape)), [1] * int(np.prod(space.shape))
    ends = [np.where(np.isfinite(end), end, one).ravel() for end, one in ((space.low, -1.0), (space.high, 1.0))]
    return ends[0].tolist(), ends[1].tolist()


def _choices(low: float, high: float) -> tuple[float, list[float]]:
    """Where a number rests, and what else keys make it: every other if it counts, its ends if it measures."""
    rest = min(max(type(low)(0), low), high)
    if isinstance(low, int):
        return low, [number for number in range(low, high + 1) if number != low]
    return rest, [end for end in (low, high) if end != rest]
