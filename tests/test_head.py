"""The picking head on known pictures: recognition of sink and light, sources, nll."""

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
    """Untrained, with mixture weights that do not depend on the input."""
    torch.manual_seed(0)
    made = PickHead(KEEP, (4, 4)).eval()
    made.out.weight.data.zero_()
    return made


def darkened(made: PickHead, latents: torch.Tensor) -> torch.Tensor:
    return made._from_sinks_light(torch.full(latents.shape[:2], NIGHT), latents)


def run_head(
    made: PickHead, last: torch.Tensor, sinks: torch.Tensor, grad: bool = False
) -> tuple[torch.Tensor, HeadOutputs]:
    """x0 and outputs without keys and with tokens and condition at zero."""
    tokens, condition, last_action = (
        torch.zeros(1, 1, *shape)
        for shape in ((16, KEEP.transformer.width), (KEEP.transformer.width,), (KEEP.action_size,))
    )
    with torch.set_grad_enabled(grad):
        return made(Conditioning(last, last_action, sinks), tokens, condition)


def always(made: PickHead, kind: str, number: int = 0) -> PickHead:
    """All mixture weight on one source of a kind."""
    source = made.kinds[kind][number]
    made.out.bias.data.zero_()
    made.out.bias.data[source * CELL : (source + 1) * CELL] = 40.0
    return made


def with_choice(made: PickHead, sink: int | None = None, light: int | None = None) -> PickHead:
    """The next frame always shows this sink, in this light."""
    for layer, number, count in ((made.next_sink, sink, made.sinks), (made.next_light, light, 4)):
        if number is not None:
            layer.bias.data = (40.0 * torch.eye(count)[number]).repeat(count)
    return made


def with_votes(made: PickHead, moves: list[tuple[int, int]]) -> PickHead:
    """Every cell votes for these displacements of the hypotheses."""
    made.votes.weight.data.zero_()
    votes = torch.stack([torch.eye(len(made.moves))[made.moves.index(move)] for move in moves])
    made.votes.bias.data = torch.cat([torch.zeros(made.motion_hypotheses), 40.0 * votes.flatten()])
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
        sink, recognised_light = made._recognised(frames, sinks)
        assert sink.tolist() == [[0, 1, 2, 3]] and recognised_light.tolist() == [[light] * 4]


def test_the_sink_copy_is_the_room_that_is_seen_in_the_light_that_is():
    """Untrained, and exactly."""
    made, sinks = head(), pictures(4)
    always(made, "copy")
    for index in range(4):
        x0, _ = run_head(made, sinks[:, index : index + 1], sinks)
        assert torch.equal(x0[0, 0], sinks[0, index])
        night = darkened(made, sinks[:, index : index + 1])
        torch.testing.assert_close(run_head(made, night, sinks)[0], night, atol=1e-5, rtol=0)


def test_another_room_is_a_choice():
    made, sinks = head(), pictures(4)
    for index in range(4):
        x0, _ = run_head(with_choice(always(made, "copy"), sink=index), sinks[:, :1], sinks)
        assert torch.equal(x0[0, 0], sinks[0, index])


def test_a_motion_hypothesis_moves_every_pixel_as_it_was_voted():
    """All weight on one hypothesis: x0 is the last frame under its displacement, without the other sources."""
    made, last = head(), pictures(1, seed=5)[:, :1]
    for dy, dx in ((0, 0), (0, 2), (-2, 0), (0, 8)):  # the last is a leap: off one edge, on at the other
        for hypothesis in range(made.motion_hypotheses):
            chosen = [(0, -2)] * made.motion_hypotheses
            chosen[hypothesis] = dy, dx
            x0, _ = run_head(with_votes(always(made, "moved", hypothesis), chosen), last, pictures(4, seed=6))
            moved = canvas(last[0, 0], 4).roll((dy, dx), (1, 2))
            torch.testing.assert_close(canvas(x0[0, 0], 4), moved, atol=1e-5, rtol=0)


def test_the_weighted_votes_decide_for_the_whole_frame():
    """One cell votes otherwise than the others, and decides as soon as its weight is large."""
    made, h = head(), torch.zeros(1, KEEP.head.width, 16, 16)
    h[:, 0], h[0, :2, 3, 3] = 1.0, torch.tensor([0.0, 1.0])
    made.votes.weight.data.zero_(), made.votes.bias.data.zero_()
    weight, votes = made.votes.weight.data[: made.motion_hypotheses], made.votes.weight.data[made.motion_hypotheses :]
    stays, goes = made.moves.index((0, 0)), made.moves.index((0, 2))
    votes[stays, 0] = votes[goes, 1] = 5.0
    assert made._voted(h)[0, 0].argmax() == stays
    weight[0, 1] = 10.0
    assert made._voted(h)[0, 0].argmax() == goes and made._voted(h)[0, 1].argmax() == stays


def with_bars(sink: torch.Tensor, bars: dict[int, float]) -> torch.Tensor:
    """A sink [C, h, w] -> latents [1, 1, C, h, w] with bars on it: column -> value, which no sink has."""
    picture = canvas(sink[None], 4).clone()
    for column, value in bars.items():
        picture[..., 8:24, column : column + 2] = value
    return cells(picture, 4)[None]


def test_hypotheses_learn_the_true_displacement_and_a_wrong_one_excuses_the_elements():
    """A bar goes two pixels to the right: under another displacement the nll of the elements is 0 and that of the
    displacement large."""
    made, sinks = head(), pictures(4)
    last, true = with_bars(sinks[0, 0], {20: 1.7}), with_bars(sinks[0, 0], {22: 1.7})
    stays, goes = made.moves.index((0, 0)), made.moves.index((0, 2))
    losses = {}
    for move in (stays, goes):
        with_votes(made, [made.moves[move]] * 2).votes.bias.data *= 0.1
        made.votes.bias.grad = None
        _, outputs = run_head(made, last, sinks, grad=True)
        elements, choice = made.nll(outputs, true, sinks)
        choice.sum().backward()
        losses[move] = elements.item(), choice.item(), made.votes.bias.grad[made.motion_hypotheses :].clone()
    assert losses[stays][0] == 0 < losses[goes][0]
    assert losses[goes][1] + 2 < losses[stays][1]
    gradient = losses[stays][2].unflatten(0, (made.motion_hypotheses, -1))[0]
    assert gradient.argmin() == goes and gradient.argmax() == stays


def test_each_group_is_matched_with_a_hypothesis_of_its_own():
    """Two bars go apart: equal hypotheses get one each; one with the weight on a bar gets that bar."""
    made, sinks = head(), pictures(4)
    last, true = (with_bars(sinks[0, 0], bars) for bars in ({20: 1.7, 40: 1.9}, {22: 1.7, 38: 1.9}))
    goal = canvas(true[0], 4)
    _, outputs = run_head(made, last, sinks)
    right, left = made.moves.index((0, 2)), made.moves.index((0, -2))
    assert sorted(made._target_displacements(outputs, goal)[0].tolist()) == sorted([right, left])
    on_bars = cells(9.0 * ((goal == 1.7).float() - (goal == 1.9).float())[:, :1], 4)
    for sign in (1, -1):
        mixture_logits = torch.zeros_like(outputs.mixture_logits)
        mixture_logits[:, made.kinds["moved"][0]] = sign * on_bars
        outputs = outputs._replace(mixture_logits=mixture_logits)
        assert made._target_displacements(outputs, goal)[0].tolist() == [right, left][::sign]
        both = made._target_displacements(outputs, outputs.last)[0].tolist()
        assert both == [made.moves.index((0, 0))] * 2  # one group, of both hypotheses


def test_a_sprite_changes_light_with_its_room():
    """A sprite that is in no sink: all weight on the last frame, and the lights are switched."""
    made, sinks = head(), pictures(4)
    bright = sinks[:, :1].clone()
    bright[..., 4:6, 4:6] = 1.5
    x0, _ = run_head(with_choice(always(made, "last"), light=0), darkened(made, bright), sinks)
    torch.testing.assert_close(x0, bright, atol=1e-5, rtol=0)


def test_a_colour_of_the_palette_fills_what_picks_it():
    made, sinks = head(), pictures(4)
    x0, _ = run_head(always(made, "palette", 3), sinks[:, :1], sinks)
    assert torch.equal(canvas(x0[0, 0], 4), made.palette[3][:, None, None].expand(3, 64, 64))


def test_nll_is_least_for_a_frame_that_a_source_makes():
    """0 for a frame equal to a source, more the farther it is; and 0 for the elements in a wrong room."""
    made, sinks = head(), pictures(4)
    _, outputs = run_head(always(made, "last"), sinks[:, :1], sinks)
    elements = [made.nll(outputs, sinks[:, :1] + far, sinks)[0].item() for far in (EXACT, 2 * EXACT, 4 * EXACT)]
    assert 0 <= elements[0] < 1 < elements[1] < elements[2]
    stays, leaves = (made.nll(outputs, sinks[:, i : i + 1], sinks) for i in (0, 1))
    assert leaves[0].item() == 0 and leaves[1].item() > 3 > 0.1 > stays[1].item()


def test_what_comes_in_across_an_edge_is_an_input():
    made, foreground = head(), torch.zeros(1, 48, 16, 16)
    foreground[..., 3, 14:] = 1.0  # at the right edge; a leap of two cells takes it to the left one
    beyond = made._beyond(foreground)
    assert beyond[..., 3, :2].eq(1).all() and beyond.sum() == foreground.sum()
