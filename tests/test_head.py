"""The local head: what it recognises, what it picks from, and what its surprise says, on known pictures."""

import torch
import toy

from world_model.model.codec import Patches, canvas, cells
from world_model.model.head import EXACT, LocalHead, likeness

KEEP = toy.load("tiny_keep")
COLOURS, CELL = 3, 16  # picture elements of a cell
NIGHT = 2


def pictures(count: int, seed: int = 0) -> torch.Tensor:
    """Latents [1, count, C, h, w] of smooth random pictures."""
    made = torch.nn.functional.interpolate(torch.rand(count, 3, 8, 8, generator=torch.manual_seed(seed)), size=64)
    return Patches(KEEP).encode(made * 2 - 1)[None]


def head() -> LocalHead:
    torch.manual_seed(0)
    made = LocalHead(KEEP, (4, 4)).eval()
    made.out.weight.data.zero_()
    return made


def darkened(made: LocalHead, latents: torch.Tensor) -> torch.Tensor:
    return made._into(torch.full(latents.shape[:2], NIGHT), latents)


def asked(made: LocalHead, last: torch.Tensor, sinks: torch.Tensor) -> torch.Tensor:
    width, keys = KEEP.transformer.width, KEEP.action_size
    nothing = torch.zeros(1, 1, 16, width), torch.zeros(1, 1, width), torch.zeros(1, 1, keys)
    with torch.no_grad():
        return made(last, *nothing, sinks)


def only(made: LocalHead, source: int) -> LocalHead:
    """All shares on one source: a displacement by its number, then the sink copy, the palette, what is drawn."""
    made.out.bias.data.zero_()
    made.out.bias.data[source * CELL : (source + 1) * CELL] = 40.0
    return made


def choosing(made: LocalHead, sink: int | None = None, light: int | None = None) -> LocalHead:
    """The next frame shows this sink, in this light, whatever is now."""
    for layer, number, count in ((made.next_sink, sink, made.sinks), (made.next_light, light, 4)):
        if number is not None:
            layer.bias.data = (40.0 * torch.eye(count)[number]).repeat(count)
    return made


def test_patches_lose_nothing():
    frames = torch.randint(0, 256, (2, 3, 64, 64)).float() / 127.5 - 1
    codec = Patches(KEEP)
    assert codec.encode(frames).shape[1:] == KEEP.latent_shape
    assert torch.equal(codec.decode(codec.encode(frames)), frames)
    assert torch.equal(cells(canvas(codec.encode(frames), 4), 4), codec.encode(frames))


def test_a_room_is_known_again_in_any_light():
    made, sinks = head(), pictures(4)
    for light, frames in ((0, sinks), (NIGHT, darkened(made, sinks))):
        alike = likeness(frames, sinks, COLOURS)[0]
        assert (alike.diagonal() > 0.99).all()
        assert (alike - torch.eye(4)).max() < 0.6
        sink, found = made._recognised(frames, sinks)
        assert sink.tolist() == [[0, 1, 2, 3]] and found.tolist() == [[light] * 4]


def test_the_sink_copy_is_the_room_that_is_seen_in_the_light_that_is():
    """Before it has learned anything, and exactly."""
    made, sinks = head(), pictures(4)
    only(made, len(made.moves))
    for index in range(4):
        assert torch.equal(asked(made, sinks[:, index : index + 1], sinks)[0, 0], sinks[0, index])
        night = darkened(made, sinks[:, index : index + 1])
        torch.testing.assert_close(asked(made, night, sinks), night, atol=1e-5, rtol=0)


def test_another_room_is_a_choice():
    made, sinks = head(), pictures(4)
    for index in range(4):
        x0 = asked(choosing(only(made, len(made.moves)), sink=index), sinks[:, :1], sinks)
        assert torch.equal(x0[0, 0], sinks[0, index])


def test_a_displacement_moves_every_pixel():
    """All shares on one displacement: the last frame comes out shifted, and nothing of the other sources."""
    made, last = head(), pictures(1, seed=5)[:, :1]
    for dy, dx in ((0, 0), (0, 2), (-2, 0), (0, 8)):  # the last is a leap: off one edge, on at the other
        x0 = asked(only(made, made.moves.index((dy, dx))), last, pictures(4, seed=6))
        moved = canvas(last[0, 0], 4).roll((dy, dx), (1, 2))
        torch.testing.assert_close(canvas(x0[0, 0], 4), moved, atol=1e-5, rtol=0)


def test_what_stands_in_a_room_changes_light_with_it():
    """A sprite that no sink holds: all shares on the last frame where it is, and the lights are switched."""
    made, sinks = head(), pictures(4)
    bright = sinks[:, :1].clone()
    bright[..., 4:6, 4:6] = 1.5
    x0 = asked(choosing(only(made, 0), light=0), darkened(made, bright), sinks)
    torch.testing.assert_close(x0, bright, atol=1e-5, rtol=0)


def test_a_colour_of_the_palette_fills_what_picks_it():
    made, sinks = head(), pictures(4)
    x0 = asked(only(made, len(made.moves) + 1 + 3), sinks[:, :1], sinks)
    assert torch.equal(canvas(x0[0, 0], 4), made.palette[3][:, None, None].expand(3, 64, 64))


def test_surprise_is_least_for_what_was_offered():
    """None for a frame that some source makes, more the farther it is; and none of its elements in a wrong room."""
    made, sinks = head(), pictures(4)
    asked(only(made, 0), sinks[:, :1], sinks)
    elements = [made.surprise(sinks[:, :1] + far, sinks)[0].item() for far in (EXACT, 2 * EXACT, 4 * EXACT)]
    assert 0 <= elements[0] < 1 < elements[1] < elements[2]
    stays, leaves = (made.surprise(sinks[:, i : i + 1], sinks) for i in (0, 1))
    assert leaves[0].item() == 0 and leaves[1].item() > 3 > 0.1 > stays[1].item()


def test_what_comes_in_across_an_edge_is_seen_beyond_it():
    made, stands = head(), torch.zeros(1, 48, 16, 16)
    stands[..., 3, 14:] = 1.0  # at the right edge, two cells wide: a leap, of two cells, takes it to the left one
    beyond = made._beyond(stands)
    assert beyond[..., 3, :2].eq(1).all() and beyond.sum() == stands.sum()
