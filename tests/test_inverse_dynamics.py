"""Keys read from video: what counts as an effect, how well the shipped reader finds it, what it is not fooled by."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from rich.console import Console

from game.worlds.arena import Arena
from world_model import checkpoint
from world_model.checkpoint import CheckpointError
from world_model.config import CONFIGS, WORLDS, load
from world_model.evaluate import control, inverse_dynamics
from world_model.evaluate.effects import choices, choices_of, fewest, play, scripted_keys, told, ways
from world_model.evaluate.inverse_dynamics import FILE
from world_model.evaluate.subject import Subject
from world_model.play.runtime import WorldError
from world_model.training import inverse_dynamics as training
from world_model.training.loop import TrainingError

SHIPPED = WORLDS / "arena" / FILE
KEYS = ("w", "a", "s", "d", "left", "right", "space", "e")
FRESH = 7_000_000
"""Rooms from this seed on: none that the shipped reader was trained on, tuned on, or held to."""


def press(*ticks: str) -> np.ndarray:
    """One row a tick: press("w", "w left", "") -> int8 [3, 8]."""
    return np.array([[key in tick.split() for key in KEYS] for tick in ticks], np.int8)


def acted(arena: Arena, *ticks: str) -> list[set[str]]:
    """The keys that had an effect, of each tick."""
    _, had, _ = play(arena, press(*ticks))
    return [{key for key, acted in zip(KEYS, row, strict=True) if acted} for row in had]


@pytest.fixture
def arena() -> Arena:
    arena = Arena()
    arena.reset(seed=3)
    return arena


@pytest.fixture(scope="module")
def shipped():
    if not SHIPPED.is_file():
        pytest.skip(f"no reader ships yet: python -m world_model.training.inverse_dynamics makes {SHIPPED}")
    return SHIPPED


@pytest.fixture(scope="module")
def reader(shipped) -> inverse_dynamics.InverseDynamics:
    return inverse_dynamics.load(shipped, load(CONFIGS / "arena.yaml"))


# ---------------------------------------------------------------- effects


def test_a_key_that_meets_a_wall_has_no_effect(arena):
    assert acted(arena, "w") == [{"w"}]
    for _ in range(400):
        arena.step(press("w")[0])
    assert acted(arena, "w", "w e", "s", "w") == [set(), {"e"}, {"s"}, {"w"}]


def test_space_acts_at_the_take_off_alone(arena):
    *flight, again = acted(arena, *["space"] * 11)
    assert flight == [{"space"}] + [set()] * 9
    assert again == {"space"}, "a held key jumps again from the ground"


def test_the_light_switch_acts_at_the_press_alone(arena):
    assert acted(arena, "e", "e", "e", "", "e") == [{"e"}, set(), set(), set(), {"e"}]


def test_keys_that_cancel_have_no_effect_and_leave_the_others_theirs(arena):
    assert acted(arena, "w s", "left right", "w d", "s") == [set(), set(), {"w", "d"}, {"s"}]


def test_asking_for_effects_changes_nothing():
    asked, plain = Arena(64, 64), Arena(64, 64)
    asked.reset(seed=1), plain.reset(seed=1)
    keys = scripted_keys(np.random.default_rng(0), 60, len(KEYS))
    frames, had, _ = play(asked, keys)
    assert np.array_equal(frames, np.stack([plain.step(key)[0] for key in keys]))
    assert not had[keys == 0].any(), "a key that is up has no effect"
    assert all(np.array_equal(asked.get_state()[name], value) for name, value in plain.get_state().items())


def test_of_three_keys_two_may_cancel(arena):
    every = choices_of(press("w s d")[0])
    acting = fewest(ways(arena, every, len(every) - 1), every)
    assert acting[-1].tolist() == press("d")[0].astype(bool).tolist()


def test_what_looks_alike_cannot_be_told():
    every = choices(2, 2)  # none, a, b, both
    flat = np.zeros((4, 8, 8, 3), np.uint8)
    apart, alike, faint = flat.copy(), flat.copy(), flat.copy()
    apart[1:] += np.array([50, 100, 150], np.uint8)[:, None, None, None]
    alike[1:] += np.array([50, 51, 150], np.uint8)[:, None, None, None]
    faint[1:] += np.array([1, 100, 101], np.uint8)[:, None, None, None]
    labels = {
        name: told(f, fewest(f, every), 1) for name, f in {"apart": apart, "alike": alike, "faint": faint}.items()
    }
    assert all(had.tolist() == [True, False] for had, _ in labels.values())
    clear = {name: tellable.tolist() for name, (_, tellable) in labels.items()}
    assert clear == {"apart": [True, True], "alike": [False, False], "faint": [False, True]}


def test_choices_run_from_none_to_all():
    chosen = [tuple(np.flatnonzero(keys)) for keys in choices_of(press("a d e")[0])]
    assert chosen == [(), (1,), (3,), (7,), (1, 3), (1, 7), (3, 7), (1, 3, 7)]
    assert choices(8, 2).shape == (37, 8) and len(np.unique(choices(8, 2), axis=0)) == 37


def test_more_keys_than_can_be_told_are_refused(arena):
    with pytest.raises(ValueError, match="at most 2 keys at once"):
        play(arena, press("w", "w a e"))


def test_scripted_keys_hold_and_tap_every_key():
    keys = scripted_keys(np.random.default_rng(0), 4000, 8)
    changes = np.diff(keys, axis=0, prepend=0)
    starts, ends = (changes > 0).sum(0), (changes[1:] < 0).sum(0)
    assert starts.all() and ends.all() and keys.sum(1).max() == 2 and (keys.sum(1) == 0).mean() > 0.1
    assert ((changes[:-1] > 0) & (changes[1:] < 0)).any(0).all(), "no taps"


# ---------------------------------------------------------------- the shipped reader


def test_it_reads_every_key_of_rooms_it_never_saw(reader):
    rooms = training.rooms(FRESH, 12, held_out=True)
    walks = [training.walked(Arena(), room) for room in rooms]
    scores = training.read_f1(reader.network, reader.thresholds, walks, lambda frames: frames)
    assert scores.min() >= 0.98, dict(zip(KEYS, scores.round(3), strict=True))


def test_a_video_run_backwards_does_not_obey(reader):
    arena, opposite = Arena(), {"w": "s", "s": "w", "a": "d", "d": "a", "left": "right", "right": "left"}
    for key, other in opposite.items():
        arena.reset(seed=FRESH)
        frames = np.stack([arena.step(held)[0] for held in press(*[key] * 8)])
        forwards, backwards = (reader.keys_seen(video) >= reader.thresholds for video in (frames, frames[::-1]))
        assert forwards[:, KEYS.index(key)].all() and not backwards[:, KEYS.index(key)].any()
        assert backwards[:, KEYS.index(other)].mean() > 0.8


def test_it_sees_nothing_in_a_picture_that_stands_still(reader):
    frame, _ = Arena().reset(seed=FRESH)
    assert not (reader.keys_seen(frame[None].repeat(5, 0)) >= reader.thresholds).any()


def test_features_tell_pictures_apart_and_fit_the_frames(reader):
    arena = Arena()
    frames = np.stack([arena.reset(seed=seed)[0] for seed in range(5)])
    numbers = reader.features(frames)
    assert numbers.shape == (3, inverse_dynamics.FEATURES) and numbers.dtype == np.float32
    assert np.abs(np.diff(numbers, axis=0)).max() > 0.1


def test_it_is_small_and_says_how_good_it_is(reader):
    assert SHIPPED.stat().st_size < 3_000_000
    assert {"data", "steps", "f1_real", "f1_autoencoded"} <= set(reader.about)


@pytest.mark.parametrize("frames", [np.zeros((2, 128, 128, 3), np.uint8), np.zeros((4, 64, 64, 3), np.uint8)])
def test_frames_it_cannot_read_are_refused(reader, frames):
    with pytest.raises(ValueError, match=r"reads uint8 \[n, 128, 128, 3\] with n at least 3"):
        reader.keys_seen(frames)


# ---------------------------------------------------------------- files


def test_another_worlds_reader_is_refused(shipped, tiny):
    with pytest.raises(WorldError, match=r"reads the video of another world.*Train one: python -m"):
        inverse_dynamics.load(SHIPPED, tiny)


def test_files_that_hold_no_reader_are_refused(shipped, tmp_path):
    with pytest.raises(CheckpointError, match="no such weights"):
        inverse_dynamics.load(tmp_path / FILE)
    with pytest.raises(CheckpointError, match="holds no 'inverse_dynamics' weights"):
        inverse_dynamics.load(WORLDS / "arena" / checkpoint.WEIGHTS)
    config, about = checkpoint.describe(SHIPPED)
    some = dict(list(checkpoint.tensors(SHIPPED, inverse_dynamics.PREFIX).items())[:3])
    checkpoint.save(tmp_path / FILE, {f"inverse_dynamics.{k}": v for k, v in some.items()}, config, about)
    with pytest.raises(CheckpointError, match="another version"):
        inverse_dynamics.load(tmp_path / FILE)


def test_a_poor_reader_is_not_written_unless_asked_for(tmp_path, monkeypatch):
    monkeypatch.setattr(training, "CALIBRATION", 1)
    monkeypatch.setattr(training, "HELD_OUT", 1)
    monkeypatch.setattr(training, "PLACES", 4)
    for least in (0.98, 0.0):
        choices = training.Choices(WORLDS / "arena", tmp_path / FILE, 2, 2, least, "float32", 0)
        if least:
            with pytest.raises(TrainingError, match="nothing was written"):
                training.run(choices, Console(quiet=True))
            assert not (tmp_path / FILE).exists()
        else:
            training.run(choices, Console(quiet=True))
    made = inverse_dynamics.load(tmp_path / FILE, load(CONFIGS / "arena.yaml"))
    assert made.thresholds.shape == (8,) and "2 rooms" in made.about["data"]


# ---------------------------------------------------------------- control


class Posing(Arena):
    """The real arena with the verbs of a neural game; deaf, it turns left whatever is pressed."""

    runtime = SimpleNamespace(encode=lambda frames: frames, decode=lambda frames: frames)

    def __init__(self, deaf: bool = False):
        super().__init__()
        self.config, self.deaf = load(CONFIGS / "arena.yaml"), deaf

    def step(self, action):
        return super().step(press("left")[0] if self.deaf else action)


@pytest.fixture(scope="module")
def perfect(reader) -> Subject:
    return Subject(Posing(), Arena(), [0, 1], inverse_dynamics=reader)


def test_a_perfect_game_obeys_like_the_real_one(perfect):
    found = control.control(perfect)
    assert found["control_f1"].value > 0.95
    assert all(found[name] == found[f"{name}@real"] for name in found if "@" not in name and "chance" not in name)
    assert found["control_f1@copy_last"].value == 0
    assert found["control_f1_by_chance"].value < 0.4
    assert {f"control_f1.{key}" for key in KEYS} <= set(found)


def test_confusion_of_a_perfect_game_lies_on_its_diagonal(perfect):
    table = control.confusion(perfect)
    assert table.shape == (9, 10) and table[:, -1].sum() > 200
    assert np.diag(table[:, :9]).sum() > 0.95 * table[:, -1].sum()


def test_a_game_that_moves_but_ignores_its_keys_has_no_control(reader):
    found = control.control(Subject(Posing(deaf=True), Arena(), [0, 1], inverse_dynamics=reader))
    assert found["control_f1"].value < 0.15 < 0.9 < found["control_f1@real"].value
    assert found["control_recall.left"].value > 0.9 and found["control_precision.left"].value < 0.5
