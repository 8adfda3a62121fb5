"""The local head: what it recognises, what it picks from, and what its nll says, on known pictures."""

import torch
import toy

from world_model.model.codec import Patches, canvas, cells
from world_model.model.head import EXACT, Conditioning, HeadOutputs, PickHead, likeness

KEEP = toy.load("tiny_keep")
COLOURS, CELL = 3, 16  # picture elements of a cell
NIGHT = 2


def pictures(count: int, seed: int = 0) -> torch.Tensor:
    """Latents [1, count, C, h, w] of smooth random pictures."""
    made = torch.nn.functional.interpolate(torch.rand(count, 3, 8, 8, generator=torch.manual_seed(seed)), size=64)
    return Patches(KEEP).encode(made * 2 - 1)[None]


def head() -> PickHead:
    torch.manual_seed(0)
    made = PickHead(KEEP, (4, 4)).eval()
    made.out.weight.data.zero_()
    return made


def darkened(made: PickHead, latents: torch.Tensor) -> torch.Tensor:
    return made._from_sinks_light(torch.full(latents.shape[:2], NIGHT), latents)


def asked(
    made: PickHead, last: torch.Tensor, sinks: torch.Tensor, grad: bool = False
) -> tuple[torch.Tensor, HeadOutputs]:
    width, keys = KEEP.transformer.width, KEEP.action_size
    nothing, was = (torch.zeros(1, 1, 16, width), torch.zeros(1, 1, width)), torch.zeros(1, 1, keys)
    with torch.set_grad_enabled(grad):
        return made(Conditioning(last, was, sinks), *nothing)


def only(made: PickHead, kind: str, number: int = 0) -> PickHead:
    """All shares on one source of a kind."""
    source = made.kinds[kind][number]
    made.out.bias.data.zero_()
    made.out.bias.data[source * CELL : (source + 1) * CELL] = 40.0
    return made


def choosing(made: PickHead, sink: int | None = None, light: int | None = None) -> PickHead:
    """The next frame shows this sink, in this light, whatever is now."""
    for layer, number, count in ((made.next_sink, sink, made.sinks), (made.next_light, light, 4)):
        if number is not None:
            layer.bias.data = (40.0 * torch.eye(count)[number]).repeat(count)
    return made


def voting(made: PickHead, moves: list[tuple[int, int]]) -> PickHead:
    """Every cell says to each mover: this displacement."""
    made.votes.weight.data.zero_()
    words = torch.stack([torch.eye(len(made.moves))[made.moves.index(move)] for move in moves])
    made.votes.bias.data = torch.cat([torch.zeros(made.motion_hypotheses), 40.0 * words.flatten()])
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
    only(made, "copy")
    for index in range(4):
        x0, _ = asked(made, sinks[:, index : index + 1], sinks)
        assert torch.equal(x0[0, 0], sinks[0, index])
        night = darkened(made, sinks[:, index : index + 1])
        torch.testing.assert_close(asked(made, night, sinks)[0], night, atol=1e-5, rtol=0)


def test_another_room_is_a_choice():
    made, sinks = head(), pictures(4)
    for index in range(4):
        x0, _ = asked(choosing(only(made, "copy"), sink=index), sinks[:, :1], sinks)
        assert torch.equal(x0[0, 0], sinks[0, index])


def test_a_motion_hypothesis_moves_every_pixel_as_it_was_voted():
    """All shares on one mover: the last frame comes out shifted as that one chose, and nothing of the other sources."""
    made, last = head(), pictures(1, seed=5)[:, :1]
    for dy, dx in ((0, 0), (0, 2), (-2, 0), (0, 8)):  # the last is a leap: off one edge, on at the other
        for hypothesis in range(made.motion_hypotheses):
            chosen = [(0, -2)] * made.motion_hypotheses
            chosen[hypothesis] = dy, dx
            x0, _ = asked(voting(only(made, "moved", hypothesis), chosen), last, pictures(4, seed=6))
            moved = canvas(last[0, 0], 4).roll((dy, dx), (1, 2))
            torch.testing.assert_close(canvas(x0[0, 0], 4), moved, atol=1e-5, rtol=0)


def test_a_cell_whose_word_counts_decides_for_the_whole():
    """Most cells would stay; one, whose word counts, would go: the mover goes."""
    made, h = head(), torch.zeros(1, KEEP.head.width, 16, 16)
    h[:, 0], h[0, :2, 3, 3] = 1.0, torch.tensor([0.0, 1.0])
    made.votes.weight.data.zero_(), made.votes.bias.data.zero_()
    weight, words = made.votes.weight.data[: made.motion_hypotheses], made.votes.weight.data[made.motion_hypotheses :]
    stays, goes = made.moves.index((0, 0)), made.moves.index((0, 2))
    words[stays, 0] = words[goes, 1] = 5.0
    assert made._voted(h)[0, 0].argmax() == stays
    weight[0, 1] = 10.0
    assert made._voted(h)[0, 0].argmax() == goes and made._voted(h)[0, 1].argmax() == stays


def with_bars(sink: torch.Tensor, bars: dict[int, float]) -> torch.Tensor:
    """A sink [C, h, w] -> latents [1, 1, C, h, w] with bars on it: column -> value, that no sink has anywhere."""
    picture = canvas(sink[None], 4).clone()
    for column, value in bars.items():
        picture[..., 8:24, column : column + 2] = value
    return cells(picture, 4)[None]


def test_what_movers_should_have_chosen_is_learned_and_a_wrong_choice_excuses_the_elements():
    """A bar goes two pixels to the right; who has chosen otherwise has the elements excused and learns his choice."""
    made, sinks = head(), pictures(4)
    last, true = with_bars(sinks[0, 0], {20: 1.7}), with_bars(sinks[0, 0], {22: 1.7})
    stays, goes = made.moves.index((0, 0)), made.moves.index((0, 2))
    found = {}
    for move in (stays, goes):
        voting(made, [made.moves[move]] * 2).votes.bias.data *= 0.1
        made.votes.bias.grad = None
        _, outputs = asked(made, last, sinks, grad=True)
        elements, choice = made.nll(outputs, true, sinks)
        choice.sum().backward()
        found[move] = elements.item(), choice.item(), made.votes.bias.grad[made.motion_hypotheses :].clone()
    assert found[stays][0] == 0 < found[goes][0]
    assert found[goes][1] + 2 < found[stays][1]
    slope = found[stays][2].unflatten(0, (made.motion_hypotheses, -1))[0]
    assert slope.argmin() == goes and slope.argmax() == stays


def test_each_thing_is_matched_with_a_mover_of_its_own():
    """Two bars part: hypotheses that are alike get one each; one that has a bar's elements gets that."""
    made, sinks = head(), pictures(4)
    last, true = (with_bars(sinks[0, 0], bars) for bars in ({20: 1.7, 40: 1.9}, {22: 1.7, 38: 1.9}))
    goal = canvas(true[0], 4)
    _, outputs = asked(made, last, sinks)
    right, left = made.moves.index((0, 2)), made.moves.index((0, -2))
    assert sorted(made._target_displacements(outputs, goal)[0].tolist()) == sorted([right, left])
    has = cells(9.0 * ((goal == 1.7).float() - (goal == 1.9).float())[:, :1], 4)
    for sign in (1, -1):
        mixture_logits = torch.zeros_like(outputs.mixture_logits)
        mixture_logits[:, made.kinds["moved"][0]] = sign * has
        outputs = outputs._replace(mixture_logits=mixture_logits)
        assert made._target_displacements(outputs, goal)[0].tolist() == [right, left][::sign]
        both = made._target_displacements(outputs, outputs.last)[0].tolist()
        assert both == [made.moves.index((0, 0))] * 2  # what stays is one thing, of two hypotheses


def test_what_stands_in_a_room_changes_light_with_it():
    """A sprite that no sink holds: all shares on the last frame where it is, and the lights are switched."""
    made, sinks = head(), pictures(4)
    bright = sinks[:, :1].clone()
    bright[..., 4:6, 4:6] = 1.5
    x0, _ = asked(choosing(only(made, "last"), light=0), darkened(made, bright), sinks)
    torch.testing.assert_close(x0, bright, atol=1e-5, rtol=0)


def test_a_colour_of_the_palette_fills_what_picks_it():
    made, sinks = head(), pictures(4)
    x0, _ = asked(only(made, "palette", 3), sinks[:, :1], sinks)
    assert torch.equal(canvas(x0[0, 0], 4), made.palette[3][:, None, None].expand(3, 64, 64))


def test_surprise_is_least_for_what_was_offered():
    """None for a frame that some source makes, more the farther it is; and none of its elements in a wrong room."""
    made, sinks = head(), pictures(4)
    _, outputs = asked(only(made, "last"), sinks[:, :1], sinks)
    elements = [made.nll(outputs, sinks[:, :1] + far, sinks)[0].item() for far in (EXACT, 2 * EXACT, 4 * EXACT)]
    assert 0 <= elements[0] < 1 < elements[1] < elements[2]
    stays, leaves = (made.nll(outputs, sinks[:, i : i + 1], sinks) for i in (0, 1))
    assert leaves[0].item() == 0 and leaves[1].item() > 3 > 0.1 > stays[1].item()


def test_what_comes_in_across_an_edge_is_seen_beyond_it():
    made, stands = head(), torch.zeros(1, 48, 16, 16)
    stands[..., 3, 14:] = 1.0  # at the right edge, two cells wide: a leap, of two cells, takes it to the left one
    beyond = made._beyond(stands)
    assert beyond[..., 3, :2].eq(1).all() and beyond.sum() == stands.sum()
