"""What the rolling window relies on in the transformer, mostly in float64."""

import pytest
import torch
import toy

from world_model.model import context
from world_model.model.context import Layout
from world_model.model.transformer import timestep_features

S, F = 4, 5


@pytest.fixture(scope="module")
def model():
    return toy.models(toy.load("tiny"))[1].double().eval()


@pytest.fixture
def inputs(model):
    """x, sigma and action of [S sinks | F frames]."""
    torch.manual_seed(1)
    x = torch.randn(2, S + F, *model.latent_shape, dtype=torch.float64)
    sigma = torch.rand(2, S + F, dtype=torch.float64)
    action = torch.randint(0, 2, (2, S + F, 8)).double()
    return x, sigma, action


def test_shapes(model, inputs):
    x0, (keys, values), _ = model(*inputs, context.clip(S, F))
    assert x0.shape == inputs[0].shape
    assert keys.shape == values.shape == (2, 2, 2, (S + F) * model.tokens, 32)


def test_only_differences_of_time_matter(model, inputs):
    """Times shifted by 1000 give the same x0, stretched times another."""
    near = context.clip(S, F)
    later = [(near.times + 1000 * (near.times >= 0)), (near.key_times + 1000 * (near.key_times >= 0))]
    out, shifted = model(*inputs, near)[0], model(*inputs, Layout(*later, near.mask))[0]
    torch.testing.assert_close(out, shifted, atol=2e-3, rtol=0)  # the angles are tables in float32
    stretched = model(*inputs, Layout(2 * later[0], 2 * later[1], near.mask))[0]
    assert (stretched - out).abs().max() > 0.05


def test_nothing_passes_the_mask(model, inputs):
    x, sigma, action = inputs
    layout = context.packed(1, S, 2, F, (), 0)  # the last frame sees sinks and the two before it
    x.requires_grad_()
    out, *_ = model(x, sigma, action, layout)
    reached = torch.autograd.grad(out[:, -1].square().sum(), x)[0].abs().amax((0, 2, 3, 4)) > 0
    # keys of the frames in between carry what those attended to: two layers reach twice as far
    assert reached.tolist() == [True] * S + [True] * 5
    one_layer = toy.models(toy.load("tiny"))[1].double()
    one_layer.layers = one_layer.layers[:1]
    out, *_ = one_layer(x, sigma, action, layout)
    reached = torch.autograd.grad(out[:, -1].square().sum(), x)[0].abs().amax((0, 2, 3, 4)) > 0
    assert reached.tolist() == [True] * S + [False, False, True, True, True]


def test_an_unknown_action_is_the_learned_null(model, inputs):
    x, sigma, action = inputs
    unknown = torch.full_like(action, torch.nan)
    out = model(x, sigma, unknown, context.clip(S, F))[0]
    assert out.isfinite().all()
    with_zeros = model(x, sigma, torch.zeros_like(action), context.clip(S, F))[0]
    assert (out - with_zeros).abs().max() > 1e-3  # "no key" is not "unknown"
    gradient = torch.autograd.grad(out.square().sum(), [model.condition.no_action, model.condition.keys[0].weight])
    assert gradient[0].abs().max() > 0
    assert gradient[1].isfinite().all() and gradient[1].abs().max() == 0


@pytest.mark.parametrize("which", ["sigma", "action"])
def test_a_frames_condition_reaches_its_own_tokens_and_those_who_see_it(model, inputs, which):
    x, sigma, action = inputs
    changed = (x, sigma * 0.5, action) if which == "sigma" else (x, sigma, 1 - action)
    layout = Layout(*(context.clip(S, F).times,) * 2, torch.eye(S + F, dtype=torch.bool).numpy())  # all alone
    before, after = model(*inputs, layout)[0], model(*changed, layout)[0]
    assert ((before - after).abs().amax((2, 3, 4)) > 1e-4).all()
    mixed = tuple(torch.cat([old[:, :3], new[:, 3:]], 1) for old, new in zip(inputs, changed, strict=True))
    partly = model(*mixed, layout)[0]
    torch.testing.assert_close(partly[:, :3], before[:, :3], atol=1e-12, rtol=0)
    torch.testing.assert_close(partly[:, 3:], after[:, 3:], atol=1e-12, rtol=0)


def test_sinks_know_their_number(model, inputs):
    x, sigma, action = (part.clone() for part in inputs)
    for part in (x, sigma, action):
        part[:, 1] = part[:, 0]
    out, *_ = model(x, sigma, action, context.clip(S, F))
    assert (out[:, 0] - out[:, 1]).abs().max() > 1e-4


def test_a_cache_stands_for_its_frames(model, inputs):
    """Sinks and two frames from the cache, the rest as queries: the same as all in one pass."""
    x, sigma, action = inputs
    whole = context.packed(1, S, 4, F, (), 0)
    split = S + 2
    out, (keys, values), _ = model(x, sigma, action, whole)
    cached = keys[..., : split * model.tokens, :], values[..., : split * model.tokens, :]
    rest = Layout(whole.times[split:], whole.key_times, whole.mask[split:])
    assert rest.cached == split
    again, (new_keys, _), _ = model(x[:, split:], sigma[:, split:], action[:, split:], rest, cached)
    torch.testing.assert_close(again, out[:, split:], atol=1e-12, rtol=0)
    torch.testing.assert_close(new_keys, keys[..., split * model.tokens :, :], atol=1e-12, rtol=0)


def test_bfloat16_keeps_noise_shares_apart():
    """.999 and 1 are one number in bfloat16; the timestep features are computed before rounding."""
    features = timestep_features(torch.tensor([0.999, 1.0])).to(torch.bfloat16)
    assert (features[0] - features[1]).abs().max() > 0.1
