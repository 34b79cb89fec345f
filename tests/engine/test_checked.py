"""Values that inputs take, and the sentence for those that they do not."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from realcompo.balancer.captions.rewards import flat_texts, read_prompts
from realcompo.balancer.dense.modulation import DenseSettings
from realcompo.balancer.errors import RealCompoError
from realcompo.balancer.finetune.optimisation import TrainingSettings
from realcompo.balancer.finetune.prompts import MOST_CONCEPTS, TEMPLATE, draw_pairs, parse_lines
from realcompo.balancer.realcompo.settings import BalancerSettings, preset
from realcompo.balancer.values import checked

SEED = (0, (1 << 64) - 1)


@pytest.mark.parametrize(
    ("value", "right"),
    [(5, 5), (5.0, 5), (np.int64(7), 7), (np.float32(8), 8), (float(1 << 53), 1 << 53),
     ((1 << 64) - 1, (1 << 64) - 1), (912345678901234567, 912345678901234567),
     (Fraction(4, 2), 2)],
)  # fmt: skip
def test_whole_numbers(value: Any, right: int) -> None:
    found = checked.whole(value, "seed", *SEED)
    assert found == right and type(found) is int


@pytest.mark.parametrize(
    ("value", "words"),
    [(912345678901234567.0, "exact up to 9007199254740992"), (2.5, "not a whole number"),
     (1e20, "1e+20 is outside 0 to 18446744073709551615"), (-1, "outside"), (1 << 64, "outside"),
     (10**400, "401 digits is outside"), (math.nan, "nan is outside"), (math.inf, "inf is outside"),
     (True, "got a yes or no"), ("5", "got a text"), (None, "got nothing"), ([5], "got a list"),
     (torch.tensor(5), "got a tensor")],
)  # fmt: skip
def test_what_is_no_seed(value: Any, words: str) -> None:
    with pytest.raises(RealCompoError, match="Input 'seed': ") as caught:
        checked.whole(value, "seed", *SEED)
    assert words in caught.value.problem


@given(st.one_of(st.integers(), st.floats(), st.booleans(), st.text(max_size=5), st.none()))
def test_a_number_is_taken_as_it_is_or_refused(value: Any) -> None:
    try:
        found = checked.whole(value, "x", -(1 << 60), 1 << 60)
    except RealCompoError:
        assert (
            isinstance(value, bool) or not isinstance(value, (int, float))
            or not abs(value) <= 1 << 60 or value != int(value) or abs(value) > checked.EXACT
        )  # fmt: skip
    else:
        assert type(found) is int and found == value
    try:
        number = checked.number(value, "x", -1e6, 1e6)
    except RealCompoError:
        assert isinstance(value, bool) or not isinstance(value, (int, float)) or not (
            -1e6 <= value <= 1e6
        )
    else:
        assert type(number) is float and math.isfinite(number) and number == value


def test_texts_choices_and_flags() -> None:
    assert checked.text("a \U0001f436", "prompt") == "a \U0001f436"
    for bad, words in (("a\ud800", "half a character"), (b"a", "got a bytes"), (None, "nothing"),
                       ("a" * (1 << 20), "1048576 characters")):  # fmt: skip
        with pytest.raises(RealCompoError) as caught:
            checked.text(bad, "prompt")
        assert words in str(caught.value) and len(str(caught.value)) < 200
    assert checked.choice("a", "mode", ("a", "b")) == "a"
    for bad in ("c" * (1 << 20), None, [], {}, torch.zeros(2), 1.5):
        with pytest.raises(RealCompoError, match=r"Use one of a, b\.") as caught:
            checked.choice(bad, "mode", ("a", "b"))
        assert len(str(caught.value)) < 200
    assert [checked.flag(v, "x") for v in (True, 0, np.bool_(True))] == [True, False, True]
    for bad in ("false", 2, None, 1.0, torch.tensor(True)):
        with pytest.raises(RealCompoError, match="not a yes or no"):
            checked.flag(bad, "x")


def test_pictures_and_masks() -> None:
    image = torch.rand(2, 8, 9, 3)
    assert torch.equal(checked.picture(image, "image"), image)
    assert checked.picture(image[0], "image").shape == (1, 8, 9, 3)
    assert checked.picture(image.to(torch.float8_e4m3fn), "image").dtype == torch.float32
    grown = torch.rand(1, 8, 8, 3).requires_grad_()
    assert not checked.picture(grown, "image").requires_grad
    nan = image.clone()
    nan[0, 0, 0, 0] = math.nan
    spoilt: list[Any] = [
        None, "x", image[:0], image[..., :2], nan, nan.half(), image.byte(), image > 0.5,
        image.to(torch.complex64), image.to_sparse(), torch.zeros(1, 8, 8, 3, device="meta"),
        image[None], torch.nested.nested_tensor([image[0]]), image * math.inf,
    ]  # fmt: skip
    for bad in spoilt:
        with pytest.raises(RealCompoError, match="Input 'image': "):
            checked.picture(bad, "image")
    assert checked.mask(image[:, None, :, :, 0], "mask").shape == (2, 1, 8, 9)
    # a detector that found nothing
    assert checked.mask(image[:0, ..., 0], "mask").shape == (0, 8, 9)
    for bad in (image, nan[..., 0], image[0, :, :0, 0], image[0, 0, 0], None):
        with pytest.raises(RealCompoError, match="Input 'mask': "):
            checked.mask(bad, "mask")


def test_lists_in_lists() -> None:
    assert checked.flat([1, (2, [3]), np.array([4, 5]), torch.tensor([6])], "x") == [
        1, 2, 3, 4, 5, 6
    ]  # fmt: skip
    assert flat_texts(["a", ["b", ("c",)]], "captions") == ["a", "b", "c"]
    endless: list[Any] = []
    endless.append(endless)
    for bad in (endless, [0] * (1 << 17), torch.zeros(3, device="meta")):
        with pytest.raises(RealCompoError, match="Input 'x': "):
            checked.flat(bad, "x")
    for bad in ([torch.tensor(1.0)], [None], ["\ud800"], ["a" * (1 << 20)]):
        with pytest.raises(RealCompoError, match="Input 'captions': "):
            flat_texts(bad, "captions")


ODD = (math.nan, math.inf, True, "1", None, 10**400, [1], 1e20)


@pytest.mark.parametrize("odd", ODD, ids=lambda v: repr(v)[:12])
@pytest.mark.parametrize(
    ("settings", "names"),
    [(BalancerSettings, ("rate", "memory", "smoothing", "every", "initial_mix", "region_prior",
                         "start", "noise_seed", "realism_only")),
     (DenseSettings, ("cross_strength", "end_fraction", "power", "area")),
     (TrainingSettings, ("steps", "batch_size", "learning_rate", "rank", "weight_decay", "ema",
                         "seed"))],
)  # fmt: skip
def test_settings_refuse_what_is_no_number_of_theirs(
    settings: Any, names: tuple[str, ...], odd: Any
) -> None:
    for name in names:
        with pytest.raises(RealCompoError) as caught:
            settings(**{name: odd})
        assert caught.value.where == name and len(str(caught.value)) < 200


def test_settings_take_whole_floats_and_refuse_odd_names() -> None:
    assert BalancerSettings(smoothing=3.0, every=2.0) == BalancerSettings()  # type: ignore[arg-type]
    assert type(BalancerSettings(every=2.0).every) is int  # type: ignore[arg-type]
    for odd in ("none", None, [], {}, 1, "x" * (1 << 20)):
        with pytest.raises(RealCompoError) as caught:
            preset(odd)
        assert caught.value.where == "preset" and len(str(caught.value)) < 200
        with pytest.raises(RealCompoError):
            BalancerSettings(mode=odd)
    for odd in ("no", 2, None):
        with pytest.raises(RealCompoError) as caught:
            BalancerSettings(normalize_rate=odd)
        assert caught.value.where == "normalize_rate"


def test_prompts_a_line_are_bounded() -> None:
    long = "a" * (checked.LONGEST_PROMPT + 1)
    for read in (parse_lines, read_prompts, lambda text: draw_pairs(text, TEMPLATE, 2, 0)):
        with pytest.raises(RealCompoError, match="line 2 has 20001 characters"):
            read(f"a cat and a dog\n{long}")
        with pytest.raises(RealCompoError, match="10001 lines"):
            read("a cat and a dog\n" * (checked.MOST_LINES + 1))
    with pytest.raises(RealCompoError, match=f"{MOST_CONCEPTS + 1} concepts"):
        draw_pairs("\n".join(f"a thing {n}" for n in range(MOST_CONCEPTS + 1)), TEMPLATE, 2, 0)
