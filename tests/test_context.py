import numpy as np
import pytest

from world_model.model import context
from world_model.model.context import SINK


def attended(layout, query: int, per_block: int = 1) -> list[int]:
    """Key blocks that a query block attends to; all latents of a block must attend to the same."""
    rows = layout.mask[query * per_block : (query + 1) * per_block]
    columns = rows.reshape(per_block, -1, per_block)
    assert (columns == columns[:1, :, :1]).all()
    return [int(index) for index in np.flatnonzero(columns[0, :, 0])]


def test_teacher_looks_both_ways_and_sinks_only_at_sinks():
    layout = context.clip(2, 3)
    assert layout.cached == 0
    assert [attended(layout, query) for query in range(5)] == [[0, 1], [0, 1]] + [[0, 1, 2, 3, 4]] * 3
    assert layout.times.tolist() == [SINK, SINK, 0, 1, 2]


@pytest.mark.parametrize("per_block", [1, 3])
def test_a_clean_block_looks_back_as_far_as_the_ring(per_block):
    layout = context.packed(per_block, 2, 3, 6, (), 0)
    assert attended(layout, 0, per_block) == attended(layout, 1, per_block) == [0, 1]
    assert attended(layout, 2, per_block) == [0, 1, 2]
    assert attended(layout, 7, per_block) == [0, 1, 4, 5, 6, 7]


@pytest.mark.parametrize("per_block", [1, 3])
def test_packed_windows_attend_to_their_own_past_only(per_block):
    layout = context.packed(per_block, 2, 3, 6, (2, 5), 4)
    first, second = [8, 9, 10, 11], [12, 13, 14, 15]
    for query in first:
        assert attended(layout, query, per_block) == [0, 1, 2, 3, *first]
    for query in second:
        assert attended(layout, query, per_block) == [0, 1, 3, 4, 5, 6, *second]
    times = layout.times.reshape(-1, per_block)[:, 0]
    assert times[first].tolist() == [block * per_block for block in (2, 3, 4, 5)]


@pytest.mark.parametrize("per_block", [1, 3])
def test_tick_shows_the_clean_block_everything_but_the_window(per_block):
    sinks, recent, window = 2, 3, 4
    layout = context.tick(per_block, sinks, recent, window)
    assert layout.cached == (sinks + recent) * per_block
    assert attended(layout, 0, per_block) == [0, 1, 2, 3, 4, 5]
    for query in range(1, 1 + window):
        assert attended(layout, query, per_block) == list(range(10))


def test_tick_and_packed_agree_on_distances():
    """What a window attends to, at which distances, is equal in the layouts of training and play."""
    packed, tick = context.packed(1, 2, 3, 6, (5,), 4), context.tick(1, 2, 3, 4)
    seen = packed.mask[-4:].any(0)
    distance = (packed.times[-4:, None] - packed.key_times[None])[:, seen]
    played = tick.times[-4:, None] - tick.key_times[None]
    is_sink = tick.key_times == SINK
    np.testing.assert_array_equal(packed.key_times[seen] == SINK, is_sink)
    np.testing.assert_array_equal(distance[:, ~is_sink], played[:, ~is_sink])


def test_latents_of_a_block_have_times_of_their_own():
    assert context.tick(3, 1, 1, 1).times.tolist() == [3, 4, 5, 6, 7, 8]
    assert context.tick(3, 1, 1, 1).key_times.tolist() == [SINK] * 3 + list(range(9))
