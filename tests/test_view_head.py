"""The view head: ray marching, views of sinks and last frame from other poses, moves, nll."""

import json
import math

import numpy as np
import pytest
import torch
import toy

from game.worlds.arena import LEFT, SPACE, ArenaBatch
from game.worlds.arena import W as AHEAD
from world_model.config import POSE_NUMBERS, Config, ConfigError
from world_model.episode.dataset import from_spot
from world_model.model import view_head
from world_model.model.codec import SPREAD, Patches
from world_model.model.head import Conditioning
from world_model.model.view_head import ViewHead

ARENA = toy.load("tiny_view")
SIZE, CELLS, ELEMENTS, SIDE = 64, 16, 16, 2.0
POSE = torch.tensor([[[0.7, -0.4, 0.2, 0.6]], [[-0.9, 0.3, 0.0, 3.9]]])  # [N, W, 4]


def latents(frames: np.ndarray) -> torch.Tensor:
    return Patches(ARENA).encode(torch.from_numpy(frames).movedim(-1, -3).float() / 127.5 - 1)


@pytest.fixture(scope="module")
def walked() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Sinks [3, 4, C, h, w] of three rooms, frames [3, 13, C, h, w] of turning, walking and jumping, and their poses
    [3, 13, 8]."""
    batch = ArenaBatch(SIZE, SIZE)
    frames, poses, keys = [batch.reset([3, 12, 100])], [batch.poses()], np.zeros((3, 8), np.int8)
    spot = batch.poses()[:, :4]
    sinks = latents(batch.anchors())
    for tick in range(12):
        keys[:, LEFT], keys[:, AHEAD], keys[:, SPACE] = tick < 6, tick >= 6, tick == 8
        frames.append(batch.step(keys))
        poses.append(batch.poses())
    from_sinks = [from_spot(np.stack(poses, 1)[room, :, :4], tuple(spot[room])) for room in range(3)]
    return sinks, latents(np.stack(frames, 1)), torch.from_numpy(np.stack(from_sinks))


def head() -> ViewHead:
    torch.manual_seed(0)
    made = ViewHead(ARENA, (4, 4)).eval()
    made.out.weight.data.zero_()
    return made


def always(made: ViewHead, source: int) -> ViewHead:
    """All weight on one source: 0 is the last frame, 1 are the sinks."""
    made.out.bias.data.zero_()
    made.out.bias.data[source * ELEMENTS : (source + 1) * ELEMENTS] = 40.0
    return made


def run_head(made: ViewHead, last: torch.Tensor, sinks: torch.Tensor, pose: torch.Tensor, poses: torch.Tensor | None):
    """x0 [N, W, C, h, w] after a last frame [N, C, h, w] seen from pose [N, 8], and the head's outputs; poses
    [N, W, 8]."""
    count, width = 1 if poses is None else poses.shape[1], ARENA.transformer.width
    last_action = torch.zeros(len(last), count, ARENA.action_size)
    extra = made.encode_sinks(sinks) | {"pose": pose} | ({} if poses is None else {"window_poses": poses})
    conditioning = Conditioning(last[:, None], last_action, sinks, extra)
    return made(conditioning, torch.zeros(len(last), count, 16, width), torch.zeros(len(last), count, width))


def far(a: torch.Tensor, b: torch.Tensor) -> float:
    return (a - b).abs().mean().item()


def painted(point: torch.Tensor) -> torch.Tensor:
    """Colours [..., 3, H, W] of the points on the walls of a square tower around the first sink."""
    right, down, ahead = point.unbind(-3)
    return torch.stack([(right * 2).sin(), (ahead * 2 + down).cos(), (down * 2).sin()], -3)


def to_wall(pose: torch.Tensor, size: int) -> torch.Tensor:
    """Depth [N, W, size, size] of the tower's walls, ``SIDE`` from its middle, seen from poses."""
    u, v = _rays(size)
    (right, _, ahead), (x, _, z) = (
        view_head._points(pose, u, v, torch.tensor(s).reshape(1, 1, 1, 1)).unbind(2) for s in (1.0, 0.0)
    )
    depth = torch.stack([(wall - a) / (b - a) for a, b in ((x, right), (z, ahead)) for wall in (SIDE, -SIDE)])
    return depth.where(depth > 0, torch.inf).amin(0)


def tower() -> tuple[torch.Tensor, torch.Tensor]:
    """Panoramas of its colours and of its relief."""
    quarters = torch.zeros(2, 4, 4)
    quarters[..., 3] = torch.arange(4) * math.pi / 2
    views = painted(view_head._points(quarters, *_rays(SIZE), to_wall(quarters, SIZE)))
    return view_head.panorama(views), view_head.panorama(torch.full((2, 4, 1, CELLS, CELLS), 1 / SIDE))


def test_rays_end_where_the_relief_is():
    _, relief = tower()
    depth = view_head.march(relief, POSE, *_rays(CELLS))
    torch.testing.assert_close(depth, to_wall(POSE, CELLS), rtol=1e-3, atol=1e-3)
    felt = view_head.march_around(relief, POSE[:, 0], torch.tensor([-0.6, math.pi / 2 - 0.6]), 0.0)
    torch.testing.assert_close(felt[0], 1 / torch.tensor([2.4, 2.7]), rtol=1e-3, atol=1e-3)


def test_what_the_sinks_show_is_seen_from_elsewhere():
    atlas, relief = tower()
    seen, point, _ = head()._seen(atlas, relief, POSE)
    true = painted(view_head._points(POSE, *_rays(SIZE), to_wall(POSE, SIZE)))
    assert far(seen, true) < 0.05 < 0.3 < far(seen, true.flip(0))
    again = head()._remembered(true[:, 0], POSE, point, POSE)
    assert far(again, true) < 0.01, "seen from where it was seen, a frame is itself"


def test_nothing_is_walked_through_and_walls_are_slid_along():
    _, relief = tower()
    made, pose, walk = head(), torch.zeros(1, POSE_NUMBERS), torch.tensor([[[0.0, 0.14, 0.1, 0.2]]])
    pose[:, 3] = -0.5  # to the right of straight ahead
    turn = torch.tensor([[[0.0, 0.14, 0, 0]]])
    assert torch.equal(made._stopped(made._felt(relief[:1], pose), walk), walk), "nothing is near"
    path = []
    for _ in range(60):
        pose = view_head._moved(pose, made._stopped(made._felt(relief[:1], pose), turn))[:, 0]
        path.append(pose[0, :2].tolist())
    near = SIDE - view_head.BODY
    arrival = next(tick for tick, (_, z) in enumerate(path) if z > near - 0.02)
    assert path[arrival][0] < near - 0.3 and path[-1] == pytest.approx([near, near], abs=0.03), "to the corner"
    assert np.max(path) < near + 0.03
    assert not made._stopped(made._felt(relief[:1], pose), torch.full((1, 1, 4), 0.009)).any(), "small moves are none"
    inside = torch.tensor([[SIDE - 0.1, 0.0, 0, 0, 0, 0, 0, 0]])
    felt = made._felt(relief[:1], inside)
    assert made._stopped(felt, torch.tensor([[[0.1, 0.0, 0, 0]]])).abs().max() < 1e-3
    away = torch.tensor([[[-0.1, 0.1, 0, 0]]])
    assert made._stopped(felt, away)[0, 0, 0] < -0.09, "moves out of a wall are free"


def test_a_relief_is_held_to_the_depths_that_are_known():
    depths = torch.rand(2, 4, SIZE, SIZE) + 2
    true = torch.nn.functional.avg_pool2d(1 / depths, 2)[:, :, None]
    assert view_head.missed(true, depths).abs().max() < 1e-3
    off = view_head.missed(true * 1.1, depths)
    torch.testing.assert_close(off, torch.full((2,), math.log(1.1) / view_head.DEEP))
    depths[:, :, : SIZE // 2] = 0
    torch.testing.assert_close(view_head.missed(true * 1.1, depths), off / 2)
    assert view_head.missed(true, depths * 0).eq(0).all()


def test_haze_darkens_what_is_farther_away():
    made = head()
    made.haze.data.fill_(0.1)
    point = torch.tensor([0.0, 0.0, 5.0]).reshape(1, 1, 3, 1, 1)
    spot, near = torch.zeros(1, 1, 4), torch.tensor([[[0.0, 3.0, 0.0, 0.0]]])
    seen = torch.zeros(1, 1, 3, 1, 1)
    closer = made._nearer(seen, point, spot, near)
    torch.testing.assert_close(closer + SPREAD, torch.full_like(seen, SPREAD * math.exp(0.3)), atol=1e-3, rtol=0)
    torch.testing.assert_close(made._nearer(closer, point, near, spot), seen, atol=1e-5, rtol=0)


def _rays(size: int) -> tuple[torch.Tensor, torch.Tensor]:
    u = view_head._middles(size)
    return u[None, None], u[None, :, None]


@torch.no_grad()
def test_on_the_spot_the_sinks_are_the_real_view_in_every_direction(walked):
    sinks, frames, poses = walked
    made = always(head(), 1)
    for tick in (0, 3, 6):
        x0, _ = run_head(made, frames[:, 0], sinks, poses[:, 0], poses[:, tick : tick + 1])
        assert far(x0[:, 0], frames[:, tick]) < 0.06
    assert far(frames[:, 3], frames[:, 6]) > 0.3
    for sink in range(4):  # a game that begins at a sink knows where it looks
        initial_state = made.initial_state(sinks, sinks[:, None, sink : sink + 1], None)["pose"]
        assert initial_state.shape == (3, POSE_NUMBERS)
        x0, _ = run_head(made, sinks[:, sink], sinks, initial_state, initial_state[:, None])
        torch.testing.assert_close(x0[:, 0], sinks[:, sink], atol=1e-3, rtol=0)


def test_a_move_leads_to_the_recorded_pose(walked):
    _, _, poses = walked
    moves = view_head.moves(poses[:, 0], poses[:, 1:])
    torch.testing.assert_close(view_head._moved(poses[:, 0], moves)[..., :4], poses[:, 1:, :4])
    one = view_head.moves(poses[:, 6], poses[:, 7:8])[:, 0]
    torch.testing.assert_close(one, torch.tensor([0, 0.14, 0, 0]).expand(3, -1), atol=1e-5, rtol=0)
    turned = torch.tensor([0, 0, 0, math.pi / 40]).expand(3, -1)
    torch.testing.assert_close(poses[:, 1, 4:], turned, atol=1e-5, rtol=0)
    assert poses[0, 10, 2] > poses[0, 9, 2] > 0 == poses[0, 8, 2]


@torch.no_grad()
def test_it_goes_where_its_own_move_leads(walked):
    sinks, frames, poses = walked
    made = head()
    made.moves[-1].weight.data.zero_()
    made.moves[-1].bias.data.copy_(torch.tensor([0, 1.4, 0, -0.5]))
    _, outputs = run_head(made, frames[:, 3], sinks, poses[:, 3], None)
    pose = made.commit(outputs, frames)["pose"]
    torch.testing.assert_close(pose[:, 3], poses[:, 3, 3] - 0.05)
    heading = poses[:, 3, 3]
    ahead = torch.stack([-heading.sin(), heading.cos()], 1) * 0.14
    torch.testing.assert_close(pose[:, :2], poses[:, 3, :2] + ahead)


def test_nll_of_the_light_and_the_move(walked):
    sinks, frames, poses = walked
    made = head()
    x0, outputs = run_head(made, frames[:, 3], sinks, poses[:, 3], poses[:, 4:5])
    assert outputs.light.eq(0).all()
    _, near = made.nll(outputs, frames[:, 4:5], sinks)
    astray = outputs._replace(move=outputs.due + 1)
    assert (made.nll(astray, frames[:, 4:5], sinks)[1] > near + 50).all()
    gains = made.lights.data[0]
    dark = frames[:, 4:5] * gains[:3].mean() + gains[3:].mean()
    _, outputs = run_head(made, dark[:, 0], sinks, poses[:, 4], poses[:, 4:5])
    assert outputs.light.eq(1).all(), "a dark frame is known to be dark, and stays so"
    assert x0.shape == frames[:, 4:5].shape


def test_what_it_makes_learns_from_every_part(walked):
    sinks, frames, poses = walked
    made = ViewHead(ARENA, (4, 4))
    _, outputs = run_head(made, frames[:, 7], sinks, poses[:, 7], poses[:, 8:10])
    sum(part.mean() for part in made.nll(outputs, frames[:, 8:10], sinks)).backward()
    # the inputs of these are zero here, and there is no other light
    idle = ("inside", "spread.weight", "last_action.weight", "from_condition.weight", "lights")
    for name, weight in made.named_parameters():
        if not name.startswith("blocks") and name not in idle:
            assert weight.grad is not None and weight.grad.abs().max() > 0, name


def test_moves_that_lead_elsewhere_are_wrong(walked):
    sinks, _, poses = walked
    made = head()
    made.moves[-1].weight.data.zero_()
    pairs, relief = torch.stack([poses[:, 6], poses[:, 7]], 1), made.encode_sinks(sinks)["relief"]
    nothing = torch.zeros(3, ARENA.action_size), torch.zeros(3, ARENA.transformer.width)
    walked_past = made.strayed(relief, pairs, *nothing)
    torch.testing.assert_close(walked_past, torch.full((3,), 0.14 / view_head.MOVE), rtol=1e-3, atol=0)
    made.moves[-1].bias.data[1] = 1.4
    assert made.strayed(relief, pairs, *nothing).max() < 1e-2


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"rolling": {"sink_blocks": 3}}, "four sink"),
        ({"world": {"width": 128}}, "as high as wide"),
        ({"head": {"kind": "warp"}}, "kind"),
        ({"head": {"motion_hypotheses": 3}}, "motion_hypotheses"),
    ],
)
def test_a_head_that_cannot_be_is_refused(change, says):
    data = ARENA.model_dump()
    for name, value in change.items():
        data[name] = data[name] | value
    with pytest.raises(ConfigError, match=says):
        Config.from_json(json.dumps(data))
