import hashlib
import importlib.metadata
import subprocess
import sys
from pathlib import Path

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from game.actions import ARENA_KEYS, to_action
from game.register import register_worlds
from game.worlds import raycast
from game.worlds import rooms as R
from game.worlds.arena import JUMP_TICKS, Arena, ArenaBatch
from game.worlds.rooms import PLAYER_RADIUS, TURNS, make_rooms

REPOSITORY = Path(__file__).resolve().parents[1]


def walk(env, *keys, ticks=1):
    """Hold keys for some ticks; the last frame and info."""
    for _ in range(ticks):
        frame, reward, terminated, truncated, info = env.step(to_action(keys))
        assert (reward, terminated, truncated) == (0.0, False, False)
    return frame, info


def small(seed=0):
    env = Arena(32, 32)
    frame, info = env.reset(seed=seed)
    return env, frame, info


@pytest.mark.filterwarnings("error::UserWarning")
def test_gymnasium_finds_nothing_wrong():
    register_worlds()
    check_env(gymnasium.make("rollplay/Arena-v0", height=32, width=32).unwrapped)


@pytest.mark.parametrize("key", [0.5, 256, np.nan, -1, 2])
def test_a_key_is_held_or_not(key):
    env, *_ = small()
    with pytest.raises(ValueError, match="0 or 1 for each"):
        env.step(np.full(8, key))


def digest(seed=7, ticks=60):
    """A hash over the frames of a fixed walk at the default size."""
    env, rng = Arena(), np.random.default_rng(5)
    frame, _ = env.reset(seed=seed)
    total = hashlib.sha256(frame.tobytes())
    for _ in range(ticks):
        total.update(env.step(rng.integers(0, 2, 8).astype(np.int8))[0].tobytes())
    return total.hexdigest()


def test_another_process_draws_the_same_bytes():
    code = "import sys; sys.path[:0] = ['.', 'tests']; from test_arena import digest; print(digest())"
    other = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert other.stdout.strip() == digest()
    assert digest(seed=8) != digest()


@pytest.mark.parametrize("names", ["game.register:rollplay/Arena-v0", "rollplay/Arena-v0"])
def test_a_program_that_imports_only_gymnasium_can_make_the_arena(names):
    """By a name that says where it comes from; where Gymnasium loads plugins, the bare one is enough."""
    bare = ":" not in names
    if bare and int(gymnasium.__version__.partition(".")[0]) >= 1:
        pytest.skip("Gymnasium loads no plugins since 1.0")
    if bare and not importlib.metadata.entry_points(group="gymnasium.envs", name="rollplay"):
        pytest.skip("the package is not installed: pip install -e .")
    code = (
        "import sys, gymnasium\n"
        "assert 'numba' not in sys.modules and 'torch' not in sys.modules\n"
        f"env = gymnasium.make('{names}', height=32, width=32)\n"
        "print(env.reset(seed=1)[0].shape, *env.metadata['keys'], env.metadata['render_fps'])\n"
        "assert 'rollplay/NeuralArena-v0' in gymnasium.registry\n"
    )
    # The bare name from another folder, so that only the installed plugin can have brought the ids.
    run = subprocess.run([sys.executable, "-c", code], cwd="/" if bare else REPOSITORY, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert run.stdout.split() == ["(32,", "32,", "3)", *ARENA_KEYS, "20"]


@pytest.mark.parametrize(("height", "width"), [(128, 128), (64, 64), (32, 32), (48, 80)])
def test_anchors_are_quarter_turns_from_the_reset_frame(height, width):
    env = Arena(height, width)
    frame, _ = env.reset(seed=3)
    anchors = env.anchors()
    assert anchors.shape == (4, height, width, 3) and anchors.dtype == np.uint8
    for anchor in anchors:
        assert (anchor == frame).all()
        frame, _ = walk(env, "left", ticks=TURNS // 4)
    assert (frame == anchors[0]).all()


def test_anchors_do_not_follow_the_player_or_the_lights():
    env, _, _ = small()
    before = env.anchors()
    walk(env, "w", "left", "e", ticks=5)
    assert (env.anchors() == before).all()


@pytest.mark.parametrize("key", ["left", "right"])
def test_eighty_turns_close_the_circle(key):
    env, first, _ = small()
    frame, _ = walk(env, key, ticks=TURNS - 1)
    assert (frame != first).any()
    frame, _ = walk(env, key)
    assert (frame == first).all()


def test_left_turns_counter_clockwise_and_w_walks_where_one_looks():
    env, _, info = small()
    start = info["pose"]
    _, info = walk(env, "left")
    assert np.isclose((info["pose"][2] - start[2]) % (2 * np.pi), 2 * np.pi / TURNS, atol=1e-5)
    _, after = walk(env, "w", ticks=3)
    heading = info["pose"][2]
    step = after["pose"][:2] - info["pose"][:2]
    assert np.allclose(step, 0.42 * np.array([np.cos(heading), np.sin(heading)]), atol=1e-4)
    _, aside = walk(env, "d", ticks=3)
    step = aside["pose"][:2] - after["pose"][:2]
    assert np.allclose(step, 0.42 * np.array([np.sin(heading), -np.cos(heading)]), atol=1e-4)
    _, slant = walk(env, "s", "a", ticks=3)
    assert np.isclose(np.linalg.norm(slant["pose"][:2] - aside["pose"][:2]), 0.42, atol=1e-4)


def test_opposite_keys_cancel():
    env, first, _ = small()
    frame, _ = walk(env, "w", "s", "a", "d", "left", "right", ticks=4)
    assert (frame == first).all()


def test_a_jump_rises_falls_and_leaves_no_trace():
    env, first, _ = small()
    _, info = walk(env, "space")
    heights = [info["pose"][3]]
    for tick in range(JUMP_TICKS - 1):
        # Pressing again in the air changes nothing.
        frame, info = walk(env, *(["space"] if tick == 3 else []))
        heights.append(info["pose"][3])
        assert (frame == first).all() == (tick == JUMP_TICKS - 2)
    peak = int(np.argmax(heights))
    assert 2 <= peak <= JUMP_TICKS - 4
    assert (np.diff(heights[: peak + 1]) > 0).all() and (np.diff(heights[peak:]) < 0).all()
    frame, _ = walk(env, ticks=3)
    assert (frame == first).all()


def test_lights_change_on_the_edge_of_a_press_and_stay():
    env, first, _ = small()
    states = [walk(env, *keys)[1]["lights"] for keys in ["e", "e", "e", "", "", "e", "", "e"]]
    assert states == [False] * 5 + [True, True, False]
    dark, _ = walk(env)
    assert dark.mean() < 0.6 * first.mean()
    red, _, blue = (dark.astype(float) / np.maximum(first, 1)).mean((0, 1))
    assert blue > 1.2 * red
    frame, _ = walk(env, "e")
    assert (frame == first).all()


@pytest.mark.parametrize("seed", range(4))
def test_the_lamp_stays_bright_in_the_dark(seed):
    rooms = make_rooms([seed])
    lamp = next(s for s in rooms.solids[0] if s[R.SOLID_EMISSIVE] > 0)
    eye = lamp[R.SOLID_BOTTOM] + lamp[R.SOLID_A]
    middles = []
    for lights in (1, 0):
        pose = np.array([[lamp[R.SOLID_X] - 1.0, lamp[R.SOLID_Y], 0, eye, lights]])
        middles.append(raycast.render_batch(rooms, pose, np.empty((1, 64, 64, 3), np.uint8))[0, 31, 31])
    assert (middles[0] == middles[1]).all()
    assert middles[0].max() > 200


def test_any_view_tells_its_room_from_another():
    batch = ArenaBatch(32, 32)
    batch.reset(range(24))
    views = batch.anchors().astype(float).reshape(24, 4, -1)
    for room in range(24):
        for other in range(room):
            gap = np.abs(views[room][:, None] - views[other][None]).mean(-1)
            assert gap.min() > 10, (room, other, gap.min())


def test_rooms_are_convex_furnished_and_varied():
    rooms = make_rooms(range(150))
    count = rooms.scene[:, R.LANDMARK_COUNT].astype(int)
    assert set(count) == {3, 4, 5, 6}
    assert len(set(rooms.scene[:, R.WALL_COUNT])) >= 4
    for b in range(150):
        walls = rooms.walls[b][: int(rooms.scene[b, R.WALL_COUNT])]
        for point in [*rooms.landmarks[b][: count[b]], (*rooms.scene[b, [R.SPAWN_X, R.SPAWN_Y]], PLAYER_RADIUS)]:
            assert (wall_gaps(walls, point[:2]) > point[2] + 2 * PLAYER_RADIUS).all()
        corners = walls[:, [R.WALL_X, R.WALL_Y]]
        assert all((wall_gaps(walls, corner) > -1e-4).all() for corner in corners)
        solids = rooms.solids[b][: int(rooms.scene[b, R.SOLID_COUNT])]
        assert (solids[:, R.SOLID_EMISSIVE] > 0).sum() == 1


def wall_gaps(walls, point):
    """Distance of a point from every wall, inward."""
    offset = np.asarray(point) - walls[:, [R.WALL_X, R.WALL_Y]]
    return (offset * walls[:, [R.WALL_NX, R.WALL_NY]]).sum(-1)


def test_no_player_ever_leaves_a_room_or_enters_a_landmark():
    count, rng = 32, np.random.default_rng(0)
    batch = ArenaBatch(8, 8)
    batch.reset(range(count))
    touched = 0
    for tick in range(3000):
        if tick % 12 == 0:
            actions = rng.random((count, 8)) < [0.7, 0.2, 0.1, 0.2, 0.3, 0.3, 0.05, 0.02]
        batch.step(actions)
        for b in range(0, count, 4) if tick % 5 else range(count):
            walls = batch.rooms.walls[b][: int(batch.rooms.scene[b, R.WALL_COUNT])]
            marks = batch.rooms.landmarks[b][: int(batch.rooms.scene[b, R.LANDMARK_COUNT])]
            gap = wall_gaps(walls, batch.position[b]).min()
            room = (np.linalg.norm(marks[:, :2] - batch.position[b], axis=1) - marks[:, 2]).min()
            assert min(gap, room) > PLAYER_RADIUS - 0.011
            touched += min(gap, room) < PLAYER_RADIUS + 0.001
    assert touched > 1000  # the players do press against things


def test_walls_let_one_slide_along():
    env, _, _ = small(seed=1)
    wall = make_rooms([1]).walls[0, 0].astype(float)
    tangent, normal = wall[[R.WALL_TX, R.WALL_TY]], wall[[R.WALL_NX, R.WALL_NY]]
    start = wall[[R.WALL_X, R.WALL_Y]] + tangent * wall[R.WALL_LENGTH] / 2 + normal * 0.4
    slant = np.arctan2(*(tangent - normal)[::-1])  # half along the wall, half into it
    turn = round(slant / (2 * np.pi) * TURNS) % TURNS
    env.set_state({**env.get_state(), "position": start, "turn": np.array(turn)})
    _, info = walk(env, "w", ticks=8)
    moved = info["pose"][:2] - start
    assert moved @ tangent > 0.6
    assert np.isclose(moved @ normal, PLAYER_RADIUS - 0.4, atol=1e-3)


def test_a_snapshot_continues_exactly_even_elsewhere():
    env, rng = Arena(32, 32), np.random.default_rng(1)
    env.reset(seed=9)
    walk(env, "w", "left", ticks=7)
    walk(env, "space", "e", ticks=3)  # in the air, E held
    state = env.get_state()
    actions = rng.integers(0, 2, (40, 8)).astype(np.int8)
    actions[0, 7] = 1  # still held: no edge
    wanted = [env.step(action)[0] for action in actions]
    other = Arena(32, 32)
    other.reset(seed=1)
    for player in (env, other):
        player.set_state(state)
        assert (player.render() != wanted[-1]).any()
        assert all((player.step(action)[0] == frame).all() for action, frame in zip(actions, wanted, strict=True))


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        ({"position": np.full(2, np.nan)}, "position is not inside"),
        ({"position": np.array([1e9, 0.0])}, "position is not inside"),
        ({"position": np.zeros(3)}, r"position: float64 \[1, 3\]"),
        ({"position": np.zeros(2, int)}, "position: int64"),
        ({"turn": np.array(TURNS)}, "turn is out of range"),
        ({"turn": np.array(np.nan)}, "turn: float64"),
        ({"jump": np.array(-1)}, "jump is out of range"),
        ({"seeds": np.array(-1)}, "seeds is out of range"),
        ({"seeds": np.array(2**63, np.uint64)}, "seeds is out of range"),
        ({"seeds": np.array([1, 2])}, "seeds"),
        ({"more": np.array(1)}, "has the arrays"),
    ],
)
def test_a_state_that_is_none_is_refused(damage, words):
    """The compiled renderer checks nothing: a place that is not a number would end the process."""
    env, _, _ = small(seed=3)
    with pytest.raises(ValueError, match=f"an arena's .*{words}|an arena's state {words}"):
        env.set_state(env.get_state() | damage)
    with pytest.raises(ValueError, match="has the arrays"):
        env.set_state({"position": np.zeros(2)})
    assert env.render() is not None


def test_a_batch_steps_like_single_arenas():
    seeds, rng = [4, 5, 6], np.random.default_rng(2)
    batch, singles = ArenaBatch(32, 32), [Arena(32, 32) for _ in seeds]
    frames = batch.reset(seeds)
    for env, seed, frame in zip(singles, seeds, frames, strict=True):
        assert (env.reset(seed=seed)[0] == frame).all()
    for action in rng.integers(0, 2, (25, 3, 8)).astype(np.int8):
        frames = batch.step(action)
        for env, a, frame in zip(singles, action, frames, strict=True):
            assert (env.step(a)[0] == frame).all()


def test_frames_belong_to_the_caller():
    env, frame, _ = small()
    kept = frame.copy()
    walk(env, "w", "left", ticks=3)
    assert (frame == kept).all()


def test_provenance_names_the_room():
    env, _, _ = small(seed=12)
    assert env.provenance() == {
        "source": "engine", "world": "arena", "env": "rollplay/Arena-v0", "seed": 12
    }  # fmt: skip
    env.reset()
    drawn = env.provenance()["seed"]
    again = Arena(32, 32)
    assert (again.reset(seed=drawn)[0] == env.render()).all()


def test_wrong_actions_and_sizes_are_refused():
    env, _, _ = small()
    with pytest.raises(ValueError, match=r"expected \(1, 8\)"):
        env.step(np.zeros(7))
    with pytest.raises(ValueError, match="at least 8x8"):
        Arena(4, 128)
    with pytest.raises(ValueError, match="'human'"):
        Arena(render_mode="human")
