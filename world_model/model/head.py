"""The local head: every picture element of x0 is picked from what is known, moved or copied, or from what can be drawn.

The sources of an element are
- the last clean frame where it is, and the last clean frame as each of a few *movers* takes it: a mover chooses one
  displacement for the whole frame, the elements choose among movers (transformations and masks: convolutional dynamic
  neural advection, Finn et al., arXiv 1605.07157);
- the *sink copy*: the same place of the sink that this frame shows, so that a room comes back exactly, minutes later;
- the colours of a palette, which are counted in the recordings (``training/student_rollout.py``);
- one colour that is predicted.
Training holds the shares of all sources to what came, by the likelihood of a mixture whose components are the sources
(Bishop 1994, "Mixture density networks"); x0 is the source with the largest share. A pick is exact: nothing fades, and
the model's own frames are as crisp as recorded ones.

A mover's displacement is elected: every cell says how much its word counts and what it would choose. A head that is
unsure whether who walks there is stopped then sets him down here or there, and never half of him here and half there.
What follows from the choice (a foot, a turn) is picked by elements that know it.

Which sink a frame shows, and in which *light* (a gain and an offset of every colour, one of a few that are learned), is
found in closed form in the last clean frame and chosen for the next one, as a whole. Everything between is done in the
sinks' own light: what stands in a room is not lost when the lights are switched.

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
"""Elements that went the same way, from which on they are a thing that a mover should have taken along."""
SPRITE = 64
"""Elements whose surprise weighs as much as that of a choice."""
OWN = 0.2
"""A mover's mean share, among the movers, of the elements of a thing that can be its own."""
TILES = 8
"""What chooses sink and light sees the frame as so many by so many tiles, each by its strongest features."""
SUMMARY = 16
"""Features of a tile."""


class Pass(NamedTuple):
    """What a pass offered for each of M = N * F frames: logits of the sources' shares [M, sources, unfold^2, h, w], for
    each element of a cell; the last clean frame, the sink copy and what is drawn as canvases [M, colours, H, W], and
    the last as each mover takes it [M, movers, colours, H, W], all in the sinks' light; logits of the next sink [M, S],
    light [M, LIGHTS] and the movers' displacements [M, movers, D], and what was chosen, by number [M], [M, movers]."""

    shares: Tensor
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


class Known(NamedTuple):
    """What the final W queries of a pass can be made from: last [N, W or 1, C, h, w], the last clean latent before
    each; was [N, W or 1, keys], the action it was shown under; sinks [N, S * B, C, h, w]; extra: the arrays that the
    head keeps in the state, and what else training tells it."""

    last: Tensor
    was: Tensor
    sinks: Tensor
    extra: Mapping[str, Tensor] = {}


class Head(nn.Module):
    """What every head has: the action that the last frame was shown under, and the trunk's tokens, spread to cells.

    ``forward(known, tokens, condition)`` -> x0 and the head's outputs, which ``surprise`` and ``arrived`` take."""

    kept: tuple[str, ...] = ()
    """Names of the arrays that the state holds for the head; ``begun``, ``survey`` and ``arrived`` make them."""

    def __init__(self, config: Config, grid: tuple[int, int]):
        super().__init__()
        width, features = config.transformer.width, config.head.width
        self.grid, self.patch, self.unfold = grid, config.transformer.patch, config.codec.unfold
        self.colours = config.latent_shape[0] // self.unfold**2
        gains = torch.linspace(1, 0.25, LIGHTS)[1:, None].expand(-1, self.colours)
        self.lights = nn.Parameter(torch.cat([gains, SPREAD * (gains - 1)], 1))  # black stays black
        self.was = nn.Linear(config.action_size, width)
        self.spread = nn.Linear(width, features)
        self.inside = nn.Parameter(torch.zeros(features, self.patch, self.patch))

    def spread_out(self, tokens: Tensor) -> Tensor:
        """Tokens [M, P, D] -> what each adds to the cells of its patch [M, width, h, w], which know their place in it:
        convolutions alone could not tell where a tile begins."""
        cells_of = self.spread(tokens).transpose(1, 2).unflatten(2, self.grid)
        spread = cells_of.repeat_interleave(self.patch, 2).repeat_interleave(self.patch, 3)
        return spread + self.inside.repeat(1, *self.grid).to(spread.dtype)

    def begun(self, sinks: Tensor, clean: Tensor) -> dict[str, Tensor]:
        """What else a state begins with, of sinks [N, S * B, C, h, w] and the clean block [N, B, C, h, w]."""
        return {}

    def survey(self, sinks: Tensor) -> dict[str, Tensor]:
        """What a state keeps of its sinks [N, S * B, C, h, w], beside them and their keys and values."""
        return {}

    def arrived(self, outputs: NamedTuple) -> dict[str, Tensor]:
        """What a state keeps of the first frame of a pass, of its outputs, beside its latent."""
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

    def _out_of(self, light: Tensor, frames: Tensor) -> Tensor:
        """Frames [N, F, C, h, w] from their lights [N, F] into that of the sinks."""
        gain, offset = (part.detach() for part in self._light_of(light))
        return (frames - offset) / gain.clamp(min=LEAST_GAIN)

    def _into(self, light: Tensor, frames: Tensor) -> Tensor:
        """Inverse of ``_out_of``."""
        gain, offset = (part.detach() for part in self._light_of(light))
        return frames * gain.clamp(min=LEAST_GAIN) + offset


class LocalHead(Head):
    """``forward`` -> x0 of frames that know the last clean one and the sinks, and how it was made; ``surprise``: what
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
        self.seen = nn.Linear(SUMMARY * TILES**2, width)
        self.found = nn.Linear(self.sinks + LIGHTS, width)
        self.told = nn.Linear(width, width)
        self.whole = nn.Sequential(nn.SiLU(), nn.Linear(width, width), nn.SiLU())
        self.next_sink = _zeroed(nn.Linear(width, self.sinks**2))
        self.next_light = _zeroed(nn.Linear(width, LIGHTS**2))
        self.copied = convolution(channels, size.width)
        self.movers = size.movers
        self.ballots = nn.Conv2d(size.width, self.movers * (1 + len(self.moves)), 1)
        self.moved = convolution(self.movers * channels, size.width)
        self.kinds = _numbered({"last": 1, "moved": self.movers, "copy": 1, "palette": size.palette, "drawn": 1})
        self.out = nn.Conv2d(size.width, self.kinds["drawn"].stop * self.unfold**2 + channels, 1)
        self.out.weight.data *= 0.1
        self.out.bias.data.copy_(self._first_shares(channels))

    def _first_shares(self, channels: int) -> Tensor:
        """Bias of ``out``: to begin with, half the last frame where it is and half the sink copy."""
        shares = torch.full((self.kinds["drawn"].stop,), -3.0)
        shares[[self.kinds["last"].start, self.kinds["copy"].start]] = 3.0
        return torch.cat([shares.repeat_interleave(self.unfold**2), torch.zeros(channels)])

    def forward(self, known: Known, tokens: Tensor, condition: Tensor) -> tuple[Tensor, Pass]:
        """tokens [N, F, P, D] of the trunk and its condition [N, F, D] -> x0 [N, F, C, h, w] and what it was picked
        from. What is known is never in half precision."""
        shape, (last, was, sinks, *_) = tokens.shape[:2], known
        last = last.expand(-1, shape[1], -1, -1, -1)
        sink, light = self._recognised(last, sinks)
        here = _taken(sinks, sink)
        last, here = self._out_of(light, last).flatten(0, 1), here.flatten(0, 1)
        known = torch.cat([F.one_hot(sink, self.sinks), F.one_hot(light, LIGHTS)], -1).to(last.dtype).flatten(0, 1)
        condition = (condition + self.was(torch.nan_to_num(was))).flatten(0, 1)
        stands = last - here
        h = self.first(torch.cat([last, here, stands, self._beyond(stands)], 1))
        h = h + self.spread_out(tokens.flatten(0, 1))
        h = self.blocks[0](h, condition)
        tiles = F.adaptive_max_pool2d(self.summary(h), TILES).flatten(1)
        whole = self.whole(self.seen(tiles) + self.found(known) + self.told(normed(condition)))
        sink_logits = following(known[:, : self.sinks], self.next_sink(whole))
        light_logits = following(known[:, self.sinks :], self.next_light(whole))
        sink, light = sink_logits.argmax(-1), light_logits.argmax(-1)
        copy = _taken(sinks, sink.unflatten(0, shape)).flatten(0, 1)
        h = h + self.copied(copy)
        for block in self.blocks[1:-1]:
            h = block(h, whole)
        move_logits = self._elected(h)
        move = move_logits.argmax(-1)
        moved = _taken(self._displaced(canvas(last, self.unfold)), move)
        h = h + self.moved(cells(moved, self.unfold).flatten(1, 2))
        h = self.blocks[-1](h, whole)
        out = self.out(F.relu(h)).contiguous().float()  # the layout first: in half precision it moves half as much
        shares, drawn = out.split([out.shape[1] - copy.shape[1], copy.shape[1]], 1)
        last, copy, drawn = (canvas(source, self.unfold) for source in (last, copy, drawn))
        shares = shares.unflatten(1, (-1, self.unfold**2))
        logits, chosen = (sink_logits, light_logits, move_logits), (sink, light, move)
        offered = Pass(shares, last, moved, copy, drawn, *logits, *chosen)
        x0 = cells(self._picked(offered), self.unfold).unflatten(0, shape)
        return self._into(light.unflatten(0, shape), x0), offered

    def surprise(self, offered: Pass, true: Tensor, sinks: Tensor) -> tuple[Tensor, Tensor]:
        """Negative log-likelihoods [N, F] of what came, true [N, F, C, h, w], under a pass's outputs: of its elements,
        together, where all that is chosen as a whole was chosen rightly (elsewhere nothing could fit); of the choices,
        and of the lights."""
        shape = true.shape[:2]
        sink, light = self._recognised(true, sinks)
        choice = F.cross_entropy(offered.sink_logits.float(), sink.flatten(), reduction="none")
        choice = choice + F.cross_entropy(offered.light_logits.float(), light.flatten(), reduction="none")
        lit = self._away(_taken(sinks, sink), true).amin(-1)
        right = (offered.sink == sink.flatten()) & (offered.light == light.flatten())
        goal = canvas(self._out_of(light, true).flatten(0, 1), self.unfold)
        matches = (cells(self._match(source, goal), self.unfold) for source in self._sources(offered))
        mixture = offered.shares.log_softmax(1) + torch.stack(list(matches), 1)
        elements = -mixture.logsumexp(1).sum((1, 2, 3))
        went = self._went(offered, goal)
        known = (went >= 0) & right[:, None]
        missed = F.cross_entropy(offered.move_logits.flatten(0, 1), went.clamp(min=0).flatten(), reduction="none")
        choice = choice + (missed.unflatten(0, went.shape) * known).sum(-1)
        right = right & ((offered.move == went) | ~known).all(-1)
        return (elements * right).unflatten(0, shape) / SPRITE, choice.unflatten(0, shape) + lit

    @torch.no_grad()
    def _went(self, offered: Pass, goal: Tensor) -> Tensor:
        """The displacement that each mover should have chosen, by number, [M, movers]; -1: nothing tells. What stands
        in ``goal`` is taken apart into things that went the same way, the largest first; each is matched with the mover
        that has most of its elements and no thing yet (set prediction: Carion et al., arXiv 2005.12872), which is what
        tells alike movers apart in the beginning. A mover without a thing of its own goes with that which it is on."""
        moves, near = self._displaced(offered.last).flatten(0, 1), goal.repeat_interleave(len(self.moves), 0)
        fits = (self._match(moves, near) > -1).unflatten(0, (len(goal), -1)).flatten(2)  # [M, D, H W]
        left = (self._match(offered.copy, goal) <= -1).flatten(1)
        shares = offered.shares[:, list(self.kinds["moved"])].softmax(1)
        masks = canvas(shares.flatten(1, 2), self.unfold).flatten(2)  # [M, movers, H W]
        own, on = (torch.full(masks.shape[:2], -1, device=goal.device) for _ in range(2))
        most = torch.full(masks.shape[:2], float(GROUP), device=goal.device)
        for _ in range(self.movers):
            size, move = (fits & left[:, None]).sum(-1).max(1)
            thing = fits[torch.arange(len(fits)), move] & left
            left = left & ~thing
            over = (masks * thing[:, None]).sum(-1)
            free = over.masked_fill(own >= 0, -1)
            matched = (size >= GROUP) & (free.amax(1) >= OWN * size)
            of = F.one_hot(free.argmax(1), self.movers).bool() & matched[:, None]
            own, on = (torch.where(its, move[:, None], before) for its, before in ((of, own), (over >= most, on)))
            most = torch.maximum(most, over)
        return torch.where(own >= 0, own, on)

    def _elected(self, h: Tensor) -> Tensor:
        """Logits [M, movers, D] of the displacement that each mover chooses: what the cells of h [M, width, h, w] say,
        weighted by how much their words count."""
        weight, word = self.ballots(F.relu(h)).float().flatten(2).split([self.movers, self.movers * len(self.moves)], 1)
        word = word.unflatten(1, (self.movers, -1))
        return (word @ weight.softmax(-1)[..., None])[..., 0]

    def _displaced(self, last: Tensor) -> Tensor:
        """The last frame [M, colours, H, W] under every displacement: [M, D, colours, H, W]."""
        return torch.stack([last.roll(move, (2, 3)) for move in self.moves], 1)

    @staticmethod
    def _match(source: Tensor, goal: Tensor) -> Tensor:
        """Log-likelihood of ``goal``, both [M, colours, H, W], where it is taken from ``source``: [M, 1, H, W]."""
        return ((source - goal).abs().mean(1, keepdim=True) - EXACT).clamp(min=0) / -TOLERANCE

    def _sources(self, offered: Pass) -> Iterator[Tensor]:
        """Each source's canvas [M or 1, colours, H, W], in the order of the shares."""
        yield offered.last
        yield from offered.moved.unbind(1)
        yield offered.copy
        for colour in self.palette:
            yield colour[None, :, None, None].expand_as(offered.copy)
        yield offered.drawn

    @torch.no_grad()
    def _picked(self, offered: Pass) -> Tensor:
        """The canvas [M, colours, H, W] of every element's likeliest source."""
        chosen = canvas(offered.shares.max(1).indices.float(), self.unfold)  # faster than argmax
        made = torch.zeros_like(offered.copy)
        for number, source in enumerate(self._sources(offered)):
            made = torch.where(chosen == number, source, made)
        return made

    @torch.no_grad()
    def _recognised(self, frames: Tensor, sinks: Tensor) -> tuple[Tensor, Tensor]:
        """The sink that each frame shows, and the light, by number: [N, F] each."""
        sink = likeness(frames, sinks, self.colours).argmax(-1)
        return sink, self._away(_taken(sinks, sink), frames).argmin(-1)

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


def _taken(sinks: Tensor, number: Tensor) -> Tensor:
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
