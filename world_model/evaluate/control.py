"""Control: whether a key shows in the picture, how soon, and whether it can be read from it again."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from world_model.evaluate.effects import play, scripted_keys
from world_model.evaluate.metrics import f1, measure, obeyed, precision, recall, tallied, tally
from world_model.evaluate.subject import Measures, Subject

CHANGES, AFTER = 12, 4
SEGMENTS = 3
"""Walks in each room for ``control``."""
SEGMENT_SECONDS = 3
"""Short, since the real game says what each key should do only for as long as both players stand about alike."""


def onset(subject: Subject) -> Measures:
    """The share of key changes that show within 1, 2 and 4 frames; changes from stillness and from another key."""
    firsts, groups = [], []
    for room in subject.rooms:
        for before, after in _changes(subject.config.action_size, room):
            first = _first_obeyed(subject, room, before, after)
            if first is not None:
                firsts.append(first)
                groups.append(room)
    firsts = np.array(firsts)
    names = {"onset_first_frame_share": 1, "onset_two_frames_share": 2, "onset_four_frames_share": 4}
    return {name: measure(firsts <= frames, groups) for name, frames in names.items()}


def _changes(keys: int, seed: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Pairs of actions: every key from stillness, and some keys exchanged for others."""
    random, one = np.random.default_rng(seed), np.eye(keys, dtype=np.int8)
    pairs = [(np.zeros(keys, np.int8), key) for key in one]
    swaps = [random.choice(keys, 2, replace=False) for _ in range(CHANGES - keys)]
    return pairs + [(one[a], one[b]) for a, b in swaps]


def _first_obeyed(subject: Subject, room: int, before: np.ndarray, after: np.ndarray, lead: int = 10) -> float | None:
    """Frames from a key change to the first that shows it, infinite if none of AFTER does; None where the real game
    shows nothing either (a wall is in the way)."""
    held, changed = np.tile(before, (lead + AFTER, 1)), np.tile(after, (AFTER, 1))
    real_without = subject.play_real(room, held)[-AFTER:]
    real = subject.play_real(room, np.concatenate([held[:lead], changed]))[-AFTER:]
    subject.meet(room)
    subject.play_neural(held[:lead])
    instant = subject.neural.get_state()
    made_without = subject.play_neural(held[lead:])
    subject.neural.set_state(instant)
    made = subject.play_neural(changed)
    if np.array_equal(real, real_without):
        return None
    good = obeyed(made, made_without, real, real_without)
    return float(np.argmax(good) + 1) if good.any() else np.inf


@dataclass(frozen=True, eq=False)
class Segment:
    """The same keys in both games: real and made uint8 [T, H, W, 3].

    had and clear, bool [T, k]: which keys had an effect in the real game, and which can be told (``effects.py``).
    """

    room: int
    real: np.ndarray
    made: np.ndarray
    had: np.ndarray
    clear: np.ndarray


def segments(subject: Subject) -> list[Segment]:
    """Scripted walks from the start of each room, made once and kept with the subject, as its long walks are."""
    kept = vars(subject)
    if "segments" not in kept:
        parts = list(itertools.product(subject.rooms, range(SEGMENTS)))
        kept["segments"] = [_segment(subject, room, part) for room, part in subject.watch(parts, "holding it to keys")]
    return kept["segments"]


def _segment(subject: Subject, room: int, part: int) -> Segment:
    random = np.random.default_rng((subject.suite.seed, room, part))
    keys = scripted_keys(random, SEGMENT_SECONDS * subject.config.world.fps, subject.config.action_size)
    subject.meet(room)
    real, had, clear = play(subject.real, keys)
    return Segment(room, real, subject.play_neural(keys), had, clear)


def control(subject: Subject) -> Measures:
    """Precision, recall and F1 of each key, read from generated video by a model that saw the real game alone.

    A key is to be seen where it had an *effect* in the real game under the same keys (``effects.py``). Presses would be
    the wrong thing to ask for: walking into a wall, jumping in mid-air and holding the light switch down leave no trace
    in any picture, so a reader of presses could not be right about them and a perfect game would score badly.

    Baselines: the same walks of the real game, of the real game through the autoencoder, and of a picture that stands
    still. ``control_f1_by_chance`` judges the generated walks by the keys of other walks: what lively video scores that
    obeys nothing.
    """
    runtime, walks = subject.neural.runtime, segments(subject)
    found = _named("", _tallies(subject, [walk.made for walk in walks]), subject)
    for look, videos in {
        "real": (walk.real for walk in walks),
        "floor": (runtime.decode(runtime.encode(walk.real)) for walk in walks),
        "copy_last": (walk.made[:1].repeat(len(walk.made), 0) for walk in walks),
    }.items():
        found |= _named(f"@{look}", _tallies(subject, videos), subject)
    others = _tallies(subject, [walk.made for walk in walks[1:] + walks[:1]])
    return found | {"control_f1_by_chance": tallied(others, f1)[-1]}


def _tallies(subject: Subject, videos: Iterable[np.ndarray]) -> np.ndarray:
    """Hits, false alarms and misses of one video for each segment, summed by room: [rooms, 3, k]."""
    rooms = {room: np.zeros((3, subject.config.action_size), int) for room in subject.rooms}
    for walk, video in zip(segments(subject), videos, strict=True):
        rooms[walk.room] += tally(_seen(subject, video), walk.had[2:], walk.clear[2:])
    return np.stack(list(rooms.values()))


def _seen(subject: Subject, video: np.ndarray) -> np.ndarray:
    """bool [T - 2, k]: the keys that the reader finds in frames [T, H, W, 3], from the third on."""
    return subject.inverse.keys_seen(video) >= subject.inverse.thresholds


def _named(suffix: str, tallies: np.ndarray, subject: Subject) -> Measures:
    """The measures of all keys that had an effect, and their mean."""
    found = {}
    for name, number in {"f1": f1, "precision": precision, "recall": recall}.items():
        *each, mean = tallied(tallies, number)
        found[f"control_{name}{suffix}"] = mean
        keys = zip(subject.config.world.keys, each, strict=True)
        found |= {f"control_{name}.{key}{suffix}": one for key, one in keys if one.n}
    return found


def confusion(subject: Subject) -> np.ndarray:
    """What was seen in generated frames where at most one key acted: counts [k + 1, k + 2].

    Rows: the key that acted alone, and last none. Columns: how often each key was seen, then none of them, and last the
    number of such frames; several keys may be seen in one frame.
    """
    count = subject.config.action_size
    table = np.zeros((count + 1, count + 2), int)
    for walk in segments(subject):
        seen, had, clear = _seen(subject, walk.made), walk.had[2:], walk.clear[2:]
        row = np.where(had.any(1), had.argmax(1), count)
        fit = clear.all(1) & (had.sum(1) <= 1)
        columns = np.concatenate([seen, ~seen.any(1, keepdims=True), np.ones((len(seen), 1), bool)], 1)
        np.add.at(table, row[fit], columns[fit].astype(int))
    return table
