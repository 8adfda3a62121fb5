"""Each ablation changes the part that it names and nothing else."""

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
ARMS = ["as shipped", *TOKENS, "re-forcing", "keys at joining", "block by block", "no sinks", "K = 2", "K = 4", "K = 5"]


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
    """Frames of a game on ``runtime`` under keys [T, k]."""
    game = NeuralGame(runtime.config.name, folder, "torch", "cpu", endless=True)
    game.runtime, game.config = runtime, runtime.config
    game.reset(seed=3)
    return np.stack([game.step(key)[0] for key in keys])


@pytest.mark.parametrize("name", ["tiny", "tiny_keep", "tiny_view", "tiny_mixture"])
def test_with_one_token_the_picture_does_not_depend_on_the_layers(name, tmp_path):
    """With every kind of head; the unaltered student's picture does."""
    shape = toy.load(name)
    toy.save(tmp_path, shape)
    toy.add_scenes(tmp_path, shape)
    arms = {arm.name: arm.game for arm in ablate.arms(tmp_path, shape.name, "cpu", {})[:3]}
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
    layers = [weight for layer in student.layers for weight in (layer.project.weight, layer.narrow.weight)]
    for weight in (student.embed.weight, student.place, *layers):
        weight.data.zero_()
    torch.testing.assert_close(ablate.mean_token(game), student.embed.bias.data)


def test_arms_are_chosen_by_name_beside_the_unaltered_student(folder):
    arms = ablate.arms(folder, "arena", "cpu", {})
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


def test_a_kind_of_source_is_picked_no_more_and_a_mean_is_between(tmp_path):
    toy.save(tmp_path, toy.load("tiny_keep"))
    rng = np.random.default_rng(1)
    sinks, frame = (
        torch.from_numpy(rng.standard_normal((1, n, *toy.load("tiny_keep").latent_shape))).float() for n in (4, 1)
    )
    conditioning = Conditioning(frame, torch.zeros(1, 1, 6), sinks)
    nothing = torch.zeros(1, 1, 16, 32), torch.zeros(1, 1, 32)
    picked = {}
    for name, arm in {"all": TorchRuntime(tmp_path, "cpu"), "mean": ablate.MeanOfSources(tmp_path, "cpu")}.items():
        picked[name], _ = arm._student.local(conditioning, *nothing)
    for kind in ("last", "moved", "copy", "palette"):
        arm = ablate.Without(tmp_path, "cpu", kind)
        _, outputs = arm._student.local(conditioning, *nothing)
        shares = outputs.mixture_logits.softmax(1)
        assert shares[:, list(arm._student.local.kinds[kind])].max() == 0 and shares.sum(1).allclose(torch.ones(()))
    mean, likeliest = picked["mean"], picked["all"]
    assert not torch.equal(mean, likeliest) and mean.std() < likeliest.std()


def test_only_a_head_that_picks_is_measured_without_its_sources(tmp_path):
    own = {}
    for name in ("tiny_keep", "tiny_view"):
        (tmp_path / name).mkdir()
        toy.save(tmp_path / name, toy.load(name))
        own[name] = {arm.name for arm in ablate.arms(tmp_path / name, toy.load(name).name, "cpu", {})}
    assert own["tiny_view"] < own["tiny_keep"] and len(own["tiny_keep"] - own["tiny_view"]) >= 5


def test_every_arm_goes_on_from_its_own_state(folder):
    """As the measure of onset needs, which restores a state."""
    for arm in ablate.arms(folder, "arena", "cpu", {}):
        game = arm.game()
        game.reset(seed=3)
        game.step(KEY)
        state = game.get_state()
        frame = game.step(KEY)[0]
        game.set_state(state)
        assert np.array_equal(game.step(KEY)[0], frame), arm.name


def test_every_arm_can_be_measured(folder):
    """By the measures that prime, refill and roll; the weights are random, so their values mean nothing."""
    arms = ablate.arms(folder, "arena", "cpu", {"mine": folder})
    own = arms[0].game().config.rolling.window_blocks
    assert [arm.name for arm in arms] == [*(name for name in ARMS if name != f"K = {own}"), "mine"]
    real = open_game(arms[0].game().config.world)
    suite = replace(ablate.SUITE, rooms=1, seconds=(2,), next_frames=2, rollout_ticks=8)
    context = EvaluationContext(arms[0].game(), real, [28], suite)
    parts = [ablate.next_frame, ablate.rollout, ablate.persistence]
    measures = ablate.ablate(arms, context, parts)
    names = {"next_frame_gain_over_copy_last_db", "rollout63_psnr_db", "sharpness_ratio"}
    assert all(names <= set(of_arm) for of_arm in measures.values())
    assert measures["mine"] == measures["as shipped"] != measures["no sinks"]
    pixels, decibels = (
        {arm: m[name].value for arm, m in measures.items()} for name in ("same_pixels_percent", "same_psnr_db")
    )
    assert (
        pixels["mine"] == 100 > pixels["no sinks"]
        and decibels["mine"] == pytest.approx(60)
        and decibels["no sinks"] < 60
    )
