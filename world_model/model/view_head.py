"""The view head: in first person a frame is the sinks, and the last frame, seen from somewhere else.

Four sinks, views of 90 degrees, each a quarter turn to the left of the one before, are the whole way round. What they
show has a *relief*: how far away each picture element is, made of the sinks once and kept in the state. A *pose* is
kept too: where the last clean frame was seen from. A tick then is
- a *move*: what the keys do to the pose, where the relief lets one go;
- a march along the rays of the new pose until each is behind the relief (relief mapping: Policarpo et al. 2005), which
  gives every picture element its place in space;
- the colours that the sinks have there, and those that the last frame has (view synthesis by depth and pose: Zhou et
  al., arXiv 1704.07813), and a colour that is drawn, mixed by weights;
- the light, one of a few that are learned, as in ``head.py``.
However far one walks, the sinks are only ever moved once: nothing blurs from tick to tick, and a place that is come
back to is the same place.

Training knows the poses that the game recorded, and how far away what its anchors show is. The relief is learned from
the latter (monocular depth: Eigen et al., arXiv 1406.2283), and from the picture that is made.
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
"""Metres, straight ahead, between which a relief lies, and how many distances it is chosen from."""
START, STEPS = 0.2, 40
"""Where a ray begins, and in how many steps it goes as far as ``FAR``."""
BEARINGS, SLOPES = 32, (0.0, 0.3, 1.5)
"""Rays that feel what is around: so many directions, under these slopes downwards."""
FELT = 5
"""Numbers of a pose that a move may depend on, beside those: its rise, and how it last changed."""
LIVELY = 20.0
"""By which they are multiplied: they are small, and tell a jump's way up from its way down."""
FINE = 2
"""Distances a cell side."""
COARSE = 4
"""Elements a side over which a source is also judged: as far as it may be wrong and still learn where to go."""
CHOICE = 3.0
"""Weight of the choice of sources beside the picture that is made of them."""
NOBODY = 1.0
"""How wrong, in a latent's units, all sources may be before it is better to take none of them."""
MOVE = 0.02
"""Metres, and radians, by which a move may be wrong at the weight of a whole tolerance."""
DEEP = 0.02
"""Share by which a distance may be wrong at the weight of a whole tolerance."""
BODY, SLIDES = 0.3, 3
"""Metres that are kept between an eye and what is around it, and how often a move is pushed back for it."""
CREEP = 0.01
"""Metres, or radians, that are no move: what is a little wrong at every tick would add up."""
FARTHEST = 16.0
"""Metres, beyond which nothing looks farther away."""


class ViewOutputs(NamedTuple):
    """What a pass made for W frames of N games: x0 [N, W, C, h, w]; the last frame and what the sinks show as they are
    seen from there, in the sinks' light, [M, sources, colours, H, W] with M = N * W, and logarithms of their shares
    [M, sources + 1, H, W], the last of which is nobody's; logits of the light [N, W, LIGHTS] and which was taken; the
    pose [N, W, 8] come to, the moves [N, W, 4] that were predicted and those that were due, where poses were given."""

    made: Tensor
    moved: Tensor
    mixture_logits: Tensor
    light_logits: Tensor
    light: Tensor
    pose: Tensor
    move: Tensor
    due: Tensor | None


class ViewHead(Head):
    """``forward`` -> x0 of frames that know the last clean one and the sinks, and how it was made; ``nll``: what
    training lowers. The state holds the relief of the sinks [N, 4, 1, FINE h, FINE w] and the pose of the last clean
    frame [N, 8]; training may tell the queries' poses, ``ahead`` [N, W, 8]."""

    state_names = ("relief", "pose")

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
        self.out.bias.data[: 2 * self.unfold**2] = 2.0  # to begin with, little is nobody's
        height, wide = config.latent_shape[1:]
        bearings = torch.arange(BEARINGS) * (2 * math.pi / BEARINGS)
        self.register_buffer("bearings", bearings, persistent=False)
        self.register_buffer("across", _middles(wide)[None, None], persistent=False)
        self.register_buffer("down", _middles(height)[None, :, None], persistent=False)

    def initial_state(self, sinks: Tensor, clean: Tensor) -> dict[str, Tensor]:
        """Where the sinks look from, in the direction of that which is most like the clean frame."""
        quarter = likeness(clean[:, -1:], sinks, self.colours).argmax(-1)
        return self.encode_sinks(sinks) | {
            "pose": F.pad(quarter.to(sinks.dtype) * (math.pi / 2), (3, POSE_NUMBERS - 4))
        }

    def encode_sinks(self, sinks: Tensor) -> dict[str, Tensor]:
        return {"relief": self.relief(sinks)}

    def commit(self, outputs: ViewOutputs) -> dict[str, Tensor]:
        return {"pose": outputs.pose[:, 0].detach()}

    def forward(self, conditioning: Conditioning, tokens: Tensor, condition: Tensor) -> tuple[Tensor, ViewOutputs]:
        """tokens [N, W, P, D] of the trunk and its condition [N, W, D] -> x0 [N, W, C, h, w] and how it was made."""
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
        """Features [N, width, h, w] of the last frame and of what the sinks show from its pose; that frame in the
        sinks' light [N, colours, H, W], and the light it is in [N, 1]."""
        here, _, deep = self._seen(atlas, relief, conditioning.extra["pose"][:, None])
        here = cells(here[:, 0], self.unfold)
        light = self._away(here[:, None], conditioning.last).argmin(-1)
        last = self._to_sinks_light(light, conditioning.last)[:, 0]
        return self.first(torch.cat([last, here, last - here, deep.log()], 1)), canvas(last, self.unfold), light

    def _next_light(self, light: Tensor, condition: Tensor) -> Tensor:
        """Logits [N, W, LIGHTS] of the light after light [N, 1]."""
        return following(F.one_hot(light, LIGHTS).to(condition.dtype), self.next_light(condition))

    def _mixed(self, h: Tensor, moved: list[Tensor]) -> tuple[Tensor, Tensor]:
        """The sources [M, colours, H, W] by their shares, and what is drawn; and the shares' logarithms."""
        count = (len(moved) + 1) * self.unfold**2
        out = _full(self.out(F.relu(h)))
        mixture_logits = canvas(out[:, :count], self.unfold).log_softmax(1)  # the last of them is nobody's
        parts = (share[:, None].exp() * source for share, source in zip(mixture_logits.unbind(1), moved, strict=False))
        return sum(parts, start=canvas(out[:, count:], self.unfold)), mixture_logits

    def _felt(self, relief: Tensor, pose: Tensor) -> Tensor:
        """How near what is around poses [N, 8] is, under every slope: [N, SLOPES, BEARINGS]."""
        return torch.stack([march_around(relief, pose, self.bearings, slope) for slope in SLOPES], 1)

    def _move(self, felt: Tensor, pose: Tensor, condition: Tensor) -> Tensor:
        """What happens to the pose [N, 8] in frames of condition [N, W, D]: to the right, ahead, upwards and to the
        left [N, W, 4], as seen from it."""
        feels = torch.cat([felt.flatten(1), LIVELY * pose[:, 2:3], LIVELY * pose[:, 4:]], 1)
        h = self.feels(_full(feels))[:, None] + self.from_condition(condition)
        return self.moves(h) * 0.1

    def _stopped(self, felt: Tensor, move: Tensor) -> Tensor:
        """Moves [N, W, 4] that come no nearer than ``BODY`` to any point that is felt, but are pushed away and slide
        past; and that creep nowhere while one stands."""
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
        """How far [M], in units of ``MOVE``, the moves that lead from the first of poses [M, 2, 8] to the second are
        from those that are made there, of relief [M, 4, 1, h, w], keys before [M, keys] and condition [M, D]."""
        felt = self._felt(panorama(relief), poses[:, 0])
        move = self._move(felt, poses[:, 0], (condition + self.last_action(last_action))[:, None])
        return (move - moves(poses[:, 0], poses[:, 1:])).abs().sum((1, 2)) / MOVE

    def _seen(self, atlas: Tensor, relief: Tensor, pose: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What the sinks show [N, W, colours, H, W'] from poses [N, W, 8]; the points [N, W, 3, H, W'] where that is;
        and how far straight ahead it is in the middle of each cell [N, W, h, w]. Between these one divided by the
        distance of a flat surface is linear."""
        deep = march(relief, pose, self.across, self.down)
        height, width = (n * self.unfold for n in deep.shape[-2:])
        inverse = F.interpolate(1 / deep, (height, width), mode="bilinear", align_corners=False)
        u, v = _middles(width).to(deep)[None, None], _middles(height).to(deep)[None, :, None]
        point = _points(pose, u, v, 1 / inverse)
        seen, _ = seen_around(atlas, point)
        return self._nearer(seen, point, torch.zeros_like(pose), pose), point, deep

    def _remembered(self, last: Tensor, pose: Tensor, point: Tensor, now: Tensor) -> Tensor:
        """What the last frame [N, colours, H, W], seen from pose [N, 1, 8], shows at points [N, W, 3, H, W], as it is
        seen from poses [N, W, 8] now."""
        right, down, ahead = _from_pose(pose, point)
        ahead = ahead.clamp(min=0.05)
        seen = sampled(last, (right / ahead).clamp(-2, 2), (down / ahead).clamp(-2, 2))
        return self._nearer(seen, point, pose, now)

    def _nearer(self, seen: Tensor, point: Tensor, before: Tensor, now: Tensor) -> Tensor:
        """Colours [N, W, colours, H, W] seen at points from poses before, as they are from poses now: what is farther
        away is darker, or brighter, as is learned."""
        nearer = (_far(point, before) - _far(point, now))[:, :, None]
        return (seen + SPREAD) * (self.haze[:, None, None] * nearer).exp() - SPREAD

    def nll(self, outputs: ViewOutputs, true: Tensor, sinks: Tensor) -> tuple[Tensor, Tensor]:
        """What is wrong [N, W] with a pass's outputs, where true [N, W, C, h, w] came: with its picture, mean over
        elements in units of ``TOLERANCE``; and with its choices: of sources, each of which is to be right by itself, of
        the light, and of the moves."""
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
    """Sinks [N, 4, C, h, w] -> one divided by the distance, straight ahead of its sink, of what is seen there
    [N, 4, 1, FINE h, FINE w]."""

    def __init__(self, channels: int, width: int, blocks: int):
        super().__init__()
        self.first = convolution(channels + 2, width)
        self.blocks = nn.ModuleList(Wide(width, 2 ** (i % 4)) for i in range(blocks))
        self.out = nn.Conv2d(width, BINS * FINE**2, 1)
        self.register_buffer("bins", torch.logspace(math.log10(1 / FAR), math.log10(1 / NEAR), BINS), persistent=False)

    def forward(self, sinks: Tensor) -> Tensor:
        side = torch.cat(sinks[:, ROUND].unbind(1), -1)  # to the right, one beside the other
        height, width = sinks.shape[-2:]
        place = torch.stack(torch.broadcast_tensors(_middles(height)[:, None], _middles(width)[None])).repeat(1, 1, 4)
        h = self.first(torch.cat([side, place.to(side).expand(len(side), -1, -1, -1)], 1))
        for block in self.blocks:
            h = block(h)
        logits = F.pixel_shuffle(_full(self.out(F.relu(h))), FINE)
        inverse = (logits.softmax(1) * self.bins[:, None, None]).sum(1, keepdim=True)
        return torch.stack(inverse.chunk(4, -1), 1)[:, ROUND]


class Wide(nn.Module):
    """Two convolutions added to their input, the first of which reaches far; and sees what is anywhere in its column: a
    wall is as far away as its foot (after Sun et al., arXiv 1901.03861)."""

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
"""Sinks, as they follow to the right."""


def panorama(views: Tensor) -> Tensor:
    """Views [N, 4, c, H, W] of the sinks side by side, to the right: [N, c, H, 4 W + 2], with a column of the last
    before the first and of the first behind the last."""
    side = torch.cat(views[:, ROUND].unbind(1), -1)
    return torch.cat([side[..., -1:], side, side[..., :1]], -1)


def seen_around(side: Tensor, point: Tensor) -> tuple[Tensor, Tensor]:
    """What a panorama shows [N, W, c, h, w] where points [N, W, 3, h, w] (right, down and ahead of the first sink's
    eye) are, and how far straight ahead of the sink that shows them [N, W, h, w]."""
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
    """Source [N, c, H, W] at places [N, W', h, w], in half widths and heights from its middle, between four elements
    each: [N, W', c, h, w]."""
    places = torch.stack([x, y], -1).flatten(1, 2)
    found = F.grid_sample(source.to(places.dtype), places, padding_mode="border", align_corners=False)
    return found.unflatten(2, (x.shape[1], -1)).transpose(1, 2)


def march(relief: Tensor, pose: Tensor, u: Tensor, v: Tensor) -> Tensor:
    """How far straight ahead [N, W, h, w] rays (u to the right, v down) from poses [N, W, 4] are behind the relief
    [N, 1, h, 4 w + 2]. Where surfaces are flat what is found is exact, since all that is interpolated is linear."""
    distances = _distances(relief)
    points = _points(pose.repeat_interleave(STEPS, 1), u, v, distances.repeat(pose.shape[1])[None, :, None, None])
    return _crossed(relief, points, distances).unflatten(0, pose.shape[:2])


def march_around(relief: Tensor, pose: Tensor, bearing: Tensor, slope: float) -> Tensor:
    """The same as nearness [N, bearings] to poses [N, 4], for rays all around at one slope downwards."""
    distances = _distances(relief)
    heading, s = (pose[:, 3:4] + bearing)[:, None, None], distances[None, :, None, None]
    right, ahead, rise = (part[:, None, None, None] for part in pose[:, :3].unbind(-1))
    parts = right - s * heading.sin(), s * slope - rise, ahead + s * heading.cos()
    return 1 / _crossed(relief, torch.stack(torch.broadcast_tensors(*parts), 2), distances)[:, 0]


def _distances(like: Tensor) -> Tensor:
    return torch.logspace(math.log10(START), math.log10(FAR), STEPS).to(like)


def _crossed(relief: Tensor, points: Tensor, distances: Tensor) -> Tensor:
    """Distances [M, h, w] at which rays, whose points [N, W * STEPS, 3, h, w] are that far, come to be behind."""
    inverse, straight = seen_around(relief, points)
    behind = (inverse[:, :, 0] * straight - 1).unflatten(1, (-1, STEPS)).flatten(0, 1)
    first = F.pad((behind[:, :-1] >= 0).to(behind.dtype), (0, 0, 0, 0, 0, 1), value=1.0)
    index = first.argmax(1, keepdim=True).clamp(min=1)
    after, before = behind.gather(1, index), behind.gather(1, index - 1)
    share = (before / (before - after).clamp(max=-1e-4)).clamp(0, 1)
    near, far = distances[index - 1], distances[index]
    return (near + (far - near) * share)[:, 0]


def _points(pose: Tensor, u: Tensor, v: Tensor, s: Tensor) -> Tensor:
    """Right, down and ahead [N, W, 3, h, w] of the first sink's eye, where rays (u, v) are s straight ahead."""
    right, ahead, rise, heading = (part[..., None, None] for part in pose[..., :4].unbind(-1))
    sin, cos = heading.sin(), heading.cos()
    parts = right + s * (u * cos - sin), s * v - rise, ahead + s * (u * sin + cos)
    return torch.stack(torch.broadcast_tensors(*parts), -3)


def _from_pose(pose: Tensor, point: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Points [N, W, 3, h, w] as they are to the right of, below and ahead of poses [N, W, 4]."""
    right, ahead, rise, heading = (part[..., None, None] for part in pose[..., :4].unbind(-1))
    sin, cos = heading.sin(), heading.cos()
    x, z = point[:, :, 0] - right, point[:, :, 2] - ahead
    return x * cos + z * sin, point[:, :, 1] + rise, z * cos - x * sin


def missed(relief: Tensor, depths: Tensor) -> Tensor:
    """How far [N], in units of ``DEEP``, a relief [N, 4, 1, h, w] is from depths [N, 4, H, W] in metres, which are 0
    where nobody knows them."""
    inverse = torch.where(depths > 0, 1 / depths.clamp(NEAR, FAR), torch.nan)
    due = F.adaptive_avg_pool2d(inverse, relief.shape[-2:])
    return (relief[:, :, 0].log() - due.log()).abs().nan_to_num(0).mean((1, 2, 3)) / DEEP


def _far(point: Tensor, pose: Tensor) -> Tensor:
    """How far, on the ground, points [N, W, 3, h, w] are from poses [N, W, 4]: [N, W, h, w]."""
    right, ahead = (point[:, :, i] - pose[..., i // 2, None, None] for i in (0, 2))
    return (right.square() + ahead.square() + 1e-4).sqrt().clamp(max=FARTHEST)


def _moved(pose: Tensor, move: Tensor) -> Tensor:
    """Poses [N, W, 8] after moves [N, W, 4] as seen from pose [N, 8]."""
    right, ahead, up, left = move.unbind(-1)
    heading = pose[:, None, 3]
    sin, cos = heading.sin(), heading.cos()
    change = torch.stack([right * cos - ahead * sin, right * sin + ahead * cos, up, left], -1)
    return torch.cat([pose[:, None, :4] + change, change], -1)


def moves(pose: Tensor, arrived: Tensor) -> Tensor:
    """The moves [N, W, 4] by which poses [N, W, 8] were come to from pose [N, 8]: inverse of ``_moved``."""
    right, ahead, up, left = (arrived[..., :4] - pose[:, None, :4]).unbind(-1)
    sin, cos = pose[:, None, 3].sin(), pose[:, None, 3].cos()
    return torch.stack([right * cos + ahead * sin, ahead * cos - right * sin, up, left], -1)


def _middles(count: int) -> Tensor:
    """Of so many elements, in half widths from the middle."""
    return (torch.arange(count) + 0.5) / count * 2 - 1


def _full(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _away(a: Tensor, b: Tensor) -> Tensor:
    return (a - b).abs().mean((1, 2, 3)) / TOLERANCE
