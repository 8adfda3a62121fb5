"""The flow head: in which direction it finds itself, what it shows there, and what its surprise says."""

import json
import math

import numpy as np
import pytest
import torch
import toy

from game.worlds.arena import LEFT, ArenaBatch
from world_model.config import Config, ConfigError
from world_model.model import flow_head
from world_model.model.codec import Patches, canvas
from world_model.model.flow_head import FlowHead

ARENA = toy.load("tiny_flow")
TURN = math.pi / 40
SIZE, ELEMENTS = 64, 16  # of the frame; of a cell
ROOMS = [3, 12, 100]


def latents(frames: np.ndarray) -> torch.Tensor:
    return Patches(ARENA).encode(torch.from_numpy(frames).movedim(-1, -3).float() / 127.5 - 1)


@pytest.fixture(scope="module")
def turned() -> tuple[torch.Tensor, torch.Tensor]:
    """Sinks [3, 4, C, h, w] of three rooms, and their views [3, 12, C, h, w], a turn to the left apart."""
    batch = ArenaBatch(SIZE, SIZE)
    frames, left = [batch.reset(ROOMS)], np.zeros((3, 8), np.int8)
    left[:, LEFT] = 1
    sinks = latents(batch.anchors())
    frames += [batch.step(left) for _ in range(11)]
    return sinks, latents(np.stack(frames, 1))


def head() -> FlowHead:
    torch.manual_seed(0)
    made = FlowHead(ARENA, (4, 4)).eval()
    for layer in (made.flow, made.out):
        layer.weight.data.zero_()
    return made


def asked(made: FlowHead, last: torch.Tensor, sinks: torch.Tensor) -> torch.Tensor:
    shape, width = last.shape[:2], ARENA.transformer.width
    nothing = torch.zeros(*shape, 16, width), torch.zeros(*shape, width), torch.zeros(*shape, ARENA.action_size)
    return made(last, *nothing, sinks)


def only(made: FlowHead, source: int) -> FlowHead:
    """All shares on one source."""
    made.out.bias.data.zero_()
    made.out.bias.data[source * ELEMENTS : (source + 1) * ELEMENTS] = 40.0
    return made


def flowing(made: FlowHead, x: float, y: float) -> FlowHead:
    made.flow.bias.data[: 2 * ELEMENTS] = torch.tensor([x, y]).repeat_interleave(ELEMENTS)
    return made


def far(a: torch.Tensor, b: torch.Tensor) -> float:
    return (a - b).abs().mean().item()


def test_it_finds_the_direction_in_which_it_looks_in_any_light(turned):
    sinks, frames = turned
    panorama = head().panorama
    atlas = panorama.atlas(sinks)
    for ticks in (0, 1, 5, 10, 11):
        for seen in (frames[:, ticks], 0.4 * frames[:, ticks] - 0.5):
            found = panorama.heading(canvas(seen, 4), atlas)
            apart = (found - ticks * TURN + math.pi) % (2 * math.pi) - math.pi
            assert apart.abs().max() < TURN / 4
    for sink in range(4):
        found = panorama.heading(canvas(sinks[:, sink], 4), atlas)
        assert ((found - sink * math.pi / 2 + 0.01) % (2 * math.pi)).max() < 0.02


@torch.no_grad()
def test_the_panorama_is_the_real_view_in_every_direction(turned):
    sinks, frames = turned
    made = only(head(), 1)
    for ticks in (0, 4, 10):
        assert far(asked(made, frames[:, ticks : ticks + 1], sinks), frames[:, ticks : ticks + 1]) < 0.06
    assert far(frames[:, 4], frames[:, 10]) > 0.4
    exact = asked(made, sinks, sinks)
    torch.testing.assert_close(exact, sinks, atol=1e-4, rtol=0)


@torch.no_grad()
def test_a_flow_moves_the_last_frame(turned):
    sinks, frames = turned
    last = frames[:, :1]
    moved = canvas(asked(flowing(only(head(), 0), -3, 2), last, sinks)[:, 0], 4)
    torch.testing.assert_close(moved[:, :, :-2, 3:], canvas(last[:, 0], 4)[:, :, 2:, :-3], atol=1e-4, rtol=0)


def test_beyond_the_edge_of_the_last_frame_the_panorama_goes_on(turned):
    """Under the flow of a turn to the left, what comes in on the left is as right as the rest."""
    sinks, frames = turned
    made, last, true = head(), *(canvas(frames[:, i], 4) for i in (0, 2))
    u = (torch.arange(SIZE) + 0.5) / SIZE * 2 - 1
    there = torch.atan(-u) + 2 * TURN
    x, y = -torch.tan(there), u[:, None] / (torch.cos(there) * torch.sqrt(1 + u * u))
    flow = torch.stack(torch.broadcast_tensors(x - u, y - u[:, None])).expand(3, -1, -1, -1) * SIZE / 2
    atlas = made.panorama.atlas(sinks)
    around = made.panorama.view(atlas, made.panorama.heading(last, atlas), flow)
    moved = flow_head._sampled(last, *flow_head._places(SIZE, SIZE, flow))
    comes_in = torch.atan(-u) + 2 * TURN > math.pi / 4
    assert 5 <= comes_in.sum() <= 20
    assert far(moved[..., ~comes_in], true[..., ~comes_in]) < 0.1
    assert far(around, true) < 0.1 < 0.3 < far(moved[..., comes_in], true[..., comes_in])


def test_surprise_is_least_for_the_right_flow_and_teaches_which_source_is_right(turned):
    sinks, frames = turned
    last = frames[:, 5:6]
    true = torch.roll(canvas(last[:, 0], 4), 3, -1)
    true = Patches(ARENA).encode(true / 2)[:, None]
    said = {}
    for x in (-3.0, 0.0, 3.0):
        made = flowing(only(head(), 0), x, 0)
        asked(made, last, sinks)
        said[x] = [part.mean().item() for part in made.surprise(true, sinks)]
    assert said[-3.0][0] < 0.5 * min(said[0.0][0], said[3.0][0]) and said[-3.0][1] < min(said[0.0][1], said[3.0][1])
    made = head()
    asked(made, frames[:, 4:5], sinks)  # both sources show the frame before; the panorama, what its flow says
    made.flow.bias.grad = made.out.bias.grad = None
    made.surprise(frames[:, 4:5], sinks)[1].sum().backward()
    moved, panorama = made.out.bias.grad[: 2 * ELEMENTS].split(ELEMENTS)
    assert moved.sum() < panorama.sum(), "the last frame is exact, the panorama nearly: shares go to the first"


def test_what_it_makes_learns_from_every_part(turned):
    sinks, frames = turned
    made = FlowHead(ARENA, (4, 4))
    asked(made, frames[:, :2], sinks)
    sum(part.mean() for part in made.surprise(frames[:, 1:3], sinks)).backward()
    for name in ("flow", "out", "moved", "first", "spread"):
        assert getattr(made, name).bias.grad.abs().max() > 0, name


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (
            {"head": {"kind": "flow", "width": 16, "blocks": 2, "panorama": True}, "rolling": {"sink_blocks": 3}},
            "four sink",
        ),
        ({"head": {"kind": "warp", "width": 16, "blocks": 2}}, "kind"),
        ({"head": {"kind": "flow", "width": 16, "blocks": 2, "movers": 3}}, "movers"),
    ],
)
def test_a_head_that_cannot_be_is_refused(change, says):
    data = ARENA.model_dump()
    for name, value in change.items():
        data[name] = data[name] | value if name == "rolling" else value
    with pytest.raises(ConfigError, match=says):
        Config.from_json(json.dumps(data))
