"""The layout value: what it refuses, and that JSON brings back exactly what went in."""

from __future__ import annotations

import json
import math

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from realcompo.balancer.errors import RealCompoError
from realcompo.balancer.layouts.layout import SCHEMA, Layout, Region
from realcompo.balancer.layouts.mask import Mask

SLOW = [HealthCheck.too_slow]  # a busy machine is no reason to fail
BOX = (0.1, 0.2, 0.5, 0.6)


@st.composite
def boxes(draw: st.DrawFn) -> tuple[float, float, float, float]:
    axis = st.floats(0, 1, allow_nan=False, allow_subnormal=False)
    x = sorted(draw(st.tuples(axis, axis).filter(lambda p: p[0] != p[1])))
    y = sorted(draw(st.tuples(axis, axis).filter(lambda p: p[0] != p[1])))
    return x[0], y[0], x[1], y[1]


@st.composite
def masks(draw: st.DrawFn) -> Mask:
    height, width = draw(st.integers(1, 9)), draw(st.integers(1, 9))
    data = draw(st.binary(min_size=height * width, max_size=height * width).filter(any))
    return Mask(height, width, data)


@st.composite
def regions(draw: st.DrawFn) -> Region:
    words = st.text('ab \n#:("\u00e4\u65e5\U0001f600', min_size=1, max_size=8)
    return Region(
        draw(words.filter(lambda text: text.strip() != "")),
        draw(boxes()),
        draw(st.none() | masks()),
        draw(st.integers(0, 5)),
        draw(st.floats(1e-3, 1e3)),
        draw(st.none() | st.lists(st.integers(0, 300), min_size=1).map(tuple)),
    )


@settings(max_examples=40, deadline=None, suppress_health_check=SLOW)
@given(st.lists(regions(), max_size=3), st.text(max_size=9), st.none() | st.integers(1, 4096))
def test_json_round_trip_is_exact(found: list[Region], prompt: str, width: int | None) -> None:
    layout = Layout(tuple(found), prompt, width, 640)
    assert Layout.from_json(layout.to_json()) == layout
    assert json.loads(layout.to_json())["schema"] == SCHEMA


@pytest.mark.parametrize(
    "box",
    [
        (-0.1, 0, 0.5, 0.5), (0, 0, 1.01, 1), (0.5, 0, 0.5, 1), (0.6, 0, 0.5, 1),
        (0, 0.7, 1, 0.7), (math.nan, 0, 1, 1), (0, 0, math.inf, 1), (0, 0, 1), "0 0 1 1", None,
        (0, 0, 1, "1"), (0, 0, True, True),
    ],
)  # fmt: skip
def test_box_that_cannot_be_meant(box: object) -> None:
    with pytest.raises(RealCompoError, match=r"'layout'.*'a star'.*box"):
        Region("a star", box)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weight": 0}, "weight"), ({"weight": -1.0}, "weight"), ({"weight": math.nan}, "weight"),
        ({"weight": True}, "weight"), ({"occurrence": -1}, "occurrence"),
        ({"occurrence": 0.5}, "occurrence"), ({"tokens": ()}, "token"),
        ({"tokens": (-1,)}, "token"), ({"tokens": (1.5,)}, "token"), ({"tokens": "12"}, "token"),
        ({"mask": "x"}, "mask"),
        ({"phrase": "  "}, "neither a phrase nor token"), ({"phrase": 3}, "phrase"),
    ],
)  # fmt: skip
def test_region_that_cannot_be_meant(options: dict, message: str) -> None:
    with pytest.raises(RealCompoError, match=message):
        Region(**({"phrase": "a star", "box": BOX} | options))


def test_tokens_stand_for_a_missing_phrase() -> None:
    assert Region("", BOX, tokens=[3, 4]).tokens == (3, 4)  # type: ignore[arg-type]


def test_phrase_is_one_line_of_single_spaces() -> None:
    assert Region("  a red\n star ", BOX).phrase == "a red star"


def test_mask_overrides_the_box() -> None:
    plane = torch.zeros(4, 8)
    plane[1:3, 2:4] = 1
    region = Region("a star", (0, 0, 1, 1), Mask.from_tensor(plane))
    assert region.box == (0.25, 0.25, 0.5, 0.75)
    assert Region.from_mask("a star", Mask.from_tensor(plane), weight=2.0).weight == 2.0


def test_bounds_ignore_a_feathered_edge_but_not_a_faint_mask() -> None:
    row = torch.tensor([[0.0, 0.2, 0.6, 1.0, 0.3, 0.0, 0.0, 0.0]])
    assert Mask.from_tensor(row).bounds() == (0.25, 0.0, 0.5, 1.0)
    assert Mask.from_tensor(row * 0.4).bounds() == (0.125, 0.0, 0.625, 1.0)


@pytest.mark.parametrize(
    "plane",
    [torch.zeros(3, 3), torch.full((2, 2), 1.5), torch.full((2, 2), math.nan), torch.ones(2, 3, 3)],
)
def test_mask_that_cannot_be_meant(plane: torch.Tensor) -> None:
    with pytest.raises(RealCompoError, match="mask"):
        Mask.from_tensor(plane)


def test_mask_keeps_coverage_to_half_a_level() -> None:
    plane = torch.rand(7, 5, generator=torch.Generator().manual_seed(0))
    assert (Mask.from_tensor(plane[None]).tensor() - plane).abs().max() <= 0.5 / 255 + 1e-7
    assert torch.equal(Mask.from_tensor(plane > 0.5).tensor(), (plane > 0.5).float())


@pytest.mark.parametrize(
    "change",
    [
        {"data": "%%%"}, {"data": "AAAA"}, {"height": 5}, {"width": 1}, {"height": 0},
        {"data": None}, {"height": 10**6, "width": 10**6},
    ],
)  # fmt: skip
def test_broken_mask_json(change: dict) -> None:
    good = Mask(2, 2, b"\0\1\2\3").to_dict()
    with pytest.raises(RealCompoError, match="mask"):
        Mask.from_dict(good | change)


def test_mask_data_cannot_unpack_without_bound() -> None:
    bomb = Mask(1000, 1000, b"\1" * 10**6).to_dict() | {"height": 2, "width": 2}
    with pytest.raises(RealCompoError, match="does not fit"):
        Mask.from_dict(bomb)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no JSON"), ("{", "no JSON"), ("[]", "regions"), ('{"regions": 3}', "regions"),
        ('{"regions": [3]}', "region is int"), ('{"regions": [{"phrase": "x"}]}', "box"),
        ('{"schema": 2, "regions": []}', "schema 2.*Update"), ('{"schema": "1", "regions": []}',
        "schema"), ('{"regions": [{"box": [0, 0, 1, 1]}]}', "phrase"),
        ('{"regions": [], "width": 0}', "width"), ('{"regions": [], "prompt": 5}', "prompt"),
    ],
)  # fmt: skip
def test_json_that_is_no_layout(text: str, message: str) -> None:
    with pytest.raises(RealCompoError, match=message):
        Layout.from_json(text)


def test_json_with_only_what_is_needed() -> None:
    layout = Layout.from_json('{"regions": [{"phrase": "a star", "box": [0, 0, 1, 0.5]}]}')
    assert layout == Layout((Region("a star", (0.0, 0.0, 1.0, 0.5)),))


def test_empty_layout_exists_but_is_refused_where_regions_are_needed() -> None:
    layout = Layout(())
    assert Layout.from_json(layout.to_json()) == layout
    with pytest.raises(RealCompoError, match="no regions"):
        layout.require_regions()
    full = Layout((Region("a star", BOX),))
    assert full.require_regions() == full.regions


def test_layout_is_a_value() -> None:
    layout = Layout([Region("a star", BOX)])  # type: ignore[arg-type]
    assert hash(layout) == hash(Layout((Region("a star", BOX),)))
    with pytest.raises(AttributeError):
        layout.prompt = "x"  # type: ignore[misc]
    with pytest.raises(RealCompoError, match="no region"):
        Layout(("a star",))  # type: ignore[arg-type]
