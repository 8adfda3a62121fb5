"""The picking head: every picture element of x0 is picked, from copies of what is known or from what can be drawn.

The sources of an element are
- the last clean frame where it is, and the last clean frame under each of a few *motion hypotheses*: a hypothesis is
  one displacement for the whole frame, the elements choose among hypotheses (transformations and masks: convolutional
  dynamic neural advection, Finn et al., arXiv 1605.07157);
- the *sink copy*: the same place of the sink that this frame shows, so that a room comes back exactly, minutes later;
- the colours of a palette, which are counted in the recordings (``training/student_rollout.py``);
- one colour that is predicted.
Training minimises the negative log-likelihood (nll) of what came under a mixture whose components are the sources
(Bishop 1994, "Mixture density networks"); x0 is the source with the largest mixture weight. A pick is exact: nothing
fades, and the model's own frames are as crisp as recorded ones.

A hypothesis's displacement is a vote: every cell has a weight and a choice. A head that is unsure whether a sprite is
stopped then puts all of it here or there, and never half of it here and half there. What follows from the choice (a
foot, a turn) is picked by elements that know it.

Which sink a frame shows, and in which *light* (a gain and an offset of every colour, one of a few that are learned), is
found in closed form in the last clean frame and predicted for the next one, for the frame as a whole. Everything
between is done in the sinks' own light: what stands in a room is not lost when the lights are switched.

What leaves a screen on one side enters the next one on the other: displacements wrap around the frame's edges, and the
convolutions see what stands beyond each edge, were the frame to continue with itself.
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
"""The sinks' own light, and three that are learned."""
LEAST_GAIN = 0.2
"""The darkest light that a frame is taken out of."""
STAY = 5.0
"""Logit of the present sink and of the present light, before anything is learned."""
TOLERANCE = 0.1
"""Scale of the mixture's Laplace components, in a latent's units: some six grey levels."""
EXACT = 0.02
"""What is this near is exact: a dark picture's grey levels, rounded, are farther apart in the sinks' own light."""
GROUP = 10
"""Elements that moved alike, from which on they are a thing that a motion hypothesis should have taken along."""
SPRITE = 64
"""Elements whose nll weighs as much as that of a choice."""
OWN = 0.2
"""A hypothesis's mean weight, among the hypotheses, on the elements of a thing that can be its own."""
TILES = 8
"""What chooses sink and light sees the frame as so many by so many tiles, each by its strongest features."""
SUMMARY = 16
"""Features of a tile."""


class HeadOutputs(NamedTuple):
    """Of each of M = N * F frames: mixture logits [M, sources, unfold^2, h, w] for each element of a cell; the last
    clean frame, the sink copy and what is drawn as canvases [M, colours, H, W], and the last frame under each motion
    hypothesis [M, hypotheses, colours, H, W], all in the sinks' light; logits of the next sink [M, S], light
    [M, LIGHTS] and displacements [M, hypotheses, D], and which were chosen, by number [M], [M, hypotheses]."""

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
    """What the final W queries of a pass can be made from: last [N, W or 1, C, h, w], the last clean latent before
    each; last_action [N, W or 1, keys], which it was shown under; sinks [N, S * B, C, h, w]; extra: the arrays that the
    head keeps in the state, and what else training tells it."""

    last: Tensor
    last_action: Tensor
    sinks: Tensor
    extra: Mapping[str, Tensor] = {}


class Head(nn.Module):
    """What every head has: the action that the last frame was shown under, and the trunk's tokens, spread to cells.

    ``forward(known, tokens, condition)`` -> x0 and the head's outputs, which ``nll`` and ``commit`` take."""

    state_names: tuple[str, ...] = ()
    """Arrays that the state holds for the head; ``initial_state``, ``encode_sinks`` and ``commit`` make them."""

    def __init__(self, config: Config, grid: tuple[int, int]):
        super().__init__()
        width, features = config.transformer.width, config.head.width
        self.grid, self.patch, self.unfold = grid, config.transformer.patch, config.codec.unfold
        self.colours = config.latent_shape[0] // self.unfold**2
        gains = torch.linspace(1, 0.25, LIGHTS)[1:, None].expand(-1, self.colours)
        self.lights = nn.Parameter(torch.cat([gains, SPREAD * (gains - 1)], 1))  # black stays black
        self.last_action = nn.Linear(config.action_size, width)
        self.spread = nn.Linear(width, features)
        self.inside = nn.Parameter(torch.zeros(features, self.patch, self.patch))

    def spread_out(self, tokens: Tensor) -> Tensor:
        """Tokens [M, P, D] -> what each adds to the cells of its patch [M, width, h, w], which know their place in it:
        convolutions alone could not tell where a tile begins."""
        cells_of = self.spread(tokens).transpose(1, 2).unflatten(2, self.grid)
        spread = cells_of.repeat_interleave(self.patch, 2).repeat_interleave(self.patch, 3)
        return spread + self.inside.repeat(1, *self.grid).to(spread.dtype)

    def initial_state(self, sinks: Tensor, clean: Tensor) -> dict[str, Tensor]:
        """The head's arrays in a new state, from sinks [N, S * B, C, h, w] and the clean block [N, B, C, h, w]."""
        return {}

    def encode_sinks(self, sinks: Tensor) -> dict[str, Tensor]:
        """Those of the head's arrays that depend on the sinks [N, S * B, C, h, w] alone."""
        return {}

    def commit(self, outputs: NamedTuple) -> dict[str, Tensor]:
        """The head's arrays after the first block of a pass was shown, from the pass's outputs."""
        return {}

    def _away(self, copy: Tensor, frames: Tensor) -> Tensor:
        """How far a sink's copy is from the frames in each light: mean difference [N, F, LIGHTS]."""
        lit = (copy * gain + offset for gain, offset in zip(*self._light_of(torch.arange(LIGHTS)), strict=True))
        return torch.stack([(each - frames).abs().mean((2, 3, 4)) for each in lit], -1)

    def _light_of(self, light: Tensor) -> tuple[Tensor, Tensor]:
        """Gain and offset, [..., C, 1, 1], of lights by number [...]. The first is no change, and is not learned."""
        own = torch.cat([torch.ones(1, self.colours), torch.zeros(1, self.colours)], 1).to(self.lights)
        every = torch.cat([own, self.lights]).repeat_interleave(self.unfold**2, 1)[..., None, None]
        return tuple(every[light.to(every.device)].chunk(2, -3))

    def _to_sinks_light(self, light: Tensor, frames: Tensor) -> Tensor:
        """Frames [N, F, C, h, w] from their lights [N, F] into that of the sinks."""
        gain, offset = (part.detach() for part in self._light_of(light))
        return (frames - offset) / gain.clamp(min=LEAST_GAIN)

    def _from_sinks_light(self, light: Tensor, frames: Tensor) -> Tensor:
        """Inverse of ``_to_sinks_light``."""
        gain, offset = (part.detach() for part in self._light_of(light))
        return frames * gain.clamp(min=LEAST_GAIN) + offset


class PickHead(Head):
    """``forward`` -> x0 of frames that know the last clean one and the sinks, and how it was made; ``nll``: what
    training lowers."""

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
        self.kinds = _numbered(counts)
        self.out = nn.Conv2d(size.width, self.kinds["drawn"].stop * self.unfold**2 + channels, 1)
        self.out.weight.data *= 0.1
        self.out.bias.data.copy_(self._first_logits(channels))

    def _first_logits(self, channels: int) -> Tensor:
        """Bias of ``out``: to begin with, half the last frame where it is and half the sink copy."""
        mixture_logits = torch.full((self.kinds["drawn"].stop,), -3.0)
        mixture_logits[[self.kinds["last"].start, self.kinds["copy"].start]] = 3.0
        return torch.cat([mixture_logits.repeat_interleave(self.unfold**2), torch.zeros(channels)])

    def forward(self, conditioning: Conditioning, tokens: Tensor, condition: Tensor) -> tuple[Tensor, HeadOutputs]:
        """tokens [N, F, P, D] of the trunk and its condition [N, F, D] -> x0 [N, F, C, h, w] and what it was picked
        from. What is known is never in half precision."""
        shape, (last, last_action, sinks, *_) = tokens.shape[:2], conditioning
        last = last.expand(-1, shape[1], -1, -1, -1)
        sink, light = self._recognised(last, sinks)
        here = _gathered(sinks, sink)
        last, here = self._to_sinks_light(light, last).flatten(0, 1), here.flatten(0, 1)
        recognised = torch.cat([F.one_hot(sink, self.sinks), F.one_hot(light, LIGHTS)], -1).to(last.dtype).flatten(0, 1)
        condition = (condition + self.last_action(torch.nan_to_num(last_action))).flatten(0, 1)
        stands = last - here
        h = self.first(torch.cat([last, here, stands, self._beyond(stands)], 1))
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
        out = self.out(F.relu(h)).contiguous().float()  # the layout first: in half precision it moves half as much
        mixture_logits, drawn = out.split([out.shape[1] - copy.shape[1], copy.shape[1]], 1)
        last, copy, drawn = (canvas(source, self.unfold) for source in (last, copy, drawn))
        mixture_logits = mixture_logits.unflatten(1, (-1, self.unfold**2))
        logits, chosen = (sink_logits, light_logits, move_logits), (sink, light, move)
        outputs = HeadOutputs(mixture_logits, last, moved, copy, drawn, *logits, *chosen)
        x0 = cells(self._picked(outputs), self.unfold).unflatten(0, shape)
        return self._from_sinks_light(light.unflatten(0, shape), x0), outputs

    def nll(self, outputs: HeadOutputs, true: Tensor, sinks: Tensor) -> tuple[Tensor, Tensor]:
        """Negative log-likelihoods [N, F] of what came, true [N, F, C, h, w], under a pass's outputs: of its elements,
        together, where all that is chosen as a whole was chosen rightly (elsewhere nothing could fit); of the choices,
        and of the lights."""
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
        missed = F.cross_entropy(outputs.move_logits.flatten(0, 1), target.clamp(min=0).flatten(), reduction="none")
        choice = choice + (missed.unflatten(0, target.shape) * matched).sum(-1)
        right = right & ((outputs.move == target) | ~matched).all(-1)
        return (elements * right).unflatten(0, shape) / SPRITE, choice.unflatten(0, shape) + lit

    @torch.no_grad()
    def _target_displacements(self, outputs: HeadOutputs, goal: Tensor) -> Tensor:
        """The displacement that each motion hypothesis should have had, by number, [M, hypotheses]; -1: unknown. What
        stands in ``goal`` is taken apart into things that moved alike, the largest first; each is matched with the
        hypothesis that has most of its elements and no thing yet (set prediction: Carion et al., arXiv 2005.12872),
        which tells alike hypotheses apart in the beginning. One without a thing moves with that which it is on."""
        moves, near = self._displaced(outputs.last).flatten(0, 1), goal.repeat_interleave(len(self.moves), 0)
        fits = (self._match(moves, near) > -1).unflatten(0, (len(goal), -1)).flatten(2)  # [M, D, H W]
        left = (self._match(outputs.copy, goal) <= -1).flatten(1)
        weights = outputs.mixture_logits[:, list(self.kinds["moved"])].softmax(1)
        masks = canvas(weights.flatten(1, 2), self.unfold).flatten(2)  # [M, hypotheses, H W]
        own, on = (torch.full(masks.shape[:2], -1, device=goal.device) for _ in range(2))
        most = torch.full(masks.shape[:2], float(GROUP), device=goal.device)
        for _ in range(self.motion_hypotheses):
            size, move = (fits & left[:, None]).sum(-1).max(1)
            thing = fits[torch.arange(len(fits)), move] & left
            left = left & ~thing
            over = (masks * thing[:, None]).sum(-1)
            free = over.masked_fill(own >= 0, -1)
            matched = (size >= GROUP) & (free.amax(1) >= OWN * size)
            of = F.one_hot(free.argmax(1), self.motion_hypotheses).bool() & matched[:, None]
            own, on = (torch.where(its, move[:, None], before) for its, before in ((of, own), (over >= most, on)))
            most = torch.maximum(most, over)
        return torch.where(own >= 0, own, on)

    def _voted(self, h: Tensor) -> Tensor:
        """Logits [M, hypotheses, D] of each motion hypothesis's displacement: the votes of the cells of h
        [M, width, h, w], weighted."""
        count = self.motion_hypotheses
        weight, vote = self.votes(F.relu(h)).float().flatten(2).split([count, count * len(self.moves)], 1)
        return (vote.unflatten(1, (count, -1)) @ weight.softmax(-1)[..., None])[..., 0]

    def _displaced(self, last: Tensor) -> Tensor:
        """The last frame [M, colours, H, W] under every displacement: [M, D, colours, H, W]."""
        return torch.stack([last.roll(move, (2, 3)) for move in self.moves], 1)

    @staticmethod
    def _match(source: Tensor, goal: Tensor) -> Tensor:
        """Log-likelihood of ``goal``, both [M, colours, H, W], where it is taken from ``source``: [M, 1, H, W]."""
        return ((source - goal).abs().mean(1, keepdim=True) - EXACT).clamp(min=0) / -TOLERANCE

    def _sources(self, outputs: HeadOutputs) -> Iterator[Tensor]:
        """Each source's canvas [M or 1, colours, H, W], in the order of the shares."""
        yield outputs.last
        yield from outputs.moved.unbind(1)
        yield outputs.copy
        for colour in self.palette:
            yield colour[None, :, None, None].expand_as(outputs.copy)
        yield outputs.drawn

    @torch.no_grad()
    def _picked(self, outputs: HeadOutputs) -> Tensor:
        """The canvas [M, colours, H, W] of every element's likeliest source."""
        chosen = canvas(outputs.mixture_logits.max(1).indices.float(), self.unfold)  # faster than argmax
        made = torch.zeros_like(outputs.copy)
        for number, source in enumerate(self._sources(outputs)):
            made = torch.where(chosen == number, source, made)
        return made

    @torch.no_grad()
    def _recognised(self, frames: Tensor, sinks: Tensor) -> tuple[Tensor, Tensor]:
        """The sink that each frame shows, and the light, by number: [N, F] each."""
        sink = likeness(frames, sinks, self.colours).argmax(-1)
        return sink, self._away(_gathered(sinks, sink), frames).argmin(-1)

    def _beyond(self, frames: Tensor) -> Tensor:
        """Frames [M, C, h, w] a leap further along each axis: what comes in across each edge, and nothing else."""
        height, width, n = *frames.shape[-2:], self.leap
        rows = F.pad(frames[:, :, -n:], (0, 0, 0, height - n)) + F.pad(frames[:, :, :n], (0, 0, height - n, 0))
        columns = F.pad(frames[..., -n:], (0, width - n)) + F.pad(frames[..., :n], (width - n, 0))
        return rows + columns


def likeness(frames: Tensor, sinks: Tensor, colours: int) -> Tensor:
    """Correlation of standardised colours, mean over colours: frames [N, F, C, h, w] and sinks [N, S, C, h, w] ->
    [N, F, S] in [-1, 1], the same in any light."""
    a, b = (_standardised(t, colours) for t in (frames, sinks))
    with torch.autocast(frames.device.type, enabled=False):
        return torch.einsum("nfcp,nscp->nfs", a, b) / (a.shape[2] * a.shape[3])


def _standardised(frames: Tensor, colours: int) -> Tensor:
    """[N, F, C, h, w] -> [N, F, colours, elements], each colour with mean 0 and deviation 1."""
    flat = frames.unflatten(2, (colours, -1)).flatten(3)
    flat = flat - flat.mean(-1, keepdim=True)
    return flat * (flat.square().mean(-1, keepdim=True) + 1e-4).rsqrt()


def _gathered(sinks: Tensor, number: Tensor) -> Tensor:
    """Sinks [N, S, C, h, w] by number [N, F] -> [N, F, C, h, w]."""
    flat = sinks.flatten(2)
    index = number[..., None].expand(-1, -1, flat.shape[-1])
    return flat.gather(1, index).unflatten(2, sinks.shape[2:])


def following(present: Tensor, logits: Tensor) -> Tensor:
    """Logits [..., n * n] of the next from each, where one-hot [..., n] is present: [..., n]."""
    count = present.shape[-1]
    return (logits.unflatten(-1, (count, count)) * present[..., None]).sum(-2) + STAY * present


def _numbered(counts: dict[str, int]) -> dict[str, range]:
    """Numbers of the sources of each kind, one kind after the other."""
    ends = list(accumulate(counts.values(), initial=0))
    return {kind: range(*ends[i : i + 2]) for i, kind in enumerate(counts)}


class Block(nn.Module):
    """Two convolutions, added to their input; the first sees it normalised and modulated by a condition."""

    def __init__(self, width: int, condition: int):
        super().__init__()
        self.modulate = _zeroed(nn.Linear(condition, 2 * width))
        self.first, self.second = convolution(width, width), convolution(width, width)
        self.second.weight.data *= 0.3

    def forward(self, h: Tensor, condition: Tensor) -> Tensor:
        shift, scale = self.modulate(condition)[..., None, None].chunk(2, 1)
        normed = h * (h.square().mean(1, keepdim=True) + 1e-6).rsqrt()
        return h + self.second(F.relu(self.first(normed * (1 + scale) + shift)))


def convolution(wide: int, narrow: int) -> nn.Conv2d:
    return nn.Conv2d(wide, narrow, 3, padding=1)


def normed(x: Tensor) -> Tensor:
    return F.rms_norm(x, x.shape[-1:], eps=1e-6)


def _zeroed(layer: nn.Linear) -> nn.Linear:
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer
