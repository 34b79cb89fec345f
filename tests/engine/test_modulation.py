"""The rewritten modulation against the paper's equation, and what it must never do."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from realcompo.balancer.dense.modulation import (
    CrossTerms,
    DenseSettings,
    Segments,
    cross_attention,
    cross_probabilities,
    self_attention,
)
from realcompo.balancer.dense.row_range import row_range
from realcompo.balancer.errors import RealCompoError
from realcompo.tests import dense_reference as literal
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

HEADS, DIM = 3, 40
HEIGHT, WIDTH = 9, 13
TOKENS = [[2, 3], [5], [3, 7, 8]]
LENGTH = 17


def masks_of(kind: str, height: int = HEIGHT, width: int = WIDTH) -> Tensor:
    """Segments (R, N) in float64: apart, one over another, nearly all of it twice."""
    masks = torch.zeros(3, height, width, dtype=torch.float64)
    if kind == "apart":
        masks[0, : height // 2, : width // 2] = 1
        masks[1, height // 3 :, width // 2 :] = 1
        masks[2, height // 2 :, : width // 3] = 1
    elif kind == "overlapping":
        masks[0, 1:6, 1:8] = 1
        masks[1, 4:, 5:] = 1
        masks[2, 2:5, 3:] = 1
    else:
        masks[0, :, :11] = 1
        masks[1, 2:4, 2:4] = 1
        masks[2, :, 2:12] = 1
    return masks.flatten(1)


def inputs(seed: int, positions: int, keys: int, batch: int = 2, size: float = 2.0):
    """q, k, v with scores of a spread of about twenty, as trained models have them."""
    generator = torch.Generator().manual_seed(seed)
    shapes = (positions, keys, keys)
    q, k, v = (
        torch.randn(batch, n, HEADS * DIM, generator=generator, dtype=torch.float64) for n in shapes
    )
    return q * size, k * size, v


def cross_terms(masks: Tensor, chosen: DenseSettings, length: int = LENGTH, words: float = 1.0):
    segments = Segments.of(masks[None], chosen)
    tokens = torch.zeros(1, len(masks), length, dtype=masks.dtype)
    for region, positions in enumerate(TOKENS):
        tokens[0, region, positions] = 1
    factor = torch.full((1, length), words, dtype=masks.dtype)
    return segments.strength, segments.positive(tokens), factor


KINDS = ("apart", "overlapping", "wide")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("amount", [0.05, 0.3, 1.0])
@pytest.mark.parametrize("dtype, limit", [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_self_attention_is_the_equation(kind, amount, dtype, limit) -> None:
    q, k, v = inputs(1, HEIGHT * WIDTH, HEIGHT * WIDTH)
    masks = masks_of(kind)
    wanted = literal.attention(
        q, k, v, HEADS, literal.pairs_of_positions(masks), literal.area_share(masks), amount
    )
    segments = Segments.of(masks.to(dtype)[None], DenseSettings())
    got = self_attention(q.to(dtype), k.to(dtype), v.to(dtype), HEADS, segments, amount)
    assert got.dtype == dtype
    assert float((got - wanted).abs().max()) < limit
    plain = literal.attention(
        q, k, v, HEADS, literal.pairs_of_positions(masks), literal.area_share(masks), 0.0
    )
    assert float((wanted - plain).abs().max()) > 1e-2


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("amount", [0.05, 0.6, 1.0])
@pytest.mark.parametrize("dtype, limit", [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_cross_attention_is_the_equation(kind, amount, dtype, limit) -> None:
    q, k, v = inputs(2, HEIGHT * WIDTH, LENGTH)
    masks = masks_of(kind)
    related = literal.pairs_with_tokens(masks, TOKENS, LENGTH)
    share = literal.area_share(masks)
    terms = cross_terms(masks.to(dtype), DenseSettings())
    got = cross_attention(q.to(dtype), k.to(dtype), v.to(dtype), HEADS, CrossTerms(*terms, amount))
    wanted = literal.attention(q, k, v, HEADS, related, share, amount)
    assert got.dtype == dtype
    assert float((got - wanted).abs().max()) < limit
    maps = cross_probabilities(q.to(dtype), k.to(dtype), HEADS, CrossTerms(*terms, amount))
    expected = literal.probabilities(q, k, HEADS, related, share, amount)
    assert float((maps - expected).abs().max()) < limit


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_closer_than_the_printed_form(dtype) -> None:
    worse = 0.0
    for seed in range(4):
        q, k, v = (t.to(dtype) for t in inputs(seed, 24 * 24, 24 * 24, 1))
        masks = masks_of("apart", 24, 24)
        about = literal.pairs_of_positions(masks), literal.area_share(masks), 0.27
        exact = literal.attention(q.double(), k.double(), v.double(), HEADS, *about)
        printed = literal.attention(q, k, v, HEADS, *about)
        got = self_attention(
            q, k, v, HEADS, Segments.of(masks.float()[None], DenseSettings()), 0.27
        )
        assert got.dtype == dtype
        mine, theirs = ((out - exact).abs() for out in (got, printed))
        assert float(mine.mean()) < float(theirs.mean())
        worse = max(worse, float(mine.max()) / float(theirs.max()))
        full = self_attention(
            q, k, v, HEADS, Segments.of(masks.float()[None], DenseSettings()), 0.27, full=True
        )
        assert float((full - exact).abs().mean()) < float(mine.mean())
        q, k, v = (t.to(dtype) for t in inputs(seed, 24 * 24, LENGTH, 1))
        related = literal.pairs_with_tokens(masks, TOKENS, LENGTH)
        about = related, literal.area_share(masks), 0.9
        exact = literal.attention(q.double(), k.double(), v.double(), HEADS, *about)
        printed = literal.attention(q, k, v, HEADS, *about)
        terms = CrossTerms(*cross_terms(masks.float(), DenseSettings()), 0.9)
        got = cross_attention(q, k, v, HEADS, terms)
        mine, theirs = ((out - exact).abs() for out in (got, printed))
        assert float(mine.mean()) < float(theirs.mean())
    assert worse < 1.0


class Largest(TorchDispatchMode):
    """The most numbers that any tensor made inside had."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, (tuple, list)) else (out,):
            if isinstance(tensor, Tensor):
                self.count = max(self.count, tensor.numel())
        return out


def test_no_square_matrix_is_ever_there() -> None:
    side = 48
    q, k, v = (t.float() for t in inputs(3, side * side, side * side, 1))
    segments = Segments.of(masks_of("apart", side, side).float()[None], DenseSettings())
    with Largest() as seen:
        self_attention(q, k, v, HEADS, segments, 0.3)
    assert seen.count < side**4 / 4
    saved = []
    q, k, v = (t.requires_grad_() for t in (q, k, v))
    keep = torch.autograd.graph.saved_tensors_hooks(
        lambda tensor: saved.append(tensor.numel()) or tensor, lambda tensor: tensor
    )
    with keep, Largest() as seen:
        out = self_attention(q, k, v, HEADS, segments, 0.3)
        out.sum().backward()
    assert max(saved) < side**4 / 10
    assert seen.count < side**4 / 4


def test_range_of_rows_and_its_gradient() -> None:
    generator = torch.Generator().manual_seed(4)
    q = torch.randn(2, 3, 5, 4, generator=generator, dtype=torch.float64, requires_grad=True)
    k = torch.randn(2, 3, 7, 4, generator=generator, dtype=torch.float64, requires_grad=True)
    scores = q @ k.transpose(-1, -2)
    assert torch.equal(row_range(q, k), scores.amax(-1) - scores.amin(-1))
    with torch.no_grad():
        assert torch.equal(row_range(q, k), scores.amax(-1) - scores.amin(-1))
    assert torch.autograd.gradcheck(row_range, (q, k))


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_are_the_equations(kind) -> None:
    masks = masks_of(kind)
    positions = HEIGHT * WIDTH
    for keys in (positions, LENGTH):
        q, k, v = (t.requires_grad_() for t in inputs(5, positions, keys, 1))
        if keys == positions:
            related = literal.pairs_of_positions(masks)
            segments = Segments.of(masks[None], DenseSettings())
            got = self_attention(q, k, v, HEADS, segments, 0.4)
        else:
            related = literal.pairs_with_tokens(masks, TOKENS, LENGTH)
            terms = CrossTerms(*cross_terms(masks, DenseSettings()), 0.4)
            got = cross_attention(q, k, v, HEADS, terms)
        wanted = literal.attention(q, k, v, HEADS, related, literal.area_share(masks), 0.4)
        weights = torch.randn(got.shape, generator=torch.Generator().manual_seed(6)).double()
        mine = torch.autograd.grad((got * weights).sum(), (q, k, v))
        theirs = torch.autograd.grad((wanted * weights).sum(), (q, k, v))
        for one, other in zip(mine, theirs, strict=True):
            assert float((one - other).abs().max()) < 1e-10 * float(other.abs().max())


@given(st.lists(st.lists(st.booleans(), min_size=12, max_size=12), min_size=1, max_size=5))
@settings(max_examples=60, deadline=None)
def test_few_columns_hold_all_pairs(rows) -> None:
    masks = torch.tensor(rows).double()
    segments = Segments.of(masks[None], DenseSettings())
    pairs = segments.queries[0] @ segments.keys[0].T
    assert torch.equal(pairs, literal.pairs_of_positions(masks).double())
    covered = masks.amax(0) > 0
    assert segments.queries.shape[-1] == len({tuple(c) for c in masks.T[covered].tolist()})


def test_segments_that_overlap_never_turn_it_round() -> None:
    """Areas that add up to more than the image, and twice the strength: the order stays."""
    masks = masks_of("wide")
    assert float((masks * masks.mean(1, keepdim=True)).sum(0).max()) > 1.0
    segments = Segments.of(masks[None], DenseSettings())
    assert float(segments.strength.min()) == 0.0
    q, k, _ = inputs(7, HEIGHT * WIDTH, LENGTH)
    apart = masks_of("apart")
    strength, positive, words = cross_terms(apart, DenseSettings())
    before = cross_probabilities(q, k, HEADS, CrossTerms(strength, positive, words, 0.0))
    after = cross_probabilities(q, k, HEADS, CrossTerms(strength, positive, words, 2.0 * 0.999))
    for inside in (True, False):
        chosen = (positive > 0.5) if inside else (positive < 0.5)
        a, b = (m.masked_fill(~chosen[:, None], -1.0) for m in (before, after))
        rank = a.argsort(dim=-1, descending=True)
        ordered = b.gather(-1, rank)
        assert bool((ordered[..., :-1] >= ordered[..., 1:] - 1e-12).all())


def test_nothing_to_bend_is_said_beforehand() -> None:
    whole = torch.ones(1, 1, 12)
    assert Segments.of(whole, DenseSettings()).idle
    assert not Segments.of(whole, DenseSettings(area=0.5)).idle
    nothing = torch.zeros(1, 2, 12)
    assert not Segments.of(nothing, DenseSettings()).idle
    assert Segments.of(nothing, DenseSettings(outside="neutral")).idle
    assert Segments.of(nothing, DenseSettings(outside="background")).idle


def test_positions_in_no_segment() -> None:
    masks = masks_of("apart")
    covered = masks.amax(0) > 0
    q, k, v = inputs(8, HEIGHT * WIDTH, HEIGHT * WIDTH, 1)
    plain = literal.attention(
        q, k, v, HEADS, literal.pairs_of_positions(masks), torch.zeros(HEIGHT * WIDTH), 0.0
    )
    outs = {
        name: self_attention(
            q, k, v, HEADS, Segments.of(masks[None], DenseSettings(outside=name)), 0.5
        )
        for name in ("flatten", "neutral", "background")
    }
    assert float((outs["neutral"] - plain)[:, ~covered].abs().max()) < 1e-12
    assert torch.equal(outs["neutral"][:, covered], outs["flatten"][:, covered])
    # attention of what lies outside spreads: the answer moves towards the mean of all values
    mean = v.mean(1, keepdim=True)
    assert float((outs["flatten"] - mean)[:, ~covered].norm()) < float(
        (plain - mean)[:, ~covered].norm()
    )
    filled = torch.cat([masks, (~covered).double()[None]])
    wanted = literal.attention(
        q, k, v, HEADS, literal.pairs_of_positions(filled), literal.area_share(filled), 0.5
    )
    assert float((outs["background"] - wanted).abs().max()) < 1e-12


def test_a_background_segment_has_no_words() -> None:
    """What the released code does with a description that is empty, largest first or not."""
    masks = masks_of("apart")
    filled = torch.cat([(1 - masks.amax(0))[None], masks])
    q, k, v = inputs(9, HEIGHT * WIDTH, LENGTH, 1)
    related = literal.pairs_with_tokens(filled, [[], *TOKENS], LENGTH)
    wanted = literal.attention(q, k, v, HEADS, related, literal.area_share(filled), 0.8)
    terms = cross_terms(masks, DenseSettings(outside="background"))
    got = cross_attention(q, k, v, HEADS, CrossTerms(*terms, 0.8))
    assert float((got - wanted).abs().max()) < 1e-12


def test_tokens_of_no_segment_may_be_left_alone() -> None:
    masks = masks_of("apart")
    q, k, v = inputs(10, HEIGHT * WIDTH, LENGTH, 1)
    related = literal.pairs_with_tokens(masks, TOKENS, LENGTH)
    factor = torch.zeros(LENGTH, dtype=torch.float64)
    factor[sorted({token for tokens in TOKENS for token in tokens})] = 0.7
    wanted = literal.attention(q, k, v, HEADS, related, literal.area_share(masks), factor)
    strength, positive, _ = cross_terms(masks, DenseSettings())
    terms = CrossTerms(strength, positive, (factor > 0).double()[None], 0.7)
    got = cross_attention(q, k, v, HEADS, terms)
    assert float((got - wanted).abs().max()) < 1e-12


def test_area_and_repeated_prompts() -> None:
    masks = masks_of("overlapping")
    q, k, v = inputs(11, HEIGHT * WIDTH, LENGTH, 1)
    related = literal.pairs_with_tokens(masks, TOKENS, LENGTH)
    for area in (0.0, 0.5):
        wanted = literal.attention(q, k, v, HEADS, related, area * literal.area_share(masks), 0.6)
        strength, positive, words = cross_terms(masks, DenseSettings(area=area))
        got = cross_attention(q, k, v, HEADS, CrossTerms(strength, positive, words, 0.6))
        assert float((got - wanted).abs().max()) < 1e-12
        terms = CrossTerms(strength, positive.repeat(1, 1, 3), words.repeat(1, 3), 0.6)
        tiled = cross_attention(q, k.repeat(1, 3, 1), v.repeat(1, 3, 1), HEADS, terms)
        assert float((tiled - wanted).abs().max()) < 1e-12


def test_samples_with_segments_of_their_own() -> None:
    q, k, v = inputs(12, HEIGHT * WIDTH, HEIGHT * WIDTH, 3)
    masks = torch.stack([masks_of(kind) for kind in KINDS])
    for name in ("flatten", "neutral", "background"):
        chosen = DenseSettings(outside=name)
        batch = self_attention(q, k, v, HEADS, Segments.of(masks, chosen), 0.4)
        for n in range(3):
            alone = self_attention(
                *(t[n : n + 1] for t in (q, k, v)), HEADS,
                Segments.of(masks[n : n + 1], chosen), 0.4,
            )  # fmt: skip
            assert float((batch[n : n + 1] - alone).abs().max()) < 1e-12


def test_long_pictures_are_gone_over_in_parts(monkeypatch) -> None:
    import realcompo.balancer.dense.modulation as modulation

    masks = masks_of("apart")
    q, k, v = inputs(13, HEIGHT * WIDTH, LENGTH, 1)
    terms = CrossTerms(*cross_terms(masks, DenseSettings()), 0.6)
    whole = cross_attention(q, k, v, HEADS, terms)
    monkeypatch.setattr(modulation, "SCORES_AT_A_TIME", HEADS * LENGTH * 10)
    assert float((cross_attention(q, k, v, HEADS, terms) - whole).abs().max()) < 1e-14


def test_fading_is_the_released_codes() -> None:
    """t = 981, 961, ... 701 of 50 steps, to four digits; the strength then ends."""
    table = (
        ".9085 .8196 .7378 .6627 .5938 .5307 .4732 .4207 .3730 .3297 .2906 .2552 .2234 .1948 .1693"
    )
    fading = [DenseSettings().fading(t / 1000) for t in range(981, 700, -20)]
    assert [f"{value:.4f}"[1:] for value in fading] == table.split()
    assert DenseSettings().fading(1.7) == 1.0 and DenseSettings().fading(-1.0) == 0.0
    assert DenseSettings(power=0.0).fading(0.3) == 1.0


@pytest.mark.parametrize(
    "change",
    [
        {"cross_strength": -0.1}, {"self_strength": 2.5}, {"end_fraction": 1.5},
        {"power": float("nan")}, {"area": 2.0}, {"outside": "nothing"}, {"words": "up"},
    ],
)  # fmt: skip
def test_settings_refuse_what_cannot_be_meant(change) -> None:
    with pytest.raises(RealCompoError, match=next(iter(change))):
        DenseSettings(**change)
