from itertools import combinations

import numpy as np
import pytest

from game.actions import ARENA_KEYS, KEEP_KEYS
from game.worlds.arena import Arena
from game.worlds.bots import BOTS, GENERIC_MIX, MIXES, NAMES, knows, make_bot


def blind(name, seed, ticks, keys=ARENA_KEYS):
    """Actions [ticks, keys] of a bot that sees no info, as in a neural game."""
    bot = make_bot(name, seed, keys)
    return np.array([bot.act(None, {}) for _ in range(ticks)])


def seeing(name, seed, ticks):
    """Actions and poses of a bot that plays the arena."""
    env, bot = Arena(16, 16), make_bot(name, seed)
    frame, info = env.reset(seed=seed)
    actions, poses = [], []
    for _ in range(ticks):
        actions.append(bot.act(frame, info))
        frame, _, _, _, info = env.step(actions[-1])
        poses.append(info["pose"])
    return np.array(actions), np.array(poses), info["landmarks"]


def runs(flags):
    """Lengths of the runs of True."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], flags.astype(int), [0]])))
    return edges[1::2] - edges[::2]


def presses(column):
    return int((np.diff(np.concatenate([[0], column])) > 0).sum())


@pytest.mark.parametrize("name", NAMES)
def test_a_bot_follows_from_its_seed_and_gives_clean_actions(name):
    actions = blind(name, 3, 400)
    assert actions.dtype == np.int8 and actions.shape == (400, 8) and set(np.unique(actions)) <= {0, 1}
    assert (blind(name, 3, 400) == actions).all()
    assert name == "nobody" or any((blind(name, seed, 400) != actions).any() for seed in (4, 5))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("keys", [("left", "right"), ("jump", "w"), ("fire",)])
def test_a_bot_presses_only_the_keys_that_a_world_has(name, keys):
    assert blind(name, 0, 200, keys).shape == (200, len(keys))


def test_an_unknown_bot_is_named_with_the_known_ones():
    with pytest.raises(ValueError, match="'dancer'.*explorer.*mix"):
        make_bot("dancer", 0)


def test_a_bot_of_ones_own_is_a_class_in_a_file(tmp_path):
    own = tmp_path / "own.py"
    own.write_text("from game.worlds.bots import Bot\nclass Me(Bot):\n  def plan(self): return self.keys[:1], 9\n")
    assert blind(f"{own}:Me", 0, 20, ("fire", "duck")).tolist() == [[1, 0]] * 20 and knows(f"{own}:Me", ("x",))


def test_the_mix_covers_every_key_alone_and_in_pairs_and_long_stillness():
    sessions = [blind("mix", seed, 400) for seed in range(60)]
    held = {tuple(np.flatnonzero(action)) for actions in sessions for action in actions}
    for key in range(8):
        assert (key,) in held, ARENA_KEYS[key]
    for pair in combinations(range(8), 2):
        assert pair in held, [ARENA_KEYS[key] for key in pair]
    still = np.concatenate([runs(~actions.any(1)) for actions in sessions])
    assert (still >= 60).sum() >= 5  # three seconds and more
    everything = np.concatenate(sessions)
    assert 0.1 < (~everything.any(1)).mean() < 0.35
    both = everything[:, :4].any(1) & everything[:, 4:6].any(1)
    assert both.mean() > 0.15  # turning while moving


def test_the_mix_plays_every_bot_where_it_knows_the_keys():
    mixes = MIXES | {("jump", "left", "fire"): GENERIC_MIX}
    drawn = [{type(make_bot("mix", seed, keys)) for seed in range(60)} for keys in mixes]
    assert drawn == [{BOTS[name] for name in mix} for mix in mixes.values()]
    assert set().union(*drawn) == set(BOTS.values()) - {BOTS["nobody"]}


def test_the_mix_presses_whatever_keys_a_world_has_alone_and_in_pairs():
    keys = ("up", "down", "fire", "jump", "duck")
    sessions = [blind("mix", seed, 300, keys) for seed in range(20)]
    held = {tuple(np.flatnonzero(action)) for actions in sessions for action in actions}
    assert held >= {(), *combinations(range(5), 1), *combinations(range(5), 2)}
    assert all(actions.any() for actions in sessions) and np.concatenate(sessions).any(1).mean() > 0.5
    same = (np.diff(np.concatenate(sessions), axis=0) == 0).all(1)
    assert 0.7 < same.mean() < 0.95  # held on, and changed
    assert not knows("explorer", keys) and knows("mix", keys) and knows("explorer", ("w", "fire"))


def test_nobody_presses_nothing():
    assert not blind("nobody", 0, 1000).any() and not blind("nobody", 0, 100, KEEP_KEYS).any()


@pytest.mark.parametrize("name", ["explorer", "tourist", "masher"])
def test_the_lights_are_switched_now_and_then(name):
    ticks = 6000
    switched = presses(blind(name, 0, ticks)[:, ARENA_KEYS.index("e")])
    assert ticks / 400 < switched < ticks / 20  # between every second and every 20 seconds


def test_the_dawdler_is_still_for_long_and_moves_a_little():
    still = ~blind("dawdler", 0, 4000).any(1)
    assert 0.8 < still.mean() < 0.995
    assert runs(still).max() >= 100


def test_the_masher_taps_for_single_ticks():
    actions = blind("masher", 0, 2000)
    taps = np.concatenate([runs(actions[:, key] > 0) for key in range(8)])
    assert (taps == 1).mean() > 0.5
    assert (np.diff(actions, axis=0) != 0).any(1).mean() > 0.5


def test_the_spinner_closes_circles():
    actions, poses, _ = seeing("spinner", 0, 2000)
    turning = np.concatenate([runs(actions[:, key] > 0) for key in (4, 5)])
    assert (turning == 80).sum() >= 2


def test_the_tourist_visits_landmarks_and_wanders_without_a_map():
    visited = 0
    for seed in range(4):
        _, poses, landmarks = seeing("tourist", seed, 1000)
        gap = np.linalg.norm(poses[:, None, :2] - landmarks[None, :, :2], axis=-1) - landmarks[:, 2]
        visited += (gap.min(0) < 1.4).sum()
        assert (gap.min(0) < 1.4).sum() >= 2
    assert visited >= 10
    assert blind("tourist", 0, 500)[:, 0].mean() > 0.1
