"""Which of the pressed keys had an effect, asked of the game itself.

A key counts not because it was pressed but because the frame would have been another without it: a key that meets a
wall, a jump in mid-air and a switch that is already held down show nothing, and no picture, however good, could be
read for them. Keys that cancel each other show nothing either. So the keys that had an effect are the *fewest* of the
pressed ones that lead to the very same frame from the same instant, and the size of a key's effect is how far the frame
lies from the one without it.

The game is any frame source with ``get_state`` and ``set_state``; what its keys do is not known here.
"""

from __future__ import annotations

from itertools import combinations

import gymnasium
import numpy as np

CLEAR = 1.0
"""Mean change of a pixel, of 255, from which an effect can be told; a smaller one, above 0, counts neither way."""


def subsets(pressed: np.ndarray) -> list[np.ndarray]:
    """Every choice of the pressed keys [k], int8 [k] each, from none to all of them, fewer before more."""
    held = np.flatnonzero(pressed)
    choices = [list(some) for size in range(len(held) + 1) for some in combinations(held, size)]
    every = np.zeros((len(choices), len(pressed)), np.int8)
    for row, some in zip(every, choices, strict=True):
        row[some] = 1
    return list(every)


def branches(game: gymnasium.Env, pressed: np.ndarray) -> dict[bytes, np.ndarray]:
    """The next frame under every choice of the pressed keys [k], by ``choice.tobytes()``.

    The game is left where all of them lead.
    """
    instant, frames = game.unwrapped.get_state(), {}
    for keys in subsets(pressed):
        if frames:
            game.unwrapped.set_state(instant)
        frames[keys.tobytes()] = game.step(keys)[0]
    return frames


def effects(frames: dict[bytes, np.ndarray], pressed: np.ndarray) -> np.ndarray:
    """Size of each key's effect, float32 [k], of ``pressed`` [k] among the ``branches`` of a tick.

    Mean change of a pixel, of 255; exactly 0 for a key that had none.
    """
    result = frames[pressed.astype(np.int8).tobytes()]
    needed = next(keys for keys in subsets(pressed) if np.array_equal(frames[keys.tobytes()], result))
    sizes = np.zeros(len(pressed), np.float32)
    for key in np.flatnonzero(needed):
        without = needed.copy()
        without[key] = 0
        sizes[key] = np.abs(result.astype(np.float32) - frames[without.tobytes()]).mean()
    return sizes


def play(game: gymnasium.Env, keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Drive a game on from where it is: frames [T, H, W, 3] and effects [T, k] under keys [T, k]."""
    frames, sizes = [], []
    for pressed in keys.astype(np.int8):
        ways = branches(game, pressed)
        frames.append(ways[pressed.tobytes()])
        sizes.append(effects(ways, pressed))
    return np.stack(frames), np.stack(sizes)


def told(sizes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Effects [..., k] -> whether each key had one, and whether that can be told: bool [..., k] each."""
    return sizes >= CLEAR, (sizes == 0) | (sizes >= CLEAR)


def scripted_keys(random: np.random.Generator, ticks: int, keys: int) -> np.ndarray:
    """int8 [ticks, keys]: taps and holds of up to a second, of none, one or two keys."""
    held, at = np.zeros((ticks, keys), np.int8), 0
    while at < ticks:
        length = 1 if random.random() < 0.25 else int(random.integers(2, 21))
        held[at : at + length, random.choice(keys, random.choice(3, p=(0.2, 0.5, 0.3)), replace=False)] = 1
        at += length
    return held
