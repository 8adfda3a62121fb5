"""The rolling window: ``prime``, ``tick``, ``step``, ``refill_window``, ``replace_sinks``, ``autoregressive_step``.

Play, training's rollouts and the exported graphs all run these functions. The state is a flat dictionary of arrays;
noise is an argument and never drawn here, so equal seed, keys and weights give equal frames.

    state        shape                                     meaning
    keys         [layers, N, heads, (S + R) * B * P, head]  of the context: sinks, then recents, oldest first
    values       the same
    window       [N, K, B, C, h, w]                         blocks at levels 1..K (level K is pure noise)
    clean        [N, B, C, h, w]                            the block shown last; not in the cache yet
    clean_action [N, keys]                                  the keys that it was shown under
    sinks        [N, S * B, C, h, w]                        latents of the sinks
    tick         [1] or [N] int64                           ticks since prime
    and the arrays of the head (``Head.state_names``)

After Rolling Forcing (Liu et al., arXiv 2509.25161), with three differences: the clean block is cached by the same pass
that denoises the window, not by one of its own; all blocks of the window are conditioned on the keys held now; and the
window is full from the first tick on.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from world_model.config import Rolling
from world_model.model import context
from world_model.model.head import Conditioning
from world_model.model.noise import renoise, sigmas
from world_model.model.transformer import Cache, Transformer

State = dict[str, Tensor]

BATCHED = ("keys", "values")
"""Arrays of a state whose second dimension is the batch; in the others it is the first."""


def prime(model: Transformer, rolling: Rolling, sinks: Tensor, frames: Tensor, actions: Tensor, noise: Tensor) -> State:
    """Prefill the cache with sinks and recents, and the window with the last frame, noised to levels 1..K.

    sinks [N, S*B, C, h, w]; frames [N, R+1, B, C, h, w]: R recents and the clean block; actions [N, R+1, keys] under
    which they were shown; noise [N, K, B, C, h, w].
    """
    recent, size = rolling.recent_blocks, rolling.window_blocks
    layout = context.packed(rolling.frames_per_block, rolling.sink_blocks, recent, recent, (), 0)
    unknown = torch.full((*sinks.shape[:2], actions.shape[-1]), torch.nan, device=sinks.device)
    frame_actions = torch.cat([unknown, actions[:, :recent].repeat_interleave(rolling.frames_per_block, 1)], 1)
    clean = torch.cat([sinks, frames[:, :recent].flatten(1, 2)], 1)
    keys, values = model.prefill(clean, frame_actions, layout)
    sigma = _column(sigmas(size, rolling.shift)[1:], noise)
    return {
        "keys": keys,
        "values": values,
        "window": renoise(frames[:, recent:, -1:], noise, sigma),
        "clean": frames[:, recent],
        "clean_action": actions[:, recent],
        "sinks": sinks,
        "tick": torch.zeros(1, dtype=torch.int64, device=noise.device),
        **model.initial_state(sinks, frames, noise),
    }


def replace_sinks(model: Transformer, rolling: Rolling, state: State, sinks: Tensor) -> State:
    """The state with other sinks [N, S*B, C, h, w], nothing else changed: exact, since sinks attend to sinks only."""
    unknown = sinks.new_full((*sinks.shape[:2], state["clean_action"].shape[-1]), torch.nan)
    keys, values = model.prefill(sinks, unknown, context.clip(sinks.shape[1], 0))
    length = sinks.shape[1] * model.tokens

    def replaced(cached: Tensor, of_sinks: Tensor) -> Tensor:
        return torch.cat([of_sinks.to(cached.dtype), cached[:, :, :, length:]], 3)

    caches = {"keys": replaced(state["keys"], keys), "values": replaced(state["values"], values)}
    return state | caches | {"sinks": sinks} | model.encode_sinks(sinks)


def tick(
    model: Transformer, rolling: Rolling, state: State, action: Tensor, noise: Tensor, extra: State | None = None
) -> tuple[State, Tensor, NamedTuple | None]:
    """One tick under ``action`` [N, keys]: the next state, the x0 of every block [N, K, B, C, h, w], the first of which
    is shown, and the head's outputs.

    noise [N, K, B, C, h, w]: the first K-1 renoise the blocks that stay, the last is the block that joins.
    ``action`` [N, K, keys]: one for each block (``ablate.py``). ``extra``: arrays for the head that only training has.
    """
    size = rolling.window_blocks
    sigma = sigmas(size, rolling.shift)
    x0, clean_cache, outputs = predict(model, rolling, state, state["window"], sigma[1:], action, extra)
    renoised = renoise(x0[:, 1:], noise[:, :-1], _column(sigma[1:size], noise))
    shown_action = action if action.ndim == 2 else action[:, 0]
    state = commit_block(model, rolling, state, x0[:, 0], shown_action, clean_cache, outputs, noise)
    return state | {"window": torch.cat([renoised, noise[:, -1:]], 1)}, x0, outputs


def step(model: Transformer, rolling: Rolling, state: State, action: Tensor, noise: Tensor) -> tuple[State, Tensor]:
    """``tick``, returning only the block to show, [N, B, C, h, w]."""
    state, x0, _ = tick(model, rolling, state, action, noise)
    return state, x0[:, 0]


def stack(states: Sequence[State]) -> State:
    """The states of N games, each of a batch of 1, as one of a batch of N."""
    return {name: torch.cat([state[name] for state in states], int(name in BATCHED)) for name in states[0]}


def unstack(state: State) -> list[State]:
    """Inverse of ``stack``."""
    parts = [value.split(1, int(name in BATCHED)) for name, value in state.items()]
    return [dict(zip(state, of_game, strict=True)) for of_game in zip(*parts, strict=True)]


def refill_window(model: Transformer, rolling: Rolling, state: State, action: Tensor, noise: Tensor) -> State:
    """Denoise a new window from pure noise under ``action``, in K-1 passes over windows of 1..K-1 blocks.

    noise [N, K, K, B, C, h, w].
    """
    size = rolling.window_blocks
    sigma = sigmas(size, rolling.shift)
    window = noise[:, 0, :1]
    for count in range(1, size):
        x0, *_ = predict(model, rolling, state, window, sigma[size - count + 1 :], action)
        renoised = renoise(x0, noise[:, count, :count], _column(sigma[size - count : size], noise))
        window = torch.cat([renoised, noise[:, count, count : count + 1]], 1)
    return state | {"window": window}


def autoregressive_step(
    model: Transformer, rolling: Rolling, state: State, action: Tensor, noise: Tensor, last_level: int = 1
) -> tuple[State, Tensor]:
    """The next block alone, denoised over all levels (Self-Forcing, arXiv 2506.08009); the window is kept.

    noise [N, K, B, C, h, w]: the start and every renoising. Training stops at ``last_level`` > 1, to train every level;
    only the last pass carries gradient. Returns the new state and x0 [N, 1, B, C, h, w].
    """
    size = rolling.window_blocks
    sigma = sigmas(size, rolling.shift)
    x = noise[:, :1]
    with torch.no_grad():
        for index, level in enumerate(range(size, last_level, -1)):
            x0, *_ = predict(model, rolling, state, x, sigma[level : level + 1], action)
            x = renoise(x0, noise[:, index + 1 : index + 2], sigma[level - 1])
    x0, *rest = predict(model, rolling, state, x, sigma[last_level : last_level + 1], action)
    return commit_block(model, rolling, state, x0[:, 0], action, *rest, noise), x0


def predict(
    model: Transformer, rolling: Rolling, state: State, window: Tensor, sigma: tuple[float, ...], action: Tensor,
    extra: State | None = None,
) -> tuple[Tensor, Cache, NamedTuple | None]:  # fmt: skip
    """One pass over [clean | window]: x0 of the window's k blocks, the clean block's keys and values, and the head's
    outputs. ``action`` [N, keys] for all of the window, or [N, k, keys]."""
    per_block, count = rolling.frames_per_block, window.shape[1]
    layout = context.tick(per_block, rolling.sink_blocks, rolling.recent_blocks, count)
    x = torch.cat([state["clean"][:, None], window], 1).flatten(1, 2)
    frame_sigmas = torch.tensor((0.0, *sigma), device=x.device, dtype=x.dtype).repeat_interleave(per_block)
    block_actions = action[:, None].expand(-1, count, -1) if action.ndim == 2 else action
    clean_action = state["clean_action"][:, None]
    frame_actions = torch.cat([clean_action, block_actions], 1).repeat_interleave(per_block, 1)
    last_action = clean_action.expand(-1, count * per_block, -1)
    of_head = {name: state[name] for name in model.state_names}
    conditioning = Conditioning(state["clean"][:, -1:], last_action, state["sinks"], of_head | (extra or {}))
    cache = state["keys"], state["values"]
    x0, (keys, values), outputs = model(x, frame_sigmas.expand(len(x), -1), frame_actions, layout, cache, conditioning)
    length = per_block * model.tokens
    clean_cache = keys[:, :, :, :length], values[:, :, :, :length]
    return x0.unflatten(1, (count, per_block)), clean_cache, outputs


def commit_block(
    model: Transformer, rolling: Rolling, state: State, x0: Tensor, action: Tensor, clean_cache: Cache,
    outputs: NamedTuple | None, noise: Tensor,
) -> State:  # fmt: skip
    """The state after block ``x0`` [N, B, C, h, w] was shown: the clean block before it joins the recents, whose oldest
    is evicted. What is added is detached: each pass learns from its own loss (section 3.2 of the paper). ``noise``
    [N, K, B, C, h, w] is that of the next window."""
    length = rolling.frames_per_block * model.tokens
    sinks = rolling.sink_blocks * length

    def pushed(ring: Tensor, new: Tensor) -> Tensor:
        new = new.detach().to(ring.dtype)
        return torch.cat([ring[:, :, :, :sinks], ring[:, :, :, sinks + length :], new], 3)

    return state | {
        "keys": pushed(state["keys"], clean_cache[0]),
        "values": pushed(state["values"], clean_cache[1]),
        "clean": x0.detach(),
        "clean_action": action,
        "tick": state["tick"] + 1,
        **model.commit(outputs, noise),
    }


def _column(sigma: tuple[float, ...], like: Tensor) -> Tensor:
    """Noise shares of k blocks as [k, 1, 1, 1, 1], to multiply [N, k, B, C, h, w]."""
    return torch.tensor(sigma, dtype=like.dtype, device=like.device).reshape(-1, 1, 1, 1, 1)
