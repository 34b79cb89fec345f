"""What a run leaves behind, and its picture."""

from __future__ import annotations

import pytest
import torch
from realcompo.balancer.errors import RealCompoError
from realcompo.balancer.pictures.palette import PALETTE, REALISM, SPATIAL, region_colour
from realcompo.balancer.pictures.trace import plot_trace
from realcompo.balancer.realcompo.trace import StepRecord, Trace


def example(balanced: bool = True) -> Trace:
    trace = Trace(phrases=("a red star", "a blue circle"))
    for step in range(5):
        record = StepRecord(step, 10.0 - step, "mix", torch.rand(2, 1, 8, 12))
        if balanced:
            record.shares_realism, record.shares_spatial = torch.rand(2, 2), torch.rand(2, 2)
            record.loss_realism, record.loss_spatial = torch.rand(2), torch.rand(2)
        trace.steps.append(record)
    return trace


def test_plot_is_a_picture_with_something_on_it() -> None:
    image = plot_trace(example(), width=800, height=600)
    assert image.shape == (1, 600, 800, 3)
    assert 0.0 <= float(image.min()) < 0.3
    assert float(image.max()) == 1.0
    assert not torch.equal(image, plot_trace(example(), width=800, height=600, sample=1))


def test_plot_of_a_run_without_balancing() -> None:
    assert plot_trace(example(balanced=False)).shape == (1, 768, 1024, 3)


def test_regions_without_common_phrases_are_drawn_too() -> None:
    """A batch of layouts: nothing to call the regions by, but their shares are there."""
    named, nameless = example(), example()
    nameless.phrases, nameless.steps = (), named.steps
    bare = Trace(steps=example(balanced=False).steps)
    pictures = [plot_trace(one, width=800, height=600) for one in (named, nameless, bare)]
    assert not torch.equal(pictures[0], pictures[1])
    assert not torch.equal(pictures[1], pictures[2])


def test_regions_and_models_have_their_colours() -> None:
    """Every colour of the legend's lines is somewhere in the picture, bare of smoothing."""
    image = (plot_trace(example(), width=800, height=600)[0] * 255).round()
    for colour in (region_colour(0), region_colour(1), REALISM, SPATIAL):
        assert int((image == torch.tensor(colour)).all(-1).sum()) > 20, colour
    for colour in PALETTE[2:]:
        assert not (image == torch.tensor(colour)).all(-1).any(), colour


def test_more_regions_than_colours_stay_apart() -> None:
    """Two runs whose 1st and 8th region change places: the same colour, another marker."""
    trace = example()
    for record in trace.steps:
        record.shares_realism, record.shares_spatial = torch.rand(2, 9), torch.rand(2, 9)
    first = plot_trace(trace, width=800, height=600)
    for record in trace.steps:
        for name in ("shares_realism", "shares_spatial"):
            value = getattr(record, name).clone()
            value[:, [0, 7]] = value[:, [7, 0]]
            setattr(record, name, value)
    assert not torch.equal(first, plot_trace(trace, width=800, height=600))


def test_an_empty_trace_says_what_to_connect() -> None:
    with pytest.raises(RealCompoError, match="Connect the sampler's latent"):
        plot_trace(Trace())


def test_a_sample_that_is_not_there() -> None:
    with pytest.raises(RealCompoError, match="no sample 2 in a batch of 2"):
        plot_trace(example(), sample=2)


def test_finish_counts_gradients_that_were_not_finite(caplog) -> None:
    trace = example()
    for verdict in (True, False, True, False):
        trace.note_finite(torch.tensor(verdict))
    trace.finish()
    assert trace.skipped_gradients == 2
    assert "not finite" in caplog.text
    trace.reset()
    assert trace.steps == []
    assert trace.skipped_gradients == 0
    assert trace.phrases
