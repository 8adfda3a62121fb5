"""The flow head: what is seen in first person is the last frame moved, and beyond its edges what the sinks show.

x0 is made of
- the last clean frame, every picture element of it taken from where a predicted *flow* says (spatial transformers:
  Jaderberg et al., arXiv 1506.02025; flow as the way to predict a next view: Zhou et al., arXiv 1605.03557);
- the *panorama*: where the sinks are four views of 90 degrees, each a quarter turn to the left of the one before, they
  are the whole way round, and there is a view in every direction. In which one the last clean frame looks is found
  in closed form, as the rotation under which it is most alike; a second flow says how the next frame looks from there,
  and may well lead out of the last one, where a turn uncovers what was behind;
- a colour that is drawn, added to shares of both: of something new it is all, elsewhere it undoes the blur of moving.

There is no likelihood to pick by, as in ``head.py``: walking, nothing comes back exactly. What is lowered is the mean
absolute error (a median is a picture, a mean is fog) of elements and of their differences to their neighbours.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from world_model.config import Config
from world_model.model.codec import canvas, cells
from world_model.model.head import TOLERANCE, Block, Head, convolution

COLUMNS, ROWS, BAND = 40, 8, 0.25
"""The panorama's directions are told apart by so many columns a quarter turn and so many rows, this far (as a tangent)
above and below the eye: what stands there stands there from wherever one looks."""
SMALL = 32
"""Picture elements a side, to which frames are shrunk to be told apart."""
COARSE = 4
"""Elements a side over which a flow is also judged: as far as it may be wrong and still learn where to go."""
CHOICE = 3.0
"""Weight of the choice of sources beside the picture that is made of them."""
NOBODY = 1.0
"""How wrong, in a latent's units, all sources may be before it is better to take none of them."""
LEVEL = 1e-2
"""What is added to a deviation of colours, so that a bare wall is like nothing."""


class Pass(NamedTuple):
    """What a pass made, [M, colours, H, W], of what it moved, [M, sources, colours, H, W], by shares (their logarithms
    [M, sources + 1, H, W]), the last of which is nobody's."""

    made: Tensor
    moved: Tensor
    shares: Tensor


class FlowHead(Head):
    """``forward`` -> x0 of frames that know the last clean one and the sinks; ``surprise``: what training lowers."""

    def __init__(self, config: Config, grid: tuple[int, int]):
        super().__init__(config, grid)
        size, channels = config.head, config.latent_shape[0]
        self.sources = 1 + size.panorama
        self.first = convolution((1 + 2 * size.panorama) * channels, size.width)
        self.blocks = nn.ModuleList(Block(size.width, config.transformer.width) for _ in range(size.blocks))
        self.flow = nn.Conv2d(size.width, 2 * self.sources * self.unfold**2, 1)
        self.moved = convolution(self.sources * channels, size.width)
        self.out = nn.Conv2d(size.width, (self.sources + 1) * self.unfold**2 + channels, 1)
        for layer in (self.flow, self.out):
            layer.weight.data *= 0.1
            nn.init.zeros_(layer.bias)
        self.out.bias.data[: self.sources * self.unfold**2] = 2.0  # to begin with, little is nobody's
        self.panorama = Panorama(self.unfold) if size.panorama else None

    def forward(self, last: Tensor, tokens: Tensor, condition: Tensor, was: Tensor, sinks: Tensor) -> Tensor:
        """last [N, F, C, h, w]: the last clean frame before each; tokens [N, F, P, D] of the trunk and its condition
        [N, F, D]; was [N, F, keys]: the action that ``last`` was shown under; sinks [N, S, C, h, w]. Returns x0
        [N, F, C, h, w]."""
        shape = last.shape[:2]
        condition = (condition + self.was(torch.nan_to_num(was))).flatten(0, 1)
        known = last = last.flatten(0, 1)
        if self.panorama is not None:
            atlas = self.panorama.atlas(sinks).repeat_interleave(shape[1], 0)
            heading = self.panorama.heading(canvas(last, self.unfold), atlas)
            here = cells(self.panorama.view(atlas, heading, last.new_zeros(1, 2, 1, 1)), self.unfold)
            known = torch.cat([last, here, last - here], 1)
        h = self.first(known) + self.spread_out(tokens.flatten(0, 1))
        half = len(self.blocks) // 2
        for block in self.blocks[:half]:
            h = block(h, condition)
        flow, apart = canvas(_full(self.flow(F.relu(h))), self.unfold).split([2, 2 * self.sources - 2], 1)
        picture = canvas(last, self.unfold)
        moved = [_sampled(picture, *_places(*picture.shape[-2:], flow))]
        if self.panorama is not None:
            moved.append(self.panorama.view(atlas, heading, flow + apart))
        h = h + self.moved(torch.cat([cells(source, self.unfold) for source in moved], 1))
        for block in self.blocks[half:]:
            h = block(h, condition)
        shares, drawn = _full(self.out(F.relu(h))).split([(self.sources + 1) * self.unfold**2, last.shape[1]], 1)
        shares = canvas(shares, self.unfold).log_softmax(1)  # the last of them is nobody's
        parts = (share[:, None].exp() * source for share, source in zip(shares.unbind(1), moved, strict=False))
        made = sum(parts, start=canvas(drawn, self.unfold))
        self.offered = Pass(made, torch.stack(moved, 1), shares)
        return cells(made, self.unfold).unflatten(0, shape)

    def surprise(self, true: Tensor, sinks: Tensor) -> tuple[Tensor, Tensor]:
        """What is wrong [N, F] with the last pass, where true [N, F, C, h, w] came, mean over elements in units of
        ``TOLERANCE``: with its picture; and with the choice of sources, each of which is to be right by itself."""
        shape, goal = true.shape[:2], canvas(true.flatten(0, 1), self.unfold)
        made, moved, shares = self.offered
        picture = _away(made, goal) + sum(_away(*(x.diff(dim=d) for x in (made, goal))) for d in (2, 3))
        away = [(source - goal).abs().mean(1) for source in moved.unbind(1)]
        away = torch.stack([*away, torch.full_like(away[0], NOBODY)], 1)
        choice = -(shares - away / TOLERANCE).logsumexp(1).mean((1, 2))
        coarse = F.avg_pool2d(goal, COARSE)
        far = ((F.avg_pool2d(source, COARSE) - coarse).abs().mean(1).clamp(max=1) for source in moved.unbind(1))
        choice = choice + sum(each.mean((1, 2)) for each in far) / TOLERANCE
        return picture.unflatten(0, shape), CHOICE * choice.unflatten(0, shape)


class Panorama(nn.Module):
    """Views of four sinks in any direction. Angles are radians to the left of the first sink's."""

    def __init__(self, unfold: int):
        super().__init__()
        self.unfold = unfold
        angle = ((torch.arange(COLUMNS) + 0.5) / COLUMNS - 0.5) * (math.pi / 2)
        rise = ((torch.arange(ROWS) + 0.5) / ROWS * 2 - 1) * BAND
        self.register_buffer("across", angle.tan()[None, None], persistent=False)
        self.register_buffer("rise", (rise[:, None] / angle.cos())[None], persistent=False)

    def atlas(self, sinks: Tensor) -> Tensor:
        """Sinks [N, 4, C, h, w] side by side as they follow to the right: [N, colours, H, 4 W + 2], with a column of
        the last before the first and of the first behind the last."""
        views = canvas(sinks[:, [0, 3, 2, 1]].flatten(0, 1), self.unfold).unflatten(0, sinks.shape[:2])
        round_ = torch.cat(views.unbind(1), -1)
        return torch.cat([round_[..., -1:], round_, round_[..., :1]], -1)

    def heading(self, frames: Tensor, atlas: Tensor) -> Tensor:
        """The direction [M] in which the atlas looks most like frames [M, colours, H, W]: correlation of standardised
        colours, so in any light."""
        views = atlas[..., 1:-1].unflatten(-1, (4, -1)).movedim(-2, 1)
        whole = torch.cat(self._banded(views.flatten(0, 1)).unflatten(0, views.shape[:2]).unbind(1), -1)
        starts = torch.cat([whole, whole[..., : COLUMNS - 1]], -1).unfold(-1, COLUMNS, 1)  # [M, colours, ROWS, 160, 40]
        windows = _standardised(starts.movedim(-2, 1).flatten(3))
        seen = _standardised(self._banded(frames).flatten(2))
        start = (windows * seen[:, None]).sum((2, 3)).argmax(1)
        return -start * (math.pi / 2 / COLUMNS)

    def _banded(self, frames: Tensor) -> Tensor:
        """[M, colours, H, W] -> [M, colours, ROWS, COLUMNS]: by direction, around the horizon."""
        small = F.adaptive_avg_pool2d(frames, SMALL)
        x, y = (places.to(small.dtype).expand(len(small), -1, -1) for places in (self.across, self.rise))
        return _sampled(small, x, y)

    def view(self, atlas: Tensor, heading: Tensor, flow: Tensor) -> Tensor:
        """The frame that is seen in that direction [M], its elements taken from where ``flow`` [M, 2, H, W] says."""
        height, width = atlas.shape[-2], (atlas.shape[-1] - 2) // 4
        u, v = _places(height, width, flow)
        angle = heading[:, None, None] - u.atan()
        quarter = (angle / (math.pi / 2)).round()
        inside = angle - quarter * (math.pi / 2)
        column = torch.remainder(-quarter, 4) + (1 - inside.tan()) / 2  # in views, from the atlas' left
        x = (column * width + 1) / (4 * width + 2) * 2 - 1
        return _sampled(atlas, x, v / (inside.cos() * (1 + u * u).sqrt()))


def _places(height: int, width: int, flow: Tensor) -> tuple[Tensor, Tensor]:
    """Columns and rows to which each element's flow [M, 2, H, W] (or none, [1, 2, 1, 1]) leads, in half widths and
    heights from the middle."""
    x, y = (((torch.arange(n, dtype=flow.dtype, device=flow.device) + 0.5) / n * 2 - 1) for n in (width, height))
    return x + flow[:, 0] * (2 / width), y[:, None] + flow[:, 1] * (2 / height)


def _sampled(source: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Source [M, colours, H, W] at these places, between four elements each; beyond the edge, what is at the edge."""
    places = torch.stack(torch.broadcast_tensors(x, y), -1)
    return F.grid_sample(source.to(places.dtype), places, padding_mode="border", align_corners=False)


def _full(x: Tensor) -> Tensor:
    """Places and colours are never in half precision."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _standardised(x: Tensor) -> Tensor:
    """[..., n], with mean 0 and length 1."""
    x = x - x.mean(-1, keepdim=True)
    return x / (x.square().sum(-1, keepdim=True) + LEVEL).sqrt()


def _away(a: Tensor, b: Tensor) -> Tensor:
    """Mean absolute difference [M], in units of ``TOLERANCE``."""
    return (a - b).abs().mean((1, 2, 3)) / TOLERANCE
