"""The rolling window against the same computed in one pass over all frames, without a cache."""

import pytest
import torch
import toy

from world_model.model import context, rolling
from world_model.model.head import Conditioning
from world_model.model.mixture_head import MixtureOutputs
from world_model.model.noise import sigmas


class Played:
    """A student in float64 and random inputs to prime it with."""

    def __init__(self, name: str, batch: int = 2):
        self.config = toy.load(name)
        self.roll, self.model = self.config.rolling, toy.models(self.config)[1].double().eval()
        self.batch = batch
        torch.manual_seed(3)
        past = self.roll.recent_blocks + 1
        self.sinks = self.random(self.roll.sink_frames)
        self.frames = self.random(past, self.roll.frames_per_block)
        self.actions = torch.randint(0, 2, (batch, past, self.config.action_size)).double()
        self.noise = self.blocks()

    def random(self, *shape: int) -> torch.Tensor:
        return torch.randn(self.batch, *shape, *self.config.latent_shape, dtype=torch.float64)

    def blocks(self) -> torch.Tensor:
        return self.random(self.roll.window_blocks, self.roll.frames_per_block)

    def keys(self) -> torch.Tensor:
        return torch.randint(0, 2, (self.batch, self.config.action_size)).double()

    def prime(self) -> rolling.State:
        return rolling.prime(self.model, self.roll, self.sinks, self.frames, self.actions, self.noise)

    def call(self, verb, state, *arguments, **options):
        return verb(self.model, self.roll, state, *arguments, **options)

    def uncached(self, shown: list, actions: list, state: rolling.State, action: torch.Tensor) -> tuple:
        """x0 of a state's window [N, K, B, ...] after ``shown`` blocks, from all of them in one pass; head outputs."""
        window = state["window"]
        roll, count = self.roll, len(shown)
        size, per_block = roll.window_blocks, roll.frames_per_block
        layout = context.packed(per_block, roll.sink_blocks, roll.recent_blocks, count, (count,), size)
        x = torch.cat([self.sinks, torch.stack(shown, 1).flatten(1, 2), window.flatten(1, 2)], 1)
        levels = torch.tensor(sigmas(size, roll.shift)[1:]).double()
        clean = torch.zeros(roll.sink_frames + count * per_block, dtype=torch.float64)
        sigma = torch.cat([clean, levels.repeat_interleave(per_block)])
        known = torch.cat([torch.stack(actions, 1), action[:, None].expand(-1, size, -1)], 1)
        unknown = torch.full((self.batch, roll.sink_frames, self.config.action_size), torch.nan, dtype=torch.float64)
        frame_actions = torch.cat([unknown, known.repeat_interleave(per_block, 1)], 1)
        last_action = actions[-1][:, None].expand(-1, size * per_block, -1)
        of_head = {name: state[name] for name in self.model.state_names}
        conditioning = Conditioning(shown[-1][:, -1:], last_action, self.sinks, of_head)
        x0, _, outputs = self.model(x, sigma.expand(self.batch, -1), frame_actions, layout, conditioning=conditioning)
        return x0.unflatten(1, window.shape[1:3]), outputs

    def differentiable(self, x0: torch.Tensor, outputs) -> torch.Tensor:
        """The result of a pass that carries gradient: x0, or where a head picked it, the mixture logits."""
        if outputs is None:
            return x0
        return outputs.source_logits if isinstance(outputs, MixtureOutputs) else outputs.mixture_logits

    def past(self) -> tuple[list, list]:
        """Blocks shown before play and their actions."""
        return list(self.frames.unbind(1)), list(self.actions.unbind(1))


@pytest.fixture(params=["tiny", "paper_shape", "tiny_keep", "tiny_view", "tiny_mixture"])
def played(request) -> Played:
    return Played(request.param)


@torch.no_grad()
def test_cached_equals_uncached_past_every_eviction(played):
    """Over more ticks than the ring is long."""
    state = played.prime()
    shown, actions = played.past()
    for _ in range(played.roll.context_blocks + 2):
        action = played.keys()
        expected, _ = played.uncached(shown, actions, state, action)
        state, x0, _ = played.call(rolling.tick, state, action, played.blocks())
        torch.testing.assert_close(x0, expected, atol=1e-12, rtol=0)
        shown.append(x0[:, 0])
        actions.append(action)


def test_gradients_of_cached_equal_uncached(played):
    """The first tick after prime, through the cache to the weights, the window and the keys held."""
    action = played.keys().requires_grad_()
    weights = [played.model.layers[0].qkv.weight, played.model.condition.sink, played.model.place]
    state = played.prime()
    state["window"] = state["window"].detach().requires_grad_()
    made = played.differentiable(*played.call(rolling.tick, state, action, played.blocks())[1:])
    expected = played.differentiable(*played.uncached(*played.past(), state, action))
    weighting = torch.randn_like(made)
    for variable in (action, state["window"], *weights):
        got, want = (
            torch.autograd.grad((out * weighting).sum(), variable, retain_graph=True)[0] for out in (made, expected)
        )
        assert want.abs().max() > 1e-6
        torch.testing.assert_close(got, want, atol=1e-8, rtol=1e-6)


@torch.no_grad()
def test_prime_noises_the_tail_to_every_level(played):
    state, roll = played.prime(), played.roll
    last = played.frames[:, -1, -1:]  # the future is not known
    for index, sigma in enumerate(sigmas(roll.window_blocks, roll.shift)[1:]):
        expected = (1 - sigma) * last + sigma * played.noise[:, index]
        torch.testing.assert_close(state["window"][:, index], expected)
    torch.testing.assert_close(state["window"][:, -1], played.noise[:, -1])
    torch.testing.assert_close(state["clean"], played.frames[:, roll.recent_blocks])
    assert state["tick"].tolist() == [0]


@torch.no_grad()
def test_a_tick_moves_every_block_one_level_down(played):
    state, noise, roll = played.prime(), played.blocks(), played.roll
    after, x0, _ = played.call(rolling.tick, state, played.keys(), noise)
    for index, sigma in enumerate(sigmas(roll.window_blocks, roll.shift)[1:-1]):
        expected = (1 - sigma) * x0[:, index + 1] + sigma * noise[:, index]
        torch.testing.assert_close(after["window"][:, index], expected)
    torch.testing.assert_close(after["window"][:, -1], noise[:, -1])
    torch.testing.assert_close(after["clean"], x0[:, 0])
    assert after["tick"].tolist() == [1]


@torch.no_grad()
def test_sinks_stay_and_the_oldest_recent_leaves(played):
    state, roll = played.prime(), played.roll
    length = roll.frames_per_block * played.model.tokens

    def blocks(name: str, of: rolling.State) -> tuple[torch.Tensor, ...]:
        return of[name].split(length, 3)

    after, _ = played.call(rolling.step, state, played.keys(), played.blocks())
    for name in ("keys", "values"):
        old, new = blocks(name, state), blocks(name, after)
        assert len(old) == len(new) == roll.context_blocks
        for index in range(roll.sink_blocks):
            assert torch.equal(old[index], new[index])
        for index in range(roll.sink_blocks, roll.context_blocks - 1):
            assert torch.equal(old[index + 1], new[index])
        assert not any(torch.equal(block, new[-1]) for block in old)


@torch.no_grad()
def test_other_sinks_in_mid_game_equal_priming_with_them(played):
    """Only what belongs to the sinks is replaced, and the next frames show the other place."""
    state, others = played.prime(), played.random(played.roll.sink_frames)
    moved = played.call(rolling.replace_sinks, state, others)
    primed = rolling.prime(played.model, played.roll, others, played.frames, played.actions, played.noise)
    length = played.roll.sink_frames * played.model.tokens
    for name in ("keys", "values"):
        torch.testing.assert_close(moved[name][:, :, :, :length], primed[name][:, :, :, :length], atol=1e-12, rtol=0)
        assert torch.equal(moved[name][:, :, :, length:], state[name][:, :, :, length:])
    assert torch.equal(moved["sinks"], others)
    assert all(torch.equal(moved[name], state[name]) for name in ("window", "clean", "clean_action", "tick"))
    back = played.call(rolling.replace_sinks, moved, played.sinks)
    move = played.keys(), played.blocks()
    torch.testing.assert_close(*(played.call(rolling.step, s, *move)[1] for s in (state, back)), atol=1e-12, rtol=0)
    assert not torch.allclose(*(played.call(rolling.step, s, *move)[1] for s in (state, moved)))


@torch.no_grad()
def test_the_clean_block_never_sees_the_window(played):
    """What is cached must not depend on the window."""
    state, action, noise = played.prime(), played.keys(), played.blocks()
    other = state | {"window": torch.randn_like(state["window"])}
    one, shown = played.call(rolling.step, state, action, noise)
    two, shown_otherwise = played.call(rolling.step, other, 1 - action, noise)
    assert torch.equal(one["keys"], two["keys"]) and torch.equal(one["values"], two["values"])
    assert not torch.allclose(shown, shown_otherwise)


@torch.no_grad()
def test_a_key_reaches_every_block_in_flight(played):
    state, action, noise = played.prime(), played.keys(), played.blocks()
    _, x0, _ = played.call(rolling.tick, state, action, noise)
    _, otherwise, _ = played.call(rolling.tick, state, 1 - action, noise)
    assert ((x0 - otherwise).abs().amax((2, 3, 4, 5)) > 1e-4).all()


@torch.no_grad()
def test_the_window_sees_both_ways(played):
    """The block about to be shown sees those behind it."""
    state, action, noise = played.prime(), played.keys(), played.blocks()
    window = state["window"].clone()
    window[:, -1] += 1
    _, shown = played.call(rolling.step, state, action, noise)
    _, otherwise = played.call(rolling.step, state | {"window": window}, action, noise)
    assert (shown - otherwise).abs().max() > 1e-4


@torch.no_grad()
def test_state_is_all_there_is(played):
    """Continuing from a copy is exact; a branch leaves the state that it began from unchanged."""
    state = played.prime()
    moves = [(played.keys(), played.blocks()) for _ in range(4)]

    def play(state, moves):
        for move in moves:
            state, shown = played.call(rolling.step, state, *move)
        return state, shown

    middle, _ = play(state, moves[:2])
    saved = {name: value.clone() for name, value in middle.items()}
    branched, _ = play(middle, [(1 - action, -noise) for action, noise in moves[2:]])
    end, shown = play(middle, moves[2:])
    again, shown_again = play(saved, moves[2:])
    assert torch.equal(shown, shown_again)
    assert all(torch.equal(end[name], again[name]) for name in end)
    assert all(torch.equal(middle[name], saved[name]) for name in saved)
    assert not torch.equal(branched["window"], end["window"])


@torch.no_grad()
def test_refill_window_makes_a_window_of_its_own(played):
    """It depends on the noise and not on the old window; the context stays."""
    state, action, roll = played.prime(), played.keys(), played.roll
    noise = played.random(roll.window_blocks, roll.window_blocks, roll.frames_per_block)
    refilled = played.call(rolling.refill_window, state, action, noise)
    other = played.call(rolling.refill_window, state | {"window": torch.zeros_like(state["window"])}, action, noise)
    assert torch.equal(refilled["window"], other["window"])
    assert torch.equal(refilled["window"][:, -1], noise[:, -1, roll.window_blocks - 1])
    assert all(torch.equal(refilled[name], state[name]) for name in state if name != "window")
    again = [played.call(rolling.step, refilled, action, played.noise)[1] for _ in range(2)]
    assert torch.equal(*again)
    changed = played.call(rolling.refill_window, state, 1 - action, noise)
    assert not torch.allclose(changed["window"][:, 0], refilled["window"][:, 0])


@torch.no_grad()
def test_refill_window_denoises_as_ticks_would(played):
    """The first block goes from pure noise down to level 1, one level a pass, others joining behind it."""
    state, action, roll = played.prime(), played.keys(), played.roll
    size, sigma = roll.window_blocks, sigmas(roll.window_blocks, roll.shift)
    noise = played.random(size, size, roll.frames_per_block)
    window = noise[:, 0, :1]
    for joined in range(1, size):
        levels = sigma[size - joined + 1 :]
        assert len(levels) == window.shape[1] and levels[-1] == 1
        x0, *_ = played.call(rolling.predict, state, window, levels, action)
        lower = torch.tensor(sigma[size - joined : size], dtype=torch.float64).reshape(-1, 1, 1, 1, 1)
        window = torch.cat(
            [(1 - lower) * x0 + lower * noise[:, joined, :joined], noise[:, joined, joined : joined + 1]], 1
        )
    torch.testing.assert_close(played.call(rolling.refill_window, state, action, noise)["window"], window)


@torch.no_grad()
def test_block_by_block_goes_down_all_levels(played):
    state, action, noise, roll = played.prime(), played.keys(), played.blocks(), played.roll
    after, x0 = played.call(rolling.autoregressive_step, state, action, noise)
    sigma = sigmas(roll.window_blocks, roll.shift)
    x = noise[:, :1]
    for level in range(roll.window_blocks, 0, -1):
        out, written, _ = played.call(rolling.predict, state, x, sigma[level : level + 1], action)
        if level > 1:
            at = roll.window_blocks - level + 1
            x = (1 - sigma[level - 1]) * out + sigma[level - 1] * noise[:, at : at + 1]
    torch.testing.assert_close(x0, out)
    torch.testing.assert_close(after["clean"], out[:, 0])
    assert torch.equal(after["window"], state["window"])
    length = roll.frames_per_block * played.model.tokens
    torch.testing.assert_close(after["keys"][:, :, :, -length:], written[0])


@pytest.mark.parametrize("name", ["tiny", "paper_shape"])
def test_block_can_leave_at_every_level_with_one_gradient(name):
    played = Played(name, batch=1)
    state, action, noise = played.prime(), played.keys(), played.blocks()
    state = {key: value.detach() for key, value in state.items()}
    outs = []
    for level in range(1, played.roll.window_blocks + 1):
        after, x0 = played.call(rolling.autoregressive_step, state, action, noise, last_level=level)
        assert x0.requires_grad and not after["clean"].requires_grad and not after["keys"].requires_grad
        outs.append(x0.detach())
    assert len({out.numpy().tobytes() for out in outs}) == len(outs)
    direct, *_ = played.call(rolling.predict, state, noise[:, :1], (1.0,), action)
    torch.testing.assert_close(outs[-1], direct.detach())


def test_what_a_tick_keeps_carries_no_gradient(played):
    """Primed without gradient, as rollouts are: x0 carries gradient, the new state does not."""
    with torch.no_grad():
        state = played.prime()
    state, *made = played.call(rolling.tick, state, played.keys(), played.blocks())
    assert played.differentiable(*made).requires_grad
    assert not any(state[name].requires_grad for name in ("keys", "values", "clean"))


@pytest.mark.parametrize("name", ["tiny", "tiny_keep", "tiny_view"])
def test_compiled_is_eager(name):
    """One graph, or ``compile_run`` raises; x0, what the state keeps and every gradient are the plain module's, and a
    pass leaves nothing behind on the modules."""
    played = Played(name)
    with torch.no_grad():
        state = played.prime()
    action, extra = played.keys(), {"window_poses": torch.randn(played.batch, played.roll.window_blocks, 8).double()}
    true = played.blocks().flatten(1, 2)

    def learned():
        after, x0, outputs = played.call(rolling.tick, state, action, played.noise, extra)
        loss = x0.square() if outputs is None else played.model.local.nll(outputs, true, played.sinks)[1]
        gradients = torch.autograd.grad(loss.mean(), list(played.model.parameters()), materialize_grads=True)
        return x0, after, outputs, gradients

    held = [set(vars(module)) for module in played.model.modules()]
    plain = learned()
    assert [set(vars(module)) for module in played.model.modules()] == held
    played.model.compile_run("aot_eager")
    torch.testing.assert_close(learned(), plain, atol=1e-12, rtol=1e-9)
