import numpy as np
import pytest

from game.actions import ARENA_KEYS, describe, pressed_keys, to_action


def test_every_subset_of_keys_survives_the_round_trip():
    for bits in range(2 ** len(ARENA_KEYS)):
        names = tuple(key for i, key in enumerate(ARENA_KEYS) if bits >> i & 1)
        action = to_action(names)
        assert action.dtype == np.int8
        assert pressed_keys(action) == names
        assert describe(action) == ("+".join(names) or "-")


def test_bits_follow_the_order_of_the_worlds_keys():
    assert to_action(["left", "w"]).tolist() == [1, 0, 0, 0, 1, 0, 0, 0]
    assert to_action(["b"], keys=("a", "b")).tolist() == [0, 1]


def test_wrong_names_and_shapes_are_named():
    with pytest.raises(ValueError, match="'q' is not one of this world's keys"):
        to_action(["q"])
    with pytest.raises(ValueError, match=r"shape \(3,\)"):
        pressed_keys(np.zeros(3))
