"""The view head, for first person: a frame is rendered from the sinks and the last frame, by depth and pose.

Four sinks, views of 90 degrees, each a quarter turn to the left of the one before, make a panorama. Their *relief*, the
inverse depth of each picture element, is computed once and kept in the state; so is the *pose* of the last clean frame.
A tick is
- a *move*: the change of the pose under the keys, limited by the relief;
- a march along the rays of the new pose until each is behind the relief (relief mapping: Policarpo et al. 2005), which
  gives the point in space that each picture element shows;
- the colours of these points in the sinks and in the last frame (view synthesis by depth and pose: Zhou et al., arXiv
  1704.07813), and a predicted colour, mixed by weights;
- the light, one of a few learned ones, as in ``head.py``.
Every frame is warped from the sinks directly, so nothing blurs from tick to tick.

In training the recorded poses and the depths of the anchors are known. The relief is learned from these depths
(monocular depth: Eigen et al., arXiv 1406.2283) and from the rendered picture.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from world_model.config import POSE_NUMBERS, Config
from world_model.model.codec import SPREAD, canvas, cells
from world_model.model.head import LIGHTS, TOLERANCE, Block, Conditioning, Head, convolution, following, likeness

NEAR, FAR, BINS = 0.4, 24.0, 24
"""Least and largest depth of a relief in metres, and the number of depths that it is a mixture of."""
START, STEPS = 0.2, 40
"""Metres at which a ray begins, and the number of steps to ``FAR``."""
BEARINGS, SLOPES = 32, (0.0, 0.3, 1.5)
"""Rays that measure the surroundings of a pose: directions, and slopes downwards."""
FELT = 5
"""Numbers of a pose that a move also depends on: its rise and its last change."""
LIVELY = 20.0
"""Factor of these numbers, which are small and distinguish the two halves of a jump."""
FINE = 2
"""Depths a cell side."""
COARSE = 4
"""Elements a side over which sources are also compared: gives a gradient to depths and moves that are farther off."""
CHOICE = 3.0
"""Weight of the loss of the sources, relative to that of the picture."""
NOBODY = 1.0
"""Error, in units of latents, of the source "none"."""
MOVE = 0.02
"""Error of a move, in metres or radians, that weighs as much as ``TOLERANCE``."""
DEEP = 0.02
"""Relative error of a depth that weighs as much as ``TOLERANCE``."""
BODY, SLIDES = 0.3, 3
"""Metres that an eye keeps from surfaces, and the number of times that a move is pushed back for it."""
CREEP = 0.01
"""Metres or radians below which a move is zero: small errors would add up over the ticks."""
FARTHEST = 16.0
"""Metres beyond which haze does not increase."""


class ViewOutputs(NamedTuple):
    """Outputs for W frames of N games: x0 [N, W, C, h, w]; last frame and sinks as seen from the new poses, in the
    sinks' light, [M, sources, colours, H, W] with M = N * W; log mixture weights [M, sources + 1, H, W], the last of
    which is of no source; logits of the light [N, W, LIGHTS] and the index of the largest; new poses [N, W, 8];
    predicted moves [N, W, 4], and the true ones where poses were given."""

    made: Tensor
    moved: Tensor
    mixture_logits: Tensor
    light_logits: Tensor
    light: Tensor
    pose: Tensor
    move: Tensor
    due: Tensor | None


class ViewHead(Head):
    """The head of worlds in first person; ``nll`` is its training loss. The state holds the relief of the sinks
    [N, 4, 1, FINE h, FINE w] and the pose of the last clean frame [N, 8]; training may give the queries' poses,
    ``window_poses`` [N, W, 8]."""

    def __init__(self, config: Config, grid: tuple[int, int]):
        super().__init__(config, grid)
        size, channels, width = config.head, config.latent_shape[0], config.transformer.width
        self.relief = Relief(channels, size.relief, size.relief_blocks)
        self.haze = nn.Parameter(torch.zeros(self.colours))
        self.first = convolution(3 * channels + 1, size.width)
        self.blocks = nn.ModuleList(Block(size.width, width) for _ in range(size.blocks))
        self.feels = nn.Linear(BEARINGS * len(SLOPES) + FELT, 2 * width)
        self.from_condition = nn.Linear(width, 2 * width)
        self.moves = nn.Sequential(nn.SiLU(), nn.Linear(2 * width, width), nn.SiLU(), nn.Linear(width, 4))
        self.next_light = nn.Linear(width, LIGHTS**2)
        self.moved = convolution(2 * channels, size.width)
        self.out = nn.Conv2d(size.width, 3 * self.unfold**2 + channels, 1)
        for layer in (self.moves[-1], self.next_light, self.out):
            layer.weight.data *= 0.1
            nn.init.zeros_(layer.bias)
        self.out.bias.data[: 2 * self.unfold**2] = 2.0  # before training, little weight on no source
        height, wide = config.latent_shape[1:]
        bearings = torch.arange(BEARINGS) * (2 * math.pi / BEARINGS)
        self.register_buffer("bearings", bearings, persistent=False)
        self.register_buffer("across", _middles(wide)[None, None], persistent=False)
        self.register_buffer("down", _middles(height)[None, :, None], persistent=False)

    def initial_state(self, sinks: Tensor, frames: Tensor, noise: Tensor) -> dict[str, Tensor]:
        """The pose is the sinks' own, in the direction of the sink most like the last frame."""
        quarter = likeness(frames[:, -1, -1:], sinks, self.colours).argmax(-1)
        return self.encode_sinks(sinks) | {
            "pose": F.pad(quarter.to(sinks.dtype) * (math.pi / 2), (3, POSE_NUMBERS - 4))
        }

    def encode_sinks(self, sinks: Tensor) -> dict[str, Tensor]:
        return {"relief": self.relief(sinks)}

    def commit(self, outputs: ViewOutputs, noise: Tensor) -> dict[str, Tensor]:
        return {"pose": outputs.pose[:, 0].detach()}

    def forward(self, conditioning: Conditioning, tokens: Tensor, condition: Tensor) -> tuple[Tensor, ViewOutputs]:
        """tokens [N, W, P, D] of the trunk and its condition [N, W, D] -> x0 [N, W, C, h, w] and the outputs."""
        shape, pose, window_poses = tokens.shape[:2], conditioning.extra["pose"], conditioning.extra.get("window_poses")
        atlas, relief = panorama(canvas(conditioning.sinks, self.unfold)), panorama(conditioning.extra["relief"])
        condition = condition + self.last_action(torch.nan_to_num(conditioning.last_action))
        h, last, light = self._recognised(conditioning, atlas, relief)
        h = h.repeat_interleave(shape[1], 0) + self.spread_out(tokens.flatten(0, 1))
        half = len(self.blocks) // 2
        for block in self.blocks[:half]:
            h = block(h, condition.flatten(0, 1))
        logits = self._next_light(light, condition)
        felt = self._felt(relief, pose)
        light, move = logits.argmax(-1), self._move(felt, pose, condition)
        arrived = _moved(pose, self._stopped(felt, move)) if window_poses is None else window_poses
        due = None if window_poses is None else moves(pose, window_poses)
        shown, point, _ = self._seen(atlas, relief, arrived)
        before = self._remembered(last, pose[:, None], point, arrived)
        moved = [before.flatten(0, 1), shown.flatten(0, 1)]
        h = h + self.moved(torch.cat([cells(source, self.unfold) for source in moved], 1))
        for block in self.blocks[half:]:
            h = block(h, condition.flatten(0, 1))
        made, mixture_logits = self._mixed(h, moved)
        x0 = self._from_sinks_light(light, cells(made, self.unfold).unflatten(0, shape))
        return x0, ViewOutputs(x0, torch.stack(moved, 1), mixture_logits, logits, light, arrived, move, due)

    def _recognised(self, conditioning: Conditioning, atlas: Tensor, relief: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Features [N, width, h, w] of the last frame and of the sinks as seen from its pose; that frame in the sinks'
        light [N, colours, H, W], and the index of its light [N, 1]."""
        here, _, deep = self._seen(atlas, relief, conditioning.extra["pose"][:, None])
        here = cells(here[:, 0], self.unfold)
        light = self._away(here[:, None], conditioning.last).argmin(-1)
        last = self._to_sinks_light(light, conditioning.last)[:, 0]
        return self.first(torch.cat([last, here, last - here, deep.log()], 1)), canvas(last, self.unfold), light

    def _next_light(self, light: Tensor, condition: Tensor) -> Tensor:
        """Logits [N, W, LIGHTS] of the light after light [N, 1]."""
        return following(F.one_hot(light, LIGHTS).to(condition.dtype), self.next_light(condition))

    def _mixed(self, h: Tensor, moved: list[Tensor]) -> tuple[Tensor, Tensor]:
        """The sources [M, colours, H, W] weighted, plus the predicted colours; and the log weights."""
        count = (len(moved) + 1) * self.unfold**2
        out = _full(self.out(F.relu(h)))
        mixture_logits = canvas(out[:, :count], self.unfold).log_softmax(1)  # the last is of no source
        parts = (share[:, None].exp() * source for share, source in zip(mixture_logits.unbind(1), moved, strict=False))
        return sum(parts, start=canvas(out[:, count:], self.unfold)), mixture_logits

    def _felt(self, relief: Tensor, pose: Tensor) -> Tensor:
        """Inverse distance of the surfaces around poses [N, 8], for every slope: [N, SLOPES, BEARINGS]."""
        return torch.stack([march_around(relief, pose, self.bearings, slope) for slope in SLOPES], 1)

    def _move(self, felt: Tensor, pose: Tensor, condition: Tensor) -> Tensor:
        """Predicted moves [N, W, 4] of the pose [N, 8] under condition [N, W, D]: right, ahead, up (metres) and left
        (radians), relative to the pose."""
        feels = torch.cat([felt.flatten(1), LIVELY * pose[:, 2:3], LIVELY * pose[:, 4:]], 1)
        h = self.feels(_full(feels))[:, None] + self.from_condition(condition)
        return self.moves(h) * 0.1

    def _stopped(self, felt: Tensor, move: Tensor) -> Tensor:
        """Moves [N, W, 4] pushed back to the distance ``BODY`` from all points around, so that they slide along
        surfaces; parts below ``CREEP`` are zero."""
        move = torch.where(move.abs() > CREEP, move, 0.0)
        step, away = move[..., :2], 1 / felt.amax(1)[:, None]  # away [N, 1, BEARINGS]
        points = away[..., None] * torch.stack([-self.bearings.sin(), self.bearings.cos()], 1)
        for _ in range(SLIDES):
            apart = step[:, :, None] - points
            far = (apart.square().sum(-1) + 1e-9).sqrt()
            push, which = (away.clamp(max=BODY) - far).max(-1, keepdim=True)
            from_it = (apart / far[..., None]).gather(2, which[..., None].expand(-1, -1, -1, 2))[:, :, 0]
            step = step + push.clamp(min=0) * from_it
        return torch.cat([step, move[..., 2:]], -1)

    def strayed(self, relief: Tensor, poses: Tensor, last_action: Tensor, condition: Tensor) -> Tensor:
        """Error [M], in units of ``MOVE``, of the moves predicted at the first of poses [M, 2, 8], against those that
        lead to the second; relief [M, 4, 1, h, w], last_action [M, keys], condition [M, D]."""
        felt = self._felt(panorama(relief), poses[:, 0])
        move = self._move(felt, poses[:, 0], (condition + self.last_action(last_action))[:, None])
        return (move - moves(poses[:, 0], poses[:, 1:])).abs().sum((1, 2)) / MOVE

    def _seen(self, atlas: Tensor, relief: Tensor, pose: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The sinks as seen from poses [N, W, 8]: [N, W, colours, H, W']; the points in space [N, W, 3, H, W'] that
        they show; and the depth in the middle of each cell [N, W, h, w]. Between cells inverse depth is interpolated,
        in which a flat surface is linear."""
        deep = march(relief, pose, self.across, self.down)
        height, width = (n * self.unfold for n in deep.shape[-2:])
        inverse = F.interpolate(1 / deep, (height, width), mode="bilinear", align_corners=False)
        u, v = _middles(width).to(deep)[None, None], _middles(height).to(deep)[None, :, None]
        point = _points(pose, u, v, 1 / inverse)
        seen, _ = seen_around(atlas, point)
        return self._nearer(seen, point, torch.zeros_like(pose), pose), point, deep

    def _remembered(self, last: Tensor, pose: Tensor, point: Tensor, now: Tensor) -> Tensor:
        """Colours of the last frame [N, colours, H, W], seen from pose [N, 1, 8], at points [N, W, 3, H, W], with the
        haze of poses [N, W, 8]."""
        right, down, ahead = _from_pose(pose, point)
        ahead = ahead.clamp(min=0.05)
        seen = sampled(last, (right / ahead).clamp(-2, 2), (down / ahead).clamp(-2, 2))
        return self._nearer(seen, point, pose, now)

    def _nearer(self, seen: Tensor, point: Tensor, before: Tensor, now: Tensor) -> Tensor:
        """Colours [N, W, colours, H, W] of points seen from poses ``before``, with the haze of poses ``now``:
        brightness depends on distance, as is learned."""
        nearer = (_far(point, before) - _far(point, now))[:, :, None]
        return (seen + SPREAD) * (self.haze[:, None, None] * nearer).exp() - SPREAD

    def nll(self, outputs: ViewOutputs, true: Tensor, sinks: Tensor) -> tuple[Tensor, Tensor]:
        """Losses [N, W] of a pass's outputs against true [N, W, C, h, w]: of the picture, mean over elements in units
        of ``TOLERANCE``; and of the choices: mixture weights, each source by itself, light and moves."""
        shape = true.shape[:2]
        lit, light = self._away(cells(outputs.moved[:, 1], self.unfold).unflatten(0, shape), true).min(-1)
        choice = F.cross_entropy(outputs.light_logits.flatten(0, 1).float(), light.flatten(), reduction="none")
        goal = canvas(self._to_sinks_light(light, true).flatten(0, 1), self.unfold)
        made, right = canvas(outputs.made.flatten(0, 1), self.unfold), canvas(true.flatten(0, 1), self.unfold)
        picture = _away(made, right) + sum(_away(*(x.diff(dim=d) for x in (made, right))) for d in (2, 3))
        away = [(source - goal).abs().mean(1) for source in outputs.moved.unbind(1)]
        away = torch.stack([*away, torch.full_like(away[0], NOBODY)], 1)
        taken = -(outputs.mixture_logits - away / TOLERANCE).logsumexp(1).mean((1, 2))
        coarse = F.avg_pool2d(goal, COARSE)
        far = ((F.avg_pool2d(source, COARSE) - coarse).abs().mean(1).clamp(max=1) for source in outputs.moved.unbind(1))
        taken = taken + sum(each.mean((1, 2)) for each in far) / TOLERANCE
        choice = (CHOICE * taken + choice + lit.flatten()).unflatten(0, shape)
        choice = choice + (outputs.move - outputs.due).abs().sum(-1) / MOVE
        return picture.unflatten(0, shape), choice


class Relief(nn.Module):
    """Sinks [N, 4, C, h, w] -> their inverse depth [N, 4, 1, FINE h, FINE w], per metre."""

    def __init__(self, channels: int, width: int, blocks: int):
        super().__init__()
        self.first = convolution(channels + 2, width)
        self.blocks = nn.ModuleList(Wide(width, 2 ** (i % 4)) for i in range(blocks))
        self.out = nn.Conv2d(width, BINS * FINE**2, 1)
        self.register_buffer("bins", torch.logspace(math.log10(1 / FAR), math.log10(1 / NEAR), BINS), persistent=False)

    def forward(self, sinks: Tensor) -> Tensor:
        side = torch.cat(sinks[:, ROUND].unbind(1), -1)  # side by side, to the right
        height, width = sinks.shape[-2:]
        place = torch.stack(torch.broadcast_tensors(_middles(height)[:, None], _middles(width)[None])).repeat(1, 1, 4)
        h = self.first(torch.cat([side, place.to(side).expand(len(side), -1, -1, -1)], 1))
        for block in self.blocks:
            h = block(h)
        logits = F.pixel_shuffle(_full(self.out(F.relu(h))), FINE)
        inverse = (logits.softmax(1) * self.bins[:, None, None]).sum(1, keepdim=True)
        return torch.stack(inverse.chunk(4, -1), 1)[:, ROUND]


class Wide(nn.Module):
    """Two convolutions added to their input; the first is dilated and also gets features pooled over its column, since
    the depth of a wall shows at its foot (after Sun et al., arXiv 1901.03861)."""

    def __init__(self, width: int, reach: int):
        super().__init__()
        self.first = nn.Conv2d(width, width, 3, padding=reach, dilation=reach)
        self.to_column = nn.Conv2d(width, width, 1)
        self.column = nn.Conv1d(2 * width, width, 3, padding=1)
        self.second = convolution(width, width)
        self.second.weight.data *= 0.3

    def forward(self, h: Tensor) -> Tensor:
        normed = h * (h.square().mean(1, keepdim=True) + 1e-6).rsqrt()
        pooled = self.to_column(normed)
        column = self.column(torch.cat([pooled.amax(2), pooled.mean(2)], 1))
        return h + self.second(F.relu(self.first(normed) + column[:, :, None]))


ROUND = [0, 3, 2, 1]
"""Order of the sinks to the right."""


def panorama(views: Tensor) -> Tensor:
    """Views [N, 4, c, H, W] of the sinks side by side: [N, c, H, 4 W + 2], with the last column again before the first
    and the first again behind the last."""
    side = torch.cat(views[:, ROUND].unbind(1), -1)
    return torch.cat([side[..., -1:], side, side[..., :1]], -1)


def seen_around(side: Tensor, point: Tensor) -> tuple[Tensor, Tensor]:
    """A panorama's values [N, W, c, h, w] at points [N, W, 3, h, w] (right, down and ahead of the first sink's eye),
    and the points' depth [N, W, h, w] in the sink that shows them."""
    right, down, ahead = point.unbind(-3)
    wide, deep = right.abs(), ahead.abs()
    straight = torch.maximum(wide, deep).clamp(min=1e-3)
    front, sideways = ahead >= wide, wide > deep
    face = torch.where(sideways, torch.where(right > 0, 1.0, 3.0), torch.where(front, 0.0, 2.0))
    u = torch.where(sideways, torch.where(right > 0, -ahead, ahead), torch.where(front, right, -right)) / straight
    column, width = face + (1 + u) / 2, side.shape[-1]  # in quarter turns from the left
    x = (column * ((width - 2) // 4) + 1) / width * 2 - 1
    return sampled(side, x, down / straight), straight


def sampled(source: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Source [N, c, H, W] at places [N, W', h, w], in half widths and heights from its middle, interpolated bilinearly:
    [N, W', c, h, w]."""
    places = torch.stack([x, y], -1).flatten(1, 2)
    found = F.grid_sample(source.to(places.dtype), places, padding_mode="border", align_corners=False)
    return found.unflatten(2, (x.shape[1], -1)).transpose(1, 2)


def march(relief: Tensor, pose: Tensor, u: Tensor, v: Tensor) -> Tensor:
    """Depth [N, W, h, w] at which rays (u to the right, v down) from poses [N, W, 4] cross the relief
    [N, 1, h, 4 w + 2]. Exact on flat surfaces, whose inverse depth is linear."""
    distances = _distances(relief)
    points = _points(pose.repeat_interleave(STEPS, 1), u, v, distances.repeat(pose.shape[1])[None, :, None, None])
    return _crossed(relief, points, distances).unflatten(0, pose.shape[:2])


def march_around(relief: Tensor, pose: Tensor, bearing: Tensor, slope: float) -> Tensor:
    """Inverse distance [N, bearings] at which rays all around poses [N, 4], of one slope downwards, cross it."""
    distances = _distances(relief)
    heading, s = (pose[:, 3:4] + bearing)[:, None, None], distances[None, :, None, None]
    right, ahead, rise = (part[:, None, None, None] for part in pose[:, :3].unbind(-1))
    parts = right - s * heading.sin(), s * slope - rise, ahead + s * heading.cos()
    return 1 / _crossed(relief, torch.stack(torch.broadcast_tensors(*parts), 2), distances)[:, 0]


def _distances(like: Tensor) -> Tensor:
    return torch.logspace(math.log10(START), math.log10(FAR), STEPS).to(like)


def _crossed(relief: Tensor, points: Tensor, distances: Tensor) -> Tensor:
    """Distances [M, h, w] at which rays cross the relief; points [N, W * STEPS, 3, h, w] at all ``distances``."""
    inverse, straight = seen_around(relief, points)
    behind = (inverse[:, :, 0] * straight - 1).unflatten(1, (-1, STEPS)).flatten(0, 1)
    first = F.pad((behind[:, :-1] >= 0).to(behind.dtype), (0, 0, 0, 0, 0, 1), value=1.0)
    index = first.argmax(1, keepdim=True).clamp(min=1)
    after, before = behind.gather(1, index), behind.gather(1, index - 1)
    share = (before / (before - after).clamp(max=-1e-4)).clamp(0, 1)
    near, far = distances[index - 1], distances[index]
    return (near + (far - near) * share)[:, 0]


def _points(pose: Tensor, u: Tensor, v: Tensor, s: Tensor) -> Tensor:
    """Points [N, W, 3, h, w], right, down and ahead of the first sink's eye, of rays (u, v) at depth s."""
    right, ahead, rise, heading = (part[..., None, None] for part in pose[..., :4].unbind(-1))
    sin, cos = heading.sin(), heading.cos()
    parts = right + s * (u * cos - sin), s * v - rise, ahead + s * (u * sin + cos)
    return torch.stack(torch.broadcast_tensors(*parts), -3)


def _from_pose(pose: Tensor, point: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Points [N, W, 3, h, w] relative to poses [N, W, 4]: right, down and ahead."""
    right, ahead, rise, heading = (part[..., None, None] for part in pose[..., :4].unbind(-1))
    sin, cos = heading.sin(), heading.cos()
    x, z = point[:, :, 0] - right, point[:, :, 2] - ahead
    return x * cos + z * sin, point[:, :, 1] + rise, z * cos - x * sin


def missed(relief: Tensor, depths: Tensor) -> Tensor:
    """Error [N], in units of ``DEEP``, of a relief [N, 4, 1, h, w] against depths [N, 4, H, W] in metres, 0 where
    unknown."""
    inverse = torch.where(depths > 0, 1 / depths.clamp(NEAR, FAR), torch.nan)
    due = F.adaptive_avg_pool2d(inverse, relief.shape[-2:])
    return (relief[:, :, 0].log() - due.log()).abs().nan_to_num(0).mean((1, 2, 3)) / DEEP


def _far(point: Tensor, pose: Tensor) -> Tensor:
    """Horizontal distance [N, W, h, w] of points [N, W, 3, h, w] from poses [N, W, 4]."""
    right, ahead = (point[:, :, i] - pose[..., i // 2, None, None] for i in (0, 2))
    return (right.square() + ahead.square() + 1e-4).sqrt().clamp(max=FARTHEST)


def _moved(pose: Tensor, move: Tensor) -> Tensor:
    """Poses [N, W, 8] after moves [N, W, 4] relative to pose [N, 8]."""
    right, ahead, up, left = move.unbind(-1)
    heading = pose[:, None, 3]
    sin, cos = heading.sin(), heading.cos()
    change = torch.stack([right * cos - ahead * sin, right * sin + ahead * cos, up, left], -1)
    return torch.cat([pose[:, None, :4] + change, change], -1)


def moves(pose: Tensor, arrived: Tensor) -> Tensor:
    """The moves [N, W, 4] from pose [N, 8] to poses [N, W, 8]: inverse of ``_moved``."""
    right, ahead, up, left = (arrived[..., :4] - pose[:, None, :4]).unbind(-1)
    sin, cos = pose[:, None, 3].sin(), pose[:, None, 3].cos()
    return torch.stack([right * cos + ahead * sin, ahead * cos - right * sin, up, left], -1)


def _middles(count: int) -> Tensor:
    """Middles of ``count`` elements, in half widths from the centre."""
    return (torch.arange(count) + 0.5) / count * 2 - 1


def _full(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _away(a: Tensor, b: Tensor) -> Tensor:
    return (a - b).abs().mean((1, 2, 3)) / TOLERANCE
