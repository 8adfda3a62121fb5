"""The local head: x0 of a block from what is known, moved or copied, and from what it draws itself.

Every picture element of x0 is a mixture, by a softmax of the head's own, of
- the last clean frame, moved: one share for each displacement within ``reach``, and one for each leap along an axis (a
  flow as a distribution over whole elements, so that a copy is exact: dynamic neural advection, Finn et al., arXiv
  1605.07157). What it shows changes its light with the copies, or sprites would be lost whenever lights are switched;
- the *sink copy*, whose values are the sinks' own latents, so that a room comes back exactly, minutes later: either
  *here*, the sink that looks most like the last clean frame, or, by a predicted share, *there*: attention from the
  block's tokens to places of all sinks, helped by what each sink has beside it in the keys' direction. Each in a
  light, a gain and an offset of every colour, chosen among a few that are learned: a choice is exact and stays, where
  a number that is predicted again each tick would creep;
- what convolutions over noisy block, last frame, sink copy and the trunk's tokens draw.

Two things are computed in closed form, because they need no learning: how alike the last clean frame is to each sink,
whatever the light (correlation of standardised colours), and the gain and offset that fit the nearest sink to it. The
fit is only a feature: copied from, it would follow its own errors until all is dark. Rooms that change and lights that
are switched are rare; *there* has a loss of its own (``student_rollout.py``), because as long as *here* serves, no
other would teach it.

Convolutions and displacements wrap around the frame's edges: what leaves a screen on one side enters the next one on
the other.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from world_model.codec import canvas, cells
from world_model.config import Config

KEY_WIDTH, LIGHTS = 32, 4
SAME_PLACE = 9.0
"""Where the sink copy looks before it has learned anything: at a token's own place in the frame."""
LEAST_GAIN = 0.2
"""The darkest light that the last frame is taken out of."""
NEAREST = 20.0
"""... and in the sink that looks most like the last clean frame; correlation times this is a logit."""


class Sources(NamedTuple):
    """What a pass could copy from the sinks [N, F, C, h, w]: the fit to the last frame, here, there; and the logit of
    leaving [N, F]."""

    fit: Tensor
    here: Tensor
    there: Tensor
    leave: Tensor


class LocalHead(nn.Module):
    """``forward`` -> x0 of frames that know the last clean one and the sinks; ``sources``: what it could copy."""

    def __init__(self, config: Config, grid: tuple[int, int]):
        super().__init__()
        size, width = config.head, config.transformer.width
        channels, _, _ = config.latent_shape
        self.grid, self.patch, self.unfold, self.reach = grid, config.transformer.patch, config.codec.unfold, size.reach
        self.colours, self.sinks = channels // self.unfold**2, config.rolling.sink_frames
        near = range(-size.reach, size.reach + 1)
        self.moves = [(y, x) for y in near for x in near]
        if size.leap:
            self.moves += [(size.leap, 0), (-size.leap, 0), (0, size.leap), (0, -size.leap)]
        self.was = nn.Linear(config.action_size, width)
        self.spread = nn.Linear(width, size.width)
        self.first = Wrapped(4 * channels, size.width)
        self.inside = nn.Parameter(torch.zeros(size.width, self.patch, self.patch))
        self.blocks = nn.ModuleList(Block(size.width, width) for _ in range(size.blocks))
        self.seen = nn.Linear(2 * size.width, width)  # apart: one matrix would drown a few numbers in hundreds
        self.found = nn.Linear(2 * self.colours + self.sinks, width)
        self.told = nn.Linear(width, width)
        self.whole = nn.Sequential(nn.SiLU(), nn.Linear(width, width), nn.SiLU())
        self.light = _zeroed(nn.Linear(width, 2 * LIGHTS))
        gains = torch.linspace(1, 0.25, LIGHTS)[:, None].expand(-1, self.colours)
        self.lights = nn.Parameter(torch.cat([gains, torch.zeros(LIGHTS, self.colours)], 1))
        self.copied = Wrapped(channels, size.width)
        nn.init.zeros_(self.copied.weight)
        self.leave = nn.Linear(width, 1)
        self.leave.bias.data.fill_(-3.0)
        self.query = nn.Sequential(nn.Linear(2 * width, width), nn.SiLU(), _zeroed(nn.Linear(width, KEY_WIDTH)))
        self.sink_key = nn.Linear(channels * self.patch**2, KEY_WIDTH)
        self.beside = _zeroed(nn.Linear(self.sinks * width, self.sinks))
        self.place = nn.Parameter(_same_place(grid))
        self.out = nn.Conv2d(size.width, (len(self.moves) + 2) * self.unfold**2 + channels, 1)
        self.out.weight.data *= 0.1
        self.out.bias.data.copy_(self._first_shares(channels))

    def _first_shares(self, channels: int) -> Tensor:
        """Bias of ``out``: to begin with, half the last frame where it is and half the sink copy."""
        shares = torch.full((len(self.moves) + 2,), -3.0)
        shares[[self.moves.index((0, 0)), len(self.moves)]] = 3.0
        return torch.cat([shares.repeat_interleave(self.unfold**2), torch.zeros(channels)])

    def forward(
        self, x: Tensor, last: Tensor, tokens: Tensor, condition: Tensor, was: Tensor, sinks: Tensor
    ) -> Tensor:
        """x, last [N, F, C, h, w]: noisy frames and the last clean frame before each; tokens [N, F, P, D] of the trunk
        and its condition [N, F, D]; was [N, F, keys]: the action that ``last`` was shown under; sinks [N, S, C, h, w].
        Returns x0 [N, F, C, h, w]. What is given is never in half precision."""
        shape = x.shape[:2]
        alike = likeness(last, sinks, self.colours)
        patches = self._patches(sinks).flatten(1, 2)  # [N, S * P, C * patch^2]
        near = self._unpatched(self._attended((NEAREST * alike)[:, :, None, :, None], patches))
        gain, offset = fitted(near, last, self.colours)
        fit = near * gain + offset
        condition = (condition + self.was(torch.nan_to_num(was))).flatten(0, 1)
        h = self.first(torch.cat([x, last, fit, last - fit], 2).flatten(0, 1))
        h = h + self._spread_out(tokens.flatten(0, 1))
        h = self.blocks[0](h, condition)
        colours = torch.cat([gain, offset], -3)[:, :, :: self.unfold**2, 0, 0].flatten(0, 1)
        room = (NEAREST * alike).softmax(-1).flatten(0, 1)
        seen = self.seen(_normed(torch.cat([h.mean((2, 3)), h.amax((2, 3))], 1)))
        whole = self.whole(seen + self.found(torch.cat([colours, room], 1)) + self.told(_normed(condition)))
        chosen = self.light(whole).unflatten(1, (2, LIGHTS)).float().softmax(-1) @ self.lights.float()
        lights = chosen.to(x.dtype).unflatten(0, shape).flatten(2).chunk(4, -1)
        here_gain, here_offset, there_gain, there_offset = (_each_colour(part, x) for part in lights)
        here = near * here_gain + here_offset
        beside = self.beside((room[:, :, None] * _normed(condition)[:, None]).flatten(1)).unflatten(0, shape)
        there = self._asked(tokens, whole.unflatten(0, shape), beside, patches) * there_gain + there_offset
        leave = self.leave(whole).to(x.dtype).unflatten(0, shape)
        self.sources = Sources(fit, here, there, leave[..., 0])
        leaves = leave.sigmoid()[..., None, None]
        copy = (here + leaves * (there - here)).flatten(0, 1)
        relit = (last - offset) / gain.clamp(min=LEAST_GAIN) * there_gain + there_offset
        last = (last + leaves * (relit - last)).flatten(0, 1).detach()  # light and leaving have losses of their own
        h = h + self.copied(copy)
        for block in self.blocks[1:]:
            h = block(h, whole)
        return self._mixed(self.out(F.relu(h)).to(x.dtype), last, copy).unflatten(0, shape)

    def _asked(self, tokens: Tensor, whole: Tensor, beside: Tensor, patches: Tensor) -> Tensor:
        """The sinks' latents that the tokens, and ``beside`` [N, F, S] for all of them, ask for: [N, F, C, h, w]."""
        query = self.query(torch.cat([tokens, whole[:, :, None].expand_as(tokens)], -1))
        asked = torch.einsum("nfpd,nkd->nfpk", query, self.sink_key(patches)).unflatten(3, (self.sinks, -1))
        asked = (asked + beside[:, :, None, :, None]).to(patches.dtype)
        return self._unpatched(self._attended(asked, patches))

    def _attended(self, logits: Tensor, patches: Tensor) -> Tensor:
        """Attention to the sinks' places: logits [N, F, P or 1, S, P or 1], to which the own place is preferred, and
        patches [N, S * P, C * patch^2] -> [N, F, P, C * patch^2]."""
        with torch.autocast(patches.device.type, enabled=False):  # what is copied is copied exactly
            shares = (logits + self.place[:, None]).flatten(3).softmax(-1)
            return torch.einsum("nfpk,nkv->nfpv", shares, patches)

    def _patches(self, frames: Tensor) -> Tensor:
        """[N, S, C, h, w] -> [N, S, P, C * patch^2]."""
        return F.pixel_unshuffle(frames, self.patch).flatten(3).transpose(2, 3)

    def _unpatched(self, patches: Tensor) -> Tensor:
        """Inverse of ``_patches``."""
        return F.pixel_shuffle(patches.transpose(2, 3).unflatten(3, self.grid), self.patch)

    def _spread_out(self, tokens: Tensor) -> Tensor:
        """Tokens [M, P, D] -> what each adds to the cells of its patch [M, width, h, w], which know their place in it:
        convolutions alone could not tell the frame's edge from its middle."""
        cells_of = self.spread(tokens).transpose(1, 2).unflatten(2, self.grid)
        spread = cells_of.repeat_interleave(self.patch, 2).repeat_interleave(self.patch, 3)
        return spread + self.inside.repeat(1, *self.grid)

    def _mixed(self, out: Tensor, last: Tensor, copy: Tensor) -> Tensor:
        """Shares and drawing [M, (moves + 2) * unfold^2 + C, h, w], last and copy [M, C, h, w] -> x0 [M, C, h, w]."""
        shares, drawn = out.split([out.shape[1] - last.shape[1], last.shape[1]], 1)
        copy, drawn, last = (canvas(source, self.unfold) for source in (copy, drawn, last))
        *moves, copied, own = (share[:, None] for share in canvas(shares, self.unfold).softmax(1).unbind(1))
        made = copied * copy + own * drawn
        for move, share in zip(self.moves, moves, strict=True):  # one at a time stays in the processor's cache
            made = made + share * last.roll((-move[0], -move[1]), (2, 3))
        return cells(made, self.unfold)


def likeness(frames: Tensor, sinks: Tensor, colours: int) -> Tensor:
    """Correlation of standardised colours, mean over colours: frames [N, F, C, h, w] and sinks [N, S, C, h, w] ->
    [N, F, S] in [-1, 1], the same in any light."""
    a, b = (_standardised(t, colours) for t in (frames, sinks))
    with torch.autocast(frames.device.type, enabled=False):
        return torch.einsum("nfcp,nscp->nfs", a, b) / (a.shape[2] * a.shape[3])


def fitted(copy: Tensor, frames: Tensor, colours: int) -> tuple[Tensor, Tensor]:
    """Gain and offset of each colour that take ``copy`` nearest to ``frames`` (least squares): [N, F, C, 1, 1]."""
    a, b = (t.unflatten(2, (colours, -1)).flatten(3) for t in (copy, frames))
    mean_a, mean_b = a.mean(-1), b.mean(-1)
    covariance = (a * b).mean(-1) - mean_a * mean_b
    gain = covariance / (a.square().mean(-1) - mean_a.square() + 1e-4)
    return _each_colour(gain, frames), _each_colour(mean_b - gain * mean_a, frames)


def _standardised(frames: Tensor, colours: int) -> Tensor:
    """[N, F, C, h, w] -> [N, F, colours, elements], each colour with mean 0 and deviation 1."""
    flat = frames.unflatten(2, (colours, -1)).flatten(3)
    flat = flat - flat.mean(-1, keepdim=True)
    return flat * (flat.square().mean(-1, keepdim=True) + 1e-4).rsqrt()


def _each_colour(values: Tensor, frames: Tensor) -> Tensor:
    """[..., colours] -> [..., C, 1, 1]: a colour's value for all of its elements."""
    return values.repeat_interleave(frames.shape[-3] // values.shape[-1], -1)[..., None, None]


class Wrapped(nn.Conv2d):
    """A 3x3 convolution over a frame whose edges meet."""

    def __init__(self, wide: int, narrow: int):
        super().__init__(wide, narrow, 3)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(F.pad(x, (1, 1, 1, 1), mode="circular"))


class Block(nn.Module):
    """Two convolutions, added to their input; the first sees it normalised and modulated by a condition."""

    def __init__(self, width: int, condition: int):
        super().__init__()
        self.modulate = _zeroed(nn.Linear(condition, 2 * width))
        self.first, self.second = Wrapped(width, width), Wrapped(width, width)
        self.second.weight.data *= 0.3

    def forward(self, h: Tensor, condition: Tensor) -> Tensor:
        shift, scale = self.modulate(condition)[..., None, None].chunk(2, 1)
        normed = h * (h.square().mean(1, keepdim=True) + 1e-6).rsqrt()
        return h + self.second(F.relu(self.first(normed * (1 + scale) + shift)))


def _normed(x: Tensor) -> Tensor:
    return F.rms_norm(x, x.shape[-1:], eps=1e-6)


def _same_place(grid: tuple[int, int]) -> Tensor:
    """[P, P] logits that prefer a token's own place."""
    return SAME_PLACE * torch.eye(grid[0] * grid[1])


def _zeroed(layer: nn.Linear) -> nn.Linear:
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer
