"""The picking head: every picture element of x0 is taken from one of several sources.

The sources of an element are
- the last clean frame at the same place, and the last clean frame under each of a few *motion hypotheses*: a hypothesis
  is one displacement for the whole frame, each element chooses a hypothesis (Finn et al., arXiv 1605.07157);
- the *sink copy*: the same place of the sink that this frame shows, so that a room comes back exactly, minutes later;
- the colours of a palette, counted in the recordings (``training/student_rollout.py``);
- one predicted colour.
Training minimises the negative log-likelihood (nll) of the true frame under a mixture whose components are the sources
(Bishop 1994, "Mixture density networks"); x0 is the source with the largest mixture weight. Sources are copied exactly,
so the model's frames stay as sharp as recorded ones.

The cells of a frame vote on a hypothesis's displacement: each has a weight and logits. So a sprite moves as a whole
even where the head is unsure whether it is stopped, and the last block, which sees the result, picks fitting details.

Which sink a frame shows, and in which *light* (a gain and an offset for every colour, one of a few learned ones), is
computed from the last clean frame and predicted for the next, for the frame as a whole. All sources are in the sinks'
own light: sprites are not lost when the lights are switched.

What leaves the screen on one side enters the next room on the other: displacements wrap around the frame's edges, and
the convolutions see the frame continued periodically (``_beyond``).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import accumulate
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from world_model.config import Config
from world_model.model.codec import SPREAD, canvas, cells

AXES = ((0, 1), (0, -1), (1, 0), (-1, 0))
LIGHTS = 4
"""The sinks' own light and three learned ones."""
LEAST_GAIN = 0.2
"""Least gain that is divided by."""
STAY = 5.0
"""Initial logit of the present sink and of the present light."""
TOLERANCE = 0.1
"""Scale of the mixture's Laplace components, in units of latents: some six grey levels."""
EXACT = 0.02
"""Difference that counts as none: a dark picture's rounded grey levels are farther apart in the sinks' own light."""
GROUP = 10
"""Least number of elements with one displacement that a motion hypothesis is to learn."""
SPRITE = 64
"""Number of elements whose nll weighs as much as that of one choice for the whole frame."""
OWN = 0.2
"""Least mean weight, among the hypotheses, of a hypothesis on the elements that it is matched with."""
TILES = 8
"""Sink and light are predicted from TILES x TILES tiles of the frame, each max-pooled."""
SUMMARY = 16
"""Features a tile."""


class HeadOutputs(NamedTuple):
    """Of each of M = N * F frames: mixture logits [M, sources, unfold^2, h, w] for each element of a cell; last clean
    frame, sink copy and predicted colours as canvases [M, colours, H, W], and the last frame under each motion
    hypothesis [M, hypotheses, colours, H, W], all in the sinks' light; logits of the next sink [M, S], light
    [M, LIGHTS] and displacements [M, hypotheses, D], and the indices of the largest: [M], [M], [M, hypotheses]."""

    mixture_logits: Tensor
    last: Tensor
    moved: Tensor
    copy: Tensor
    drawn: Tensor
    sink_logits: Tensor
    light_logits: Tensor
    move_logits: Tensor
    sink: Tensor
    light: Tensor
    move: Tensor


class Conditioning(NamedTuple):
    """Inputs of the head for the final W queries of a pass: last [N, W or 1, C, h, w], the last clean latent before
    each; last_action [N, W or 1, keys], under which that was shown; sinks [N, S * B, C, h, w]; extra: the head's arrays
    in the state, and those that only training has."""

    last: Tensor
    last_action: Tensor
    sinks: Tensor
    extra: Mapping[str, Tensor] = {}


class Head(nn.Module):
    """Base of the heads: lights, embedding of the last action, tokens spread over cells.

    ``forward(conditioning, tokens, condition)`` -> x0 and the head's outputs, which ``nll`` and ``commit`` take. The
    state holds ``state_names`` for the head; ``initial_state``, ``encode_sinks`` and ``commit`` compute them."""

    def __init__(self, config: Config, grid: tuple[int, int]):
        super().__init__()
        self.state_names = tuple(config.head.state_shapes)
        width, features = config.transformer.width, config.head.width
        self.grid, self.patch, self.unfold = grid, config.transformer.patch, config.codec.unfold
        self.colours = config.latent_shape[0] // self.unfold**2
        gains = torch.linspace(1, 0.25, LIGHTS)[1:, None].expand(-1, self.colours)
        self.lights = nn.Parameter(torch.cat([gains, SPREAD * (gains - 1)], 1))  # black stays black
        self.last_action = nn.Linear(config.action_size, width)
        self.spread = nn.Linear(width, features)
        self.inside = nn.Parameter(torch.zeros(features, self.patch, self.patch))

    def spread_out(self, tokens: Tensor) -> Tensor:
        """Tokens [M, P, D] -> features [M, width, h, w] for the cells of their patches, with a learned offset for each
        place in a patch: convolutions alone do not know where a patch begins."""
        cells_of = self.spread(tokens).transpose(1, 2).unflatten(2, self.grid)
        spread = cells_of.repeat_interleave(self.patch, 2).repeat_interleave(self.patch, 3)
        return spread + self.inside.repeat(1, *self.grid).to(spread.dtype)

    def initial_state(self, sinks: Tensor, frames: Tensor, noise: Tensor) -> dict[str, Tensor]:
        """The head's arrays in a new state, from sinks [N, S * B, C, h, w], the frames [N, R+1, B, C, h, w] shown last
        and the window's noise [N, K, B, C, h, w]."""
        return {}

    def encode_sinks(self, sinks: Tensor) -> dict[str, Tensor]:
        """Those of the head's arrays that depend on the sinks [N, S * B, C, h, w] alone."""
        return {}

    def commit(self, outputs: NamedTuple, noise: Tensor) -> dict[str, Tensor]:
        """The head's arrays that change when the first block of a pass is shown, from the pass's outputs and the noise
        [N, K, B, C, h, w] of the next window."""
        return {}

    def _away(self, copy: Tensor, frames: Tensor) -> Tensor:
        """Mean absolute difference [N, F, LIGHTS] of frames and a sink's copy [N, F, C, h, w] in each light."""
        lit = (copy * gain + offset for gain, offset in zip(*self._light_of(torch.arange(LIGHTS)), strict=True))
        return torch.stack([(each - frames).abs().mean((2, 3, 4)) for each in lit], -1)

    def _light_of(self, light: Tensor) -> tuple[Tensor, Tensor]:
        """Gain and offset, [..., C, 1, 1], of lights by index [...]. The first is the identity and not learned."""
        own = torch.cat([torch.ones(1, self.colours), torch.zeros(1, self.colours)], 1).to(self.lights)
        every = torch.cat([own, self.lights]).repeat_interleave(self.unfold**2, 1)[..., None, None]
        return tuple(every[light.to(every.device)].chunk(2, -3))

    def _to_sinks_light(self, light: Tensor, frames: Tensor) -> Tensor:
        """Frames [N, F, C, h, w] in lights [N, F], converted to the sinks' light."""
        gain, offset = (part.detach() for part in self._light_of(light))
        return (frames - offset) / gain.clamp(min=LEAST_GAIN)

    def _from_sinks_light(self, light: Tensor, frames: Tensor) -> Tensor:
        """Inverse of ``_to_sinks_light``."""
        gain, offset = (part.detach() for part in self._light_of(light))
        return frames * gain.clamp(min=LEAST_GAIN) + offset


class PickHead(Head):
    """The head of worlds seen from above; ``nll`` is its training loss."""

    def __init__(self, config: Config, grid: tuple[int, int]):
        super().__init__(config, grid)
        size, width = config.head, config.transformer.width
        channels = config.latent_shape[0]
        self.sinks = config.rolling.sink_frames
        self.leap = size.leap // self.unfold
        self.moves = [(0, 0), *((s * y, s * x) for s in (*size.steps, size.leap) for y, x in AXES)]
        self.moves += [(s * y, s * x) for s in size.diagonals for y in (-1, 1) for x in (-1, 1)]
        self.register_buffer("palette", (torch.rand(size.palette, self.colours) * 2 - 1) * SPREAD)
        self.first = convolution(4 * channels, size.width)
        self.blocks = nn.ModuleList(Block(size.width, width) for _ in range(size.blocks))
        self.summary = nn.Conv2d(size.width, SUMMARY, 1)
        self.from_tiles = nn.Linear(SUMMARY * TILES**2, width)
        self.from_recognised = nn.Linear(self.sinks + LIGHTS, width)
        self.from_condition = nn.Linear(width, width)
        self.frame_features = nn.Sequential(nn.SiLU(), nn.Linear(width, width), nn.SiLU())
        self.next_sink = _zeroed(nn.Linear(width, self.sinks**2))
        self.next_light = _zeroed(nn.Linear(width, LIGHTS**2))
        self.copied = convolution(channels, size.width)
        self.motion_hypotheses = size.motion_hypotheses
        self.votes = nn.Conv2d(size.width, self.motion_hypotheses * (1 + len(self.moves)), 1)
        self.moved = convolution(self.motion_hypotheses * channels, size.width)
        counts = {"last": 1, "moved": self.motion_hypotheses, "copy": 1, "palette": size.palette, "drawn": 1}
        ends = list(accumulate(counts.values(), initial=0))
        self.kinds = {kind: range(*ends[i : i + 2]) for i, kind in enumerate(counts)}  # indices of each kind's sources
        self.out = nn.Conv2d(size.width, self.kinds["drawn"].stop * self.unfold**2 + channels, 1)
        self.out.weight.data *= 0.1
        first_logits = torch.full((self.kinds["drawn"].stop,), -3.0)
        first_logits[[self.kinds["last"].start, self.kinds["copy"].start]] = 3.0  # half each, before training
        self.out.bias.data.copy_(F.pad(first_logits.repeat_interleave(self.unfold**2), (0, channels)))

    def forward(self, conditioning: Conditioning, tokens: Tensor, condition: Tensor) -> tuple[Tensor, HeadOutputs]:
        """tokens [N, F, P, D] of the trunk and its condition [N, F, D] -> x0 [N, F, C, h, w] and the outputs. The
        conditioning is never in half precision."""
        shape, (last, last_action, sinks, *_) = tokens.shape[:2], conditioning
        last = last.expand(-1, shape[1], -1, -1, -1)
        sink, light = self._recognised(last, sinks)
        last, background = self._to_sinks_light(light, last).flatten(0, 1), _gathered(sinks, sink).flatten(0, 1)
        recognised = torch.cat([F.one_hot(sink, self.sinks), F.one_hot(light, LIGHTS)], -1).to(last.dtype).flatten(0, 1)
        condition = (condition + self.last_action(torch.nan_to_num(last_action))).flatten(0, 1)
        foreground = last - background
        h = self.first(torch.cat([last, background, foreground, self._beyond(foreground)], 1))
        h = h + self.spread_out(tokens.flatten(0, 1))
        h = self.blocks[0](h, condition)
        tiles = F.adaptive_max_pool2d(self.summary(h), TILES).flatten(1)
        summed = self.from_tiles(tiles) + self.from_recognised(recognised) + self.from_condition(normed(condition))
        frame_features = self.frame_features(summed)
        sink_logits = following(recognised[:, : self.sinks], self.next_sink(frame_features))
        light_logits = following(recognised[:, self.sinks :], self.next_light(frame_features))
        sink, light = sink_logits.argmax(-1), light_logits.argmax(-1)
        copy = _gathered(sinks, sink.unflatten(0, shape)).flatten(0, 1)
        h = h + self.copied(copy)
        for block in self.blocks[1:-1]:
            h = block(h, frame_features)
        move_logits = self._voted(h)
        move = move_logits.argmax(-1)
        moved = _gathered(self._displaced(canvas(last, self.unfold)), move)
        h = h + self.moved(cells(moved, self.unfold).flatten(1, 2))
        h = self.blocks[-1](h, frame_features)
        out = self.out(F.relu(h)).contiguous().float()  # contiguous first: that moves fewer bytes in half precision
        mixture_logits, drawn = out.split([out.shape[1] - copy.shape[1], copy.shape[1]], 1)
        last, copy, drawn = (canvas(source, self.unfold) for source in (last, copy, drawn))
        mixture_logits = mixture_logits.unflatten(1, (-1, self.unfold**2))
        logits, chosen = (sink_logits, light_logits, move_logits), (sink, light, move)
        outputs = HeadOutputs(mixture_logits, last, moved, copy, drawn, *logits, *chosen)
        x0 = cells(self._picked(outputs), self.unfold).unflatten(0, shape)
        return self._from_sinks_light(light.unflatten(0, shape), x0), outputs

    def nll(self, outputs: HeadOutputs, true: Tensor, sinks: Tensor) -> tuple[Tensor, Tensor]:
        """Losses [N, F] of a pass's outputs against true [N, F, C, h, w]: nll of all elements, 0 where a choice for the
        whole frame was wrong (there no source fits); and nll of these choices, with the error of the lights."""
        shape = true.shape[:2]
        sink, light = self._recognised(true, sinks)
        choice = F.cross_entropy(outputs.sink_logits.float(), sink.flatten(), reduction="none")
        choice = choice + F.cross_entropy(outputs.light_logits.float(), light.flatten(), reduction="none")
        lit = self._away(_gathered(sinks, sink), true).amin(-1)
        right = (outputs.sink == sink.flatten()) & (outputs.light == light.flatten())
        goal = canvas(self._to_sinks_light(light, true).flatten(0, 1), self.unfold)
        matches = (cells(self._match(source, goal), self.unfold) for source in self._sources(outputs))
        mixture = outputs.mixture_logits.log_softmax(1) + torch.stack(list(matches), 1)
        elements = -mixture.logsumexp(1).sum((1, 2, 3))
        target = self._target_displacements(outputs, goal)
        matched = (target >= 0) & right[:, None]
        move = F.cross_entropy(outputs.move_logits.flatten(0, 1), target.clamp(min=0).flatten(), reduction="none")
        choice = choice + (move.unflatten(0, target.shape) * matched).sum(-1)
        right = right & ((outputs.move == target) | ~matched).all(-1)
        return (elements * right).unflatten(0, shape) / SPRITE, choice.unflatten(0, shape) + lit

    @torch.no_grad()
    def _target_displacements(self, outputs: HeadOutputs, goal: Tensor) -> Tensor:
        """Index of the displacement that each motion hypothesis is to learn, [M, hypotheses]; -1: none. The foreground
        of ``goal`` is split into groups of one displacement each, the largest first. A group is matched with the
        unmatched hypothesis of the largest weight on it (set prediction: Carion et al., arXiv 2005.12872), so that
        equal hypotheses become different. An unmatched one learns the displacement of the group that it weighs most
        on."""
        moves, goals = self._displaced(outputs.last).flatten(0, 1), goal.repeat_interleave(len(self.moves), 0)
        fits = (self._match(moves, goals) > -1).unflatten(0, (len(goal), -1)).flatten(2)  # [M, D, H W]
        rest = (self._match(outputs.copy, goal) <= -1).flatten(1)
        weights = outputs.mixture_logits[:, list(self.kinds["moved"])].softmax(1)
        masks = canvas(weights.flatten(1, 2), self.unfold).flatten(2)  # [M, hypotheses, H W]
        matched, largest = (torch.full(masks.shape[:2], -1, device=goal.device) for _ in range(2))
        largest_overlap = torch.full(masks.shape[:2], float(GROUP), device=goal.device)
        for _ in range(self.motion_hypotheses):
            size, move = (fits & rest[:, None]).sum(-1).max(1)
            group = fits[torch.arange(len(fits)), move] & rest
            rest = rest & ~group
            overlap = (masks * group[:, None]).sum(-1)
            unmatched = overlap.masked_fill(matched >= 0, -1)
            enough = (size >= GROUP) & (unmatched.amax(1) >= OWN * size)
            match = F.one_hot(unmatched.argmax(1), self.motion_hypotheses).bool() & enough[:, None]
            matched = torch.where(match, move[:, None], matched)
            largest = torch.where(overlap >= largest_overlap, move[:, None], largest)
            largest_overlap = torch.maximum(largest_overlap, overlap)
        return torch.where(matched >= 0, matched, largest)

    def _voted(self, h: Tensor) -> Tensor:
        """Logits [M, hypotheses, D] of each motion hypothesis's displacement: the weighted mean of the votes of the
        cells of h [M, width, h, w]."""
        count = self.motion_hypotheses
        weight, vote = self.votes(F.relu(h)).float().flatten(2).split([count, count * len(self.moves)], 1)
        return (vote.unflatten(1, (count, -1)) @ weight.softmax(-1)[..., None])[..., 0]

    def _displaced(self, last: Tensor) -> Tensor:
        """The last frame [M, colours, H, W] under every displacement: [M, D, colours, H, W]."""
        return torch.stack([last.roll(move, (2, 3)) for move in self.moves], 1)

    @staticmethod
    def _match(source: Tensor, goal: Tensor) -> Tensor:
        """Log-likelihood of ``goal`` under ``source``, both [M, colours, H, W]: [M, 1, H, W]."""
        return ((source - goal).abs().mean(1, keepdim=True) - EXACT).clamp(min=0) / -TOLERANCE

    def _sources(self, outputs: HeadOutputs) -> Iterator[Tensor]:
        """Each source's canvas [M, colours, H, W], in the order of the mixture logits."""
        yield outputs.last
        yield from outputs.moved.unbind(1)
        yield outputs.copy
        for colour in self.palette:
            yield colour[None, :, None, None].expand_as(outputs.copy)
        yield outputs.drawn

    @torch.no_grad()
    def _picked(self, outputs: HeadOutputs) -> Tensor:
        """The canvas [M, colours, H, W] of every element's source of largest weight."""
        chosen = canvas(outputs.mixture_logits.max(1).indices.float(), self.unfold)  # faster than argmax
        picked = torch.zeros_like(outputs.copy)
        for index, source in enumerate(self._sources(outputs)):
            picked = torch.where(chosen == index, source, picked)
        return picked

    @torch.no_grad()
    def _recognised(self, frames: Tensor, sinks: Tensor) -> tuple[Tensor, Tensor]:
        """Indices of the sink and of the light that each frame shows: [N, F] each."""
        sink = likeness(frames, sinks, self.colours).argmax(-1)
        return sink, self._away(_gathered(sinks, sink), frames).argmin(-1)

    def _beyond(self, frames: Tensor) -> Tensor:
        """What enters frames [M, C, h, w] across each edge when they are displaced by a leap along each axis; zeros
        elsewhere."""
        height, width, n = *frames.shape[-2:], self.leap
        rows = F.pad(frames[:, :, -n:], (0, 0, 0, height - n)) + F.pad(frames[:, :, :n], (0, 0, height - n, 0))
        columns = F.pad(frames[..., -n:], (0, width - n)) + F.pad(frames[..., :n], (width - n, 0))
        return rows + columns


def likeness(frames: Tensor, sinks: Tensor, colours: int) -> Tensor:
    """Correlation of frames [N, F, C, h, w] and sinks [N, S, C, h, w], mean over colours: [N, F, S] in [-1, 1], equal
    in any light."""
    frames, sinks = (_standardised(latents, colours) for latents in (frames, sinks))
    with torch.autocast(frames.device.type, enabled=False):
        return torch.einsum("nfcp,nscp->nfs", frames, sinks) / (frames.shape[2] * frames.shape[3])


def _standardised(frames: Tensor, colours: int) -> Tensor:
    """[N, F, C, h, w] -> [N, F, colours, elements], each colour with mean 0 and deviation 1."""
    flat = frames.unflatten(2, (colours, -1)).flatten(3)
    flat = flat - flat.mean(-1, keepdim=True)
    return flat * (flat.square().mean(-1, keepdim=True) + 1e-4).rsqrt()


def _gathered(choices: Tensor, index: Tensor) -> Tensor:
    """Of choices [N, S, C, h, w] those at index [N, F]: [N, F, C, h, w]."""
    flat = choices.flatten(2)
    return flat.gather(1, index[..., None].expand(-1, -1, flat.shape[-1])).unflatten(2, choices.shape[2:])


def following(present: Tensor, logits: Tensor) -> Tensor:
    """Logits [..., n] of the next class, from logits [..., n * n] of each pair (present, next) and the present class,
    one-hot [..., n]."""
    count = present.shape[-1]
    return (logits.unflatten(-1, (count, count)) * present[..., None]).sum(-2) + STAY * present


class Block(nn.Module):
    """Two convolutions, added to their input; the first takes it normalised and modulated by a condition."""

    def __init__(self, width: int, condition: int):
        super().__init__()
        self.modulate = _zeroed(nn.Linear(condition, 2 * width))
        self.first, self.second = convolution(width, width), convolution(width, width)
        self.second.weight.data *= 0.3

    def forward(self, h: Tensor, condition: Tensor) -> Tensor:
        shift, scale = self.modulate(condition)[..., None, None].chunk(2, 1)
        normalised = h * (h.square().mean(1, keepdim=True) + 1e-6).rsqrt()
        return h + self.second(F.relu(self.first(normalised * (1 + scale) + shift)))


def convolution(wide: int, narrow: int) -> nn.Conv2d:
    return nn.Conv2d(wide, narrow, 3, padding=1)


def normed(x: Tensor) -> Tensor:
    return F.rms_norm(x, x.shape[-1:], eps=1e-6)


def _zeroed(layer: nn.Linear) -> nn.Linear:
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer
