"""The local head's closed-form parts and its sources, on pictures whose answer is known."""

import torch
import toy

from world_model.codec import Patches, canvas, cells
from world_model.head import LIGHTS, LocalHead, fitted, likeness

KEEP = toy.load("tiny_keep")
COLOURS = 3


def pictures(count: int, seed: int = 0) -> torch.Tensor:
    """Latents [1, count, C, h, w] of smooth random pictures."""
    made = torch.nn.functional.interpolate(torch.rand(count, 3, 8, 8, generator=torch.manual_seed(seed)), size=64)
    return Patches(KEEP).encode(made * 2 - 1)[None]


def darkened(latents: torch.Tensor) -> torch.Tensor:
    """The same pictures at night: a gain and an offset for each colour."""
    gain, offset = torch.tensor([0.3, 0.4, 0.6]), torch.tensor([-0.9, -0.8, -0.3])
    return latents * gain.repeat_interleave(16)[:, None, None] + offset.repeat_interleave(16)[:, None, None]


def test_patches_lose_nothing():
    frames = torch.randint(0, 256, (2, 3, 64, 64)).float() / 127.5 - 1
    codec = Patches(KEEP)
    assert codec.encode(frames).shape[1:] == KEEP.latent_shape
    assert torch.equal(codec.decode(codec.encode(frames)), frames)
    assert torch.equal(cells(canvas(codec.encode(frames), 4), 4), codec.encode(frames))


def test_a_room_is_known_again_in_any_light():
    sinks = pictures(4)
    for frames in (sinks, darkened(sinks)):
        alike = likeness(frames, sinks, COLOURS)[0]
        assert (alike.diagonal() > 0.99).all()
        assert (alike - torch.eye(4)).max() < 0.6


def test_the_light_is_fitted():
    room = pictures(2)
    gain, offset = fitted(room, darkened(room), COLOURS)
    torch.testing.assert_close(room * gain + offset, darkened(room), atol=2e-3, rtol=0)


def head() -> LocalHead:
    torch.manual_seed(0)
    made = LocalHead(KEEP, (4, 4)).eval()
    made.out.weight.data.zero_()
    made.leave.bias.data.fill_(-20.0)
    return lit(made, 0)


def lit(made: LocalHead, light: int) -> LocalHead:
    """Both copies in one of the lights, of which the first leaves a picture as it is."""
    made.light.bias.data = torch.full((2, LIGHTS), -40.0).index_fill(1, torch.tensor(light), 40.0).flatten()
    return made


def asked(made: LocalHead, last: torch.Tensor, sinks: torch.Tensor) -> torch.Tensor:
    width, keys = KEEP.transformer.width, KEEP.action_size
    nothing = torch.zeros(1, 1, 16, width), torch.zeros(1, 1, width), torch.zeros(1, 1, keys)
    with torch.no_grad():
        return made(torch.randn_like(last), last, *nothing, sinks)


def only(made: LocalHead, source: int) -> LocalHead:
    """All shares on one source: a displacement by its number, then the sink copy, then what is drawn."""
    made.out.bias.data.zero_()
    made.out.bias.data[source * 16 : (source + 1) * 16] = 40.0
    return made


def test_the_sink_copy_is_the_room_that_is_seen():
    """Before it has learned anything, and exactly: each token copies its own place in the likeliest sink."""
    sinks = pictures(4)
    for index in range(4):
        for seen in (sinks, darkened(sinks)):  # whatever the light of what is seen
            made = only(head(), len(head().moves))
            x0 = asked(made, seen[:, index : index + 1], sinks)
            torch.testing.assert_close(x0[0, 0], sinks[0, index], atol=0.02, rtol=0)


def test_what_leaves_is_somewhere_else():
    """With all of the copy there, not here, the last frame's room no longer decides."""
    made, sinks = only(head(), len(head().moves)), pictures(4)
    made.leave.bias.data.fill_(20.0)
    x0 = asked(made, sinks[:, :1], sinks)
    torch.testing.assert_close(x0[0, 0], sinks[0].mean(0), atol=0.05, rtol=0)


def test_a_displacement_moves_every_pixel():
    """All shares on one displacement: the last frame comes out shifted, and nothing of the other sources."""
    made, last = head(), pictures(1, seed=5)[:, :1]
    for dy, dx in ((0, 0), (-1, 1), (1, 0), (0, 8)):  # the last is a leap: off one edge, on at the other
        x0 = asked(only(made, made.moves.index((dy, dx))), last, pictures(4, seed=6))
        moved = canvas(last[0, 0], 4).roll((-dy, -dx), (1, 2))
        torch.testing.assert_close(canvas(x0[0, 0], 4), moved, atol=1e-4, rtol=0)


def test_what_stands_in_a_room_changes_light_with_it():
    """A sprite that no sink holds: all shares on the last frame where it is, and another light."""
    made, sinks = head(), pictures(4)
    bright = sinks[:, :1].clone()
    bright[..., 4:6, 4:6] = 1.5
    made.leave.bias.data.fill_(20.0)
    x0 = asked(only(lit(made, 2), made.moves.index((0, 0))), darkened(bright), sinks)
    torch.testing.assert_close(x0[0, 0], bright[0, 0] * made.lights[2, 0], atol=0.1, rtol=0)
