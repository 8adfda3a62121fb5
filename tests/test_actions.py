import numpy as np
import pytest

from game.actions import to_action


def test_bits_follow_the_order_of_the_worlds_keys():
    assert to_action(["left", "w"]).tolist() == [1, 0, 0, 0, 1, 0, 0, 0]
    assert to_action(["b"], keys=("a", "b")).tolist() == [0, 1]
    assert to_action([]).dtype == np.int8 and not to_action([]).any()


def test_a_key_that_a_world_has_not_is_named():
    with pytest.raises(ValueError, match="'q' is not one of this world's keys"):
        to_action(["q"])
