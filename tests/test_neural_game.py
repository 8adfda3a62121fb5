from argparse import Namespace

import gymnasium
import numpy as np
import pytest
import toy
from gymnasium.utils.env_checker import check_env
from script import down
from script import play as loop
from test_adapter import example

from game.play import command as playing
from game.play.keyboard import Event
from game.record.recorder import Recorder
from game.record.replay import Replay
from game.register import register_worlds
from world_model import config
from world_model.checkpoint import WEIGHTS, digest
from world_model.config import MixtureSize
from world_model.episode import Session
from world_model.play import collapse, scenes
from world_model.play.collapse import Collapse
from world_model.play.neural_game import NeuralGame
from world_model.play.runtime import WorldError

NOTHING = np.zeros(8, np.int8)
FORWARD = np.eye(8, dtype=np.int8)[0]
TURN = np.eye(8, dtype=np.int8)[4]


@pytest.fixture(scope="module")
def game(exported):
    return NeuralGame(checkpoint=exported, device="cpu")


@pytest.fixture(scope="module")
def blocky(tmp_path_factory):
    """Blocks of three frames, the paper's shape, through PyTorch: no graphs."""
    folder = tmp_path_factory.mktemp("blocky")
    toy.save(folder, toy.load("paper_shape"))
    toy.add_scenes(folder, toy.load("paper_shape"))
    return NeuralGame(checkpoint=folder, device="cpu")


def play(game, actions, seed: int | None = None) -> np.ndarray:
    """Frames of ``actions``, after a reset if there is a seed."""
    frames = [] if seed is None else [game.reset(seed=seed)[0]]
    return np.stack([*frames, *(game.step(action)[0] for action in actions)])


def some_keys(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 2, (count, 8)).astype(np.int8)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("policy", ["hold", "reforce"])
def test_gymnasium_accepts_it(exported, policy):
    register_worlds()
    made = gymnasium.make(
        "rollplay/NeuralArena-v0", checkpoint=exported, device="cpu", policy=policy, render_mode="rgb_array"
    )
    check_env(made.unwrapped)
    assert made.metadata["keys"] == ("w", "a", "s", "d", "left", "right", "space", "e")
    assert made.metadata["render_fps"] == 20


@pytest.mark.parametrize("policy", ["hold", "reforce"])
def test_the_same_seed_and_keys_give_the_same_frames(exported, policy):
    actions = some_keys(30)
    one, two = (NeuralGame(checkpoint=exported, device="cpu", policy=policy) for _ in range(2))
    first = play(one, actions, seed=4)
    np.testing.assert_array_equal(first, play(two, actions, seed=4))
    np.testing.assert_array_equal(first, play(one, actions, seed=4))
    assert (first[1:] != first[:-1]).any((1, 2, 3)).all()


def test_another_seed_is_another_game(game):
    same_place = len(toy.SCENES)
    one, two = play(game, some_keys(5), seed=1), play(game, some_keys(5), seed=1 + same_place)
    np.testing.assert_array_equal(one[0], two[0])
    assert (one[1:] != two[1:]).any()


def test_keys_matter(game):
    assert (play(game, [FORWARD] * 3, seed=0)[1:] != play(game, [TURN] * 3, seed=0)[1:]).any((1, 2, 3)).all()


def test_seeds_go_through_the_scenes_in_the_order_of_their_numbers(game, exported):
    visited = []
    for seed in range(4):
        game.reset(seed=seed)
        visited.append(game.provenance()["scene"])
        np.testing.assert_array_equal(game.anchors(), scenes.read(exported, visited[-1]).anchors)
    assert visited == ["3", "12", "100", "3"]


def test_the_first_frame_is_the_models_own_view_of_the_place(game, exported):
    first, info = game.reset(seed=0)
    place = scenes.read(exported, "3").anchors[:1]
    np.testing.assert_array_equal(first, game.runtime.decode(game.runtime.encode(place))[0])
    np.testing.assert_array_equal(game.render(), first)
    assert info == {}


def test_any_place_can_be_given(game, exported):
    place = toy.pictures(np.random.default_rng(8), 4, game.config)
    given, _ = game.reset(seed=0, options={"anchors": place})
    np.testing.assert_array_equal(game.anchors(), place)
    assert (given != game.reset(seed=0)[0]).any()
    game.reset(seed=0, options={"scene": "100"})
    assert game.provenance()["scene"] == "100"
    np.testing.assert_array_equal(game.anchors(), scenes.read(exported, "100").anchors)


def test_every_sink_matters(game, exported):
    expected = play(game, [FORWARD] * 3, seed=0)
    for sink in range(4):
        changed = scenes.read(exported, "3").anchors.copy()
        changed[sink] = 255 - changed[sink]
        game.reset(seed=0, options={"anchors": changed})
        assert (play(game, [FORWARD] * 3) != expected[1:]).any(), sink


def test_a_scene_can_begin_with_recorded_frames(exported, tmp_path, game):
    frames = toy.pictures(np.random.default_rng(5), 12, game.config)
    toy.save(tmp_path, game.config)
    for path in exported.glob("*.onnx"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    anchors = toy.pictures(np.random.default_rng(6), 4, game.config)
    scenes.write(tmp_path, scenes.Scene("0", anchors, frames))
    recorded = NeuralGame(checkpoint=tmp_path, device="cpu")
    first, _ = recorded.reset(seed=0)
    runtime = recorded.runtime
    np.testing.assert_array_equal(first, runtime.decode(runtime.encode(frames[-1:]))[0])
    np.testing.assert_array_equal(recorded.anchors(), anchors)
    past = game.config.rolling.recent_blocks + 1

    def continued(frames: np.ndarray) -> np.ndarray:
        scenes.write(tmp_path, scenes.Scene("0", anchors, frames))
        return play(recorded, [NOTHING], seed=0)[1]

    np.testing.assert_array_equal(continued(frames), continued(frames[-past:]))  # further back than the context
    assert (continued(frames) != continued(frames[1 - past :])).any()


def test_every_block_has_noise_of_its_own(game):
    play(game, [NOTHING] * 2, seed=0)
    state = game.get_state()
    expected = play(game, [NOTHING] * 2)
    game.set_state(state | {"block": state["block"] + 1})
    assert (play(game, [NOTHING] * 2) != expected).any()


@pytest.mark.parametrize("policy", ["hold", "reforce"])
def test_a_snapshot_is_exact_in_another_game_too(exported, policy, tmp_path):
    game = NeuralGame(checkpoint=exported, device="cpu", policy=policy)
    play(game, some_keys(7), seed=2)
    np.savez(tmp_path / "state.npz", **game.get_state())
    expected = play(game, some_keys(8, seed=1))
    with np.load(tmp_path / "state.npz", allow_pickle=False) as stored:
        state = dict(stored)
    game.set_state(state)
    np.testing.assert_array_equal(play(game, some_keys(8, seed=1)), expected)
    fresh = NeuralGame(checkpoint=exported, device="cpu", policy=policy)
    fresh.set_state(state)
    np.testing.assert_array_equal(fresh.render(), state["frame"])
    np.testing.assert_array_equal(play(fresh, some_keys(8, seed=1)), expected)
    assert fresh.provenance()["seed"] == 2 and fresh.provenance()["scene"] == "100"
    np.testing.assert_array_equal(fresh.anchors(), game.anchors())


def test_a_snapshot_is_a_copy(game):
    play(game, some_keys(2), seed=0)
    state = game.get_state()
    kept = {name: array.copy() for name, array in state.items()}
    play(game, some_keys(3))
    assert all(np.array_equal(state[name], kept[name]) for name in kept)
    game.set_state(state)
    for array in state.values():
        if array.dtype.kind in "fi" and array.ndim:
            array[...] = 0
    again = play(game, [FORWARD])
    game.set_state(kept)
    np.testing.assert_array_equal(again, play(game, [FORWARD]))


def test_snapshots_of_something_else(game, blocky):
    game.reset(seed=0)
    with pytest.raises(WorldError, match="not a snapshot.*seed"):
        game.set_state({"position": np.zeros(2)})
    whole = game.get_state()
    for name in set(whole) - {"reprimes", "score"}:
        with pytest.raises(WorldError, match="not a snapshot"):
            game.set_state({other: array for other, array in whole.items() if other != name})
    damages = {"rolling.keys": [np.full_like(whole["rolling.keys"], np.nan), whole["rolling.keys"][:0],
                                whole["rolling.keys"].astype(float)],
               "rolling.tick": [np.array([-1])], "seed": [np.array(-1), np.array(2**63, np.uint64), np.array(0.5)],
               "held": [whole["held"] + 2], "frame": [whole["frame"].astype(np.float32)],
               "anchors": [whole["anchors"][:1]], "scene": [np.array(7)]}  # fmt: skip
    for name, arrays in damages.items():
        for damage in arrays:
            with pytest.raises(WorldError, match=name.removeprefix("rolling.")):
                game.set_state(whole | {name: damage})
    blocky.reset(seed=0)
    with pytest.raises(WorldError, match="another model"):
        game.set_state(blocky.get_state())


def test_reforcing_acts_only_when_the_keys_change(exported, game):
    reforcing = NeuralGame(checkpoint=exported, device="cpu", policy="reforce")
    still = [NOTHING] * 4
    np.testing.assert_array_equal(play(game, still, seed=0), play(reforcing, still, seed=0))
    assert (play(game, [FORWARD]) != play(reforcing, [FORWARD])).any()
    game.set_state(reforcing.get_state())
    held = [FORWARD] * 4
    np.testing.assert_array_equal(play(game, held), play(reforcing, held))
    assert (play(game, [TURN]) != play(reforcing, [TURN])).any()


def test_a_block_gives_its_frames_one_a_tick(blocky):
    """Time is spent on the first of them only."""
    blocky.reset(seed=0)
    for block in (1, 2, 3):
        frames, busy = [], []
        for _ in range(3):
            frames.append(blocky.step(FORWARD)[0])
            busy.append(blocky.timing_ms["step"] > 0 and blocky.timing_ms["decode"] > 0)
        state = blocky.get_state()
        np.testing.assert_array_equal(frames, blocky.runtime.decode(state["rolling.clean"]))
        assert state["block"] == block and busy == [True, False, False]


def test_a_tap_inside_a_block_is_obeyed_by_the_next(blocky):
    tapped = [NOTHING, FORWARD, NOTHING, NOTHING, NOTHING, NOTHING]
    play(blocky, tapped[:4], seed=0)
    np.testing.assert_array_equal(blocky.get_state()["held"], FORWARD)
    play(blocky, tapped[4:] + [NOTHING])
    np.testing.assert_array_equal(blocky.get_state()["held"], NOTHING)
    play(blocky, [FORWARD, FORWARD, NOTHING, NOTHING], seed=0)
    np.testing.assert_array_equal(blocky.get_state()["held"], NOTHING, "let go inside a block, it is not held longer")


def test_a_snapshot_inside_a_block(blocky):
    play(blocky, [NOTHING, TURN], seed=0)
    state = blocky.get_state()
    expected = play(blocky, [NOTHING] * 5)
    blocky.set_state(state)
    np.testing.assert_array_equal(play(blocky, [NOTHING] * 5), expected)


def test_provenance(game, exported):
    game.reset(seed=4)
    assert game.provenance() == {
        "source": "neural",
        "world": "arena",
        "seed": 4,
        "scene": "12",
        "checkpoint": digest(exported / WEIGHTS),
        "runtime": "onnx",
        "device": "cpu",
        "policy": "hold",
        "collapse": "watch",
    }


def test_a_reset_without_a_seed_says_which_it_drew(game):
    game.reset(seed=11)
    first, _ = game.reset()
    np.testing.assert_array_equal(first, game.reset(seed=game.provenance()["seed"])[0])


@pytest.mark.parametrize(
    ("action", "words"),
    [(action, "one bit a key") for action in (np.zeros(7, np.int8), np.zeros((1, 8), np.int8), 3)]
    + [(np.full(8, value), "0 or 1 for each") for value in (0.5, 256, np.nan, -1, 2)],
)
def test_what_is_no_action(game, action, words):
    game.reset(seed=0)
    with pytest.raises(ValueError, match=words):
        game.step(action)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"scene": "7"}, "no scene '7'; there are 3, 12, 100"),
        ({"room": 3}, "no option room"),
        ({"anchors": np.zeros((4, 16, 16, 3), np.uint8)}, r"should be uint8 \[n, 32, 32, 3\]"),
        ({"anchors": np.zeros((4, 32, 32, 3))}, "float64"),
        ({"anchors": np.zeros((2, 32, 32, 3), np.uint8)}, "has 2 anchors, the model wants 4 sink frames"),
    ],
)
def test_places_that_do_not_fit(game, options, words):
    with pytest.raises(WorldError, match=words):
        game.reset(seed=0, options=options)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"world": "atlantis", "checkpoint": None}, "no world 'atlantis'; there are .*arena"),
        ({"world": "doom"}, "weights of the world 'arena', not of 'doom'"),
        ({"checkpoint": "nowhere"}, "no such weights"),
        ({"policy": "wait"}, "there are hold, reforce"),
        ({"collapse": "panic"}, "there are ignore, watch, reprime"),
    ],
)
def test_a_game_that_cannot_be_opened(exported, arguments, words):
    with pytest.raises(WorldError, match=words):
        NeuralGame(**{"checkpoint": exported} | arguments)


def test_a_world_without_weights_says_how_to_train_them(monkeypatch, tmp_path):
    monkeypatch.setattr(config, "WORLDS", tmp_path)
    with pytest.raises(WorldError, match=r"python train.py --config configs/arena.yaml --data DIR"):
        NeuralGame(world="arena")


def test_a_shipped_world_is_found_by_its_name(monkeypatch, exported, tmp_path):
    (tmp_path / "arena").symlink_to(exported)
    monkeypatch.setattr(config, "WORLDS", tmp_path)
    np.testing.assert_array_equal(
        play(NeuralGame(device="cpu"), [FORWARD], seed=0), play(NeuralGame(checkpoint=exported), [FORWARD], seed=0)
    )


def test_a_checkpoint_without_scenes_starts_in_the_shipped_ones(monkeypatch, exported, tmp_path):
    bare, shipped = tmp_path / "bare", tmp_path / "worlds" / "arena"
    toy.save(bare, toy.load("tiny"))
    monkeypatch.setattr(config, "WORLDS", tmp_path / "worlds")
    game = NeuralGame(checkpoint=bare, runtime="torch", device="cpu")
    with pytest.raises(WorldError, match="no start scenes"):
        game.reset(seed=0)
    scenes.write(shipped, scenes.read(exported, "12"))
    game.reset(seed=0)
    assert game.provenance()["scene"] == "12"


@pytest.fixture(scope="module")
def bare(tmp_path_factory):
    """Weights and scenes without graphs: for PyTorch, where a game is opened quickly."""
    folder = tmp_path_factory.mktemp("bare")
    toy.save(folder, toy.load("tiny"))
    toy.add_scenes(folder, toy.load("tiny"))
    return folder


@pytest.fixture
def strict_detector(monkeypatch):
    """A detector that takes no change for motion: after some sets of keys the picture is frozen."""
    monkeypatch.setattr(collapse, "MOVED", 1000.0)
    monkeypatch.setattr(collapse, "RUN", 1)


def opened(folder, remedy: str) -> NeuralGame:
    return NeuralGame(checkpoint=folder, runtime="torch", device="cpu", collapse=remedy)


def findings(game, actions) -> list[str | None]:
    """The kind of collapse after each action."""
    return [game.step(action) and game.collapse for action in actions]


def test_watching_changes_no_frame_and_ignoring_finds_nothing(bare, strict_detector):
    watched, ignored = opened(bare, "watch"), opened(bare, "ignore")
    actions = some_keys(30)
    np.testing.assert_array_equal(play(watched, actions, seed=1), play(ignored, actions, seed=1))
    assert watched.collapse == "frozen" and ignored.collapse is None and watched.reprimes == 0
    watched.reset(seed=1)
    assert watched.collapse is None, "another episode"


def test_a_collapse_is_answered_at_the_next_block_by_priming_from_the_sinks(bare, strict_detector):
    watched, repriming = opened(bare, "watch"), opened(bare, "reprime")
    actions = some_keys(40)
    watched.reset(seed=1)
    first = findings(watched, actions).index("frozen")
    expected, frames = play(watched, actions, seed=1), play(repriming, actions[: first + 1], seed=1)
    np.testing.assert_array_equal(frames, expected[: first + 2])
    assert repriming.collapse == "frozen" and repriming.reprimes == 0
    before = repriming.get_state()
    after = repriming.step(actions[first + 1])[0]
    assert (after != expected[first + 2]).any() and repriming.collapse is None and repriming.reprimes == 1
    assert repriming.get_state()["block"] == before["block"] + 1, "time goes on"
    # it depends on the sinks alone, not on the state before
    repriming.set_state(before | {name: before[name] * 0 for name in before if name.startswith("rolling.")})
    np.testing.assert_array_equal(repriming.step(actions[first + 1])[0], after)


def test_every_priming_has_noise_of_its_own(bare, strict_detector):
    game = opened(bare, "reprime")
    play(game, some_keys(40), seed=1)
    assert game.reprimes > 1
    state = game.get_state()
    game.reset(seed=1)
    assert game.reprimes == 0
    frames = []
    for count in (1, 2):
        game.set_state(state | {"reprimes": np.array(count), "findings.kind": np.array("frozen")})
        frames.append(game.step(NOTHING)[0])
    assert (frames[0] != frames[1]).any()


def test_it_goes_on_from_the_sink_most_like_the_last_healthy_frame(bare, monkeypatch):
    game = opened(bare, "reprime")
    frames = []
    for sink in range(4):
        game.reset(seed=0)
        monkeypatch.setattr(Collapse, "nearest_sink", lambda self, sink=sink: sink)
        game.set_state(game.get_state() | {"findings.kind": np.array("blurred")})
        frames.append(game.step(NOTHING)[0])
    assert all((frames[0] != other).any() for other in frames[1:])


@pytest.mark.parametrize("ticks", [5, 17])
def test_a_snapshot_carries_the_findings(bare, strict_detector, ticks):
    game, other = opened(bare, "reprime"), opened(bare, "reprime")
    play(game, some_keys(ticks), seed=2)
    state = game.get_state()
    expected = play(game, some_keys(25, seed=1))
    other.set_state(state)
    np.testing.assert_array_equal(play(other, some_keys(25, seed=1)), expected)
    assert other.reprimes == game.reprimes > 0


def test_a_snapshot_of_a_game_that_nobody_watched(bare):
    ignored, watched = opened(bare, "ignore"), opened(bare, "watch")
    play(ignored, some_keys(4), seed=2)
    watched.set_state(ignored.get_state())
    np.testing.assert_array_equal(play(watched, some_keys(5)), play(ignored, some_keys(5)))
    state = watched.get_state()
    with pytest.raises(WorldError, match="its findings cannot be read"):
        watched.set_state(state | {"findings.still": np.zeros(3, np.float32)})
    state |= {"findings.kind": np.array("frozen")}
    watched.set_state({name.replace("findings", "collapse"): array for name, array in state.items()})
    assert watched.collapse is None, "watching begins again"


def test_a_recording_with_primings_in_it_is_made_again_bit_for_bit(bare, strict_detector, tmp_path):
    game = opened(bare, "reprime")
    recorder = Recorder(game, tmp_path, world="arena", clock=None)
    recorder.reset(seed=1)
    for action in some_keys(40):
        recorder.step(action)
    assert game.reprimes > 1
    recorder.close()
    session = Session.open(recorder.path)
    flags = Namespace(runtime="torch", device="cpu", checkpoint=bare, engine=False, config=None)
    source = playing._source_of(session, flags)
    assert source.provenance()["collapse"] == "reprime"
    replay = Replay(source, session)
    replay.reset()
    for _ in range(40):
        replay.step(NOTHING)
    assert replay.verdict.holds, str(replay.verdict)


@pytest.mark.filterwarnings("error")
def test_predicted_rewards_and_ends_are_an_environments(bare, monkeypatch):
    toy.predict_outcomes(monkeypatch)
    made = gymnasium.make("rollplay/Neural-v0", checkpoint=bare, runtime="torch", device="cpu")
    check_env(made.unwrapped)
    game, end = made.unwrapped, np.eye(8, dtype=np.int8)[-1]
    game.reset(seed=0)
    outcomes = [game.step(action)[1:4] for action in (FORWARD, NOTHING, FORWARD)]
    assert outcomes == [(0.5, False, False), (0.0, False, False), (0.5, False, False)] and game.score == 1
    state = game.get_state()
    assert game.step(FORWARD | end)[1:4] == (0.5, True, False) and game.score == 1.5
    for _ in range(2):
        with pytest.raises(gymnasium.error.ResetNeeded):
            game.step(NOTHING)
    over = game.get_state()
    game.set_state(state)
    assert game.score == 1 and game.step(FORWARD)[1:3] == (0.5, False)
    game.set_state(over)
    with pytest.raises(gymnasium.error.ResetNeeded):
        game.step(NOTHING)
    game.reset()
    assert game.score == 0 and not game.step(NOTHING)[2]
    endless = NeuralGame(checkpoint=bare, runtime="torch", device="cpu", endless=True)
    endless.reset(seed=0)
    assert [endless.step(FORWARD | end)[1:3] for _ in range(2)] == [(0.5, False)] * 2


def test_after_an_end_the_window_goes_on_with_the_next_scene(bare, monkeypatch):
    toy.predict_outcomes(monkeypatch)
    plan = {0: down("w"), 4: [*down("e"), Event("up", "e")]}
    huds = loop(NeuralGame(checkpoint=bare, runtime="torch", device="cpu"), plan, seed=0, frames=7).huds
    assert [hud.score for hud in huds] == [0, 0.5, 1, 1.5, 2, 0, 0.5, 1, 1.5]
    assert [hud.place for hud in huds] == ["room 3"] * 5 + ["room 12"] * 4
    assert huds[5].notice == "The episode is over · score 2"


def test_a_world_without_outcomes_has_no_score(game):
    with pytest.raises(gymnasium.error.ResetNeeded):
        NeuralGame(checkpoint=game.folder, device="cpu").step(NOTHING)
    game.reset(seed=0)
    assert game.step(FORWARD)[1:4] == (0.0, False, False) and game.score is None


def test_the_outcome_of_a_block_comes_with_its_last_frame(blocky, monkeypatch):
    toy.predict_outcomes(monkeypatch)
    blocky.reset(seed=0)
    end = np.eye(8, dtype=np.int8)[-1]
    seen = [blocky.step(action)[1:3] for action in (FORWARD, end, NOTHING, FORWARD, NOTHING, NOTHING)]
    assert seen == [(0.0, False), (0.0, False), (0.5, False), (0.0, False), (0.0, False), (0.5, True)]


@pytest.mark.parametrize("shape", ["bare", "blocky"])
def test_games_in_a_stack_play_as_each_would_alone(shape, request, monkeypatch):
    """Also where the episodes, and so the blocks, begin at different times."""
    toy.predict_outcomes(monkeypatch)
    folder = request.getfixturevalue(shape)
    folder, name = getattr(folder, "folder", folder), "game.register:rollplay/NeuralArena-v0"
    games = gymnasium.make_vec(name, num_envs=3, checkpoint=folder, device="cpu")
    assert games.metadata["autoreset_mode"] == gymnasium.vector.AutoresetMode.NEXT_STEP and games.num_envs == 3
    alone = [NeuralGame(checkpoint=folder, runtime="torch", device="cpu") for _ in range(3)]
    actions = some_keys(3 * 14, seed=3).reshape(14, 3, 8)
    actions[:, 2, -1] = actions[:4, :2, -1] = 0  # the third goes on for ever
    expected, over = [game.reset(seed=5 + i)[0] for i, game in enumerate(alone)], [False] * 3
    frames, infos = games.reset(seed=5)
    assert frames in games.observation_space and infos == {}
    for held in actions:
        np.testing.assert_allclose(frames.astype(int), expected, atol=1)
        assert all(np.array_equal(one, other) for one, other in zip(frames, games.render(), strict=True))
        frames, rewards, terminated, truncated, _ = games.step(held)
        answers = [(game.reset()[0], 0.0, False) if ended else game.step(keys)[:3]
                   for game, ended, keys in zip(alone, over, held, strict=True)]  # fmt: skip
        expected, gained, over = zip(*answers, strict=True)
        assert rewards.tolist() == list(gained) and terminated.tolist() == list(over) and not truncated.any()
        assert [game.score for game in games.games] == [game.score for game in alone]
    assert all(game.provenance()["seed"] != 5 + i for i, game in enumerate(games.games[:2])), "both have ended once"


def test_the_example_of_an_environment(bare):
    given = example(2).replace('"pong"', '"arena"').replace('"runs/pong"', repr(str(bare))).replace("16", "2")
    exec(given, made := {})
    frame, frames = made["game"].reset(seed=5)[0], made["games"].reset(seed=5)[0]
    np.testing.assert_allclose(frames[0].astype(int), frame, atol=1)


def test_the_mixture_heads_game_is_an_environment(tmp_path):
    """Whether one by one or in a stack."""
    head = MixtureSize(kind="mixture", width=16, blocks=1, reach=2, palette=4, dice=4, rewards=3)
    shape = toy.load("tiny_keep").model_copy(update={"head": head})
    toy.save(tmp_path, shape)
    toy.add_scenes(tmp_path, shape)
    made = {"id": "rollplay/NeuralKeep-v0", "checkpoint": tmp_path, "device": "cpu"}
    check_env(gymnasium.make(**made).unwrapped)
    game, games = gymnasium.make(**made, endless=True), gymnasium.make_vec(**made, endless=True, num_envs=3)
    games.reset(seed=5)
    keys = np.random.default_rng(1).integers(0, 2, (8, 3, 6))
    stacked = [games.step(held) for held in keys]
    for i in range(3):
        game.reset(seed=5 + i)
        for held, (frames, rewards, *_) in zip(keys[:, i], stacked, strict=True):
            frame, reward, *_ = game.step(held)
            np.testing.assert_allclose(frames[i].astype(int), frame, atol=1)
            assert reward == rewards[i] >= 1
        chances = [one.get_state()["rolling.outcome"][0, 1] for one in (game.unwrapped, games.games[i])]
        assert 0 < chances[0] < 1 and chances[0] == pytest.approx(chances[1], abs=1e-4)


def test_many_games_need_pytorch_and_a_start(exported, bare):
    with pytest.raises(WorldError, match="graphs are for one game"):
        gymnasium.make_vec("rollplay/NeuralArena-v0", num_envs=2, checkpoint=exported, runtime="onnx")
    games = gymnasium.make_vec("rollplay/NeuralArena-v0", num_envs=2, checkpoint=bare, device="cpu")
    with pytest.raises(gymnasium.error.ResetNeeded):
        games.step(np.zeros((2, 8), np.int8))
    frames = [games.reset(seed=seed)[0] for seed in ([4, 3], 3, None)]
    np.testing.assert_allclose(frames[0].astype(int)[::-1], frames[1], atol=1)
    assert frames[2] in games.observation_space


def test_a_recording_holds_the_outcomes_and_is_made_again_with_them(bare, monkeypatch, tmp_path):
    toy.predict_outcomes(monkeypatch)
    game = NeuralGame(checkpoint=bare, runtime="torch", device="cpu")
    recorder = Recorder(game, tmp_path, world="arena", clock=None)
    recorder.reset(seed=1)
    for action in (FORWARD, NOTHING, np.eye(8, dtype=np.int8)[-1] | FORWARD):
        recorder.step(action)
    recorder.close()
    session = Session.open(recorder.path)
    assert session.rewards.tolist() == [0, 0.5, 0, 0.5] and session.terminated.tolist() == [False] * 3 + [True]
    replay = Replay(game, session)
    replay.reset()
    for _ in range(3):
        replay.step(NOTHING)
    assert replay.verdict.holds, str(replay.verdict)


def test_a_scene_with_an_unreadable_picture(exported, tmp_path):
    scenes.write(tmp_path, scenes.read(exported, "3"))
    (tmp_path / "scenes" / "3" / "2.png").write_bytes(b"not a picture")
    with pytest.raises(WorldError, match="all readable"):
        scenes.read(tmp_path, "3")


def test_scenes_come_back_as_they_were_written(tmp_path):
    rng = np.random.default_rng(0)
    anchors, frames = (rng.integers(0, 256, (count, 8, 8, 3), dtype=np.uint8) for count in (4, 12))
    for scene in (scenes.Scene("5", anchors, frames), scenes.standing("5", anchors[:2])):
        scenes.write(tmp_path, scene)
        read = scenes.read(tmp_path, "5")
        np.testing.assert_array_equal(read.anchors, scene.anchors)
        np.testing.assert_array_equal(read.frames, scene.frames)
