"""The wild keep: chance in it, points, hearts and ends, and that a recording goes on through an end."""

from zlib import crc32

import gymnasium
import numpy as np
import pytest

import play
from game.actions import KEEP_KEYS, to_action
from game.register import register_worlds
from game.worlds import keep, wild_keep
from game.worlds.bots import make_bot
from game.worlds.wild_keep import FIELDS, SPARED, WildKeep
from world_model.episode import Session, find_sessions

register_worlds()
NOTHING = np.zeros(len(KEEP_KEYS), np.int8)
TAME = 948426366  # of the tame keep, from before there was a wild one


def wild(seed: int = 0) -> WildKeep:
    game = gymnasium.make("rollplay/WildKeep-v0", disable_env_checker=True).unwrapped
    game.reset(seed=seed)
    return game


def placed(game: WildKeep, **fields: int) -> WildKeep:
    """The same game with some of its state set by name."""
    state = game.get_state()
    for name, value in fields.items():
        part, names = ("wild", FIELDS) if name in FIELDS else ("state", keep.FIELDS)
        state[part][names.index(name)] = value
    game.set_state(state)
    return game


def played(game: gymnasium.Env, seed: int, ticks: int, bot: str = "mix"):
    """(frame, reward, terminated, truncated, info) of every tick of a bot's walk."""
    player, (frame, info) = make_bot(bot, seed, KEEP_KEYS), game.reset(seed=seed)
    for _ in range(ticks):
        told = frame, *_, info = game.step(player.act(frame, info))
        yield told


def test_everything_follows_from_seed_and_keys_and_the_keep_is_as_it_was():
    one, two = ([(crc32(frame), reward) for frame, reward, *_ in played(wild(), 7, 400)] for _ in range(2))
    assert one == two != [(crc32(frame), reward) for frame, reward, *_ in played(wild(), 8, 400)]
    tame = gymnasium.make("rollplay/Keep-v0", disable_env_checker=True)
    assert crc32(np.stack([frame for frame, *_ in played(tame, 7, 300)])) == TAME


def test_the_score_is_the_sum_of_the_episodes_rewards():
    game, score, ends = WildKeep(), 0, 0
    for _, reward, ended, *_ in played(game, 5, 1500):
        score += reward
        assert game.score == score
        score, ends = score * (not ended), ends + ended
    assert ends


def test_a_state_continues_exactly_and_otherwise_under_other_dice():
    game, other = wild(5), WildKeep()
    list(played(game, 5, 90))
    saved, moves = placed(game, hearts=1).get_state(), np.random.default_rng(1).integers(0, 2, (300, len(KEEP_KEYS)))
    moves[:200, KEEP_KEYS.index("space")] = 0  # else no bat lives long enough to end it

    def onward(player: WildKeep, state: dict) -> list:
        player.set_state(state)
        return [(crc32(player.render()), *player.step(move)[1:3]) for move in moves]

    first = onward(game, saved)
    assert any(ended for *_, ended in first) and first == onward(other, saved)
    assert onward(other, saved | {"dice": saved["dice"] ^ np.uint64(1)}) != first
    for damage in ({"wild": saved["wild"][:3]}, {"wild": saved["wild"] + 99}, {"dice": np.array(-1)},
                   {"dice": np.array(0.5)}, {"state": saved["state"] + 99}, {"seed": np.array(-1)}):  # fmt: skip
        with pytest.raises(ValueError, match="keep's"):
            other.set_state(saved | damage)
    with pytest.raises(ValueError, match="seed, state, wild and dice"):
        other.set_state({name: saved[name] for name in ("seed", "state")})


def chances(game: WildKeep, ticks: int):
    """(odds, whether it happened) of every chance in so many ticks of nobody's play that can be told from outside."""
    for _ in range(ticks):
        a, told = game.get_state(), game.step(NOTHING)[4]
        b = game.get_state()
        old, new = (dict(zip(FIELDS, s["wild"].tolist(), strict=True)) for s in (a, b))
        row, after = (dict(zip(keep.FIELDS, s["state"].tolist(), strict=True)) for s in (a, b))
        if not old["hearts"]:
            continue
        for i in range(1, len(told["torches"]) + 1):
            yield "FLICKER", old[f"torch_{i}"] != new[f"torch_{i}"]
        if all(2 <= old[axis] <= keep.EDGE - 2 for axis in ("bat_x", "bat_y")):
            yield "FLUTTER", old["bat_way"] != new["bat_way"]
        coins = [[tuple(s[f"coin_{i}_{of}"] for of in ("x", "y", "alive")) for i in (1, 2)] for s in (old, new)]
        if not any(alive for *_, alive in coins[0]):
            yield "COIN", any(alive for *_, alive in coins[1])
        for before, now in zip(*coins, strict=True):
            if before[2] and np.abs(np.subtract(before[:2], told["position"])).max() >= 6:
                yield "FADE", before != now
        column, line = row["slime_x"] // 8, told["solid"][row["slime_y"] // 8]
        apart = abs(row["slime_y"] - row["y"]) >= 8
        if row["slime_x"] % 8 == 0 and 0 < column < 7 and not line[column - 1 : column + 2].any() and apart:
            yield "TURN", row["slime_turn"] != after["slime_turn"]


def test_what_happens_by_chance_happens_as_often_as_its_odds_say():
    seen: dict[str, list[bool]] = {}
    for seed in range(4):
        for name, happened in chances(wild(seed), 2000):
            seen.setdefault(name, []).append(happened)
    assert set(seen) == {"FLICKER", "FLUTTER", "COIN", "FADE", "TURN"}
    for name, happened in seen.items():
        odds, count = getattr(wild_keep, name), len(happened)
        assert count > 300 and abs(sum(happened) - odds * count) < 4 * np.sqrt(odds * (1 - odds) * count), name


def test_coin_slime_and_bat_give_points_and_a_touch_costs_a_heart_once_in_a_while():
    calm = {"bat_alive": 0, "slime_alive": 0}
    _, reward, _, _, info = placed(wild(), coin_1_x=24, coin_1_y=24, coin_1_alive=1, points=9, **calm).step(NOTHING)
    assert (reward, info["points"], info["sprites"]["points"][2]) == (1, 10, 9) and "coin_1" not in info["sprites"]
    ahead = {"x": 8, "facing": keep.RIGHT, "spark_x": 28, "spark_y": 24, "spark_facing": keep.RIGHT, "spark_alive": 1}
    for name in ("bat", "slime"):
        target = {f"{name}_x": 32, f"{name}_y": 24, f"{name}_alive": 1}
        _, reward, _, _, info = placed(wild(), **calm | ahead | target).step(NOTHING)
        assert (reward, info["points"], info[name][2], info["spark"][2]) == (1, 1, False, False)
    beside = calm | {"slime_alive": 1, "slime_x": 32, "slime_y": 24, "slime_turn": -1}
    for touched in (beside, calm | {"bat_alive": 1, "bat_x": 24, "bat_y": 24}):
        _, reward, ended, _, info = placed(wild(), **touched).step(NOTHING)
        assert (reward, ended, info["hearts"], info["hurt"]) == (-1, False, 2, SPARED)
    game = placed(wild(), **beside | {"hurt": SPARED})
    shown = [(game.step(NOTHING)[1], game.render()) for _ in range(SPARED - 1) if placed(game, **beside)]
    assert {reward for reward, _ in shown} == {0.0}
    heroes = {frame[24:32, 24:32].tobytes() for _, frame in shown}
    assert len(heroes) == 2 and game.anchors()[0, 24:32, 24:32].tobytes() in heroes  # he blinks


def test_the_last_heart_ends_it_and_the_next_tick_begins_another_course_in_the_same_keep():
    game = wild(3)
    anchors, courses = game.anchors(), []
    for _ in range(2):
        _, reward, ended, _, info = placed(game, hearts=1, hurt=0, points=7, bat_x=24, bat_y=24).step(NOTHING)
        assert (reward, ended, info["hearts"]) == (-1, True, 0)
        frame, reward, ended, _, info = game.step(to_action(["d", "e"], KEEP_KEYS))
        told = [info[name] for name in ("room", "position", "points", "hearts", "hurt", "lights")]
        assert (reward, ended, told) == (0, False, [0, (24, 24), 0, 3, 0, True])
        assert np.array_equal(game.anchors(), anchors)
        empty = np.ones((64, 64), bool)
        for x, y, width, height in info["sprites"].values():
            empty[y : y + height, x : x + width] = False
        assert np.array_equal(frame[empty], anchors[0][empty]) and not np.array_equal(frame, anchors[0])
        courses.append([crc32(game.step(NOTHING)[0]) for _ in range(20)])
    assert courses[0] != courses[1]


def test_everything_stands_on_whole_cells_within_the_frame_and_coins_where_one_can_walk():
    for seed in range(3):
        for *_, info in played(wild(seed), seed, 500):
            boxes = np.array(list(info["sprites"].values()))
            assert not (boxes[:, :2] % 2).any()
            for x, y in info["coins"]:
                assert not info["solid"][y // 8, x // 8]
            for x, y in info["torches"]:
                assert info["solid"][y // 8, x // 8]
            assert 0 <= min(info["bat"][:2]) <= max(info["bat"][:2]) <= keep.EDGE


@pytest.mark.parametrize("how", [["--sessions", "1"], ["--fps", "0"]])
def test_a_recording_goes_on_through_an_end_and_verifies(tmp_path, how):
    flags = ["--engine", "--world", "wild", "--bot", "hunter", "--headless", "--frames", "500", "--record", tmp_path]
    for arguments in ([*flags, *how], ["--replay", None, "--verify"]):
        sessions = find_sessions(tmp_path) if arguments[1] is None else [None]
        words = [str(sessions[0] if word is None else word) for word in arguments]
        assert play._play(play.parser().parse_args(words)) == 0
    session = Session.open(*find_sessions(tmp_path))
    ends = np.flatnonzero(session.terminated)
    assert len(session) >= 500 and not session.damage and len(ends) and ends[0] < 490
    assert set(session.rewards) >= {-1, 0, 1} and not session.rewards[ends + 1].any()
