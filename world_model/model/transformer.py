"""The video transformer: noisy latents, their noise shares and actions in; x0 predictions and keys/values out.

Attention is as a ``Layout`` says; what the blocks mean is defined by ``rolling.py`` and the training stages. Teacher,
critic and student are this one class.

- adaLN (DiT, arXiv 2212.09748) with one modulation for all layers plus a learned offset a layer (PixArt-alpha, arXiv
  2310.00426): a block's noise share, action and sink number modulate all of its tokens.
- Rotary positions (arXiv 2104.09864) split the head in four: time, row, column, and a quarter without position.
  Rows and columns are rotated before keys are cached; time is rotated in every pass, for all layers at once, because a
  cached block's time is its position in the ring, which changes. A sink's time quarter is zero: it is equally far from
  every frame.
- Convolutions before and after the tokens, so that token borders (32 pixels apart) do not show.
- The last clean frame, where there is one, is an input of the first convolution and, by a learned share, added to the
  prediction: the next frame is mostly the last one, displaced.
- With ``head`` in the configuration a local head makes x0 (``mixture_head.py`` for any game, ``head.py`` and
  ``view_head.py`` for the two built-in ones), without it a convolution.
- x0 prediction (arXiv 2511.13720): above sigma = .55, where the window is, velocity is mostly noise.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from world_model.config import Config
from world_model.model.context import SINK, Layout
from world_model.model.head import Conditioning, PickHead, normed
from world_model.model.mixture_head import MixtureHead, Seen
from world_model.model.view_head import ViewHead

HEADS = {"pick": PickHead, "view": ViewHead, "mixture": MixtureHead}
"""Local heads by their kind."""

COMPILED_GRAPHS = 64
"""Limit for one function, which teacher, critic and student share: each has layouts with gradient and without."""

LEAST_STEM = 8
"""Least number of features of the convolutions before and after the tokens."""

Cache = tuple[Tensor, Tensor]
"""Keys and values [layers, N, heads, frames * tokens, head]; keys are rotated by row and column, not by time."""


class Transformer(nn.Module):
    """``forward(x, sigma, action, layout, cache, conditioning)`` -> (x0, the queries' cache, head outputs)."""

    def __init__(self, config: Config):
        super().__init__()
        size = config.transformer
        self.size, self.latent_shape, self.action_size = size, config.latent_shape, config.action_size
        channels, height, width = config.latent_shape
        self.grid = (height // size.patch, width // size.patch)
        self.stem_width = max(LEAST_STEM, size.width // size.patch**2)
        self.stem = nn.Conv2d(channels, self.stem_width, 3, padding=1)
        self.stem_last = nn.Conv2d(channels, self.stem_width, 3, padding=1, bias=False)
        nn.init.zeros_(self.stem_last.weight)
        patch_width = self.stem_width * size.patch**2
        self.embed = nn.Linear(patch_width, size.width)
        self.place = nn.Parameter(torch.randn(self.grid[0] * self.grid[1], size.width) * 0.02)
        self.condition = Condition(config)
        self.layers = nn.ModuleList(Layer(size.width, size.heads) for _ in range(size.layers))
        if config.head is not None:
            self.local = HEADS[config.head.kind](config, self.grid)
            return
        self.local = None
        self.keep_last = nn.Parameter(torch.zeros(channels, 1, 1))
        self.out_modulation = nn.Parameter(torch.zeros(2, size.width))
        self.out = nn.Linear(size.width, patch_width)
        self.head = nn.Conv2d(self.stem_width, channels, 3, padding=1)
        nn.init.zeros_(self.head.weight)

    @property
    def tokens(self) -> int:
        """Tokens a latent frame."""
        return self.grid[0] * self.grid[1]

    @property
    def quarter(self) -> int:
        """Dimensions of a head for each of time, row, column and no position."""
        return self.size.width // self.size.heads // 4

    def forward(
        self,
        x: Tensor, sigma: Tensor, action: Tensor, layout: Layout, cache: Cache | None = None,
        conditioning: Conditioning | None = None,
    ) -> tuple[Tensor, Cache, NamedTuple | None]:  # fmt: skip
        """x [N, F, C, h, w], sigma [N, F], action [N, F, keys] (NaN where the action is unknown) for the layout's
        queries; cache for its first keys; conditioning of the final W queries. Returns x0 of these [N, W, C, h, w] (of
        all F without conditioning), the queries' own keys and values, and the head's outputs."""
        rotary = rotary_of(layout, self.grid, self.quarter, x.device, x.dtype)
        return self.run(x, sigma, action, rotary, cache, conditioning)

    def run(
        self,
        x: Tensor, sigma: Tensor, action: Tensor, rotary: Rotary, cache: Cache | None,
        conditioning: Conditioning | None,
    ) -> tuple[Tensor, Cache, NamedTuple | None]:  # fmt: skip
        """``forward`` with the layout as tensors: the part that ``compile_run`` compiles."""
        modulation, condition = self.condition(sigma, action, rotary.sinks)
        count = x.shape[1] if conditioning is None else conditioning.last_action.shape[1]
        tokens, seen = self._tokens(x, conditioning), None
        if isinstance(self.local, MixtureHead):
            seen = self.local.look(x[:, -count:], conditioning)
            seen_and_told = seen.tokens + condition[:, -count:, None]  # modulation alone is heard late in training
            tokens = tokens + F.pad(seen_and_told, (0, 0, 0, 0, x.shape[1] - count, 0))
        tokens, own_cache = self._trunk(tokens, modulation, rotary, cache)
        x0, outputs = self._latents(x[:, -count:], tokens[:, -count:], condition[:, -count:], conditioning, seen)
        return x0, own_cache, outputs

    def prefill(self, x: Tensor, action: Tensor, layout: Layout) -> Cache:
        """Keys and values of clean latents x [N, F, C, h, w], without their x0."""
        rotary = rotary_of(layout, self.grid, self.quarter, x.device, x.dtype)
        modulation, _ = self.condition(x.new_zeros(x.shape[:2]), action, rotary.sinks)
        return self._trunk(self._tokens(x, None), modulation, rotary, None)[1]

    def _trunk(self, tokens: Tensor, modulation: Tensor, rotary: Rotary, cache: Cache | None) -> tuple[Tensor, Cache]:
        """Tokens [N, F, P, D] after all layers, and their keys and values."""
        rotated = None if cache is None else (rotary.cached(cache[0]), cache[1])
        keys, values = [], []
        for index, layer in enumerate(self.layers):
            past = None if rotated is None else (rotated[0][index], rotated[1][index])
            tokens, key, value = layer(tokens, modulation, rotary, past)
            keys.append(key)
            values.append(value)
        return tokens, (torch.stack(keys), torch.stack(values))

    @property
    def state_names(self) -> tuple[str, ...]:
        """Names of the arrays that a state holds for the head."""
        return self.local.state_names if self.local else ()

    def initial_state(self, sinks: Tensor, frames: Tensor, noise: Tensor) -> dict[str, Tensor]:
        """``Head.initial_state``; empty without a head."""
        return self.local.initial_state(sinks, frames, noise) if self.local else {}

    def encode_sinks(self, sinks: Tensor) -> dict[str, Tensor]:
        """``Head.encode_sinks``; empty without a head."""
        return self.local.encode_sinks(sinks) if self.local else {}

    def commit(self, outputs: NamedTuple | None, noise: Tensor) -> dict[str, Tensor]:
        """``Head.commit``; empty without a head."""
        return self.local.commit(outputs, noise) if self.local else {}

    def compile_run(self, backend: str = "inductor") -> None:
        """Compile ``run`` in place, one graph a layout; more graphs than the limit are an error, not a slow path."""
        torch._dynamo.config.recompile_limit = COMPILED_GRAPHS
        self.run = torch.compile(self.run, fullgraph=True, dynamic=False, backend=backend)

    def _tokens(self, x: Tensor, conditioning: Conditioning | None) -> Tensor:
        """Latents [N, F, C, h, w] -> tokens [N, F, P, D]: a convolution, then each patch of features is a token."""
        n, frames = x.shape[:2]
        features = self.stem(x.flatten(0, 1))
        if conditioning is not None:  # aligned with the final queries; zeros for the others
            count = conditioning.last_action.shape[1]
            last = F.pad(conditioning.last.expand(-1, count, -1, -1, -1), (0, 0, 0, 0, 0, 0, frames - count, 0))
            features = features + self.stem_last(last.flatten(0, 1))
        features = F.relu(features)
        patches = F.pixel_unshuffle(features, self.size.patch).flatten(2).transpose(1, 2)
        return (self.embed(patches) + self.place).unflatten(0, (n, frames))

    def _latents(
        self, x: Tensor, tokens: Tensor, condition: Tensor, conditioning: Conditioning | None, seen: Seen | None
    ) -> tuple[Tensor, NamedTuple | None]:
        """x0 [N, W, C, h, w] from the trunk's tokens [N, W, P, D], and the head's outputs."""
        if self.local is not None:
            return self.local(conditioning, normed(tokens), condition if seen is None else seen)
        shift, scale = (condition[:, :, None] + self.out_modulation).chunk(2, 2)
        tokens = self.out(normed(tokens) * (1 + scale) + shift).flatten(0, 1)
        patches = tokens.transpose(1, 2).unflatten(2, self.grid)
        features = F.pixel_shuffle(patches, self.size.patch)
        x0 = self.head(F.relu(features)).unflatten(0, x.shape[:2])
        return x0 if conditioning is None else x0 + self.keep_last * conditioning.last, None


class Condition(nn.Module):
    """Noise share, action and sink number of each latent frame -> modulation of all of its tokens."""

    def __init__(self, config: Config):
        super().__init__()
        width = config.transformer.width
        self.timestep = nn.Sequential(nn.Linear(64, width), nn.SiLU(), nn.Linear(width, width))
        self.keys = nn.Sequential(nn.Linear(config.action_size, width), nn.SiLU(), nn.Linear(width, width))
        self.no_action = nn.Parameter(torch.randn(width) * 0.02)
        self.sink = nn.Parameter(torch.randn(config.rolling.sink_frames, width) * 0.02)
        self.modulate = nn.Linear(width, 6 * width)
        nn.init.zeros_(self.modulate.weight)
        nn.init.zeros_(self.modulate.bias)

    def forward(self, sigma: Tensor, action: Tensor, sinks: int) -> tuple[Tensor, Tensor]:
        """sigma [N, F], action [N, F, keys], the first ``sinks`` of F are sinks -> modulation [N, F, 6, D] and the
        plain condition [N, F, D]."""
        known = ~torch.isnan(action).any(-1, keepdim=True)
        from_action = torch.where(known, self.keys(torch.nan_to_num(action)), self.no_action)
        from_sink = F.pad(self.sink[:sinks], (0, 0, 0, sigma.shape[1] - sinks))
        condition = F.silu(self.timestep(timestep_features(sigma)) + from_action + from_sink)
        return self.modulate(condition).unflatten(-1, (6, -1)), condition


class Layer(nn.Module):
    """Pre-norm attention and a squared-ReLU MLP (arXiv 2109.08668), both gated by the block's modulation."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.offset = nn.Parameter(torch.zeros(6, width))
        self.offset.data[[2, 5]] = 0.3  # gates start open: at zero a shallow model wastes its first steps
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.project = nn.Linear(width, width, bias=False)
        self.widen = nn.Linear(width, 4 * width, bias=False)
        self.narrow = nn.Linear(4 * width, width, bias=False)

    def forward(
        self, tokens: Tensor, modulation: Tensor, rotary: Rotary, past: Cache | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """tokens [N, F, P, D], modulation [N, F, 6, D], past keys (rotated by time) and values -> tokens, and their own
        keys (not rotated by time) and values [N, heads, F * P, head]."""
        shift, scale, gate, shift_mlp, scale_mlp, gate_mlp = (modulation + self.offset)[:, :, :, None].unbind(2)
        attended, key, value = self._attend(normed(tokens) * (1 + scale) + shift, rotary, past)
        tokens = tokens + gate * attended
        hidden = F.relu(self.widen(normed(tokens) * (1 + scale_mlp) + shift_mlp)).square()
        return tokens + gate_mlp * self.narrow(hidden), key, value

    def _attend(self, tokens: Tensor, rotary: Rotary, past: Cache | None) -> tuple[Tensor, Tensor, Tensor]:
        n, frames, count, _ = tokens.shape
        qkv = self.qkv(tokens).reshape(n, frames * count, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        query, key, value = rotary.place(normed(qkv[0])), rotary.place(normed(qkv[1])), qkv[2]
        query, keys, values = rotary.time(query), rotary.time(key), value
        if past is not None:
            pairs = zip(past, (keys, values), strict=True)
            keys, values = (torch.cat([old.to(new.dtype), new], 2) for old, new in pairs)
        out = rotary.attention(query, keys, values)
        return self.project(out.transpose(1, 2).reshape(n, frames, count, -1)), key, value


class Rotary:
    """The rotations and the mask of one layout, for tokens instead of latent frames."""

    def __init__(self, layout: Layout, grid: tuple[int, int], quarter: int, device: torch.device, dtype: torch.dtype):
        tokens = grid[0] * grid[1]
        self.sinks = int((layout.times == SINK).sum())
        self.past = layout.cached * tokens
        self._place = place_angles(grid, quarter).repeat(len(layout.times), 1, 1).to(device, dtype)
        self._time = time_angles(layout.key_times, quarter).repeat_interleave(tokens, 0).to(device, dtype)
        self._parts = [(rows * tokens, keys * tokens) for rows, keys in _parts(layout)]
        mask = torch.from_numpy(layout.mask).to(device)
        self._mask = None if self._parts else mask.repeat_interleave(tokens, 0).repeat_interleave(tokens, 1)

    def place(self, x: Tensor) -> Tensor:
        """Rotate the row and column quarters (the second and third) by each token's place in the frame."""
        quarter = x.shape[-1] // 4
        time, space, plain = x.split([quarter, 2 * quarter, quarter], -1)
        return torch.cat([time, _rotated(space, self._place), plain], -1)

    def time(self, x: Tensor) -> Tensor:
        """Rotate the time quarter (the first) of the queries, or of their keys."""
        return _rotated_in_time(x, self._time[..., self.past :, :, :])

    def cached(self, keys: Tensor) -> Tensor:
        """Rotate the time quarter of all layers' cached keys [layers, N, heads, past, head]."""
        return _rotated_in_time(keys, self._time[..., : self.past, :, :])

    def attention(self, query: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """Attention, where possible in parts that need no mask: with one, fast kernels are not used."""
        if not self._parts:
            return F.scaled_dot_product_attention(query, keys, values, attn_mask=self._mask)
        queries = query.split([rows for rows, _ in self._parts], 2)
        parts = zip(queries, (count for _, count in self._parts), strict=True)
        out = [F.scaled_dot_product_attention(q, keys[:, :, :count], values[:, :, :count]) for q, count in parts]
        return out[0] if len(out) == 1 else torch.cat(out, 2)


def _parts(layout: Layout) -> list[tuple[int, int]]:
    """[(queries, keys), ...] of a layout of at most two parts, whose first queries attend to its first keys only and
    the others to all; [] of any other layout."""
    counts = layout.mask.sum(1)
    plain = (layout.mask == (np.arange(layout.mask.shape[1]) < counts[:, None])).all()
    steps = np.flatnonzero(np.diff(counts)) + 1
    if not plain or len(steps) > 1:
        return []
    starts = [0, *steps.tolist()]
    return [(end - start, int(counts[start])) for start, end in zip(starts, [*starts[1:], len(counts)], strict=True)]


@lru_cache(maxsize=64)
def rotary_of(layout: Layout, grid: tuple[int, int], quarter: int, device: torch.device, dtype: torch.dtype) -> Rotary:
    """A layout's tensors; cached, as layouts are (``context.py``)."""
    with torch.inference_mode(False):
        return Rotary(layout, grid, quarter, device, dtype)


def _rotated_in_time(x: Tensor, angles: Tensor) -> Tensor:
    quarter = x.shape[-1] // 4
    return torch.cat([_rotated(x[..., :quarter], angles), x[..., quarter:]], -1)


def _rotated(x: Tensor, rotation: Tensor) -> Tensor:
    """Rotate pairs (first half, second half) of x [..., L, d] by rotation [..., L, 2, d / 2] = (cosines, sines)."""
    a, b = x.to(torch.promote_types(x.dtype, rotation.dtype)).chunk(2, -1)  # never in half precision
    cos, sin = rotation[..., 0, :], rotation[..., 1, :]
    return torch.cat([a * cos - b * sin, a * sin + b * cos], -1).to(x.dtype)


def time_angles(times, quarter: int) -> Tensor:
    """[F, 2, quarter / 2]: cosines and sines of each time; zeros for a sink, which erases its time quarter."""
    time = torch.as_tensor(times, dtype=torch.float64)
    angles = time[:, None] * _frequencies(quarter // 2, 32.0)
    rotation = torch.stack([angles.cos(), angles.sin()], 1)
    return rotation * (time != SINK)[:, None, None]


def place_angles(grid: tuple[int, int], quarter: int) -> Tensor:
    """[tokens, 2, quarter]: cosines and sines of rows (first half of the pairs) and columns (second half)."""
    frequency = _frequencies(quarter // 2, float(max(grid)))
    rows = torch.arange(grid[0])[:, None, None] * frequency
    columns = torch.arange(grid[1])[None, :, None] * frequency
    angles = torch.cat([rows.expand(*grid, -1), columns.expand(*grid, -1)], -1).flatten(0, 1)
    return torch.stack([angles.cos(), angles.sin()], 1)


def _frequencies(count: int, longest: float) -> Tensor:
    """Radians a step, geometric from 1 down to 1 / longest."""
    exponent = torch.arange(count, dtype=torch.float64) / max(count - 1, 1)
    return torch.exp(-math.log(longest) * exponent)


def timestep_features(sigma: Tensor) -> Tensor:
    """sigma [...] -> [..., 64] sines and cosines, in float32: bfloat16 would round .999 to 1."""
    frequency = torch.exp(-math.log(1000.0) * torch.arange(32, device=sigma.device) / 32)
    angles = sigma.float()[..., None] * 1000.0 * frequency
    return torch.cat([angles.cos(), angles.sin()], -1).to(sigma.dtype)
