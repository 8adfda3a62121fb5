"""Which of the pressed keys had an effect, asked of the game itself.

A key counts not because it was pressed but because the frame would have been another without it: a key that meets a
wall, a jump in mid-air and a switch that is already held down show nothing, and no picture, however good, could be
read for them. Keys that cancel each other show nothing either. So the keys that had an effect are the *fewest* of the
pressed ones that lead to the very same frame from the same instant.

Nor can everything that had an effect be told from the picture: someone who slides along a wall sideways may move just
as one who walks into it. So from each instant the game is tried with every choice of at most two keys, and a key
counts, either way, only where each choice that differs in that key's effect leads to a clearly different frame.

The game is any frame source with ``get_state`` and ``set_state``; what its keys do is not known here.
"""

from __future__ import annotations

from itertools import combinations

import cv2
import gymnasium
import numpy as np

CLEAR = 1.5
"""Mean change of a pixel, of 255, from which two frames can be told apart."""
MOST = 2
"""Keys at once in ``play``: what may be mistaken for what is looked for among choices of as many."""


def choices(keys: int, most: int) -> np.ndarray:
    """Every choice of at most ``most`` of ``keys`` keys, fewer before more, none first: int8 [n, keys]."""
    picks = [list(some) for size in range(most + 1) for some in combinations(range(keys), size)]
    every = np.zeros((len(picks), keys), np.int8)
    for row, some in zip(every, picks, strict=True):
        row[some] = 1
    return every


def choices_of(pressed: np.ndarray) -> np.ndarray:
    """Every choice of the pressed keys [k], fewer before more, all of them last: int8 [n, k]."""
    held = np.flatnonzero(pressed)
    every = np.zeros((2 ** len(held), len(pressed)), np.int8)
    every[:, held] = choices(len(held), len(held))
    return every


def ways(game: gymnasium.Env, every: np.ndarray, taken: int) -> np.ndarray:
    """The next frame under each choice of keys [n, k], uint8 [n, H, W, 3]; the game goes on where ``taken`` leads."""
    instant = game.unwrapped.get_state()
    frames: dict[int, np.ndarray] = {}
    for at in [*(i for i in range(len(every)) if i != taken), taken]:
        if frames:
            game.unwrapped.set_state(instant)
        frames[at] = game.step(every[at])[0]
    return np.stack([frames[at] for at in range(len(every))])


def fewest(frames: np.ndarray, every: np.ndarray) -> np.ndarray:
    """The fewest of each choice's keys that lead to its frame: bool [n, k], for ``ways`` frames [n, H, W, 3].

    ``every`` [n, k] runs from fewer to more keys and holds what is left of each choice by letting keys go.
    """
    every = every.astype(bool)
    within = (every[:, None] <= every[None]).all(-1)
    same = [
        next(j for j in np.flatnonzero(within[:, i]) if np.array_equal(frames[j], frames[i])) for i in range(len(every))
    ]
    return every[same]


def told(frames: np.ndarray, acting: np.ndarray, at: int) -> tuple[np.ndarray, np.ndarray]:
    """Of the choice ``at``, which keys had an effect and which can be told, bool [k] each.

    frames [n, H, W, 3] are the ``ways`` and acting [n, k] the ``fewest`` keys of each.
    """
    distances = np.array([cv2.norm(frame, frames[at], cv2.NORM_L1) for frame in frames]) / frames[at].size
    return acting[at], (acting == acting[at])[distances < CLEAR].all(0)


def play(game: gymnasium.Env, keys: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Drive a game on from where it is, under keys [T, k] of at most two at once (ValueError for more).

    Returns frames uint8 [T, H, W, 3], which keys had an effect and which can be told, bool [T, k] each.
    """
    if (keys != 0).sum(1).max() > MOST:
        raise ValueError(f"effects are told for at most {MOST} keys at once")
    every, frames, effects, clear = choices(keys.shape[1], MOST), [], [], []
    for pressed in keys:
        taken = int(np.flatnonzero((every == (pressed != 0)).all(1))[0])
        found = ways(game, every, taken)
        had, can_be_told = told(found, fewest(found, every), taken)
        frames.append(found[taken])
        effects.append(had)
        clear.append(can_be_told)
    return np.stack(frames), np.stack(effects), np.stack(clear)


def scripted_keys(random: np.random.Generator, ticks: int, keys: int) -> np.ndarray:
    """int8 [ticks, keys]: taps and holds of up to a second, of none, one or two keys."""
    held, at = np.zeros((ticks, keys), np.int8), 0
    while at < ticks:
        length = 1 if random.random() < 0.25 else int(random.integers(2, 21))
        held[at : at + length, random.choice(keys, random.choice(3, p=(0.2, 0.5, 0.3)), replace=False)] = 1
        at += length
    return held
