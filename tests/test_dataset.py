"""From recordings to clips and start scenes: which sessions fit, what a block's action is, where play may begin."""

from __future__ import annotations

import errno
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import toy
from toy import CPU

from world_model.checkpoint import WEIGHTS, was_trained_on
from world_model.config import Config
from world_model.episode import Session, SessionMeta, SessionWriter
from world_model.episode.dataset import (
    Clips,
    DataError,
    DatasetSplit,
    Episode,
    cache_key,
    encode_session,
    read_cache,
    write_cache,
)
from world_model.play import scenes
from world_model.play.neural_game import PRIME, NeuralGame
from world_model.training import student_rollout
from world_model.training.assemble import write_scenes
from world_model.training.clips import TrainingData
from world_model.training.provenance import rooms_trained
from world_model.training.student_init import prime_from_clip
from world_model.training.student_rollout import StudentRolloutTraining

B = 3


@pytest.fixture(scope="module")
def paper() -> Config:
    return toy.load("paper_shape")


def record(path: Path, config: Config, frames: int, anchors=None, fps=None, env=None, keys=None, **settings) -> Session:
    """A session of grey frames, each as bright as its number times ``step``; key 0 is held in every other frame."""
    step, outcomes = settings.pop("step", 1), settings.pop("outcomes", {})
    world = config.world
    meta = SessionMeta(
        world=config.name, env=env or world.env, keys=keys or world.keys, fps=fps or world.fps,
        height=world.height, width=world.width,
        anchors=0 if anchors is None else len(anchors), seed=settings.pop("seed", 7),
        source=settings.pop("source", "engine"),
        code_version="test", player="masher", created="now",
    )  # fmt: skip
    with SessionWriter(path, meta, anchors, durable=False, **settings) as writer:
        for t in range(frames):
            writer.add(grey(config, step * t), np.eye(len(world.keys), dtype=np.int8)[0] * (t % 2), t / meta.fps,
                       outcome=outcomes.get(t, (0.0, False, False)))  # fmt: skip
    return Session.open(path)


def grey(config: Config, brightness: int) -> np.ndarray:
    return np.full((config.world.height, config.world.width, 3), brightness, np.uint8)


def encode(frames: np.ndarray) -> np.ndarray:
    return frames.mean((1, 2, 3))[:, None, None, None]


@pytest.mark.parametrize(
    "said, words",
    [
        ({"fps": 60}, "recorded at 60 frames a second, the configuration wants 20"),
        ({"env": "rollplay/Keep-v0"}, "recorded from the game 'rollplay/Keep-v0', the configuration is for"),
        ({"keys": ("a", "d", "left", "right", "w", "s", "space", "e")}, "keys are a d left right .*wants w a s d"),
    ],
)
def test_recordings_of_something_else_are_refused(said, words, tmp_path, tiny):
    record(tmp_path / "other", tiny, 20, **said)
    with pytest.raises(DataError, match=words):
        DatasetSplit.open(tmp_path, tiny)


def test_recordings_of_another_world_are_refused(tmp_path, tiny):
    record(tmp_path / "session", tiny, 4)
    with pytest.raises(DataError, match="recorded in the world 'arena'.*'elsewhere'"):
        DatasetSplit.open(tmp_path, tiny.model_copy(update={"name": "elsewhere"}))


def test_rooms_are_held_out_only_where_others_are_trained_on(tmp_path, tiny):
    """28 and 49 are for testing, by their seed. Never is a room both trained on and called held out."""
    for seed in (28, 49):
        record(tmp_path / str(seed), tiny, 4, seed=seed)
    alone = DatasetSplit.open(tmp_path, tiny)
    assert [s.meta.seed for s in alone.train] == [28, 49] and alone.held_out == []
    assert "no others to train on" in alone.summary
    record(tmp_path / "7", tiny, 4, seed=7)
    mixed = DatasetSplit.open(tmp_path, tiny)
    assert [s.meta.seed for s in mixed.train] == [7] and [s.meta.seed for s in mixed.held_out] == [28, 49]
    assert mixed.summary == "2 sessions of held-out rooms"
    own = DatasetSplit.open(tmp_path / "7", tiny)
    assert [s.meta.seed for s in own.train] == [7] and own.held_out == [] and own.summary.startswith("nothing held out")


def test_pictures_that_a_model_made_show_no_room_by_their_seed(tmp_path, tiny):
    record(tmp_path / "made", tiny, 4, seed=28, source="neural")
    record(tmp_path / "real", tiny, 4, seed=7)
    dataset = DatasetSplit.open(tmp_path, tiny, generated=True)
    assert len(dataset.train) == 2 and rooms_trained(dataset, []) == "7 unknown"


def test_weights_say_what_they_saw():
    about = {"rooms": "7 12"}
    assert [was_trained_on(about, seed) for seed in (7, 12, 1)] == [True, True, False]
    assert [was_trained_on({"rooms": "7 unknown"}, seed) for seed in (7, 1)] == [True, None]
    assert was_trained_on({}, 7) is None


def episode(actions: np.ndarray) -> Episode:
    """Latents that hold their own frame's number."""
    numbers = np.arange(len(actions), dtype=np.float16)
    return Episode(np.zeros((B, 1, 1, 1)), numbers[:, None, None, None], actions)


def played(actions: np.ndarray) -> np.ndarray:
    """The actions that ``NeuralGame.step`` makes its blocks from when ``actions`` [T, keys] are pressed."""
    made, game = [], object.__new__(NeuralGame)
    nothing = np.zeros(actions.shape[1], np.int8)
    game.__dict__ |= {
        "config": SimpleNamespace(world=SimpleNamespace(keys="abcd"[: actions.shape[1]])),
        "policy": "hold", "remedy": "ignore", "_watch": None,
        "_pending": np.empty((0, 2, 2, 3), np.uint8), "_held": nothing, "_tapped": nothing.copy(),
        "_state": {}, "_score": 0.0, "_block": 0, "noise": lambda counter: None,
        "runtime": SimpleNamespace(
            step=lambda state, action, noise: (made.append(action[0].copy()) or state, None),
            decode=lambda latent: np.zeros((B, 2, 2, 3), np.uint8),
        ),
    }  # fmt: skip
    for action in actions:
        game.step(action)
    return np.stack(made)


def test_a_block_is_made_under_the_action_that_play_would_use():
    known = np.zeros((5 * B, 3), np.int8)
    known[B:, 0] = 1  # held from a block's first tick on: this block obeys
    known[2 * B + 1, 1] = 1  # tapped while a block is shown: the next one obeys
    known[3 * B + 2 :, 2] = 1  # held from the last tick of a block on
    expected = [[0, 0, 0], [1, 0, 0], [1, 0, 0], [1, 1, 0], [1, 0, 1]]
    assert episode(known).block_actions(B).tolist() == expected == played(known).tolist()


def test_blocks_made_of_any_keys_are_those_of_play():
    keys = np.random.default_rng(0).integers(0, 2, (40 * B, 4)).astype(np.int8)
    assert np.array_equal(episode(keys).block_actions(B), played(keys))
    assert np.array_equal(episode(keys).block_actions(1), keys)


def test_clips_of_blocks_start_on_the_grid_of_the_episode():
    actions = np.random.default_rng(1).integers(0, 2, (10 * B + 2, 4)).astype(np.int8)
    clips, whole = Clips([episode(actions)], 4, B), episode(actions).block_actions(B)
    _, latents, held = clips.take(np.linspace(0, 0.999, 50))
    first = latents[:, :, 0, 0, 0, 0].astype(int)
    assert set(first[:, 0]) == {B * block for block in range(7)}
    assert np.array_equal(held, whole[first // B])


def test_the_first_tick_of_a_session_begins_a_block(tmp_path, paper):
    found = encode_session(record(tmp_path / "session", paper, 12), paper, encode)
    clean = paper.rolling.recent_blocks
    blocks = found.latents[: (clean + 4) * B].reshape(-1, B)
    assert blocks[clean].tolist() == [0, 0, 0] and blocks[clean + 1].tolist() == [1, 2, 3]
    assert found.block_actions(B)[clean + 1, 0] == 1, "frame 1 was made by action 1"


def test_a_session_from_the_middle_of_play_did_not_stand_still(tmp_path, tiny):
    session = record(tmp_path / "session", tiny, 12, start_state={"x": np.zeros(1)})
    found = encode_session(session, tiny, encode)
    assert found.latents.ravel().tolist() == list(range(1, 12))
    assert np.array_equal(found.actions, session.actions[1:])


def test_rewards_and_ends_lie_beside_the_frames_they_came_with(tmp_path, tiny):
    outcomes = {1: (0.5, False, False), 8: (-1.0, False, True), 9: (2.0, True, False)}
    whole = record(tmp_path / "whole", tiny, 10, outcomes=outcomes)
    cut = record(tmp_path / "cut", tiny, 10, outcomes=outcomes, start_state={"x": np.zeros(1)})
    for session in (whole, cut):
        found = encode_session(session, tiny, encode)
        assert found.rewards.dtype == np.float32 and found.ends.dtype == bool
        by_frame = {int(found.latents[t].item()): found.rewards[t] for t in np.flatnonzero(found.rewards)}
        assert by_frame == {1: 0.5, 8: -1, 9: 2}
        assert found.latents[found.ends].ravel().tolist() == [8, 9]
        assert len(found.rewards) == len(found.ends) == len(found.latents) == len(found.actions)
    whole.rewards = whole.terminated = whole.truncated = None  # as in format 1
    found = encode_session(whole, tiny, encode)
    assert found.rewards is found.ends is None


def changes(config: Config, sessions: list[Session]) -> dict[str, tuple]:
    """What a file of encoded sessions must be made anew for, and the arguments of its key."""
    rolling = config.rolling.model_copy(update={"sink_blocks": 2})
    return {
        "sinks": (sessions, config.codec, rolling, "weights", False),
        "codec": (sessions, config.codec.model_copy(update={"width": 8}), config.rolling, "weights", False),
        "weights": (sessions, config.codec, config.rolling, "others", False),
        "precision": (sessions, config.codec, config.rolling, "weights", True),
        "recordings": (sessions[:1], config.codec, config.rolling, "weights", False),
    }


def test_encoded_sessions_are_mapped_and_made_anew_when_anything_changes(tmp_path, tiny):
    sessions = [record(tmp_path / str(n), tiny, 9 + n) for n in range(2)]
    posed = replace(episode(np.ones((5, 3), np.int8)), poses=np.ones((5, 8), np.float32))
    made = [posed, *(encode_session(session, tiny, encode) for session in sessions)]
    path, key = tmp_path / "new" / "train", cache_key(sessions, tiny.codec, tiny.rolling, "weights", False)
    write_cache(path, key, iter(made))
    write_cache(path, key, (pytest.fail("they were there") for _ in "x"))
    found = read_cache(path, key)
    assert len(found) == 3 and [other.name for other in path.parent.iterdir()] == ["train"]
    for ours, theirs in zip(made, found, strict=True):
        for name, array in vars(ours).items():
            other = getattr(theirs, name)
            assert (array is None) == (other is None), name
            if array is not None:
                assert array.dtype == other.dtype and np.array_equal(array, other), name
                assert not other.flags.writeable and isinstance(other.base, np.memmap), name
    for part, arguments in changes(tiny, sessions).items():
        assert read_cache(path, cache_key(*arguments)) is None, part


@pytest.mark.parametrize("left", [0, 7, 40, -1, -9, -300])
def test_a_file_of_encoded_sessions_that_is_cut_short_is_made_anew(tmp_path, left):
    path, made = tmp_path / "train", [episode(np.ones((50, 3), np.int8))]
    write_cache(path, "key", made)
    whole = path.read_bytes()
    path.write_bytes(whole[:left])
    assert read_cache(path, "key") is None
    write_cache(path, "key", made)
    assert path.read_bytes() == whole


def test_a_full_disk_leaves_no_half_file_of_encoded_sessions(tmp_path):
    def full():
        yield episode(np.ones((50, 3), np.int8))
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(DataError, match="No space left on device.*free some space"):
        write_cache(tmp_path / "train", "key", full())
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["tiny_keep", "paper_shape"])
def test_training_begins_in_the_state_that_play_begins_in(tmp_path, name):
    """Of one session, from its first frame: a rollout's game, or where there are none, a clip."""
    config = toy.load(name)
    toy.save(tmp_path, config)
    anchors = np.stack([grey(config, 50 * n) for n in range(4)])
    session = record(tmp_path / "session", config, 40, anchors, step=6)
    game = NeuralGame(config.name, tmp_path, "torch", "cpu")
    game.reset(seed=3, options={"anchors": session.anchors, "frames": session.frames(0, 1)})
    episodes, noise = [encode_session(session, config, game.runtime.encode)], game.noise(PRIME)
    step_noise = SimpleNamespace(normal=lambda *_: torch.from_numpy(noise), uniform=lambda n: torch.zeros(1, n))
    lead, data = config.rolling.recent_blocks + 1, TrainingData(config, CPU, None, [], episodes)
    if config.training.student_rollout:
        stage = StudentRolloutTraining(replace(data, train=episodes), tmp_path / WEIGHTS)
        stage.start_sampler.take = lambda *_: (np.array([0]), np.array([lead]), np.array([False]))
        stage._restart(np.array([0]), step_noise)
        begun = {key: value[student_rollout._at(key, [0])] for key, value in stage.pool.items()}
    else:
        clip = data.held_out_clip(lead + config.rolling.window_blocks)
        begun = prime_from_clip(game.runtime._student, config.rolling, *clip, step_noise)
    for key, played in game._state.items():
        torch.testing.assert_close(begun[key].squeeze(), played.squeeze(), atol=5e-3, rtol=0, msg=key)  # float16


def scene_of(tmp_path: Path, config: Config, session: Session) -> scenes.Scene:
    write_scenes(tmp_path, DatasetSplit([session], [], []), config)
    return scenes.read(tmp_path, "7")


@pytest.mark.parametrize("frames", [5, 8, 40])
def test_a_world_without_anchors_has_start_scenes(tmp_path, tiny, frames):
    scene = scene_of(tmp_path, tiny, record(tmp_path / "session", tiny, frames))
    assert scene.anchors[:, 0, 0, 0].tolist() == [0, 1, 2, 3]
    lead = tiny.rolling.recent_blocks + 1
    assert scene.frames[:, 0, 0, 0].tolist() == list(range(4, min(frames, 4 + lead)))


def test_a_session_too_short_for_the_sinks_is_no_scene(tmp_path, tiny):
    session = record(tmp_path / "session", tiny, tiny.rolling.sink_frames)
    assert write_scenes(tmp_path, DatasetSplit([session], [], []), tiny) == {}


@pytest.mark.parametrize("first", [0, 100])
def test_a_scene_behind_anchors_begins_with_the_first_frame(tmp_path, tiny, first):
    anchors = np.stack([grey(tiny, first + 50 * n) for n in range(4)])
    scene = scene_of(tmp_path, tiny, record(tmp_path / "session", tiny, 9, anchors))
    assert np.array_equal(scene.anchors, anchors)
    assert np.array_equal(scene.frames, grey(tiny, 0)[None])
    assert (tmp_path / scenes.SCENES / "7" / scenes.FRAMES).is_dir() == (first != 0)
