"""The mixture head: exact copies, who sees what, and chance with the recordings' odds."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import toy

from world_model.config import CONFIGS, Config, load
from world_model.episode.dataset import DataError, Episode
from world_model.model import rolling
from world_model.model.codec import SPREAD, canvas, make_codec
from world_model.model.head import EXACT, Conditioning
from world_model.model.mixture_head import ALONE, TOLERANCE, UNTOLD, WRONG, MixtureHead, MixtureOutputs, wrong_cells
from world_model.training.clips import TrainingData
from world_model.training.distributed import StepNoise
from world_model.training.loop import _step
from world_model.training.student_rollout import StudentRolloutTraining, count_outputs

SHAPE = toy.load("tiny_mixture")
SMALL = Config.model_validate(SHAPE.model_dump() | {
    "world": SHAPE.world.model_dump() | {"height": 16, "width": 16},
    "rolling": SHAPE.rolling.model_dump() | {"window_blocks": 2},
    "transformer": SHAPE.transformer.model_dump() | {"layers": 1},
})  # fmt: skip
"""One token of 4x4 cells of 4x4 pixels."""
LEFT_SHARE, STEPS = 0.25, 700
NEVER = torch.tensor(0.0)


def head(shape: Config = SMALL) -> MixtureHead:
    torch.manual_seed(0)
    grid = tuple(side // shape.transformer.patch for side in shape.latent_shape[1:])
    made = MixtureHead(shape, grid)
    made.out.weight.data.zero_()
    return made


def run(made: MixtureHead, last: torch.Tensor, extra: dict | None = None) -> tuple[torch.Tensor, MixtureOutputs]:
    """x0 and outputs of a full window of noise after ``last`` [1, C, h, w], with tokens at zero."""
    sinks = torch.stack([last.flip(-1), *(torch.randn_like(last) for _ in range(made.sinks - 1))], 1)
    noise = torch.randn(1, made.frames, *last.shape[1:])
    state = made.initial_state(sinks, torch.stack([last, last], 1)[:, :, None], noise[:, :, None])
    conditioning = Conditioning(last[:, None], torch.zeros(1, made.frames, 6), sinks, state | (extra or {}))
    tokens = torch.zeros(1, made.frames, made.grid[0] * made.grid[1], SMALL.transformer.width)
    return made(conditioning, tokens, made.look(noise, conditioning))


def always(made: MixtureHead, source: int, place: int | None = None) -> MixtureHead:
    """All weight on one source, and of the pointer on one place."""
    per_source = torch.full((made.sources,), -40.0)
    per_source[source] = 40.0
    pointer = torch.zeros(made.places)
    pointer[place or 0] = 40.0
    drawn = torch.zeros(made.colours * made.unfold**2)
    made.out.bias.data = torch.cat([per_source.repeat_interleave(made.unfold**2), drawn, pointer]).repeat(made.frames)
    return made


@torch.no_grad()
def test_every_source_is_copied_exactly():
    last = torch.randn(1, *SMALL.latent_shape)
    picture = canvas(last, 4)
    made = always(head(), 0)
    assert torch.equal(run(made, last)[0], last[:, None].expand(-1, made.frames, -1, -1, -1))
    moved = canvas(run(always(made, 1, place=made.places // 2 + 2), last)[0][0, 0], 4)  # from two pixels to the right
    assert torch.equal(moved[..., :-2], picture[0, ..., 2:]) and torch.equal(moved[..., -1], picture[0, ..., -1])
    assert torch.equal(run(always(made, 2), last)[0][0, 0], last[0].flip(-1)), "the first sink"
    colour = run(always(made, 2 + made.sinks + 3), last)[0][0, 0]
    assert torch.equal(canvas(colour, 4), made.palette[3][:, None, None].expand(3, 16, 16))
    assert run(always(made, made.sources - 1), last)[0].abs().max() == 0, "the drawn colour, whose bias is zero"


@torch.no_grad()
def test_the_nll_is_that_of_the_mixture_written_out():
    """Of one element that has one colour, against another: by a loop over the sources."""
    made, last = head(), torch.randn(1, *SMALL.latent_shape)
    made.out.bias.data.normal_()
    true = torch.randn(1, made.frames, *SMALL.latent_shape)
    _, outputs = run(made, last, {"future": torch.randn(1, 2, *SMALL.latent_shape), "alone": NEVER})
    elements = made._elements_nll(outputs, true)
    goal, frame, y, x = canvas(true, 4)[0], 1, 6, 9
    cell = y // 4, x // 4, y % 4 * 4 + x % 4

    def expected_of(goal: torch.Tensor) -> float:
        """The likelihood of the element of ``goal`` [F, colours, H, W]."""

        def match(source: torch.Tensor) -> float:
            away = (source - goal[frame, :, y, x]).abs().mean()
            return float(((away - EXACT).clamp(min=0) / -TOLERANCE).exp())

        places = outputs.pointer_logits[0, frame, :, cell[0], cell[1]].softmax(0)
        moved = made._moved(last)[0]
        pointed = sum(float(w) * match(p[:, y, x]) for w, p in zip(places, moved, strict=True))
        before = [match(canvas(last, 4)[0, :, y, x]), pointed]
        fixed = [match(source) for source in (*canvas(outputs.sinks, 4)[0, :, :, y, x], *made.palette)]
        matches = [*before, *fixed, match(outputs.drawn[0, frame, :, y, x])]
        weights = outputs.source_logits[0, frame, :, cell[2], cell[0], cell[1]].softmax(0)
        return sum(float(w) * m for w, m in zip(weights, matches, strict=True))

    others, other = true.clone(), goal.roll(1, 0)
    others[0, frame, [cell[2], 16 + cell[2], 32 + cell[2]], cell[0], cell[1]] = other[frame, :, y, x]
    dearer = float((made._elements_nll(outputs, others) - elements)[0, frame].sum())
    assert dearer == pytest.approx(np.log(expected_of(goal) / expected_of(other)), 1e-3)


@torch.no_grad()
def test_keys_reach_the_picture_through_tokens_alone():
    """With the trunk's tokens the same whatever the keys, the picture is the same; else it is not."""
    student = toy.models(SHAPE)[1].eval()
    student.local.out.bias.data.zero_()
    roll, latent = SHAPE.rolling, SHAPE.latent_shape
    sinks, frames = torch.randn(1, 4, *latent), torch.randn(1, 4, 1, *latent)
    noise = torch.randn(1, roll.window_blocks, 1, *latent)
    state = rolling.prime(student, roll, sinks, frames, torch.zeros(1, 4, 6), noise)
    keys = [torch.zeros(1, 6), torch.ones(1, 6)]
    shown = [rolling.step(student, roll, state, held, noise)[1] for held in keys]
    assert not torch.equal(*shown)
    trunk = student._trunk
    student._trunk = lambda tokens, *rest: (torch.ones_like(tokens), trunk(tokens, *rest)[1])
    shown = [rolling.step(student, roll, state, held, noise)[1] for held in keys]
    assert torch.equal(*shown)


@torch.no_grad()
def test_dice_are_new_in_every_tick_and_have_the_priors_odds():
    student = toy.models(SMALL)[1].eval()
    roll, latent, many = SMALL.rolling, SMALL.latent_shape, 3000
    frames, noise = torch.zeros(many, 4, 1, *latent), torch.randn(many, roll.window_blocks, 1, *latent)
    state = rolling.prime(student, roll, frames[:, :4, 0], frames, torch.zeros(many, 4, 6), noise)
    after, _ = rolling.step(student, roll, state, torch.zeros(many, 6), torch.randn_like(noise))
    assert not torch.equal(after["dice"], state["dice"])
    prior = torch.tensor([0.4, 0.3, 0.1, 0.08, 0.05, 0.04, 0.02, 0.01])
    made = with_odds(student.local, prior[1:], prior[0])
    drawn = made._drawn(torch.zeros(many, 1, 1, SMALL.transformer.width), after["dice"])
    deviation = (prior * (1 - prior) / many).sqrt()
    assert ((drawn.mean((0, 1, 2)) - prior).abs() < 4 * deviation).all()


@pytest.mark.parametrize(("no_more", "passes"), [(1e9, 1), (1e-9, 2)])
@torch.no_grad()
def test_only_where_something_is_drawn_the_picture_is_asked_for_twice(monkeypatch, no_more, passes):
    made, last, asked = head(), torch.randn(1, *SMALL.latent_shape), []
    with_odds(made, torch.ones(made.classes - 1), no_more)
    decided = made._decided
    monkeypatch.setattr(made, "_decided", lambda seen, tokens: asked.append(decided(seen, tokens)) or asked[-1])
    painted = made._painted
    monkeypatch.setattr(made, "_painted", lambda seen, tokens, of: painted(seen, tokens, shown.append(of) or of))
    shown = []
    run(made, last)
    assert len(asked) == passes and shown[0] is asked[-1]
    assert passes == 1 or not torch.equal(*asked), "the class is heard"


def with_odds(made: MixtureHead, classes: torch.Tensor, no_more: float) -> MixtureHead:
    """Of each token's ``classes`` [dice - 1] and of no more draws, before anything is drawn."""
    for part in (made.prior, made.no_more):
        part.weight.zero_()
    made.prior.bias.copy_(torch.as_tensor(classes).log())
    made.no_more.bias.fill_(math.log(no_more))
    return made


@torch.no_grad()
def test_what_may_happen_anywhere_but_once_is_drawn_once():
    """A thing that comes in half of the ticks, to any of four tokens: the nll is of whether it comes, and where."""
    many, one = 2000, torch.eye(SHAPE.head.dice - 1)[0]
    made = with_odds(MixtureHead(SHAPE, (2, 2)), one + 1e-12, 4.0)
    made.drawn_around.weight.zero_()
    made.drawn_around.weight[0] = 1.0  # feature 0: something is drawn near by
    made.no_more.weight[0, 0] = 80.0
    expected, dice = torch.zeros(many, 1, 4, SHAPE.transformer.width), torch.rand(many, 1, 6)
    drawn = made._drawn(expected, dice)
    often = drawn[..., 1].sum((1, 2))
    assert set(often.tolist()) == {0.0, 1.0} and often.mean() == pytest.approx(0.5, abs=0.05)
    assert drawn[..., 1].mean((0, 1)).tolist() == pytest.approx([0.125] * 4, abs=0.03)
    nll = made._classes_nll(expected, drawn, dice)[:, 0]
    assert nll[often == 0].tolist() == pytest.approx([np.log(2)] * int((often == 0).sum()), abs=1e-4)
    assert nll[often == 1].tolist() == pytest.approx([np.log(8)] * int(often.sum()), abs=1e-4)


@torch.no_grad()
def test_the_nll_of_two_that_always_happen_is_none_in_whatever_order_they_are_drawn():
    many = 3000
    made = with_odds(MixtureHead(SHAPE, (1, 2)), torch.eye(SHAPE.head.dice - 1)[0] + 1e-12, 1e-12)
    both = torch.eye(SHAPE.head.dice)[1].expand(many, 1, 2, -1)
    dice = torch.rand(many, 1, 4)
    dice[:, 0, 1] = (torch.arange(many) + 0.5) / many
    expected = torch.zeros(*both.shape[:3], SHAPE.transformer.width)
    assert made._classes_nll(expected, both, dice).mean() == pytest.approx(0, abs=1e-3)
    assert torch.equal(made._drawn(expected, dice), both)


@torch.no_grad()
def test_only_a_surprise_takes_a_class_and_it_is_the_one_that_comes_nearest(monkeypatch):
    """Or the convolutions could never learn what a class means (posterior collapse)."""
    made, last = always(head(), 0), torch.randn(1, *SMALL.latent_shape)
    same = run(made, last, {"future": torch.stack([last, last], 1), "alone": NEVER})[1]
    assert same.classes.argmax(-1) == 0 and same.posterior_nll == 0
    made.out.weight.data.normal_()
    made.out.bias.data.zero_()
    truths, away, found = torch.randn(12, *last.shape), [], []
    for which in range(1, made.classes):
        torch.manual_seed(1)
        told = torch.nn.functional.one_hot(torch.full((1, 1, 1), which), made.classes).float()
        monkeypatch.setattr(made, "_drawn", lambda *_, told=told: told)
        outputs = run(made, last)[1]
        away.append([made._elements_nll(outputs, torch.stack([true] * made.frames, 1))[:, 0].sum() for true in truths])
    for true in truths:
        torch.manual_seed(1)
        outputs = run(made, last, {"future": torch.stack([last, true], 1), "alone": NEVER})[1]
        found.append(outputs.classes.argmax(-1).item() - 1)
        assert outputs.posterior_nll > 0
    assert found == torch.tensor(away).argmin(0).tolist() and len(set(found)) > 3
    monkeypatch.setattr("world_model.model.mixture_head.TRIED", 0)
    made.posterior[-1].weight.data.zero_()
    outputs = run(made, last, {"future": torch.stack([last, truths[0]], 1), "alone": NEVER})[1]
    assert outputs.classes.argmax(-1) == 1 and outputs.posterior_nll == 0, "the posterior says so, the first of equals"


@torch.no_grad()
def test_of_games_that_surprise_those_that_are_told_are_tried(monkeypatch):
    """Nine games, two of which may be tried: not the first two that surprise; and each gets its own classes."""
    made, games = head(SHAPE), 9
    where = torch.zeros(games, 1, 16, dtype=torch.bool)
    where[[1, 3, 5], 0, [0, 2, 3]] = True
    dice = torch.full((games, 1, 18), 0.9)
    dice[[1, 3, 5], 0, 0] = torch.tensor([0.1, 0.7, 0.6])
    monkeypatch.setattr(made, "_best", lambda *rest: rest[-1][:, None, None].expand(-1, 1, 16))
    future = torch.randn(games, 2, *SHAPE.latent_shape)
    logits = made.posterior(torch.cat([torch.zeros_like(future[:, 1]), future[:, 1]], 1)).flatten(2).log_softmax(1)
    conditioning = Conditioning(None, None, None, {"future": future, "dice": dice})
    tokens = torch.zeros(games, made.frames, 16, SHAPE.transformer.width)
    classes, nll = made._told(conditioning, None, tokens, future[:, 1:], where)
    assert torch.equal(classes[..., 0] == 0, where)
    of_each = [int(classes[game, 0, token].argmax()) - 1 for game, token in ((1, 0), (3, 2), (5, 3))]
    assert of_each == [logits[1, :, 0].argmax(), 3, 5], "the first as the posterior says"
    expected = torch.zeros(games)
    expected[[3, 5]] = -torch.stack([logits[3, 3, 2], logits[5, 5, 3]])
    assert torch.allclose(nll[:, 0], expected)


@torch.no_grad()
def test_each_token_of_each_game_takes_the_class_that_is_best_for_it(monkeypatch):
    """Where a class's picture is a colour of its own, and the game's last frame's, in every token that has it."""
    made, games = head(SHAPE), torch.tensor([2, 0])
    count, (height, width) = made.classes - 1, SHAPE.latent_shape[1:]
    colours = torch.linspace(0, 1, count)

    def read(pictures, told, frames):
        picture = colours[told[..., 1:].argmax(-1)].unflatten(2, made.grid)
        sides = [side * made.unfold // grid for side, grid in zip((height, width), made.grid, strict=True)]
        drawn = picture.repeat_interleave(sides[0], 2).repeat_interleave(sides[1], 3)[:, :, None]
        drawn = drawn + pictures.last[:, :, :1, :1, :1]
        sources = torch.full((len(told), frames, made.sources, made.unfold**2, height, width), -40.0)
        sources[:, :, -1] = 40.0
        last = torch.zeros(len(told), *SHAPE.latent_shape)
        sinks = last[:, None].expand(-1, made.sinks, -1, -1, -1)
        pointer = torch.zeros(len(told), frames, made.places, height, width)
        return MixtureOutputs(sources, pointer, drawn.repeat(1, 1, made.colours, 1, 1), last, sinks, *[None] * 6)

    monkeypatch.setattr(made, "_coded", lambda tokens, classes: classes)
    monkeypatch.setattr(made, "_decided", lambda seen, coded: None)
    monkeypatch.setattr(made, "_painted", lambda seen, coded, decided: coded)
    monkeypatch.setattr(made, "_read", read)
    future, where = torch.zeros(3, 2, *SHAPE.latent_shape), torch.ones(3, 1, 16, dtype=torch.bool)
    future[0, 1], future[2, 1] = float(colours[2]), 0.5 + float(colours[5])
    future[2, 1, :, :, width // 2 :] = 0.5 + float(colours[1])
    last = torch.zeros(3, 1, *SHAPE.latent_shape)
    last[2] = 0.5
    conditioning = Conditioning(last, None, torch.zeros(3, made.sinks, *SHAPE.latent_shape), {"future": future})
    tokens = torch.zeros(3, made.frames, 16, SHAPE.transformer.width)
    seen = SimpleNamespace(fine=torch.zeros(3, 1), coarse=torch.zeros(3, 1))
    seen._replace = lambda **rest: seen
    best = made._best(conditioning, seen, tokens, where, games)[:, 0].unflatten(1, (4, 4))
    assert (best[1] == 2).all() and (best[0, :, [0, 3]] == torch.tensor([5, 1])).all()


def test_the_posterior_learns_which_class_came_nearest():
    made, last = head(), torch.randn(1, *SMALL.latent_shape)
    made.out.weight.data.normal_()
    outputs = run(made, last, {"future": torch.stack([last, -last], 1), "alone": NEVER})[1]
    outputs.posterior_nll.sum().backward()
    learned = {name for name, p in made.named_parameters() if p.grad is not None and p.grad.any()}
    assert learned == {f"posterior.{number}.weight" for number in (0, 2, 4)}
    made.zero_grad()
    run(made, last, {"future": torch.stack([last, last], 1), "alone": NEVER})[1].posterior_nll.sum().backward()
    assert made.posterior[0].weight.grad is not None, "without a surprise, too: else processes average unlike lists"


@torch.no_grad()
def test_of_surprises_side_by_side_only_the_first_is_told_where_that_is_enough(monkeypatch):
    """Apart from each other both are told, and the second, too, where it still comes out wrong."""
    made = head(SHAPE)
    made.grid = (2, 4)
    made.order = (4 - torch.arange(2)[:, None] % 2 * 2 - torch.arange(4) % 2).flatten()
    wide = (*SHAPE.latent_shape[:1], 2 * SHAPE.transformer.patch, 4 * SHAPE.transformer.patch)
    futures, dice = torch.randn(1, 2, *wide), torch.full((1, 1, 10), 0.9)
    wrong = torch.tensor([[[False, True, False, True], [True, False, False, True]]]).flatten(1)[:, None]
    asked = []

    def surprising(conditioning, seen, tokens, decided):
        asked.append(tokens)
        return next(answers), futures[:, 1:]

    monkeypatch.setattr(made, "_surprising", surprising)
    monkeypatch.setattr(made, "_decided", lambda seen, tokens: None)
    monkeypatch.setattr(made, "_best", lambda *_: torch.zeros(1, 1, 8, dtype=torch.long))
    for still, expected in ((False, [1, 3]), (True, [1, 3, 4, 7])):
        spoiled = torch.ones_like(wrong) & still  # by what the first says, which is no surprise of theirs
        answers = iter([wrong, spoiled])
        tokens = torch.zeros(1, made.frames, 8, SHAPE.transformer.width)
        conditioning = Conditioning(None, None, None, {"future": futures, "dice": dice, "alone": NEVER})
        classes, told, _ = made._happened(conditioning, None, tokens, None)
        assert classes[0, 0, :, 0].logical_not().nonzero().flatten().tolist() == expected
        assert torch.equal(classes, told)
        heard = (asked[-1] - asked[-2])[0, 0].abs().sum(-1).nonzero().flatten().tolist()
        assert heard == [1, 3], "the second time it is asked what surprises when the first are told"
    conditioning.extra["alone"], dice[:] = torch.tensor(ALONE), UNTOLD + ALONE - 0.1
    answers = iter([wrong, wrong])
    classes, told, _ = made._happened(conditioning, None, tokens, None)
    assert told[0, 0, :, 0].logical_not().nonzero().flatten().tolist() == [1, 3] and classes[0, 0, 7, 0] == 0


@torch.no_grad()
def test_an_unused_class_joins_the_one_that_stands_for_too_much():
    """Both then say nearly the same, and each takes the surprises to which it comes nearer."""
    made = head()
    classes, likely = made.classes - 1, made.prior.bias.exp()
    counts = torch.full((classes,), 40.0)
    counts[5] = 0
    for wrong, expected in ((counts * 0, 0), (torch.eye(classes)[2] * 40, 1)):
        before = made.code.weight.clone()
        made.shares[:] = torch.stack([counts, wrong]) / counts.sum()
        made.share_classes(torch.stack([counts, wrong]))
        assert (float(made.shares[0, 5]) > 0.01) == expected == (not torch.equal(before, made.code.weight))
    away = (made.code.weight - made.code.weight[:, 2:3]).square().mean(0)
    assert away.topk(2, largest=False).indices.tolist() == [2, 5], "it says nearly what the other says"
    assert not torch.equal(made.code.weight[:, 5], made.code.weight[:, 2])
    assert made.prior.bias[[2, 5]].exp().sum() == pytest.approx(float(likely[2])), "no more is drawn than before"


@torch.no_grad()
def test_told_surprises_are_counted_by_class_and_by_whether_they_still_come_out_wrong():
    made, last = always(head(), 0), torch.randn(1, *SMALL.latent_shape)
    future = torch.stack([last, torch.randn_like(last)], 1)
    x0, outputs = run(made, last, {"future": future, "dice": torch.full((1, 1, 3), 0.9), "alone": NEVER})
    which = outputs.told[0, 0, 0, 1:].argmax()
    for true, wrong in ((future[:, 1:], 1), (x0[:, :1], 0)):
        counts = made.class_counts(outputs, x0[:, :1], true)
        assert counts[0].sum() == counts[0, which] == 1 and counts[1].sum() == counts[1, which] == wrong


def test_one_wrong_pixel_makes_a_cell_wrong_and_many_that_are_nearly_right_do_not():
    true = torch.zeros(1, 3 * 4, 2, 2)
    pixel, rounded, tinted = true.clone(), true + 0.9 * WRONG, true.clone()
    pixel[:, 1::4, 1, 0] = 1.1 * WRONG  # all three colours of one of the cell's four
    tinted[:, 1, 1, 0] = 2.9 * WRONG  # one of them, alone
    assert wrong_cells(pixel, true, 2).nonzero().tolist() == [[0, 1, 0]]
    assert not wrong_cells(rounded, true, 2).any() and not wrong_cells(tinted, true, 2).any()


@pytest.mark.parametrize(("name", "wrong"), [("tiny_mixture", 1), ("tiny_keep", 0)])
def test_only_with_a_mixture_head_one_wrong_pixel_makes_a_game_stray(name, wrong):
    """The others' limits were set for cells that are wrong on average: a view is never right in all of its pixels."""
    config = load(CONFIGS / f"{name}.yaml")
    true = torch.zeros(1, 1, 3 * config.codec.unfold**2, 2, 2)
    clean = true.clone()
    clean[:, :, 1 :: config.codec.unfold**2, 1, 0] = 1.1 * WRONG
    stage = SimpleNamespace(config=config)
    assert StudentRolloutTraining._wrong_cells(stage, clean, true).sum() == wrong


def coins(count: int, length: int) -> list[Episode]:
    """A bright square stands left or, three times as often, right: thrown anew at every tick."""
    episodes, rng = [], np.random.default_rng(0)
    for _ in range(count):
        latents = np.full((length, *SMALL.latent_shape), -1.0, np.float16)
        left = rng.random(length) < LEFT_SHARE
        latents[np.arange(length), :, 1, np.where(left, 0, 3)] = 1.0
        rewards = np.where(left, 1.0, 0.0).astype(np.float32)
        episodes.append(Episode(np.full_like(latents[:4], -1.0), latents, np.zeros((length, 6), np.int8), None, None,
                                rewards, np.arange(length) == length - 1))  # fmt: skip
    return episodes


def test_chance_is_learned_with_its_odds_and_things_stay_whole():
    """Thrown by the prior the square stands left as often as in the recordings, never in both places or in none, and
    two games of one start part; the reward is that of the throw. Half of the games begin where something happens."""
    data = TrainingData(SMALL, toy.CPU, make_codec(SMALL), coins(100, 40), [])
    data = toy.with_settings(data, "student_rollout", batch=16, pool=16, learning_rate=5e-3, length=10)
    stage = StudentRolloutTraining(data, None)
    for step in range(STEPS):
        _step(stage, toy.CPU, step, step / STEPS)
    student, roll, many = stage.model.eval(), SMALL.rolling, 16
    first = torch.from_numpy(coins(1, 40)[0].latents[:4]).float()[None, :, None].expand(many, -1, -1, -1, -1, -1)
    generator = torch.manual_seed(5)
    noise = torch.randn(many, 41, roll.window_blocks, 1, *SMALL.latent_shape, generator=generator)
    left, right = [], []
    with torch.no_grad():
        sinks = torch.full((many, 4, *SMALL.latent_shape), -1.0)
        state = rolling.prime(student, roll, sinks, first, torch.zeros(many, 4, 6), noise[:, 40])
        for tick in range(40):
            state, shown = rolling.step(student, roll, state, torch.zeros(many, 6), noise[:, tick])
            places = shown[:, 0, :, 1, [0, 3]].mean(1) > 0
            left.append(places[:, 0]), right.append(places[:, 1])
            rewarded = state["outcome"][:, 0] == 1
    left, right = torch.stack(left), torch.stack(right)
    assert (left ^ right).float().mean() > 0.98
    assert abs(float(left[4:].float().mean()) - LEFT_SHARE) < 0.08
    assert len({row.numpy().tobytes() for row in left.T}) == many
    assert (rewarded == left[-1]).float().mean() > 0.9


def test_palette_and_rewards_are_counted_where_something_changes():
    made = head()
    count_outputs(made, coins(4, 60))
    assert {tuple(colour) for colour in made.palette.tolist()} == {(-1.0,) * 3, (1.0,) * 3}
    assert set(made.reward_values.tolist()) == {0.0, 1.0}
    assert made.outcome_weights[0] < made.outcome_weights[1] and made.outcome_weights[-1] > 7
    assert SPREAD == 2.0  # the palette is in latent units


def test_what_changes_only_in_frames_that_are_not_looked_at_is_found_all_the_same():
    made, episodes = head(), coins(1, 12)
    episodes[0].latents[:6] = -1.0
    count_outputs(made, episodes)
    assert {tuple(colour) for colour in made.palette.tolist()} == {(-1.0,) * 3, (1.0,) * 3}


def test_the_last_frame_of_a_recording_is_learned():
    """With it an episode ends: what is shown then comes nowhere else."""
    stage = StudentRolloutTraining(TrainingData(SMALL, toy.CPU, make_codec(SMALL), coins(3, 12), []), None)
    last = stage.start_sampler.lead + stage.start_sampler.counts[0] - 1
    stage.start_sampler.take = lambda chance, *_: (chance[:, 0].astype(int), np.full(len(chance), last), chance[:, 0])
    loss, _ = stage.loss(StepNoise(toy.CPU, 0, 0, stage.settings.batch, 0.0))
    loss.backward()
    assert stage.model.local.out.bias.grad.abs().max() > 0 and stage.model.local.outcome.bias.grad.abs().max() > 0


@pytest.mark.parametrize("wrong", [0.0, 1.0])
def test_what_is_not_foreseen_teaches_odds_but_not_where_a_game_goes_on_from_wrong_cells(wrong):
    """There the prior would learn to expect what mends them. The tick itself may be as wrong as it is: what surprises
    is drawn wrong for long, and would else be thought rarer than it is."""
    stage = StudentRolloutTraining(TrainingData(SMALL, toy.CPU, make_codec(SMALL), coins(3, 30), []), None)
    first, second = (StepNoise(toy.CPU, step, 0, stage.settings.batch, 0.0) for step in range(2))
    stage.loss(first)
    games, frames = np.arange(len(stage.left)), torch.zeros(len(stage.left), 1, 1, *SMALL.latent_shape)
    stage.fair[:] = True
    stage._store(games, {"clean": frames[:, 0] + wrong}, frames)
    stage.pool["dice"][:] = 0.9  # told all of it
    stage.left[:], stage.at[:], stage.odds[:] = 9, stage.lead, 1.0  # all in the midst of their recordings
    stage.loss(second)[0].backward()
    learned = stage.model.local.prior.weight.grad.any()
    assert stage.strayed.any() and bool(learned) == (not wrong)


@pytest.mark.parametrize(("told", "fair"), [(False, True), (True, True), (False, False)])
def test_a_fair_game_that_was_not_told_what_happened_goes_on_from_the_recorded_frame(told, fair):
    """Untrained, it draws nothing right; yet it strays only where it was told, or had gone wrong before."""
    stage = StudentRolloutTraining(TrainingData(SMALL, toy.CPU, make_codec(SMALL), coins(3, 30), []), None)
    stage.loss(StepNoise(toy.CPU, 0, 0, stage.settings.batch, 0.0))
    stage.left[:], stage.at[:] = 9, stage.lead  # all in the midst of their recordings
    games = np.arange(stage.settings.batch) * stage.rounds
    recorded = stage._latents(games, 0, 1)[:, 0]
    stage.pool["dice"][:], stage.fair[:] = 0.9 if told else 0.01, fair
    stage.loss(StepNoise(toy.CPU, 2 * stage.rounds, 0, stage.settings.batch, 0.0))
    away = (stage.pool["clean"][games] - recorded).abs().amax((1, 2, 3, 4))
    assert (away > 0.5).any() == (told or not fair)


def test_in_the_first_phase_frames_that_follow_recorded_ones_are_learned_without_dice(tmp_path):
    """Whatever happens in them; and a world that is trained already has no such phase."""
    data = TrainingData(SMALL, toy.CPU, make_codec(SMALL), coins(9, 30), [])
    data = toy.with_settings(data, "student_rollout", teacher_forcing=0.5, grow=0.1, length=1000)
    StudentRolloutTraining(data, None).finish(tmp_path, {})
    (weights,) = tmp_path.glob("*.safetensors")
    for begun in (None, weights):
        stage = StudentRolloutTraining(data, begun)
        head, asked = stage.model.local, []
        head._happened = lambda *rest, head=head, asked=asked: asked.append(1) or MixtureHead._happened(head, *rest)
        for step, progress in enumerate((0.0, 0.2, 0.4, 0.49, 0.51, 0.7)):
            seen = len(asked)
            stage.loss(StepNoise(toy.CPU, step, 0, stage.settings.batch, progress))[0].backward()
            forced = progress < 0.5 and not begun
            of_dice = [head.code.weight, head.prior.weight, head.posterior[0].weight]
            assert (len(asked) == seen) == forced
            assert all((p.grad is None or not p.grad.any()) == forced for p in of_dice) or step == 0
            assert head.out.weight.grad.any()
            assert (stage.length == 1) == (forced or progress == 0)
            stage.model.zero_grad()
    resumed = StudentRolloutTraining(data, None)
    resumed.restore(stage.state())
    resumed.model.local._happened = head._happened
    seen = len(asked)
    resumed.loss(StepNoise(toy.CPU, 6, 0, stage.settings.batch, 0.1))
    assert len(asked) > seen, "teacher forcing does not come back in a run that is resumed for longer"
    assert resumed.length == stage.length == 1000, "nor do games of one tick"


def test_in_the_last_phase_the_prior_learns_alone_what_the_classes_then_are():
    data = TrainingData(SMALL, toy.CPU, make_codec(SMALL), coins(9, 30), [])
    stage = StudentRolloutTraining(toy.with_settings(data, "student_rollout", prior_share=0.2), None)
    head = stage.model.local
    parts = {"expected", "prior", "no_more", "foreseen", "drawn_around", "neighbours"}
    first = head.shares.clone()
    for step, progress, last in ((0, 0.5, False), (1, 0.53, False), (2, 0.55, False), (3, 0.81, True), (4, 0.82, True)):
        shares = head.shares.clone()
        stage.loss(StepNoise(toy.CPU, step, 0, stage.settings.batch, progress))[0].backward()
        learned = {name for name, p in stage.model.named_parameters() if p.grad is not None and p.grad.any()}
        learned = {name.removeprefix("local.").split(".")[0] for name in learned}
        assert learned >= parts - {"drawn_around"} and (learned <= parts) == last  # one token has nothing around it
        assert progress < 0.54 or torch.equal(head.shares, shares), "while the rate falls, no class joins another"
        assert progress != 0.53 or not torch.equal(head.shares, first)
        stage.model.zero_grad()
    assert [round(stage.phase(progress), 3) for progress in (0.0, 0.4, 0.7999, 0.8, 0.9, 1.0)] == [0, 0.5, 1, 0, 0.5, 1]


@torch.no_grad()
def test_an_end_is_trained_where_it_is_shown_and_its_odds_are_not_the_losss_weights():
    data = TrainingData(SMALL, toy.CPU, make_codec(SMALL), coins(3, 12), [])
    stage = StudentRolloutTraining(data, None)
    games = np.array([0])
    stage.at[games] = stage.start_sampler.lead + stage.start_sampler.counts[0] - 1  # the last that a game may begin at
    assert stage._recorded(games).tolist() == [[1.0, 0.0]], "beyond the recording nothing is learned"
    assert stage._outcomes(games)[1][0, 0] == 1 and stage._latents(games, 0, 2).diff(dim=1).abs().max() == 0
    made = stage.model.local
    made.outcome_weights.copy_(torch.tensor([1.0, 5.0, 9.0, 20.0]))
    chances = torch.tensor([0.6, 0.3, 0.1])  # of the rewards; the loss's best logits are of weight times chance
    end = torch.tensor([0.02])
    logits = torch.cat([chances.log(), (end / (1 - end)).log()]) + made.outcome_weights.log()
    reward, ends = made._outcome(logits[None, None])[0]
    assert reward == made.reward_values[0] and ends == pytest.approx(0.02, rel=1e-4)


def test_recordings_without_rewards_are_named():
    silent = [Episode(e.sinks, e.latents, e.actions) for e in coins(2, 12)]
    with pytest.raises(DataError, match="head.rewards"):
        StudentRolloutTraining(TrainingData(SMALL, toy.CPU, make_codec(SMALL), silent, []), None)
