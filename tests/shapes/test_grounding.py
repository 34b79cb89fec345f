"""The box model: coverage, locality, and the two methods that ComfyUI calls."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from realcompo.balancer.errors import RealCompoError
from realcompo.shapes.grounding import SITES, WIDTH, ShapesGrounding, box_coverage


@pytest.fixture(scope="module")
def grounding() -> ShapesGrounding:
    torch.manual_seed(3)
    return ShapesGrounding().eval()


unit = st.floats(0, 1)


@settings(max_examples=80, deadline=None)
@given(unit, unit, unit, unit, st.integers(1, 20), st.integers(1, 20))
def test_coverage_sums_to_the_area(
    a: float, b: float, c: float, d: float, rows: int, columns: int
) -> None:
    box = torch.tensor([min(a, c), min(b, d), max(a, c), max(b, d)], dtype=torch.float64)
    cover = box_coverage(box, rows, columns)
    assert cover.shape == (rows, columns) and cover.min() >= 0 and cover.max() <= 1
    area = float((box[2] - box[0]) * (box[3] - box[1]))
    assert float(cover.sum()) / (rows * columns) == pytest.approx(area, abs=1e-9)


def test_box_finer_than_a_cell_is_fractional() -> None:
    cover = box_coverage(torch.tensor([0.26, 0.5, 0.29, 0.75]), 4, 4)
    assert cover[2, 1] == pytest.approx(0.12, abs=1e-6) and cover.count_nonzero() == 1


def options(site: int) -> dict[str, int]:
    return {"transformer_index": site}


@pytest.mark.parametrize(("rows", "columns"), [(16, 16), (15, 24), (8, 31)])
def test_object_acts_in_its_box_only(grounding: ShapesGrounding, rows: int, columns: int) -> None:
    x = torch.randn(1, rows * columns, WIDTH)
    phrase = torch.randn(1, WIDTH)
    shape = (1, 16, rows, columns)
    entry = (phrase, rows * 0.5, columns * 0.5, 0.0, 0.0)
    told = grounding.set_position(shape, [entry], "cpu")(x, options(4))
    free = grounding.set_empty(shape, "cpu")(x, options(4))
    changed = ((told - free).abs().amax(-1) > 1e-6).view(rows, columns)
    cover = box_coverage(torch.tensor([0.0, 0.0, 0.5, 0.5]), rows, columns) > 0
    assert torch.equal(changed, cover)


def test_second_object_leaves_the_first_alone(grounding: ShapesGrounding) -> None:
    x = torch.randn(2, 256, WIDTH)
    one = (torch.randn(1, WIDTH), 4, 4, 1, 1)
    two = (torch.randn(1, WIDTH), 4, 4, 10, 10)
    shape = (2, 16, 16, 16)
    alone = grounding.set_position(shape, [one], "cpu")(x, options(4)).view(2, 16, 16, -1)
    both = grounding.set_position(shape, [one, two], "cpu")(x, options(4)).view(2, 16, 16, -1)
    assert torch.allclose(alone[:, :8, :8], both[:, :8, :8], atol=1e-6)
    assert not torch.allclose(alone[:, 10:14, 10:14], both[:, 10:14, 10:14], atol=1e-3)


def test_every_site_takes_its_grid(grounding: ShapesGrounding) -> None:
    hook = grounding.set_position((1, 16, 15, 9), [(torch.randn(1, WIDTH), 4, 4, 1, 1)], "cpu")
    for site, cells in zip(range(SITES), (40, 40, 40, 40, 135), strict=True):
        assert hook(torch.randn(1, cells, WIDTH), options(site)).shape == (1, cells, WIDTH)
    with pytest.raises(ValueError, match="do not fit"):
        hook(torch.randn(1, 41, WIDTH), options(0))


def test_no_objects_means_empty(grounding: ShapesGrounding) -> None:
    x = torch.randn(1, 64, WIDTH)
    shape = (1, 16, 16, 16)
    none = grounding.set_position(shape, [], "cpu")(x, options(0))
    assert torch.equal(none, grounding.set_empty(shape, "cpu")(x, options(0)))


def test_phrase_of_another_encoder_is_refused(grounding: ShapesGrounding) -> None:
    for vector in (torch.randn(1, 768), None):
        with pytest.raises(RealCompoError, match="Load Shapes Demo Models"):
            grounding.set_position((1, 16, 16, 16), [(vector, 4, 4, 1, 1)], "cpu")


def test_gradient_reaches_the_picture(grounding: ShapesGrounding) -> None:
    x = torch.randn(1, 64, WIDTH, requires_grad=True)
    hook = grounding.set_position((1, 16, 16, 16), [(torch.randn(1, WIDTH), 4, 4, 1, 1)], "cpu")
    hook(x, options(0)).square().sum().backward()
    assert x.grad is not None and torch.isfinite(x.grad).all() and x.grad.abs().sum() > 0
