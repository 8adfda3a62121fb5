"""The denoiser's local half for any game: convolutions see pictures, tokens decide, dice carry chance.

Convolutions at the cells' resolution and at half of it (a U-Net: Ronneberger et al., arXiv 1505.04597) see, as channels
of one picture, all noisy blocks of the window, the last two clean frames and the sinks. They see neither actions nor
levels: what follows from these reaches a picture through the transformer's tokens alone, which modulate them
(FiLM: Perez et al., arXiv 1709.07871). All blocks of the window share one pass.

Every element of x0 is picked from sources: the last clean frame at the same place; the last clean frame moved, by a
pointer that each cell has to the places within ``reach`` (Finn et al., arXiv 1605.07157; Vinyals et al., 1506.03134);
every sink at the same place; the colours of a palette; a drawn
colour. Training minimises the negative log-likelihood (nll) of the true frame under the mixture of these; x0 is the
source of largest weight, so copies stay exact.

Chance is a discrete latent (van den Oord et al., arXiv 1711.00937; Hafner et al., 2010.02193): each token of the block
that is shown has one of ``dice`` classes, which the convolutions see. The first class, no dice, is that of every token
that the head foresees without them: only a surprise takes another, so that what follows from keys and pictures is never
left to chance, and no class is given up because it is rare (posterior collapse). In training a surprise takes the class
with which the picture comes out nearest to how the recording went on, and that class learns to come nearer (multiple
choice learning: Guzman-Rivera et al., 2012; Lee et al., arXiv 1606.07839). So a rollout of any length stays on the
recording, whichever way its dice fell. To find that class, a picture is made with each; a *posterior*, which sees what
was foreseen and what happened, learns which it is, and says so where frames are too many for that. What stands in
several tokens is told by the first of them alone, where that is enough: what need not agree cannot disagree. A class
that goes unused joins the one whose tokens come out wrong most often, though they are told (``share_classes``). The
blocks behind in the window have none: what they would draw before it is known what happens first could contradict it.

In play classes are drawn from the *prior*, what tokens and the picture that comes of them without dice let expect, with
the recordings' odds: one token after the other in any order (Uria et al., arXiv 1310.1757; Hoogeboom et al.,
2110.02037), and each draw chooses in the whole frame which token is next, and its class, or that there are no more. So
what may happen anywhere but once happens once, and a tick in which nothing is left to chance costs one look.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._higher_order_ops import while_loop

from world_model.config import Config
from world_model.model.codec import SPREAD, canvas, cells
from world_model.model.head import EXACT, SPRITE, Conditioning, convolution, normed

WRONG = 0.1
"""A cell is wrong when one of its pixels differs by more than this, in latent units, on average over colours. A token
is a surprise when, without dice, one of its cells would be wrong."""
UNTOLD, ALONE = 0.5, 0.25
"""Shares of the frames that are learned without dice, and, at the beginning of training, with the first of neighbouring
surprises alone. The first is large because what follows from rules, but is not foreseen yet, is learned there alone:
elsewhere it is a surprise, and told; before that, training has a phase of nothing else (``teacher_forcing``). The
second lets classes come to say enough, and falls to 0 while games grow: told less than it needs, a picture cannot come
out right."""
TOLERANCE = 0.03
"""Latent units of mean absolute difference over which an element's likelihood falls to 1 / e. A source whose colour is
only near must be far less likely than the right one, or the mixture is content with it."""
TRIED = 1 / 8
"""Share of a step's games, rounded up in each process, in which every class is tried: of those that surprise, before
others those that are told. Elsewhere the posterior says which."""
LATELY = 0.01
"""Weight of a step's surprises in the running shares of the classes."""
UNUSED = 0.1
"""A class is unused where it has less than this of what it would have if all had as much."""
AMISS = 0.01
"""A class stands for too much where more than this share of all surprises are its own and come out wrong."""
KEPT = 0.2
"""What an unused class keeps of itself when it joins another: so the two can part."""
GAIN = 30.0
"""Root mean square of the features that weigh the sources. Without bound it grows until the weights are 0 and 1, which
no gradient changes any more; at 1 they are learned too slowly."""
LEAK = 0.1
"""Slope below 0 of the nonlinearity. With none most features were dead after an hour (dying ReLU: Lu et al., arXiv
1903.06733): all that let neighbours hear one another, and 47 of the posterior's first 48."""
FEW = 2.0
"""Nll, over ``SPRITE``, from which on a frame's grows as its logarithm only: one frame in which everything changes
would be most of a batch's gradient."""
PREFIXES = 6
"""Of each frame's draws, how many are learned in a step, evenly from the first to the last: they cost little beside the
frame, and say more of it."""
LOUD = 8.0
"""Factor of the classes' first embeddings: beside the tokens they must be heard from the first step on."""
NEVER = -1e9
"""Logit of what cannot be drawn."""
LEAST_LIKELY = 1e-30
"""Least likelihood of an element that has a logarithm."""
NARROW = 32
"""Features of a cell of half resolution on their way into the tokens and out of them."""
REWARD_WEIGHT = 0.5
"""Weight of the nll of reward and end."""


class Seen(NamedTuple):
    """What the convolutions see of a window, before the tokens: features [N, width, h, w], at half resolution
    [N, 2 width, h/2, w/2], and their part of the tokens of each frame [N, F, P, D]."""

    fine: Tensor
    coarse: Tensor
    tokens: Tensor


class MixtureOutputs(NamedTuple):
    """Of each of the N games and F frames of its window. Pictures are canvases [.., colours, H, W]."""

    source_logits: Tensor  # [N, F, sources, unfold^2, h, w]
    pointer_logits: Tensor  # [N, F, places, h, w]
    drawn: Tensor  # [N, F, colours, H, W]
    last: Tensor  # [N, C, h, w]: the last clean frame
    sinks: Tensor  # [N, S, C, h, w]
    classes: Tensor | None  # [N, B, P, dice]: of the first block, one-hot
    classes_nll: Tensor | None  # [N, B]: under the prior; in training
    told: Tensor | None  # [N, B, P, dice]: the classes that the pictures were made with, one-hot
    posterior_nll: Tensor | None  # [N, B]: of the best classes, where every class was tried; in training
    outcome_logits: Tensor | None  # [N, F, rewards + 1]: of the rewards, and of the end
    outcome: Tensor | None  # [N, 2]: reward and probability of the end, of the first frame


class MixtureHead(nn.Module):
    """``look(window, conditioning)`` -> ``Seen``; ``forward(conditioning, tokens, seen)`` -> x0 and the outputs, which
    ``nll`` and ``commit`` take. Otherwise as ``head.Head``."""

    def __init__(self, config: Config, grid: tuple[int, int]):
        super().__init__()
        size, roll, width = config.head, config.rolling, config.transformer.width
        channels, features, half = config.latent_shape[0], config.head.width, config.transformer.patch // 2
        self.state_names = tuple(size.state_shapes)
        self.grid, self.half, self.unfold = grid, half, config.codec.unfold
        self.colours = channels // self.unfold**2
        self.frames, self.per_block = roll.window_blocks * roll.frames_per_block, roll.frames_per_block
        self.reach, self.classes, self.sinks = size.reach, size.dice, roll.sink_frames
        self.places = (2 * size.reach + 1) ** 2
        self.sources = 2 + self.sinks + size.palette + 1  # last, moved; sinks; palette; drawn
        self.register_buffer("palette", (torch.rand(size.palette, self.colours) * 2 - 1) * SPREAD)
        self.first = convolution((self.frames + 2 + self.sinks) * channels, features)
        self.down = nn.Conv2d(features, 2 * features, 3, stride=2, padding=1)
        wide = self.frames * width
        self.narrow, self.to_tokens = nn.Conv2d(2 * features, NARROW, 1), nn.Linear(NARROW * half**2, wide)
        self.from_tokens, self.widen = nn.Linear(wide, NARROW * half**2), nn.Conv2d(NARROW, 2 * features, 1)
        self.up = nn.Conv2d(2 * features, 4 * features, 1)
        self.before = nn.ModuleList([Block(features, 0), Block(2 * features, 0)])
        self.coarse = nn.ModuleList(Block(2 * features, wide) for _ in range(size.blocks))
        self.fine = nn.ModuleList(Block(features, wide) for _ in range(size.blocks))
        self.per_frame = (self.sources + self.colours) * self.unfold**2 + self.places
        self.out = nn.Conv2d(features, self.frames * self.per_frame, 1)
        self.out.weight.data *= 0.1
        self.expected, self.prior = nn.Linear(width, width), nn.Linear(width, self.classes - 1)
        self.no_more = nn.Linear(2 * width, 1)
        self.no_more.bias.data.fill_(math.log(self.per_block * grid[0] * grid[1] * (self.classes - 1)))
        self.foreseen = nn.Sequential(
            nn.LeakyReLU(LEAK), convolution(2 * features, 2 * features),
            nn.LeakyReLU(LEAK), nn.Conv2d(2 * features, width, half, stride=half),
        )  # fmt: skip
        self.drawn_around = nn.Conv2d(self.classes - 1, width, 3, padding=1, bias=False)
        self.drawn_around.weight.data *= LOUD
        self.neighbours = Block(width, 0)
        nn.init.zeros_(self.neighbours.second.weight)
        nn.init.zeros_(self.neighbours.second.bias)
        order = 4 - torch.arange(grid[0])[:, None] % 2 * 2 - torch.arange(grid[1]) % 2  # neighbours differ
        self.register_buffer("order", order.flatten(), persistent=False)
        self.posterior = nn.Sequential(
            nn.Conv2d(2 * channels, features, 3, padding=1, bias=False), nn.LeakyReLU(LEAK),
            nn.Conv2d(features, features, 3, stride=2, padding=1, bias=False), nn.LeakyReLU(LEAK),
            nn.Conv2d(features, self.classes - 1, half, stride=half, bias=False),
        )  # fmt: skip
        self.register_buffer("shares", torch.ones(2, self.classes - 1) / (self.classes - 1))
        self.code = nn.Linear(self.classes - 1, width, bias=False)
        self.code.weight.data *= LOUD
        self.rewards = size.rewards
        if self.rewards:
            self.register_buffer("reward_values", torch.zeros(self.rewards))
            self.register_buffer("outcome_weights", torch.ones(self.rewards + 1))
            self.outcome = nn.Linear(features, self.frames * (self.rewards + 1))
        self._open_with_copies()

    def _open_with_copies(self) -> None:
        """Before training the last frame has most of the weight, in place and by the pointer."""
        sources = torch.full((self.sources,), -2.0)
        sources[0] = 3.0
        pointer = torch.zeros(self.places)
        pointer[self.places // 2] = 3.0
        drawn = torch.zeros(self.colours * self.unfold**2)
        bias = torch.cat([sources.repeat_interleave(self.unfold**2), drawn, pointer])
        self.out.bias.data.copy_(bias.repeat(self.frames))

    def look(self, window: Tensor, conditioning: Conditioning) -> Seen:
        """window [N, F, C, h, w], the noisy frames; those that a shorter window lacks are zeros."""
        missing = self.frames - window.shape[1]
        window = F.pad(window, (0, 0, 0, 0, 0, 0, 0, missing))
        pictures = [window, conditioning.last[:, :1], conditioning.extra["previous"][:, None], conditioning.sinks]
        fine = self.before[0](self.first(torch.cat([p.flatten(1, 2) for p in pictures], 1)))
        coarse = self.before[1](self.down(_leaky(fine)))
        patches = F.pixel_unshuffle(self.narrow(_leaky(coarse)), self.half).flatten(2).transpose(1, 2)
        tokens = self.to_tokens(patches).unflatten(2, (self.frames, -1)).transpose(1, 2)
        return Seen(fine, coarse, tokens[:, : self.frames - missing])

    def forward(self, conditioning: Conditioning, tokens: Tensor, seen: Seen) -> tuple[Tensor, MixtureOutputs]:
        """tokens [N, F, P, D] of the trunk -> x0 [N, F, C, h, w] and the outputs."""
        count, shown = tokens.shape[1], tokens[:, : self.per_block]
        tokens = F.pad(tokens, (0, 0, 0, 0, 0, self.frames - count))
        if "forced" in conditioning.extra:
            decided, dice = self._decided(seen, tokens), self._no_dice(shown)
        else:
            tokens, decided, dice = self._diced(conditioning, seen, tokens, shown)
        outputs = self._read(conditioning, self._painted(seen, tokens, decided), count)._replace(**dice)
        return cells(self._picked(outputs), self.unfold), outputs

    def _diced(self, conditioning: Conditioning, seen: Seen, tokens: Tensor, shown: Tensor) -> tuple:
        """Tokens [N, F, P, D] of all frames, to those of the block that is ``shown`` [N, B, P, D] the embeddings of
        their classes added; ``_decided`` by them; and the classes, for the outputs."""
        extra, dice = conditioning.extra, {}
        with torch.no_grad():
            plain = self._decided(seen, tokens)
        if "future" in extra:
            classes, told, posterior_nll = self._happened(conditioning, seen, tokens, plain)
            with torch.enable_grad():  # where the prior learns alone, nothing else has a gradient
                classes_nll = self._classes_nll(self._expected(shown, plain), classes, extra["dice"])
            dice = {"classes_nll": classes_nll, "posterior_nll": posterior_nll}
            tokens = self._coded(tokens, told)
            decided = self._decided(seen, tokens)
        else:
            classes = told = self._drawn(self._expected(shown, plain), extra["dice"])
            tokens = self._coded(tokens, told)
            decided = self._drawn_decided(seen, tokens, told, plain)
        return tokens, decided, dice | {"classes": classes, "told": told}

    def _no_dice(self, shown: Tensor) -> dict[str, Tensor]:
        """What the outputs say where no token of the block that is ``shown`` [N, B, P, D] has a class."""
        none = F.one_hot(torch.zeros_like(shown[..., 0], dtype=torch.long), self.classes).to(shown.dtype)
        nothing = shown.new_zeros(shown.shape[:2])
        return {"classes": none, "classes_nll": nothing, "told": none, "posterior_nll": nothing}

    def _read(self, conditioning: Conditioning, h: Tensor, count: int) -> MixtureOutputs:
        """What features h [N, width, h, w] say of the first ``count`` frames."""
        h = _leaky(GAIN * _normed_cells(h))
        out = _full(self.out(h).unflatten(1, (self.frames, -1))[:, :count])
        squared = self.unfold**2
        parts = [self.sources * squared, self.colours * squared, self.places]
        source_logits, drawn, pointer_logits = out.split(parts, 2)
        outcome_logits = outcome = None
        if self.rewards:
            outcome_logits = _full(self.outcome(h.amax((2, 3)) / GAIN)).unflatten(1, (self.frames, -1))[:, :count]
            outcome = self._outcome(outcome_logits[:, : self.per_block])
        return MixtureOutputs(
            source_logits.unflatten(2, (self.sources, squared)), pointer_logits, canvas(drawn, self.unfold),
            conditioning.last[:, 0], conditioning.sinks, None, None, None, None,
            outcome_logits, outcome,
        )  # fmt: skip

    def _decided(self, seen: Seen, tokens: Tensor) -> Tensor:
        """Features at half resolution [N, 2 width, h/2, w/2] after the tokens [N, F, P, D] have spoken."""
        decisions = _of_places(tokens)
        spread = self.from_tokens(decisions).transpose(1, 2).unflatten(2, self.grid)
        h = seen.coarse + self.widen(F.pixel_shuffle(spread, self.half))
        for block in self.coarse:
            h = block(h, decisions, self.grid)
        return h

    def _drawn_decided(self, seen: Seen, tokens: Tensor, drawn: Tensor, plain: Tensor) -> Tensor:
        """``_decided``, which is ``plain`` where nothing of [N, B, P, dice] is drawn: it need not be asked again."""
        anything = drawn[..., 0].lt(1).any()

        def once(again: Tensor, decided: Tensor) -> Tensor:
            return again.clone()

        def asked(again: Tensor, decided: Tensor) -> tuple[Tensor, Tensor]:
            return torch.zeros_like(again), self._decided(seen, tokens)

        return _repeated(once, asked, (anything, plain))[1]

    def _painted(self, seen: Seen, tokens: Tensor, decided: Tensor) -> Tensor:
        """Features [N, width, h, w] of tokens [N, F, P, D] and features at half resolution."""
        h = seen.fine + F.pixel_shuffle(self.up(_leaky(decided)), 2)
        for block in self.fine:
            h = block(h, _of_places(tokens), self.grid)
        return h

    def _coded(self, tokens: Tensor, classes: Tensor) -> Tensor:
        """Tokens [N, F, P, D], to the first block's of which the embeddings of classes [N, B, P, dice] are added."""
        code = self.code(classes[..., 1:].to(tokens.dtype))
        return tokens + F.pad(code, (0, 0, 0, 0, 0, self.frames - self.per_block))

    def _happened(
        self, conditioning: Conditioning, seen: Seen, tokens: Tensor, plain: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Classes [N, B, P, dice] of what happened, one-hot; those of them that the frames are learned with; and the
        posterior's nll [N, B]. ``plain`` is ``_decided`` without any. Of surprises side by side the first is told
        first: the others are none any more, once what follows from it is drawn into their tokens. Then they need not
        agree, each for itself."""
        chance = conditioning.extra["dice"][:, :1, :1, None]
        surprising, shown = self._surprising(conditioning, seen, tokens, plain)
        first = surprising & self._is_first(surprising)
        of_first, nll = self._told(conditioning, seen, tokens, shown, first)
        classes, further = of_first, surprising & ~first
        if further.any():  # where few things surprise, most batches need not be decoded once more
            with torch.no_grad():
                coded = self._coded(tokens, of_first)
                decided = self._decided(seen, coded)
            still, shown = self._surprising(conditioning, seen, coded, decided)
            further &= still
            of_further, more = self._told(conditioning, seen, coded, shown, further)
            classes, nll = torch.where(further[..., None], of_further, classes), nll + more
        told = torch.where(chance < UNTOLD + conditioning.extra["alone"], of_first, classes)
        return classes, torch.where(chance < UNTOLD, torch.zeros_like(told), told), nll

    def _told(
        self, conditioning: Conditioning, seen: Seen, tokens: Tensor, shown: Tensor, where: Tensor
    ) -> tuple[Tensor, Tensor]:
        """One-hot classes [N, B, P, dice] of surprises ``where`` [N, B, P], by ``_best`` in ``TRIED`` of the games and
        by the posterior in the others; and the posterior's nll [N, B]. shown [N, B, C, h, w]: the frames as they are
        with these tokens."""
        true = conditioning.extra["future"][:, 1:]
        logits = _full(self.posterior(torch.cat([true - shown, true], 2).flatten(0, 1)))
        logits = logits.flatten(2).transpose(1, 2).unflatten(0, where.shape[:2])  # [N, B, P, dice - 1]
        which, nll = logits.argmax(-1), logits.sum((2, 3)) * 0  # a gradient even here: processes average all they have
        turn = where.flatten(1).any(1) * conditioning.extra["dice"][:, 0, 0]  # the largest numbers are those told
        games = turn.topk(math.ceil(TRIED * len(where))).indices
        games = games[turn[games] > 0]
        if len(games):
            best = self._best(conditioning, seen, tokens, where, games)
            of_each = F.cross_entropy(logits[games].flatten(0, 2), best.flatten(), reduction="none")
            nll = nll.index_copy(0, games, (of_each.view_as(best) * where[games]).sum(2))
            which = which.index_copy(0, games, best)
        return _with_none(F.one_hot(which, self.classes - 1).to(tokens.dtype), where), nll

    @torch.no_grad()
    def _best(self, conditioning: Conditioning, seen: Seen, tokens: Tensor, where: Tensor, games: Tensor) -> Tensor:
        """Which class (of dice - 1) brings each token of n ``games`` nearest to what happened, in and around it: that
        of the least nll [n, B, P], where all tokens ``where`` [N, B, P] take the same."""
        count = self.classes - 1

        def of_each(x: Tensor) -> Tensor:
            return x[games].repeat_interleave(count, 0)

        every = F.one_hot(torch.arange(count, device=where.device), count).to(tokens.dtype)
        classes = every.repeat(len(games), 1)[:, None, None].expand(-1, *where.shape[1:], -1)
        coded = self._coded(of_each(tokens), _with_none(classes, of_each(where)))
        sight = seen._replace(fine=of_each(seen.fine), coarse=of_each(seen.coarse))
        pictures = Conditioning(of_each(conditioning.last), None, of_each(conditioning.sinks))
        outputs = self._read(pictures, self._painted(sight, coded, self._decided(sight, coded)), self.per_block)
        nll = self._elements_nll(outputs, of_each(conditioning.extra["future"][:, 1:])).sum(2)
        nll = F.avg_pool2d(F.avg_pool2d(nll, 2 * self.half), 3, 1, 1)  # of tokens with those around them
        return nll.flatten(2).unflatten(0, (len(games), count)).argmin(1)

    @torch.no_grad()
    def _surprising(
        self, conditioning: Conditioning, seen: Seen, tokens: Tensor, decided: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Which tokens [N, B, P] of the first block come out wrong, and the block as it comes out [N, B, C, h, w]."""
        outputs = self._read(conditioning, self._painted(seen, tokens, decided), self.per_block)
        shown = cells(self._picked(outputs), self.unfold)
        return self._wrong(shown, conditioning.extra["future"][:, 1:]), shown

    def _wrong(self, x0: Tensor, true: Tensor) -> Tensor:
        """Which tokens [N, B, P] of frames x0 [N, B, C, h, w] differ from the true ones."""
        wrong = wrong_cells(x0, true, self.unfold).to(x0.dtype)
        return F.max_pool2d(wrong, 2 * self.half).flatten(2) > 0

    @torch.no_grad()
    def class_counts(self, outputs: MixtureOutputs, x0: Tensor, true: Tensor) -> Tensor:
        """How many of the told surprises of frames x0 [N, B, C, h, w] each class has, and how many of these differ from
        true [N, B, C, h, w] all the same, also where the posterior named the wrong class: [2, dice - 1]."""
        told, wrong = outputs.told[..., 1:].float(), self._wrong(x0, true)[..., None].float()
        return torch.stack([told, told * wrong]).sum((1, 2, 3))

    @torch.no_grad()
    def share_classes(self, counts: Tensor) -> None:
        """Take what ``class_counts`` counted, and have an unused class join the one of which most comes out wrong:
        rare surprises, such as two things in one token, get one class together, which can draw none of them, while
        others are never used (codebook collapse; random restarts: Dhariwal et al., arXiv 2005.00341)."""
        if not counts[0].sum():
            return
        self.shares.lerp_(counts / counts[0].sum(), LATELY)
        (used, wrong), least, worst = self.shares, self.shares[0].argmin(), self.shares[1].argmax()
        if used[least] * len(used) > UNUSED or wrong[worst] < AMISS:
            return
        around = self.drawn_around.weight.transpose(0, 1)
        for part in (self.code.weight.T, self.prior.weight, around):
            part.data[least] = torch.lerp(part[worst], part[least], KEPT)  # past autograd, which has seen them already
        self.prior.bias.data[worst] -= math.log(2)  # the two are as likely as the one was
        self.prior.bias.data[least] = self.prior.bias.data[worst]
        self.shares[:, worst] /= 2
        self.shares[:, least] = self.shares[:, worst]

    def _is_first(self, surprising: Tensor) -> Tensor:
        """Which tokens [N, B, P] are told before all their neighbours that are ``surprising`` [N, B, P]."""
        order = torch.where(surprising, self.order, 0).unflatten(2, self.grid).float()
        return F.max_pool2d(order, 3, 1, 1).flatten(2) == order.flatten(2)

    def _expected(self, shown: Tensor, plain: Tensor) -> Tensor:
        """What tokens of the trunk [N, B, P, D] expect, and the picture that comes of them without dice, of which they
        keep little: [N, B, P, D]. The convolutions serve the picture alone: the prior learns from what they have."""
        picture = self.foreseen(_normed_cells(plain)).flatten(2).transpose(1, 2)
        return self.expected(normed(shown)) + picture[:, None]

    def _prior(self, expected: Tensor, drawn: Tensor) -> Tensor:
        """Log-probabilities [N, B P (dice - 1) + 1] of which token is the next to draw, and which class; the last, that
        there are no more. From what the tokens expect [N, B, P, D] and the classes [N, B, P, dice - 1] that are drawn
        already, elsewhere zeros. Each token sees what its neighbours expected and what of it was drawn: what left one
        of them and is not yet drawn in another has to come here."""
        grids = (x.flatten(0, 1).transpose(1, 2).unflatten(2, self.grid) for x in (expected, drawn.to(expected.dtype)))
        mine, classes = grids
        h = _leaky(self.neighbours(mine + self.drawn_around(classes)))
        h = h.flatten(2).transpose(1, 2).unflatten(0, expected.shape[:2]).flatten(1, 2)  # [N, B P, D]
        logits = _full(self.prior(h)).masked_fill(drawn.flatten(1, 2).sum(2, keepdim=True) > 0, NEVER)
        no_more = _full(self.no_more(torch.cat([h.mean(1), h.amax(1)], 1)))
        return torch.cat([logits.flatten(1), no_more], 1).log_softmax(-1)

    def _drawn(self, expected: Tensor, dice: Tensor) -> Tensor:
        """One-hot classes [N, B, P, dice], drawn from the prior by the numbers [N, B, P + 2], one for each draw."""
        numbers, tokens = dice.flatten(1), expected.shape[:3]
        none = tokens[1] * tokens[2] * (self.classes - 1)

        def drawing(draw: Tensor, drawn: Tensor, more: Tensor) -> Tensor:
            return more.any()

        def next_drawn(draw: Tensor, drawn: Tensor, more: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            below = self._prior(expected, drawn).exp().cumsum(1) < numbers.index_select(1, draw)
            chosen = below.sum(1).clamp(max=none)  # rounded, all may sum to less than the number
            more = more & (chosen < none)
            new = F.one_hot(chosen, none + 1)[:, :-1].unflatten(1, (*tokens[1:], -1))
            return draw + 1, drawn + new * more[:, None, None, None], more

        start = torch.zeros(1, dtype=torch.long, device=dice.device), dice.new_zeros(*tokens, self.classes - 1)
        drawn = _repeated(drawing, next_drawn, (*start, torch.ones_like(dice[:, 0, 0], dtype=torch.bool)))[1]
        return _with_none(drawn, drawn.sum(-1) > 0)

    def _classes_nll(self, expected: Tensor, classes: Tensor, dice: Tensor) -> Tensor:
        """Nll [N, B] of classes [N, B, P, dice] under the prior: of the set, from ``PREFIXES`` of its draws in an order
        by chance (equation 5 of Hoogeboom et al., arXiv 2110.02037). dice [N, B, P + 2], uniform."""
        happened = classes[..., 1:]
        there = happened.sum(-1).flatten(1) > 0
        count, nll = there.sum(1), 0
        rank = torch.where(there, dice[..., 2:].flatten(1), 2.0).argsort(1).argsort(1)
        for part in range(PREFIXES):
            known = ((part + dice[:, 0, 1]) / PREFIXES * (count + 1)).long()
            later = (rank >= known[:, None]).unflatten(1, happened.shape[1:3])[..., None]
            prior, left = self._prior(expected, happened * ~later), (count - known).clamp(min=0)
            of_one = (prior[:, :-1] * (happened * later).flatten(1)).sum(1) / left.clamp(min=1)
            nll = nll - torch.where(left > 0, of_one, prior[:, -1]) * (count + 1) / PREFIXES
        of_set = nll - torch.lgamma(count + 1.0)
        return (of_set / self.per_block)[:, None].expand(-1, self.per_block)

    def _outcome(self, logits: Tensor) -> Tensor:
        """logits [N, B, rewards + 1] of a block -> [N, 2]: its likeliest rewards in sum, and the probability that it
        ends. What the loss weighted up is weighted down again."""
        logits = logits - self.outcome_weights.log()
        reward = self.reward_values[logits[..., :-1].argmax(-1)].sum(1)
        return torch.stack([reward, 1 - logits[..., -1].neg().sigmoid().prod(1)], 1)

    def nll(self, outputs: MixtureOutputs, true: Tensor, sinks: Tensor) -> tuple[Tensor, Tensor]:
        """Losses [N, F] against true [N, F, C, h, w], in nats over ``SPRITE``: the nll of all elements, its logarithm
        where it is large, and of the classes under the posterior; and of what happened under the prior."""
        elements = self._elements_nll(outputs, true).sum((2, 3, 4)) / SPRITE
        of_block = torch.stack([outputs.posterior_nll, outputs.classes_nll]) / SPRITE
        posterior, classes = F.pad(of_block, (0, true.shape[1] - self.per_block))
        return FEW * torch.log1p(elements / FEW) + posterior, classes

    def _elements_nll(self, outputs: MixtureOutputs, true: Tensor) -> Tensor:
        """Nll [N, F, unfold^2, h, w] of the elements of true [N, F, C, h, w]."""
        goal = self._by_colour(true)
        with torch.no_grad():
            moved = self._by_colour(cells(self._moved(outputs.last), self.unfold))[:, None]
            moved = _match(moved, goal)  # [N, F, places, unfold^2, h, w]
            fixed = [
                _match(self._by_colour(outputs.last)[:, None, None], goal),
                _match(self._by_colour(outputs.sinks)[:, None], goal),
                _match(self.palette[None, None, :, :, None, None, None].to(goal.dtype), goal),
            ]
        pointer = outputs.pointer_logits.softmax(2)[:, :, :, None]
        pointed = (pointer * moved).sum(2, keepdim=True)
        drawn = cells(outputs.drawn, self.unfold).unflatten(2, (self.colours, -1))[:, :, None]
        drawn = _match(drawn, goal)  # in full precision: in half of it all that is far away would be alike
        matches = torch.cat([fixed[0], pointed, *fixed[1:], drawn], 2)
        return -(outputs.source_logits.softmax(2) * matches).sum(2).clamp(min=LEAST_LIKELY).log()

    def _by_colour(self, latents: Tensor) -> Tensor:
        """Latents [.., C, h, w] -> [.., colours, unfold^2, h, w]; on a GPU in half precision, which is exact enough to
        tell colours apart and half the memory."""
        latents = latents.half() if latents.is_cuda and not latents.requires_grad else latents
        return latents.unflatten(-3, (self.colours, self.unfold**2))

    def outcome_nll(self, outputs: MixtureOutputs, rewards: Tensor, ends: Tensor) -> Tensor:
        """Nll [N, F] of rewards [N, F] and ends [N, F], rare ones weighted up (``outcome_weights``)."""
        nearest = (rewards[..., None] - self.reward_values).abs().argmin(-1)
        logits, end = outputs.outcome_logits[..., :-1], outputs.outcome_logits[..., -1]
        reward = F.cross_entropy(logits.flatten(0, 1), nearest.flatten(), self.outcome_weights[:-1], reduction="none")
        ended = F.binary_cross_entropy_with_logits(end, ends, reduction="none", pos_weight=self.outcome_weights[-1])
        return REWARD_WEIGHT * (reward.unflatten(0, rewards.shape) + ended)

    def _moved(self, last: Tensor) -> Tensor:
        """What the last frame [N, C, h, w] holds at each place within reach: [N, places, colours, H, W]; beyond the
        edge as at it."""
        picture = canvas(last, self.unfold)
        height, width = picture.shape[-2:]
        padded = F.pad(picture, (self.reach,) * 4, mode="replicate")
        span = range(2 * self.reach + 1)
        return torch.stack([padded[..., y : y + height, x : x + width] for y in span for x in span], 1)

    @torch.no_grad()
    def _picked(self, outputs: MixtureOutputs) -> Tensor:
        """Canvases [N, F, colours, H, W] of every element's source of largest weight."""
        chosen = canvas(outputs.source_logits.max(2).indices.float(), self.unfold)  # [N, F, 1, H, W]
        place = outputs.pointer_logits.max(2, keepdim=True).indices  # on a CPU several times as fast as argmax
        place = place.repeat_interleave(self.unfold, 3).repeat_interleave(self.unfold, 4)
        last = canvas(outputs.last, self.unfold)[:, None]
        moved = _chosen(self._moved(outputs.last), place)
        of_sinks = _chosen(canvas(outputs.sinks, self.unfold), (chosen - 2).clamp(0, self.sinks - 1).long())
        colour = (chosen - 2 - self.sinks).clamp(0, len(self.palette) - 1).long()
        palette = self.palette[colour[:, :, 0]].movedim(-1, 2)
        picked = torch.where(chosen == 0, last, moved)
        picked = torch.where(chosen >= 2, of_sinks, picked)
        picked = torch.where(chosen >= 2 + self.sinks, palette, picked)
        return torch.where(chosen == self.sources - 1, outputs.drawn, picked)

    def initial_state(self, sinks: Tensor, frames: Tensor, noise: Tensor) -> dict[str, Tensor]:
        """The head's arrays in a new state; frames [N, R+1, B, C, h, w] shown last, noise [N, K, B, C, h, w] of the
        window's blocks."""
        outcome = {"outcome": frames.new_zeros(len(frames), 2)} if self.rewards else {}
        return {"previous": frames[:, -2, -1], "dice": self._dice(noise[:, -1])} | outcome

    def encode_sinks(self, sinks: Tensor) -> dict[str, Tensor]:
        return {}

    def commit(self, outputs: MixtureOutputs, noise: Tensor) -> dict[str, Tensor]:
        """The head's arrays after the first block was shown; noise [N, K, B, C, h, w] of the next window."""
        outcome = {"outcome": outputs.outcome.detach()} if self.rewards else {}
        # of the block that joins, whose noise says nothing yet of what is shown next
        return {"previous": outputs.last, "dice": self._dice(noise[:, -1])} | outcome

    def _dice(self, noise: Tensor) -> Tensor:
        """Standard normal [N, B, C, h, w] -> uniform [N, B, P + 2], from the first numbers of each frame. In play each
        is for one draw; in training the first says what a frame is learned with (``ALONE``), the second which of its
        draws are, and the others in which order tokens draw."""
        normal = noise.flatten(2)[:, :, : self.grid[0] * self.grid[1] + 2]
        return 0.5 + 0.5 * torch.erf(normal / math.sqrt(2))


class Block(nn.Module):
    """Two convolutions, added to their input; the first takes it normalised and, with ``condition`` features a token,
    modulated by the tokens."""

    def __init__(self, width: int, condition: int):
        super().__init__()
        self.first, self.second = convolution(width, width), convolution(width, width)
        self.second.weight.data *= 0.3
        self.modulate = nn.Linear(condition, 2 * width) if condition else None
        if condition:
            nn.init.zeros_(self.modulate.weight)
            nn.init.zeros_(self.modulate.bias)

    def forward(self, h: Tensor, tokens: Tensor | None = None, grid: tuple[int, int] | None = None) -> Tensor:
        """h [N, width, h, w], tokens [N, P, condition] of a grid over it."""
        normalised = _normed_cells(h)
        if self.modulate is not None:
            spread = self.modulate(normed(tokens)).transpose(1, 2).unflatten(2, grid)
            times = h.shape[-1] // grid[1]
            shift, scale = spread.repeat_interleave(times, 2).repeat_interleave(times, 3).chunk(2, 1)
            normalised = normalised * (1 + scale) + shift
        return h + self.second(_leaky(self.first(normalised)))


def wrong_cells(x0: Tensor, true: Tensor, unfold: int) -> Tensor:
    """Which cells [.., h, w] of x0 [.., colours unfold^2, h, w] are not as in true."""
    away = (x0 - true).abs().unflatten(-3, (-1, unfold**2)).mean(-4)
    return away.amax(-3) > WRONG


def _leaky(x: Tensor) -> Tensor:
    return F.leaky_relu(x, LEAK)


def _normed_cells(h: Tensor) -> Tensor:
    """Features h [N, width, h, w] with a mean square of 1 in each cell."""
    return h * (h.square().mean(1, keepdim=True) + 1e-6).rsqrt()


def _with_none(classes: Tensor, where: Tensor) -> Tensor:
    """One-hot classes [.., dice - 1] where [..], elsewhere the first, no dice: [.., dice]."""
    where = where[..., None].to(classes.dtype)
    return torch.cat([1 - where, classes * where], -1)


def _of_places(tokens: Tensor) -> Tensor:
    """Tokens [N, F, P, D] of all frames at each place: [N, P, F D]."""
    return tokens.transpose(1, 2).flatten(2)


def _repeated(condition: Callable[..., Tensor], body: Callable[..., tuple], start: tuple) -> tuple:
    """What ``body`` has made of ``start`` once ``condition`` is no longer true; an exported graph has a loop there."""
    if torch.compiler.is_exporting():
        return while_loop(condition, body, start)
    while condition(*start):
        start = body(*start)
    return start


def _full(x: Tensor) -> Tensor:
    """Out of half precision."""
    return x.float() if x.dtype in (torch.bfloat16, torch.float16) else x


def _match(source: Tensor, goal: Tensor) -> Tensor:
    """Likelihood of goal [N, F, colours, unfold^2, h, w] under sources [N, F, sources, colours, unfold^2, h, w], all of
    whose sizes may be 1: [N, F, sources, unfold^2, h, w]. Summed over colours one by one: the differences of all would
    take three times the memory."""
    matches = []
    for one in source.split(1, 2):  # source by source, so that what is reckoned with stays in a processor's cache
        away = (one[:, :, :, 0] - goal[:, :, None, 0]).abs_()
        for c in range(1, goal.shape[2]):
            away += (one[:, :, :, c] - goal[:, :, None, c]).abs_()
        matches.append(away.div_(goal.shape[2]).sub_(EXACT).clamp_(min=0).mul_(-1 / TOLERANCE).exp_())
    return torch.cat(matches, 2)


def _chosen(choices: Tensor, index: Tensor) -> Tensor:
    """Of canvases [N, n, colours, H, W] those at index [N, F, 1, H, W], element by element: [N, F, colours, H, W]."""
    return choices.gather(1, index.expand(-1, -1, choices.shape[2], -1, -1))
