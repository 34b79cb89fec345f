"""The style judge: reads shares of styles, is not fooled by grain, and measures distances."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from itertools import combinations
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from realcompo.balancer.errors import RealCompoError
from realcompo.shapes import style as judge
from realcompo.shapes import train_style as training
from realcompo.shapes.codec import ShapesCodec
from realcompo.shapes.render import render
from realcompo.shapes.world import STYLES, make_scenes
from torch import Tensor

COUNT = 16
SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)


@pytest.fixture(autouse=True)
def without_gradients() -> Iterator[None]:
    with torch.no_grad():
        yield


@pytest.fixture(scope="module")
def codec() -> ShapesCodec:
    from realcompo.shapes.host_models import load_codec

    return load_codec()


@pytest.fixture(scope="module")
def drawings() -> dict[str, Tensor]:
    """The same unseen scenes in every style."""
    generator = torch.Generator().manual_seed(501)
    scenes = make_scenes(COUNT, generator)
    return {style: render(scenes, style, generator) for style in STYLES}


@pytest.fixture(scope="module")
def latents(codec: ShapesCodec, drawings: dict[str, Tensor]) -> dict[str, Tensor]:
    with torch.no_grad():
        return {style: codec.encode(drawn * 2 - 1) for style, drawn in drawings.items()}


@pytest.fixture(scope="module")
def decoded(codec: ShapesCodec, latents: dict[str, Tensor]) -> dict[str, Tensor]:
    with torch.no_grad():
        return {style: as_pictures(codec, latent) for style, latent in latents.items()}


def as_pictures(codec: ShapesCodec, latent: Tensor) -> Tensor:
    return ((codec.decode(latent) + 1) / 2).clamp(0, 1)


def noise_like(pictures: Tensor, seed: int) -> Tensor:
    return torch.randn(pictures.shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("style", STYLES)
def test_every_style_is_told(
    drawings: dict[str, Tensor], decoded: dict[str, Tensor], style: str
) -> None:
    for pictures in (drawings[style], decoded[style]):
        share = judge.style_probability(pictures, style)
        assert share.shape == (COUNT,)
        assert share.mean() > 0.9 and share.min() > 0.75, share
        assert torch.allclose(judge.style_probabilities(pictures).sum(1), torch.ones(COUNT))


@pytest.mark.parametrize("grey", [False, True])
@pytest.mark.parametrize("strength", [0.01, 0.02, 0.05, 0.1])
def test_grain_is_no_realism(decoded: dict[str, Tensor], strength: float, grey: bool) -> None:
    for style, pictures in decoded.items():
        noise = noise_like(pictures[:, :1] if grey else pictures, 7)
        grained = (pictures + strength * noise).clamp(0, 1)
        rise = judge.style_probabilities(grained).mean(0)
        rise = rise - judge.style_probabilities(pictures).mean(0)
        # The strongest grain drowns a drawing's lines; even then it must not look realistic.
        looked_at = STYLES if strength <= 0.05 else ("realistic",)
        for other in set(looked_at) - {style}:
            assert rise[STYLES.index(other)] <= 0.02, (style, other, rise)


DISTORTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "blur": lambda x: training._blurred(x, torch.full((len(x),), 1.0)),
    "blocks": lambda x: training._quantised(x, torch.full((len(x),), 0.05)),
    "warm": lambda x: x * torch.tensor([1.02, 1.0, 0.98]).view(1, 3, 1, 1),
    "cold": lambda x: x * torch.tensor([0.98, 1.0, 1.02]).view(1, 3, 1, 1),
    "dark": lambda x: x * 0.98,
}


@pytest.mark.parametrize("name", DISTORTIONS)
def test_other_faults_are_no_realism(decoded: dict[str, Tensor], name: str) -> None:
    for style in set(STYLES) - {"realistic"}:
        changed = DISTORTIONS[name](decoded[style]).clamp(0, 1)
        assert (changed - decoded[style]).abs().max() > 0.01
        rise = judge.style_probability(changed, "realistic").mean()
        rise = rise - judge.style_probability(decoded[style], "realistic").mean()
        assert rise <= 0.02, (style, float(rise))


def test_noisy_latents_do_not_change_the_style(
    codec: ShapesCodec, latents: dict[str, Tensor], decoded: dict[str, Tensor]
) -> None:
    for style, latent in latents.items():
        rough = as_pictures(codec, latent + 0.1 * noise_like(latent, 8))
        share = judge.style_probability(rough, style).mean()
        assert share > judge.style_probability(decoded[style], style).mean() - 0.1, style


@pytest.mark.parametrize("one, two", list(combinations(STYLES, 2)))  # noqa: PT006
def test_blends_are_read_in_order(
    codec: ShapesCodec,
    latents: dict[str, Tensor],
    decoded: dict[str, Tensor],
    one: str,
    two: str,
) -> None:
    for pixels in (True, False):
        read = []
        for share in SHARES:
            if pixels:
                mixed = share * decoded[one] + (1 - share) * decoded[two]
            else:
                some = share * latents[one][:8] + (1 - share) * latents[two][:8]
                mixed = as_pictures(codec, some)
            told = judge.style_probabilities(mixed).mean(0)
            read.append((float(told[STYLES.index(one)]), float(told[STYLES.index(two)])))
        first, second = zip(*read, strict=True)
        assert all(a < b for a, b in zip(first, first[1:], strict=False)), first
        assert all(a > b for a, b in zip(second, second[1:], strict=False)), second


@pytest.mark.parametrize("style", [s for s in STYLES if s != "plain"])
def test_share_against_plain_is_nearly_linear(decoded: dict[str, Tensor], style: str) -> None:
    for share in SHARES:
        mixed = share * decoded[style] + (1 - share) * decoded["plain"]
        assert judge.style_probability(mixed, style).mean() == pytest.approx(share, abs=0.2)


def test_pasted_regions_count_by_their_area(drawings: dict[str, Tensor]) -> None:
    mask = torch.zeros(1, 1, 128, 128)
    mask[..., :48] = 1
    for style in ("plain", "sketch", "neon"):
        pasted = mask * drawings["realistic"] + (1 - mask) * drawings[style]
        read = judge.style_probability(pasted, "realistic").mean()
        assert read == pytest.approx(48 / 128, abs=0.08), style


@pytest.mark.parametrize(("high", "wide"), [(64, 64), (72, 200), (128, 96)])
def test_any_size(high: int, wide: int) -> None:
    pictures = torch.rand(2, 3, high, wide)
    logits = judge.load_style()(pictures)
    assert logits.shape == (2, len(STYLES), high // judge.STRIDE, wide // judge.STRIDE)
    assert judge.features(pictures).shape == (2, 48)


@pytest.mark.parametrize(
    "shape", [(3, 64, 64), (1, 4, 64, 64), (0, 3, 64, 64), (1, 3, 56, 64), (1, 3, 68, 64)]
)
def test_what_is_no_picture_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(RealCompoError, match="pictures"):
        judge.style_probability(torch.zeros(shape), "plain")
    with pytest.raises(ValueError, match="Unknown style"):
        judge.style_probability(torch.zeros(1, 3, 64, 64), "oil")


def test_one_place_sees_its_neighbourhood_only() -> None:
    with torch.enable_grad():
        pictures = torch.rand(1, 3, 96, 96, requires_grad=True)
        judge.load_style()(pictures)[0, :, 12, 10].sum().backward()
    assert pictures.grad is not None
    rows, columns = (pictures.grad.abs().sum((0, 1)) > 0).nonzero().T
    for seen, centre in ((rows, 12), (columns, 10)):
        low, high = int(seen.min()), int(seen.max())
        assert high - low + 1 == judge.RECEPTIVE_FIELD
        assert (low + high) / 2 == pytest.approx(centre * judge.STRIDE + 1.5, abs=1)


def test_gradients_reach_the_pictures_even_if_loaded_in_inference_mode() -> None:
    judge.load_style.cache_clear()
    with torch.inference_mode():
        judge.style_probability(torch.rand(1, 3, 64, 64), "neon")
    with torch.enable_grad():
        pictures = torch.rand(1, 3, 64, 64, requires_grad=True)
        judge.style_probability(pictures, "neon").sum().backward()
    assert pictures.grad is not None and pictures.grad.abs().sum() > 0


def gaussian(mean: Tensor, root: Tensor, count: int) -> Tensor:
    """Points of exactly this sample mean, and of the sample covariance root @ root.T."""
    points = torch.randn(count, len(mean), dtype=torch.float64)
    points = points - points.mean(0)
    factor = torch.linalg.cholesky(torch.cov(points.T))
    return torch.linalg.solve_triangular(factor, points.T, upper=False).T @ root.T + mean


def test_frechet_distance_by_the_formula() -> None:
    torch.manual_seed(9)
    size = 5
    means = torch.randn(2, size, dtype=torch.float64)
    roots = torch.randn(2, size, size, dtype=torch.float64)
    covariances = [root @ root.T for root in roots]
    # The matrix root as the formula has it, by the eigenvalues of the product of covariances.
    values = torch.linalg.eigvals(covariances[0] @ covariances[1]).real.clamp(min=0)
    wanted = (means[0] - means[1]).square().sum() - 2 * values.sqrt().sum()
    wanted = wanted + covariances[0].trace() + covariances[1].trace()
    sets = [gaussian(mean, root, 40) for mean, root in zip(means, roots, strict=True)]
    assert judge.frechet_distance(*sets) == pytest.approx(float(wanted), rel=1e-9)
    assert judge.frechet_distance(*sets[::-1]) == pytest.approx(float(wanted), rel=1e-9)


@settings(max_examples=40, deadline=None)
@given(st.floats(-3, 3), st.floats(0, 4), st.floats(0, 4), st.integers(2, 9))
def test_frechet_distance_on_a_line(shift: float, one: float, two: float, count: int) -> None:
    points = torch.linspace(-1, 1, count, dtype=torch.float64)[:, None]
    points = points / points.std()
    got = judge.frechet_distance(points * one, points * two + shift)
    assert got == pytest.approx(shift**2 + (one - two) ** 2, abs=1e-6)


def test_frechet_distance_of_few_pictures_and_of_nonsense() -> None:
    few = torch.randn(6, 64)
    assert judge.frechet_distance(few, few) == pytest.approx(0, abs=1e-4)
    assert judge.frechet_distance(few, few + 1) == pytest.approx(64, rel=1e-4)
    with pytest.raises(ValueError, match="two pictures"):
        judge.frechet_distance(few[:1], few)
    with pytest.raises(ValueError, match="shapes"):
        judge.frechet_distance(few, torch.randn(6, 63))


@pytest.fixture(scope="module")
def references() -> dict[str, Tensor]:
    return {style: judge.reference_features(style, 32, 1) for style in STYLES}


def test_references_repeat_and_differ_by_seed(references: dict[str, Tensor]) -> None:
    again, other = (judge.reference_features("plain", 3, seed) for seed in (1, 2))
    assert references["plain"].shape == (32, 48)
    assert torch.equal(again, judge.reference_features("plain", 3, 1))
    assert not torch.allclose(again, other)
    for seed in (-1, judge.MOST_SEEDS):
        with pytest.raises(ValueError, match="seed"):
            judge.reference_features("plain", 2, seed)


def test_references_come_from_seeds_of_their_own() -> None:
    from realcompo.shapes.train_data import CHUNK, SEEDS

    reached = max(*SEEDS.values(), training.POOL_SEED) + 1000 * CHUNK
    assert reached < judge.REFERENCE_SEED


def test_a_style_is_near_itself_and_far_from_the_others(
    references: dict[str, Tensor], decoded: dict[str, Tensor]
) -> None:
    own = {s: judge.features(pictures) for s, pictures in decoded.items()}
    for style in STYLES:
        near = judge.frechet_distance(own[style], references[style])
        others = [s for s in STYLES if s != style]
        far = min(judge.frechet_distance(own[other], references[style]) for other in others)
        assert near < 0.1 * far, (style, near, far)


@pytest.mark.parametrize("style", [s for s in STYLES if s != "plain"])
def test_distance_grows_along_a_blend(
    references: dict[str, Tensor], decoded: dict[str, Tensor], style: str
) -> None:
    distances = [
        judge.frechet_distance(
            judge.features(share * decoded[style] + (1 - share) * decoded["plain"]),
            references[style],
        )
        for share in reversed(SHARES)
    ]
    assert all(a < b for a, b in zip(distances, distances[1:], strict=False)), distances


def test_file_is_small_and_says_what_it_is() -> None:
    from realcompo.shapes.host_models import read_weights

    path = judge.WEIGHTS / "style.safetensors"
    assert path.stat().st_size <= 200_000
    state, facts = read_weights(path.name)
    assert {value.dtype for value in state.values()} == {torch.float16}
    assert {"about", "trained_by", "steps", "images"} <= set(facts)


def test_missing_damaged_and_foreign_files_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = (judge.WEIGHTS / "style.safetensors").read_bytes()
    foreign = (judge.WEIGHTS / "text.safetensors").read_bytes()
    monkeypatch.setattr(judge, "WEIGHTS", tmp_path)
    judge.load_style.cache_clear()
    target = tmp_path / "style.safetensors"
    for bad, told in ((None, "missing"), (content[:999], "damaged"), (foreign, "does not fit")):
        if bad is not None:
            target.write_bytes(bad)
        with pytest.raises(RealCompoError, match=told) as error:
            judge.load_style()
        assert "style.safetensors" in str(error.value) and str(tmp_path) not in str(error.value)
    # What failed is not remembered.
    target.write_bytes(content)
    assert judge.load_style().leave.out_channels == len(STYLES)


def test_faults_for_training_are_what_they_say() -> None:
    basis = training._cosines()
    assert torch.allclose(basis @ basis.T, torch.eye(8), atol=1e-6)
    pictures = torch.rand(2, 3, 32, 24)
    assert torch.allclose(training._quantised(pictures, torch.zeros(2)), pictures, atol=1e-3)
    coarse = training._quantised(pictures, torch.tensor([0.0, 0.5]))
    assert (coarse[0] - pictures[0]).abs().max() < 1e-3 < (coarse[1] - pictures[1]).abs().max()
    dot = torch.zeros(2, 3, 25, 25)
    dot[..., 12, 12] = 1
    soft = training._blurred(dot, torch.tensor([0.0, 1.2]))
    assert torch.allclose(soft[0], dot[0])
    assert soft[1].sum((1, 2)).tolist() == pytest.approx([1, 1, 1], abs=1e-4)
    offsets = torch.arange(25) - 12.0
    variance = (soft[1, 0].sum(0) * offsets**2).sum()
    assert math.sqrt(float(variance)) == pytest.approx(1.2, rel=0.02)


def test_labels_for_training_are_where_the_style_is(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(11)
    pool = torch.empty((8, len(STYLES), 2, 3, 128, 128), dtype=torch.uint8)
    # Each style is an even grey of its own: the picture then tells its label exactly.
    greys = torch.tensor([0, 80, 160, 240], dtype=torch.uint8)
    pool[:] = greys.view(1, -1, 1, 1, 1, 1)
    scenes = make_scenes(8, generator)
    pool[:, STYLES.index("plain"), 0] = (render(scenes, "plain", generator) * 255).byte()
    monkeypatch.setattr(training, "_suffered", lambda pictures, generator: pictures)
    pictures, labels = training.draw(pool, generator, 200)
    assert torch.allclose(labels.sum(1), torch.ones(200, 16, 16), atol=1e-5)
    # Plain drawings carry objects here, so they are left out.
    grey = (labels[:, STYLES.index("plain")] == 0).all(2).all(1)
    told = (labels[grey] * greys.view(1, -1, 1, 1)).sum(1) / 255
    seen = torch.nn.functional.avg_pool2d(pictures[grey, 0], judge.STRIDE)
    assert int(grey.sum()) > 50 and torch.allclose(told, seen, atol=1e-4)
    kinds = (labels[grey].amax((2, 3)) - labels[grey].amin((2, 3))).amax(1)
    assert 0 < int((kinds > 0.01).sum()) < len(kinds)


def test_training_can_be_resumed_and_learns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "SCENES", 32)
    monkeypatch.setattr(training, "BATCH", 8)
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    for folder in (whole, parts):
        folder.mkdir()
    with torch.enable_grad():
        training.train_style(whole, 1.0, 8, False)
        (whole / "style_pictures.pt").rename(parts / "style_pictures.pt")
        steps = training.Run.steps

        def broken(run: training.Run) -> Iterator[int]:
            for step in steps(run):
                if step == 3:
                    run.save()
                    return
                yield step

        with monkeypatch.context() as patch:
            patch.setattr(training.Run, "steps", broken)
            training.train_style(parts, 1.0, 8, False)
        training.train_style(parts, 1.0, 8, True)
    one, two = (torch.load(folder / "style.pt")["averaged_model"] for folder in (whole, parts))
    assert all(torch.equal(value, two[key]) for key, value in one.items())
    assert torch.load(whole / "style.pt")["images"] == 64
