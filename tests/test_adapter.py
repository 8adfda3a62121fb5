"""Somebody else's game becomes a world: its picture, its keys, its time, its state; what cannot be one is a line."""

from __future__ import annotations

import random
import re
import sys
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import cv2
import gymnasium
import numpy as np
import pytest
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Tuple
from script import down
from script import play as loop

import game.register  # noqa: F401
import play
import train
from game.play.command import play as run_play
from game.play.keyboard import Event
from game.record.recorder import Recorder
from game.worlds.adapter import GameError
from game.worlds.adapter_keys import suggested
from game.worlds.bots import make_bot
from game.worlds.new_world import new_world
from world_model import config as configuration
from world_model.checkpoint import describe
from world_model.config import CONFIGS, REPOSITORY, WORLDS, Config, ConfigError, Game, World, load
from world_model.episode import Session
from world_model.episode.dataset import DataError, DatasetSplit
from world_model.play.real_game import open_game

HEIGHT, WIDTH, PLACE = 40, 24, (6, 9)
PICTURES = {
    "rgb": Box(0, 255, (HEIGHT, WIDTH, 3), np.uint8),
    "grey": Box(0, 255, (HEIGHT, WIDTH), np.uint8),
    "channel": Box(0, 255, (HEIGHT, WIDTH, 1), np.uint8),
    "dict": Dict(grid=Box(0, 9, (7, 7, 3), np.uint8), view=Box(0, 255, (HEIGHT, WIDTH, 3), np.uint8), hour=Discrete(9)),
    "none": Box(-1.0, 1.0, (4,), np.float32),
}


class Dot(gymnasium.Env):
    """A white dot in the dark that goes one pixel to the right a step, all of its choices in what it is made with."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}

    def __init__(self, shows="rgb", takes=None, fails_at=-1, grows_at=-1, ends_at=-1, dice=False, render_mode=None):
        self.render_mode, self.shows, self.dice = render_mode, shows, dice
        self.fails_at, self.grows_at, self.ends_at = fails_at, grows_at, ends_at
        self.observation_space = PICTURES[shows]
        self.action_space = takes or Discrete(3)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps, self.got = 0, []
        return self._observation(), {}

    def step(self, action):
        assert action in self.action_space
        self.steps, self.got = self.steps + 1, [*self.got, action]
        if self.steps == self.fails_at:
            raise RuntimeError("the dot\nis lost")
        return self._observation(), 0.5, self.steps == self.ends_at, False, {"pose": "its own"}

    def render(self):
        height = HEIGHT + 8 * (self.steps == self.grows_at)
        picture = np.zeros((height, WIDTH, 3), np.uint8)
        picture[PLACE[0], (PLACE[1] + self.steps + (random.randrange(9) if self.dice else 0)) % WIDTH] = 255
        return picture

    def _observation(self):
        picture = self.render()
        return {
            "rgb": picture,
            "grey": picture[..., 0],
            "channel": picture[..., :1],
            "dict": {"grid": np.zeros((7, 7, 3), np.uint8), "view": picture, "hour": 1},
            "none": np.zeros(4, np.float32),
        }[self.shows]


class Saved(Dot):
    """... which says itself how it is copied, and cannot be copied otherwise."""

    def __deepcopy__(self, memo):
        raise TypeError("a window is open")

    def get_state(self):
        return {"steps": np.array(self.steps)}

    def set_state(self, state):
        self.steps = int(state["steps"])


class Keyed(Dot):
    """... which says its keys."""

    said: dict = {}

    def get_keys_to_action(self):
        return self.said


class Mine(Saved):
    """... whose episode ends where the dot is driven to the left, into a mine."""

    def step(self, action):
        frame, reward, _, *rest = super().step(action)
        return frame, reward, action == 1, *rest


class Old(Dot):
    """... as Gym once had them, whose steps gave four things."""

    def step(self, action):
        frame, reward, *ends, info = super().step(action)
        return frame, reward, any(ends), info


class Unpaid(Dot):
    """... which forgot its reward."""

    def step(self, action):
        return super().step(action)[0], None, False, False, {}


class Bare(Dot):
    """... which draws nothing."""

    metadata = {"render_modes": []}


@pytest.fixture(scope="module", autouse=True)
def games():
    for kind in (Dot, Saved, Mine, Keyed, Old, Unpaid, Bare):
        gymnasium.register(f"tests/{kind.__name__}-v0", kind, max_episode_steps=99 if kind is Old else None)
    yield
    for kind in (Dot, Saved, Mine, Keyed, Old, Unpaid, Bare):
        del gymnasium.registry[f"tests/{kind.__name__}-v0"]


def settings_of(choices: dict) -> Game:
    """What YAML says; a space is put in behind its back, because YAML has none."""
    made_with = {name: choices.pop(name) for name in list(choices) if name not in Game.model_fields}
    return Game(**choices).model_copy(update={"kwargs": made_with})


def world_of(keys=("a", "d"), env="tests/Dot-v0", height=48, width=32, **choices) -> World:
    settings = settings_of({"actions": {"": 0, "a": 1, "d": 2}} | choices)
    return World(env=env, height=height, width=width, fps=10, keys=keys, game=settings)


def dot_in(frame: np.ndarray) -> list[list[int]]:
    assert frame.dtype == np.uint8 and frame.shape[2] == 3
    return np.argwhere(frame.max(2) > 0).tolist()


def refusal(world: World) -> str:
    with pytest.raises(GameError) as refused:
        open_game(world)
    assert "\n" not in str(refused.value)
    return str(refused.value)


# ---------------------------------------------------------------- picture


@pytest.mark.parametrize("shows", PICTURES)
def test_every_kind_of_picture_is_a_frame_of_the_world(shows):
    source = open_game(world_of(shows=shows))
    frame, _ = source.reset(seed=1)
    top, left = (48 - HEIGHT) // 2, (32 - WIDTH) // 2  # what is missing is black, on both sides
    assert frame.shape == (48, 32, 3) and dot_in(frame) == [[PLACE[0] + top, PLACE[1] + left]]
    after = source.step(np.array([1, 0]))[0]
    assert dot_in(after) == [[PLACE[0] + top, PLACE[1] + left + 1]]
    assert np.array_equal(source.unwrapped.render(), after) and np.array_equal(source.unwrapped.anchors(), frame[None])


def test_crop_then_scale():
    def first(**choices) -> np.ndarray:
        return open_game(world_of(height=16, width=8, **choices)).reset(seed=1)[0]

    cropped = {"crop": (4, 4, 8, 0), "scale": 2}  # the dot is at row 2, column 1 of 32x16: half way up a pixel
    assert np.array_equal(dot_in(first(**cropped)), [[1, 0]]) and first(**cropped).max() == 64  # a quarter of 255
    assert not first(**cropped, filter="nearest").any()  # and the dot is not the one of the four
    assert first(**cropped | {"crop": (4, 4, 7, 1)}, filter="nearest")[1, 1].tolist() == [255] * 3


def test_an_episode_that_begins_in_the_dark_has_no_picture_of_its_place():
    source = open_game(world_of(height=16, width=8, crop=(20, 4, 8, 0), scale=2)).unwrapped
    assert not source.reset(seed=1)[0].any() and source.anchors() is None


def test_a_person_names_pictures_of_the_place(tmp_path):
    """Beside the YAML, of any size; a recording holds them, and neither it nor weights say where they lay."""
    new_world("tests/Dot-v0", "dot", tmp_path)
    yaml = tmp_path / "dot.yaml"
    yaml.write_text(yaml.read_text().replace("    wait:", "    sinks: [room.png]\n    wait:"))
    assert "world.game.sinks: " in (words := refusal(load(yaml).world)) and f"{tmp_path}/room.png: no picture" in words
    cv2.imwrite(str(tmp_path / "room.png"), np.full((96, 64, 3), (0, 0, 200), np.uint8))  # blue, green, red
    recorder = Recorder(open_game(load(yaml).world), tmp_path, world="dot", config=load(yaml).world, clock=None)
    recorder.reset(seed=1)
    recorder.close()
    session = Session.open(recorder.path)
    assert np.array_equal(session.anchors, np.broadcast_to(np.uint8([200, 0, 0]), (1, 48, 32, 3)))
    assert session.meta.config.game.sinks == () and session.meta.config.game == load(yaml).world.game.model_copy(
        update={"sinks": ()}
    )


def test_a_picture_larger_than_the_world_is_refused():
    assert "40x24 after world.game.crop and scale, the world is 32x32" in refusal(world_of(height=32))


def test_a_picture_that_changes_size_is_a_line():
    source = open_game(world_of(grows_at=6))
    source.reset(seed=1)
    with pytest.raises(GameError, match=r"was \(40, 24, 3\) and is now \(48, 24, 3\)"):
        for _ in range(6):
            source.step(np.zeros(2, int))


# ---------------------------------------------------------------- keys


def actions_of(keys, takes, *held, **choices) -> list:
    """What the game gets for each combination of keys."""
    source = open_game(world_of(keys, takes=takes, **choices))
    source.reset(seed=1)
    for combination in held:
        source.step(np.array([key in combination.split("+") for key in keys]))
    return source.unwrapped._game.unwrapped.got


def test_a_combination_that_is_no_action_is_its_largest_part_that_is_one():
    table = {"": 0, "a": 1, "space": 2, "a+space": 3}
    got = actions_of(("a", "d", "space"), Discrete(4), "", "d", "d+space", "a+d+space", "a+space", actions=table)
    assert got == [0, 0, 2, 3, 3]


def test_where_nothing_held_is_no_action_the_game_waits():
    table = {"a": 0, "d": 1}
    assert actions_of(("a", "d"), Discrete(2), "", "a", "", "d", "", actions=table) == [0, 1]


@pytest.mark.parametrize(
    "takes, keys, held, wanted",
    [
        (Discrete(3, start=5), ("1", "2", "3"), "3", 7),
        (MultiBinary(2), ("w", "s"), "w+s", [1, 1]),
        (MultiDiscrete([3, 2]), ("a", "d", "w"), "d+w", [2, 1]),
        (Box(np.float32([-1, 0]), np.float32([2, 1])), ("a", "d", "w"), "d", [2, 0]),
        (Box(-np.inf, np.inf, (1, 2)), ("a", "d", "s", "w"), "a+w", [[-1, 1]]),
    ],
    ids=str,
)
def test_keys_of_their_own_for_every_space(takes, keys, held, wanted):
    assert suggested(Dot(takes=takes))[0] == keys
    assert np.array_equal(actions_of(keys, takes, held, actions=None)[0], wanted)


@pytest.mark.parametrize(
    "said, keys, wanted",
    [
        ({"": 0, "w": 1, "wa": 2}, ("w", "a"), {"": 0, "w": 1, "w+a": 2}),
        ({(): 1, (276,): 0, (275, 32): 2}, ("left", "right", "space"), {"": 1, "left": 0, "right+space": 2}),
        ({(ord("D"),): 1, 1073741906: 2}, ("d", "up"), {"d": 1, "up": 2}),
        ({("left", " "): np.float32([0, 0.5])}, ("left", "space"), {"left+space": (0.0, 0.5)}),
    ],
)
def test_a_game_that_says_its_keys(said, keys, wanted, monkeypatch):
    monkeypatch.setattr(Keyed, "said", said)
    assert suggested(gymnasium.make("tests/Keyed-v0", disable_env_checker=True)) == (keys, wanted)


@pytest.mark.parametrize(
    "choices, words",
    [
        ({"takes": Tuple([Discrete(2)]), "actions": None}, "no keys can stand for"),
        ({"takes": Discrete(99), "actions": None}, "no keys for so many"),
        ({"actions": {"": 0, "a": 3}}, '"a" is no action of Discrete'),
        ({"actions": {"": 0, "a": 0.5}}, '"a" is no action of Discrete'),
        ({"actions": {"": 0, "a": (0.0, 1.0)}}, '"a" is no action of Discrete'),
        ({"takes": MultiBinary(2), "actions": ({"": 0, "a": 1},)}, '"" is no action of MultiBinary'),
        ({"takes": MultiBinary(1), "actions": ({"a": 1},)}, 'needs the combination ""'),
        ({"takes": MultiBinary(3), "actions": None}, "s, space, w is none of the world's keys a d"),
    ],
)
def test_actions_that_are_none_are_named(choices, words):
    assert words in refusal(world_of(**choices))


def test_a_table_of_keys_that_the_world_has_not():
    with pytest.raises(ValueError, match="x is none of the world's keys"):
        world_of(actions={"": 0, "a+x": 1})


def test_keys_mean_what_the_game_calls_its_actions(tmp_path, monkeypatch):
    monkeypatch.setattr(Keyed, "said", {"": 0, "w": 1, "wa": 2})
    monkeypatch.setattr(Keyed, "get_action_meanings", lambda self: ["NOOP", "UP", "UPLEFT"], raising=False)
    new_world("tests/Keyed-v0", "dot", tmp_path)
    world = load(tmp_path / "dot.yaml").world
    assert world.meanings == {"w": "up"} and world.rest == 0, "no key is no action, so it is not turn-based"


# ---------------------------------------------------------------- time


def test_skipped_steps_add_up_and_stop_at_the_end():
    source = open_game(world_of(skip=3, ends_at=20))
    source.reset(seed=1)
    seen = [source.step(np.zeros(2, int)) for _ in range(7)]
    assert [reward for _, reward, *_ in seen] == [1.5] * 6 + [1.0]
    assert [ended for _, _, ended, _, _ in seen] == [False] * 6 + [True]
    assert seen[0][4] == {"game": {"pose": "its own"}}  # its names cannot be taken for ours


def test_an_episode_begins_when_its_picture_has_settled(tmp_path, monkeypatch):
    draw = Dot.render
    monkeypatch.setattr(Keyed, "said", {"": 0, "a": 1})
    monkeypatch.setattr(Keyed, "render", lambda self: np.maximum(draw(self), 20 * max(0, 7 - self.steps)))
    assert "--bot random --headless" in new_world("tests/Keyed-v0", "dot", tmp_path)
    world = load(tmp_path / "dot.yaml").world
    assert world.game.wait == 7
    frame, _ = (source := open_game(world)).reset(seed=1)
    assert dot_in(frame) == [[PLACE[0] + 4, PLACE[1] + 4 + 7]] and source.unwrapped._game.unwrapped.got == [0] * 7
    assert np.array_equal(source.unwrapped.anchors(), frame[None])


def test_an_episode_that_ends_while_it_is_waited_for():
    with pytest.raises(GameError, match="ends within the 9 steps of game.wait"):
        open_game(world_of(wait=9, ends_at=9)).reset(seed=1)


# ---------------------------------------------------------------- state


@pytest.mark.parametrize("env", ["tests/Dot-v0", "tests/Saved-v0"])
def test_a_moment_goes_on_exactly(env):
    source = open_game(world_of(env=env)).unwrapped
    first, _ = source.reset(seed=7)
    source.step(np.array([1, 0]))
    state, frame = source.get_state(), source.render()
    then = [source.step(np.array([0, 1]))[0] for _ in range(3)]
    source.reset(seed=8)
    for _ in range(2):  # again and again
        source.set_state(state)
        assert np.array_equal(source.render(), frame) and source.provenance()["seed"] == 7
        assert np.array_equal([source.step(np.array([0, 1]))[0] for _ in range(3)], then)
    with pytest.raises(ValueError, match="no state of|has the arrays"):
        source.set_state({name: np.zeros(()) for name in state})


@pytest.mark.parametrize("env", ["tests/Saved-v0", "tests/Dot-v0"])
def test_the_score_is_of_this_episode_and_of_this_moment(env, tmp_path, monkeypatch):
    """Also after going back, to a saved moment, and into another future: half a point for each pixel the dot went. The
    second can only be copied, and no file holds it."""
    monkeypatch.chdir(tmp_path)
    plan = {2: down("f5"), 7: down("backspace"), 10: [Event("up", "backspace")], 13: down("f9"), 16: down("b"),
            20: down("return"), 24: down("escape")}  # fmt: skip
    screen = loop(open_game(world_of(env=env)), plan)
    went = [dot_in(frame)[0][1] - PLACE[1] - (32 - WIDTH) // 2 for frame in screen.shown]
    assert [hud.score for hud in screen.huds] == [pixels / 2 for pixels in went]
    assert sum(after < before for before, after in pairwise(went)) >= 3 and screen.huds[-1].beside is not None
    huds = loop(open_game(world_of(ends_at=4)), {}, frames=7).huds
    assert [hud.score for hud in huds] == [0, 0.5, 1, 1.5, 2, 0, 0.5, 1, 1.5]
    assert huds[5].notice == "The episode is over · score 2" and huds[4].place != huds[5].place


def test_another_future_closes_when_it_ends():
    """The first future goes on, by the keys that it gets."""
    plan = {2: down("b"), 4: down("b"), 6: down("left")}
    huds = loop(open_game(world_of(tuple("wasd"), "tests/Mine-v0")), plan, frames=14).huds
    assert [hud.beside is not None for hud in huds] == [False] * 3 + [True] * 3 + [False] * 9
    assert "beside this one is over" in huds[-1].notice and huds[-1].score == 7


def test_a_state_of_before_there_was_a_score():
    source = open_game(world_of(env="tests/Saved-v0")).unwrapped
    source.reset(seed=7)
    source.step(np.array([1, 0]))
    state = source.get_state()
    del state["score"]
    source.set_state(state)
    assert source.score == 0 and dot_in(source.render()) == [[PLACE[0] + 4, PLACE[1] + 4 + 1]]


def test_a_copy_is_of_its_own_run(tmp_path):
    source = open_game(world_of()).unwrapped
    source.reset(seed=7)
    np.savez(tmp_path / "state.npz", **source.get_state())
    with pytest.raises(ValueError, match="only while it runs"):
        source.set_state(dict(np.load(tmp_path / "state.npz")))


def test_a_game_that_goes_on_otherwise_has_no_state():
    source = open_game(world_of(dice=True))
    assert not hasattr(source.unwrapped, "get_state")
    assert source.reset(seed=1)[0].any()


def test_without_a_seed_episodes_differ_and_say_theirs():
    source, other = open_game(world_of()), open_game(world_of())
    seeds = set()
    for game_ in (source, source, other, other):
        game_.reset()
        seeds.add(game_.unwrapped.provenance()["seed"])
    assert len(seeds) == 4


# ---------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    "choices, words",
    [
        ({"env": "tests/Nothing-v0"}, "no such game"),
        ({"module": "no_such_module"}, "no no_such_module.py beside train.py, nor on PYTHONPATH"),
        ({"unheard": 1}, "unexpected keyword argument 'unheard'"),
        ({"picture": "nowhere", "shows": "dict"}, "world.game.picture 'nowhere' is not there"),
        ({"picture": "hour", "shows": "dict"}, "a picture is uint8"),
        ({"picture": "observation", "shows": "none"}, "shows float32 (4,), and a picture is uint8"),
        ({"env": "tests/Bare-v0", "shows": "none"}, "no picture, and it draws none; it observes Box(-1.0, 1.0, (4,)"),
    ],
)
def test_what_is_no_world_is_a_line(choices, words):
    assert words in refusal(world_of(**choices))


def test_a_package_that_is_missing_is_named(monkeypatch):
    for module in ("vizdoom", "vizdoom.gymnasium_wrapper"):
        monkeypatch.setitem(sys.modules, module, None)
    assert re.search("vizdoom.* is not installed: pip install vizdoom$", refusal(world_of(env="VizdoomBasic-v1")))


def test_a_game_that_fails_leaves_its_recording_whole(tmp_path):
    recorder = Recorder(open_game(world_of(fails_at=9)), tmp_path, world="dot", clock=None)
    recorder.reset(seed=3)
    told = r"tests/Dot-v0 failed: RuntimeError: the dot is lost \(.*test_adapter.py:\d+\)"
    with pytest.raises(GameError, match=told):
        for _ in range(9):
            recorder.step(np.array([1, 0]))
    recorder.close()
    session = Session.open(recorder.path)
    assert not session.check() and len(session) == 9
    assert (session.meta.env, session.meta.source, session.meta.seed) == ("tests/Dot-v0", "tests/Dot-v0", 3)


@pytest.mark.filterwarnings("ignore:.*unversioned")
def test_an_id_without_its_version_gets_it_and_a_wrong_one_is_said_even_where_the_file_is_there(tmp_path):
    assert "dot.yaml: tests/Dot-v0," in new_world("tests/Dot", folder=tmp_path)
    with pytest.raises(GameError, match="no such game"):
        new_world("tests/Dot-v9", "dot", tmp_path)


@pytest.mark.parametrize("env, words", [("tests/Old-v0", "five things"), ("tests/Unpaid-v0", "reward None")])
def test_a_game_that_does_not_step_as_gymnasiums_do_is_refused_before_and_while_it_is_a_world(env, words, tmp_path):
    with pytest.raises(GameError, match=f"{env} failed: step .*{words}"):
        new_world(env, folder=tmp_path)
    assert not list(tmp_path.iterdir())
    game = open_game(world_of(env=env))
    game.reset(seed=0)
    with pytest.raises(GameError, match=words if env == "tests/Unpaid-v0" else "failed"):
        game.step(np.array([1, 0]))


# ---------------------------------------------------------------- a world


def test_a_module_is_what_the_yaml_here_names_and_nothing_else(tmp_path, monkeypatch):
    """So a game that a module of yours registers can be measured and shown beside its neural one."""
    monkeypatch.setattr(configuration, "CONFIGS", tmp_path)
    strangers = World.model_validate_json(world_of(module="os.path", scale=2).model_dump_json())
    assert configuration.with_module(strangers, "dot") == strangers, "no YAML of this name"
    new_world("test_adapter:tests/Dot-v0", folder=tmp_path)
    told = configuration.with_module(strangers, "dot")
    assert told.game == strangers.game.model_copy(update={"module": "test_adapter"})


def test_worlds_of_before_are_the_same_and_weights_name_no_module(tiny):
    assert "game" not in tiny.to_json()
    assert Config.from_json(describe(WORLDS / "keep" / "weights.safetensors")[0].to_json()).world.game is None
    world = world_of(module="os.path", scale=2)
    there = World.model_validate_json(world.model_dump_json())
    assert there.game == world.game.model_copy(update={"module": None})
    for crafted in ('"module":"os.path"', '"sinks":["/etc/picture.png"]'):
        with pytest.raises(ValueError, match="may be a stranger's, import nothing and name no files"):
            World.model_validate_json(world.model_dump_json().replace('"scale"', f'{crafted},"scale"'))


def test_a_world_is_written_played_and_recorded(tmp_path):
    words = new_world("test_adapter:tests/Dot-v0", folder=tmp_path)
    assert all(f"python {program}.py" in words for program in ("train", "play"))
    config = load(tmp_path / "dot.yaml")
    assert (config.world.height, config.world.width, config.world.fps) == (48, 32, 10)
    with pytest.raises(ConfigError, match="already"):
        new_world("tests/Dot-v0", "dot", tmp_path)
    record = tmp_path / "record"
    flags = f"--engine --config {tmp_path / 'dot.yaml'} --headless --bot masher --frames 12 --fps 0 --record {record}"
    assert run_play(play.parser().parse_args(flags.split())) == 0
    (path,) = record.iterdir()
    assert len(Session.open(path)) == 13 and Session.open(path).meta.keys == ("1", "2", "3")
    assert Session.open(path).meta.config.game.actions == config.world.game.actions
    assert "test_adapter" not in (path / "session.json").read_text(), "a stranger's recording would import it"
    assert len(DatasetSplit.open(record, config).train) == 1
    other = (tmp_path / "dot.yaml").read_text().replace("wait: 0", "wait: 2")  # the same game, begun later
    (tmp_path / "dot.yaml").write_text(other)
    assert len(DatasetSplit.open(record, load(tmp_path / "dot.yaml")).train) == 1
    (tmp_path / "dot.yaml").write_text(other.replace('"1": 0', '"1": 1').replace("skip: 1", "skip: 2"))
    with pytest.raises(DataError, match="another world.game.skip and actions than the configuration"):
        DatasetSplit.open(record, load(tmp_path / "dot.yaml"))
    (tmp_path / "dot.yaml").unlink()
    assert run_play(play.parser().parse_args(["--replay", str(path), "--verify"])) == 0


class OldCrafter:
    """As Crafter is: a step gives four things, no reset takes a seed."""

    def __init__(self, seed):
        self.seed = seed

    def reset(self):
        return np.full((64, 64, 3), self.seed % 200, np.uint8)

    def step(self, action):
        return np.full((64, 64, 3), action, np.uint8), 0.0, action == 16, {}


def example(number: int) -> str:
    """The code of an example in the documentation."""
    text = (Path(__file__).parents[1] / "docs/your_game.md").read_text()
    return text.split("```")[2 * number + 1].removeprefix("python")


def test_the_example_of_a_player(tmp_path):
    (tmp_path / "tracker.py").write_text(example(1))
    bot, frame = make_bot(f"{tmp_path}/tracker.py:Tracker", 0, ("space", "d", "a")), np.zeros((112, 80, 3), np.uint8)
    frame[50:58, 70:72] = 92, 186, 92
    bot.following = 4
    for row, keys in ((30, [0, 1, 0]), (53, [0, 0, 0]), (80, [0, 0, 1])):  # up, neither, down to the ball
        seen = frame.copy()
        seen[row : row + 2, 40] = 236
        assert bot.act(seen, {}).tolist() == keys
    assert len({bot.act(frame, {}).tobytes() for _ in range(600)}) == 6, "it serves, and plays at random in between"


def test_the_solver_opens_the_door():
    pytest.importorskip("minigrid")
    world = load(CONFIGS / "doorkey.yaml").world
    game, bot = open_game(world), make_bot(f"{REPOSITORY}/docs/doorkey_solver.py:Solver", 1, world.keys)
    bot.solving, (frame, info) = 400, game.reset(seed=3)
    while bot.solving:
        frame, reward, ended, _, info = game.step(bot.act(frame, info))
        if ended:
            break
    assert ended and reward > 0.5


def test_the_example_of_an_older_game(tmp_path, monkeypatch):
    (tmp_path / "my_crafter.py").write_text(example(0))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(sys.modules, "crafter", SimpleNamespace(Env=OldCrafter))
    monkeypatch.setattr(gymnasium.envs.registration, "registry", dict(gymnasium.registry))
    new_world("my_crafter:my/Crafter-v0", folder=tmp_path)
    source = open_game(world := load(tmp_path / "crafter.yaml").world)
    assert (source.reset(seed=123)[0] == 123).all()
    seen = [source.step(np.array([key == held for key in world.keys])) for held in ("", "a", "space", "0")]
    assert [(frame.max(), ended) for frame, _, ended, *_ in seen] == [(0, False), (1, False), (5, False), (16, True)]


@pytest.mark.parametrize(
    "env, words",
    [
        ("tests/Nothing-v0", "no such game"),
        ("tests/Bare-v0", "no keys"),
        ("", "an id is like"),
        ("a b:c", "an id is l"),
    ],
)
def test_an_id_that_is_no_world_writes_nothing(env, words, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(Bare, "__init__", lambda self: Dot.__init__(self, takes=Tuple([Discrete(2)])))
    monkeypatch.setattr("sys.argv", ["train.py", "--new-world", env, "--name", "written_by_a_test"])
    assert train.main() == 2
    assert re.fullmatch(rf"train.py: .*{words}.*\n", capsys.readouterr().err)
    for name in (None, "../x"):
        with pytest.raises(GameError, match="of letters, digits" if name and "tests" in env else words):
            new_world(env, name, folder=tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "package, env, size, keys, wait",
    [
        ("ale_py", "ALE/Pong-v5", (112, 80), ("space", "d", "a"), 1),
        ("minigrid", "MiniGrid-DoorKey-5x5-v0", (80, 80), ("a", "d", "w", "1", "2", "e", "3"), 0),
        ("Box2D", "CarRacing-v3", (96, 96), ("a", "d", "w", "s"), 49),
        ("vizdoom", "VizdoomBasic-v1", (64, 80), ("1", "2", "3", "4"), 0),
    ],
)
def test_games_that_people_have(package, env, size, keys, wait, tmp_path, monkeypatch):
    pytest.importorskip(package)
    monkeypatch.chdir(tmp_path)  # ViZDoom leaves a file
    new_world(env, "world", tmp_path)
    world = load(tmp_path / "world.yaml").world
    assert (world.height, world.width) == size and (world.keys, world.game.wait) == (keys, wait)
    assert (world.rest > 0) == (package in ("minigrid", "vizdoom")), "where no action does nothing, a press is one turn"
    source, held = open_game(world), np.random.default_rng(0).integers(0, 2, (12, len(keys)))

    def played() -> np.ndarray:
        return np.stack([source.reset(seed=4)[0]] + [source.step(keys_)[0] for keys_ in held])

    once = played()
    assert once.std() > 1 and np.array_equal(played(), once)
    assert hasattr(source.unwrapped, "get_state") == (package in ("ale_py", "minigrid"))
    assert len({frame.tobytes() for frame in once}) > 3
    assert world.game.picture == {"minigrid": "render", "vizdoom": "screen"}.get(package, "observation")
