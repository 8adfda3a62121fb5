"""Each arm changes what it says and nothing else."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import toy

from world_model import checkpoint
from world_model.checkpoint import WEIGHTS
from world_model.evaluate import __main__ as command
from world_model.evaluate import ablate
from world_model.evaluate.evaluation_context import EvaluationContext
from world_model.model import rolling
from world_model.model.head import Conditioning
from world_model.play.neural_game import NeuralGame
from world_model.play.real_game import open_game
from world_model.play.runtime import TorchRuntime, WorldError

NONE, KEY = np.zeros(8, np.int8), np.eye(8, dtype=np.int8)[4]


TOKENS = ["tokens_zero", "tokens_mean"]
ARMS = [
    "as shipped",
    *TOKENS,
    "re-forcing",
    "neither",
    "block by block",
    "no sinks",
    "rotary jitter",
    "K = 2",
    "K = 4",
    "K = 5",
]


@pytest.fixture(autouse=True)
def shortly(monkeypatch):
    monkeypatch.setattr(ablate, "MEAN_TICKS", 3)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ablated")
    toy.save(folder, toy.load("tiny"))
    toy.add_scenes(folder, toy.load("tiny"))
    return folder


def played(folder, runtime, keys) -> np.ndarray:
    """Frames of a game on ``runtime`` under keys."""
    game = NeuralGame(runtime.config.name, folder, "torch", "cpu")
    game.runtime, game.config = runtime, runtime.config
    game.reset(seed=3)
    return np.stack([game.step(key)[0] for key in keys])


@pytest.mark.parametrize("name", ["tiny", "tiny_keep", "tiny_view"])
def test_with_one_token_the_trunk_is_nothing_to_the_picture(name, tmp_path):
    """Whatever makes x0 of them, and whatever the layers hold; the shipped student's picture hangs on its layers."""
    shape = toy.load(name)
    toy.save(tmp_path, shape)
    toy.add_scenes(tmp_path, shape)
    arms = {arm.name: arm.game for arm in ablate.arms(tmp_path, shape.name, "cpu", None, {})[:3]}
    keys, plain = np.eye(shape.action_size, dtype=np.int8)[[0, 0, 1]], {}
    for arm, game in arms.items():
        runtime = game().runtime
        if name == "tiny_keep":  # which at first picks the last frame, whatever else it sees
            runtime._student.local.out.bias.data.zero_()
        plain[arm] = played(tmp_path, runtime, keys)
        for parameter in runtime._student.layers.parameters():
            parameter.data += torch.randn_like(parameter)
        assert (played(tmp_path, runtime, keys) == plain[arm]).all() == (arm in TOKENS), arm
    assert list(arms) == ["as shipped", *TOKENS]
    assert (plain["tokens_zero"] != plain["tokens_mean"]).any() and (plain["tokens_mean"] != plain["as shipped"]).any()


def test_the_mean_of_tokens_that_are_all_alike_is_that_token(folder):
    game = NeuralGame("arena", folder, "torch", "cpu")
    student = game.runtime._student
    for weight in (
        student.embed.weight,
        student.place,
        *(w for x in student.layers for w in (x.project.weight, x.narrow.weight)),
    ):
        weight.data.zero_()
    torch.testing.assert_close(ablate.mean_token(game), student.embed.bias.data)


def test_arms_are_chosen_by_name_beside_the_unaltered_student(folder):
    arms = ablate.arms(folder, "arena", "cpu", None, {})
    assert [arm.name for arm in ablate.only(arms, ["no sinks"])] == ["as shipped", "no sinks"]
    assert ablate.only(arms, []) == arms
    with pytest.raises(WorldError, match=r"no arm 'no sink'; there are as shipped, tokens_zero"):
        ablate.only(arms, ["no sink"])


def test_no_arm_is_judged_in_a_room_that_it_was_trained_on(folder, tmp_path):
    neural = SimpleNamespace(folder=folder)
    rooms = command.rooms_new_to_all(neural, 2, {"same": folder})
    config, _ = checkpoint.describe(folder / WEIGHTS)
    checkpoint.save(tmp_path / WEIGHTS, {}, config, {checkpoint.ROOMS: f"7 {rooms[1]}"})
    with pytest.raises(WorldError, match=f"--arm mine: .* trained on rooms that are held out here: {rooms[1]}$"):
        command.rooms_new_to_all(neural, 2, {"mine": tmp_path})
    with pytest.raises(WorldError, match="no start scenes named by the seed"):
        command.rooms_new_to_all(SimpleNamespace(folder=tmp_path), 2, {})


def test_without_sinks_their_keys_are_gone(folder):
    plain, arm = TorchRuntime(folder, "cpu"), ablate.NoSinks(folder, "cpu")
    game = NeuralGame("arena", folder, "torch", "cpu")
    game.reset(seed=3)
    full = game.runtime.to_numpy(game._state)["keys"].shape[3]
    game.runtime = arm
    game.reset(seed=3)
    sinks = plain.config.rolling.sink_frames * arm._student.tokens
    assert game._state["keys"].shape[3] == full - sinks
    for _ in range(3):
        game.step(KEY)
    assert game._state["keys"].shape[3] == full - sinks
    assert (played(folder, arm, [NONE] * 3) != played(folder, plain, [NONE] * 3)).any()


def test_block_by_block_never_reads_the_window(folder):
    arm = ablate.BlockByBlock(folder, "cpu")
    game = NeuralGame("arena", folder, "torch", "cpu")
    game.runtime = arm
    game.reset(seed=3)
    other = game._state | {"window": torch.randn_like(game._state["window"])}
    noise = game.noise(0)
    np.testing.assert_array_equal(arm.step(game._state, KEY[None], noise)[1], arm.step(other, KEY[None], noise)[1])


def test_blocks_that_keep_their_keys_differ_only_after_a_change(folder):
    plain, arm = TorchRuntime(folder, "cpu"), ablate.JoinedUnder(folder, "cpu")
    still = [NONE] * 5
    np.testing.assert_array_equal(played(folder, arm, still), played(folder, plain, still))
    pressed = [NONE, KEY, KEY]
    assert (played(folder, arm, pressed) != played(folder, plain, pressed)).any()


def test_a_tick_with_a_key_for_every_block_equals_one_held_key(folder):
    game = NeuralGame("arena", folder, "torch", "cpu")
    game.reset(seed=3)
    shape, noise, key = game.config.rolling, torch.from_numpy(game.noise(0)), torch.from_numpy(KEY[None]).float()
    each = key[:, None].expand(-1, shape.window_blocks, -1)
    with torch.inference_mode():
        states = [rolling.tick(game.runtime._student, shape, game._state, action, noise)[0] for action in (key, each)]
    for name, array in states[0].items():
        torch.testing.assert_close(array, states[1][name], rtol=0, atol=0)


def test_as_many_levels_as_trained_for_is_the_same_student(folder):
    own = TorchRuntime(folder, "cpu").config.rolling.window_blocks
    same, fewer = (ablate.OtherLevels(folder, "cpu", count) for count in (own, own - 1))
    plain = played(folder, TorchRuntime(folder, "cpu"), [KEY] * 3)
    np.testing.assert_array_equal(played(folder, same, [KEY] * 3), plain)
    assert (played(folder, fewer, [KEY] * 3) != plain).any()


def test_jitter_moves_times_and_none_moves_nothing(folder, monkeypatch):
    plain = played(folder, TorchRuntime(folder, "cpu"), [KEY] * 3)
    assert (played(folder, ablate.Jittered(folder, "cpu"), [KEY] * 3) != plain).any()
    monkeypatch.setattr(ablate, "JITTER", 0.0)
    np.testing.assert_array_equal(played(folder, ablate.Jittered(folder, "cpu"), [KEY] * 3), plain)


def test_a_kind_of_source_is_picked_no_more_and_a_mean_is_between(tmp_path):
    toy.save(tmp_path, toy.load("tiny_keep"))
    rng = np.random.default_rng(1)
    sinks, frame = (
        torch.from_numpy(rng.standard_normal((1, n, *toy.load("tiny_keep").latent_shape))).float() for n in (4, 1)
    )
    conditioning = Conditioning(frame, torch.zeros(1, 1, 6), sinks)
    nothing = torch.zeros(1, 1, 16, 32), torch.zeros(1, 1, 32)
    picked = {}
    for name, arm in {"all": TorchRuntime(tmp_path, "cpu"), "mixed": ablate.Mixed(tmp_path, "cpu")}.items():
        picked[name], _ = arm._student.local(conditioning, *nothing)
    for kind in ("last", "moved", "copy", "palette"):
        arm = ablate.Without(tmp_path, "cpu", kind)
        _, outputs = arm._student.local(conditioning, *nothing)
        shares = outputs.mixture_logits.softmax(1)
        assert shares[:, list(arm._student.local.kinds[kind])].max() == 0 and shares.sum(1).allclose(torch.ones(()))
    mean, likeliest = picked["mixed"], picked["all"]
    assert not torch.equal(mean, likeliest) and mean.std() < likeliest.std()


def test_only_a_head_that_picks_is_measured_without_its_sources(tmp_path):
    own = {}
    for name in ("tiny_keep", "tiny_view"):
        (tmp_path / name).mkdir()
        toy.save(tmp_path / name, toy.load(name))
        own[name] = {arm.name for arm in ablate.arms(tmp_path / name, toy.load(name).name, "cpu", None, {})}
    assert own["tiny_view"] < own["tiny_keep"] and len(own["tiny_keep"] - own["tiny_view"]) >= 5


def test_the_teachers_staircase_ends_in_what_it_predicts(folder, monkeypatch):
    """A block goes down one level a tick, and the last Euler step leaves the prediction and none of the noise."""
    student = {name.replace("student.", "teacher."): array for name, array in _tensors(folder).items()}
    teacher = folder / "teacher.safetensors"
    ablate.checkpoint.save(teacher, student, toy.load("tiny"), {"stage": "teacher"})
    arm = ablate.Progressive(folder, "cpu", teacher)
    monkeypatch.setattr(ablate, "view_clip", lambda model, sinks, x, *rest: torch.full_like(x, 0.25))
    game = NeuralGame("arena", folder, "torch", "cpu")
    game.runtime = arm
    game.reset(seed=3)
    state, latent = arm.step(game._state, KEY[None], game.noise(0))
    np.testing.assert_allclose(latent, 0.25, atol=1e-6)
    shares, lower = arm._shares(state["window"])
    assert shares[-1] == 1 and lower[0] == 0 and torch.equal(shares[:-1], lower[1:])
    assert torch.equal(state["acted"][:, -1], torch.from_numpy(KEY[None]).float())


def _tensors(folder):
    return {f"student.{name}": array for name, array in ablate.checkpoint.tensors(folder / WEIGHTS, "student").items()}


def test_every_arm_goes_on_from_its_own_state(folder):
    """As the measure of onset does, which branches both games at one instant."""
    for arm in ablate.arms(folder, "arena", "cpu", None, {}):
        game = arm.game()
        game.reset(seed=3)
        game.step(KEY)
        instant = game.get_state()
        shown = [game.step(KEY)[0]]
        game.set_state(instant)
        assert np.array_equal(game.step(KEY)[0], shown[0]), arm.name


def test_every_arm_can_be_measured(folder):
    """By the measures that prime, refill and roll; figures of random weights say nothing more."""
    teacher = folder / "teacher.safetensors"
    student = {name.replace("student.", "teacher."): array for name, array in _tensors(folder).items()}
    ablate.checkpoint.save(teacher, student, toy.load("tiny"), {"stage": "teacher"})
    arms = ablate.arms(folder, "arena", "cpu", teacher, {"mine": folder})
    own = arms[0].game().config.rolling.window_blocks
    assert [arm.name for arm in arms] == [name for name in ARMS if name != f"K = {own}"] + ["teacher", "mine"]
    real = open_game(arms[0].game().config.world)
    suite = replace(ablate.SUITE, rooms=1, seconds=(2,), next_frames=2, rollout_ticks=8)
    context = EvaluationContext(arms[0].game(), real, [28], suite)
    parts = [ablate.next_frame, ablate.rollout, ablate.persistence]
    found = ablate.ablate(arms, context, parts)
    names = {"next_frame_gain_over_copy_last_db", "rollout63_psnr_db", "sharpness_ratio"}
    assert all(names <= set(measures) for measures in found.values())
    assert found["mine"] == found["as shipped"] != found["no sinks"]
    assert found["mine"]["same_pixels_percent"].value == 100 and found["mine"]["same_psnr_db"].value == pytest.approx(
        60
    )
    assert found["no sinks"]["same_pixels_percent"].value < 100 and found["no sinks"]["same_psnr_db"].value < 60
