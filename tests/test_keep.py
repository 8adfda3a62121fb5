"""The keep: its rules, its pictures and its rooms, on what a player could notice."""

from itertools import pairwise

import gymnasium
import numpy as np
import pytest

from game.actions import KEEP_KEYS, to_action
from game.register import register_worlds
from game.worlds.bots import make_bot
from game.worlds.keep import CRAWL, EDGE, FIELDS, NIGHT_GAIN, NIGHT_OFFSET, Keep
from game.worlds.keep_rooms import make_keep

register_worlds()
NOTHING = np.zeros(len(KEEP_KEYS), np.int8)
W, A, S, D = range(4)


def keep(seed: int = 0) -> Keep:
    game = gymnasium.make("rollplay/Keep-v0", disable_env_checker=True).unwrapped
    game.reset(seed=seed)
    return game


def press(game: Keep, *keys: str, ticks: int = 1) -> tuple[np.ndarray, dict]:
    for _ in range(ticks):
        frame, _, _, _, info = game.step(to_action(keys, KEEP_KEYS))
    return frame, info


def placed(game: Keep, **fields: int) -> Keep:
    """The same game with some of its state set by name."""
    state = game.get_state()
    for name, value in fields.items():
        state["state"][FIELDS.index(name)] = value
    game.set_state(state)
    return game


def walk(bot: str, seed: int, ticks: int):
    """(frame, info, action) of every tick of a bot's walk."""
    game = keep(seed)
    player, (frame, info) = make_bot(bot, seed, KEEP_KEYS), game.reset(seed=seed)
    for _ in range(ticks):
        action = player.act(frame, info)
        frame, _, _, _, info = game.step(action)
        yield frame, info, action


def test_everything_follows_from_seed_and_keys():
    one, two = (list(walk("mix", 7, 300)) for _ in range(2))
    assert all(np.array_equal(a[0], b[0]) for a, b in zip(one, two, strict=True))
    other = list(walk("mix", 8, 3))
    assert not np.array_equal(one[0][0], other[0][0])


def test_walls_stop_hero_and_slime():
    for frame, info, _ in walk("masher", 1, 3000):
        for name in ("hero", "slime"):
            x, y, _, _ = info["sprites"].get(name, (0, 0, 0, 0))
            if name in info["sprites"]:
                corners = info["solid"][np.ix_([y // 8, (y + 7) // 8], [x // 8, (x + 7) // 8])]
                assert not corners.any()
        assert frame.shape == (64, 64, 3)


def test_a_doorway_leads_to_the_neighbour_at_the_other_edge():
    game = keep(0)
    solid = game._map.solid
    for room, key, axis, next_room in ((0, "d", 1, 1), (1, "a", 1, 0), (0, "s", 0, 2), (3, "w", 0, 1)):
        edge = 7 if key in "ds" else 0
        lane = int(np.flatnonzero(~(solid[room][:, edge] if axis else solid[room][edge]))[0]) * 8
        start = EDGE if key in "ds" else 0
        x, y = (start, lane) if axis else (lane, start)
        _, info = press(placed(game, room=room, x=x, y=y), key)
        across = EDGE - start
        assert info["room"] == next_room
        assert info["position"] == ((across, lane) if axis else (lane, across))
        assert info["slime"][2] and abs(info["slime"][0] - game._map.burrows[next_room, 0]) <= CRAWL


def test_every_keep_can_be_walked():
    """From the spawn to every room, for many seeds, by tiles; rooms differ in colour."""
    for pictures, solid, spawn, _ in map(make_keep, range(150)):
        whole = np.block([[solid[0], solid[1]], [solid[2], solid[3]]])
        reached, todo = {(spawn[1] // 8, spawn[0] // 8)}, [(spawn[1] // 8, spawn[0] // 8)]
        for row, column in todo:
            for near in ((row + 1, column), (row - 1, column), (row, column + 1), (row, column - 1)):
                if near not in reached and min(near) >= 0 and max(near) < 16 and not whole[near]:
                    reached.add(near)
                    todo.append(near)
        assert all(any((r // 8) * 2 + c // 8 == room for r, c in reached) for room in range(4))
        means = pictures.reshape(4, -1, 3).mean(1)
        assert min(np.abs(means[i] - means[j]).sum() for i in range(4) for j in range(i)) > 8


def test_the_map_is_the_frame_without_its_sprites():
    game = keep(2)
    frame, info = press(game, "d", ticks=3)
    empty = np.ones((64, 64), bool)
    for x, y, width, height in info["sprites"].values():
        empty[y : y + height, x : x + width] = False
    assert np.array_equal(frame[empty], game.anchors()[0][empty])
    assert not np.array_equal(frame[~empty], game.anchors()[0][~empty])


def test_lights_switch_when_e_goes_down_and_the_dark_is_a_map_of_colours():
    game = keep(3)
    lit = game.render()
    dark, info = press(game, "e")
    assert not info["lights"]
    press(game, "e", ticks=5)
    assert not press(game)[1]["lights"]
    assert press(game, "e")[1]["lights"]
    still = np.abs(dark - np.round(lit * NIGHT_GAIN + NIGHT_OFFSET)).max(-1) == 0
    assert still.mean() > 0.98  # all but where the slime crawled on


def test_a_spark_flies_and_ends_a_slime_until_the_room_is_entered_again():
    game = placed(keep(0), slime_x=40, slime_y=24, x=16, y=24, facing=3)
    _, info = press(game, "space")
    assert info["spark"][2] and info["spark"][0] > 16
    positions = []
    while info["spark"][2]:
        positions.append(info["spark"][0])
        _, info = press(game)
    assert set(np.diff(positions)) == {4}
    assert not info["slime"][2]
    assert not press(game, ticks=50)[1]["slime"][2]


def test_a_spark_stays_in_the_hand_while_space_is_held():
    game = placed(keep(0), slime_x=8, slime_y=48, x=16, y=24)
    for _ in range(4):
        _, info = press(game, "d", "space")
        assert info["spark"] == (info["position"][0] + 8, info["position"][1], True)
    assert press(game, "d")[1]["spark"][0] == info["spark"][0] + 4


def test_a_doorway_takes_the_whole_tick():
    flips = 0
    for before, now, action in (
        (a[1], b[1], b[2]) for seed in range(6) for a, b in pairwise(walk("meddler", seed, 300))
    ):
        if before["room"] != now["room"] and action.sum() > 1:
            assert now["lights"] == before["lights"] and now["slime"][2] and not now["spark"][2]
            assert now["facing"] == before["facing"]
            assert sum(a == b for a, b in zip(before["position"], now["position"], strict=True)) == 1
            flips += 1
    assert flips > 10


def test_hero_and_slime_stop_each_other_and_may_part_where_they_touch():
    beside = {"y": 24, "slime_y": 24, "slime_turn": 1}
    towards = beside | {"slime_turn": -1}
    _, info = press(placed(keep(0), x=24, slime_x=36, **towards), "d", ticks=2)
    assert (info["position"][0], info["slime"][0]) == (26, 34)
    _, info = press(placed(keep(0), x=32, slime_x=24, **beside))
    assert info["slime"][0] == 24
    assert press(placed(keep(0), x=32, slime_x=24, **beside), ticks=2)[1]["slime"][0] == 22  # turned round at him
    _, info = press(placed(keep(0), x=28, slime_x=24, **beside), "d")
    assert info["position"][0] == 30
    _, info = press(placed(keep(0), x=24, slime_x=34, slime_alive=0, **beside), "d", ticks=3)
    assert info["position"][0] == 30


def test_hero_and_slime_never_come_to_touch():
    """But into a room whose slime is at the door; then they touch already."""
    apart, room, frames = True, 0, 0
    for seed in range(4):
        for _, info, _ in walk("mix", seed, 500):
            (x, y), (sx, sy, alive) = info["position"], info["slime"]
            touch = alive and abs(x - sx) < 8 and abs(y - sy) < 8
            assert not (touch and apart and info["room"] == room)
            apart, room, frames = not touch, info["room"], frames + 1
        apart = False  # the next keep's first tick
    assert frames == 2000


def test_a_state_continues_exactly_and_a_wrong_one_is_refused():
    game = keep(5)
    press(game, "d", "s", "space", ticks=9)
    saved = game.get_state()
    moves = np.random.default_rng(1).integers(0, 2, (80, len(KEEP_KEYS)))
    first = [game.step(move)[0] for move in moves]
    other = Keep()
    other.set_state(saved)
    assert all(np.array_equal(a, other.step(move)[0]) for a, move in zip(first, moves, strict=True))
    for damage in ({"seed": np.array(-1)}, {"seed": np.array(2**63, np.uint64)},
                   {"state": saved["state"][:3]}, {"state": saved["state"] * np.nan},
                   {"state": np.where(np.arange(14) == 1, 999, saved["state"])}):  # fmt: skip
        with pytest.raises(ValueError, match="keep's"):
            other.set_state(saved | damage)
    with pytest.raises(ValueError, match="seed and state"):
        other.set_state({"seed": saved["seed"]})


@pytest.mark.parametrize("action", [[0.5] * 6, [np.nan] * 6, [256] * 6, [-1] * 6, [0] * 5])
def test_an_action_that_is_none_is_refused(action):
    with pytest.raises(ValueError, match="one bit|0 or 1"):
        keep().step(np.array(action))


def test_another_size_is_refused():
    with pytest.raises(ValueError, match="64x64"):
        Keep(height=128, width=128)


def test_the_meddler_passes_doorways_with_any_keys_held():
    def slanting(bot: str) -> int:
        steps = [step for seed in range(6) for step in pairwise(walk(bot, seed, 300))]
        flips = [action for (_, before, _), (_, now, action) in steps if before["room"] != now["room"]]
        return sum(bool(action[[W, S]].any() and action[[A, D]].any()) for action in flips)

    assert slanting("meddler") >= 10 > slanting("doorseeker")


def test_the_doorseeker_changes_rooms_and_the_hunter_hits():
    rooms = [info["room"] for seed in range(6) for _, info, _ in walk("doorseeker", seed, 300)]
    assert np.count_nonzero(np.diff(rooms)) > 6 * 300 / 120
    alive = [info["slime"][2] for seed in range(6) for _, info, _ in walk("hunter", seed, 300)]
    assert np.count_nonzero(np.diff(np.array(alive, int)) < 0) >= 3
