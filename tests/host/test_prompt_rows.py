"""Conditioning that is not the layout prompt's is refused where other words would be read."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import torch
from realcompo.balancer.comfy.attention import families
from realcompo.balancer.errors import RealCompoError
from realcompo.balancer.layouts.layout import Layout, Region

from . import tiny

BOX = (0.1, 0.1, 0.5, 0.5)
PROMPT = "a red star and a blue circle"
LAYOUT = Layout((Region("a red star", BOX), Region("a blue circle", BOX)), PROMPT)


@pytest.fixture(scope="module")
def model() -> Any:
    return tiny.tiny_unet(1)


def concat(first: Any, second: Any) -> Any:
    """As the host's ConditioningConcat."""
    return [[torch.cat((first[0][0], second[0][0]), 1), first[0][1]]]


def located(model: Any, conditioning: Any, layout: Layout = LAYOUT) -> Any:
    return families.locate(layout, model.model, conditioning, "positive")


def refused(model: Any, conditioning: Any, layout: Layout = LAYOUT) -> RealCompoError:
    with pytest.raises(RealCompoError, match="rows of tokens") as caught:
        located(model, conditioning, layout)
    assert caught.value.where == "positive" and "Concat" in caught.value.remedy
    return caught.value


def test_quality_words_concatenated_in_front_are_not_read_as_the_star(model) -> None:
    quality, prompt = tiny.conditioning(8), tiny.conditioning(3)
    error = refused(model, concat(quality, prompt))
    assert "154" in error.problem and "77" in error.problem
    refused(model, concat(prompt, quality))  # nobody can tell which is which


def test_the_node_says_it(model) -> None:
    from realcompo.nodes.sampling import RealCompoGuider

    prompt = tiny.conditioning(3)
    both = concat(tiny.conditioning(8), prompt)
    given = {
        "realism_model": model, "spatial_model": model, "negative": prompt, "layout": LAYOUT,
        "cfg": 4.0,
    }  # fmt: skip
    with pytest.raises(RealCompoError, match="^RealCompo Guider, input 'positive'.*154 rows"):
        RealCompoGuider().guide(positive=both, **given)
    with pytest.raises(RealCompoError, match="input 'spatial_positive'.*154 rows"):
        RealCompoGuider().guide(positive=prompt, spatial_positive=both, **given)
    RealCompoGuider().guide(positive=prompt, **given)


def test_so_does_dense_attention(model) -> None:
    from realcompo.balancer.comfy.dense.apply import apply_dense
    from realcompo.balancer.dense.modulation import DenseSettings

    prompt = tiny.conditioning(3)
    apply_dense(model, None, prompt, LAYOUT, DenseSettings(), replace_phrases=False)
    both = concat(tiny.conditioning(8), prompt)
    with pytest.raises(RealCompoError, match="154 rows"):
        apply_dense(model, None, both, LAYOUT, DenseSettings(), replace_phrases=False)


def test_a_shorter_text_is_not_the_prompt(model) -> None:
    long = Layout(LAYOUT.regions, PROMPT + " on a table" * 40)
    refused(model, tiny.conditioning(3), long)
    assert located(model, tiny.conditioning(3, length=154), long) == located(
        model, tiny.conditioning(3)
    )
    refused(model, tiny.conditioning(3, length=64))  # another text encoder's


def test_explicit_tokens_need_no_rows(model) -> None:
    layout = Layout(tuple(Region(r.phrase, BOX, tokens=(80,)) for r in LAYOUT.regions), PROMPT)
    assert located(model, tiny.conditioning(3, length=154), layout) == ((80,), (80,))


def test_tokens_of_a_style_model_behind_the_text_move_nothing(model) -> None:
    styled = concat(tiny.conditioning(3), tiny.conditioning(4, length=8))
    assert located(model, styled) == located(model, tiny.conditioning(3))


def test_every_part_of_the_schedule_is_looked_at(model) -> None:
    def part(entry: Any, low: float, high: float) -> list[Any]:
        return [entry[0][0], {**entry[0][1], "start_percent": low, "end_percent": high}]

    prompt, long = tiny.conditioning(3), concat(tiny.conditioning(8), tiny.conditioning(3))
    refused(model, [part(prompt, 0.0, 0.5), part(long, 0.5, 1.0)])
    refused(model, [part(prompt, 0.2, 0.5), *long])
    # never the first in force: its words are not read
    located(model, [part(prompt, 0.0, 0.6), part(prompt, 0.4, 1.0), *long])
    located(model, [[long[0][0], {"default": True}], *prompt])


def test_of_several_prompts_it_is_said_which_is_read(model, caplog) -> None:
    caplog.set_level(logging.INFO)
    prompt, quality = tiny.conditioning(3), tiny.conditioning(8)
    located(model, prompt)
    assert not caplog.records
    located(model, prompt + quality)  # Conditioning Combine
    assert "1 more prompt" in caplog.text and "'positive'" in caplog.text
    caplog.clear()
    located(model, [*prompt, [prompt[0][0], {"start_percent": 0.5}]])  # one text, scheduled boxes
    assert not caplog.records


def test_a_language_model_after_another_prompt_is_told_in_the_log(caplog) -> None:
    """Its padding may be of any length, and a style model appends to it: no refusal."""
    from . import tiny_dit
    from .test_encoders import flux_conditioning

    flux = tiny_dit.flux(1, context=4096)
    prompt = flux_conditioning(PROMPT)
    located(flux, prompt)
    assert not caplog.records
    found = located(flux, concat(flux_conditioning("masterpiece"), prompt))
    assert found == located(flux, prompt) and "512 rows" in caplog.text
