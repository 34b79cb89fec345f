"""The cost of finetuning steps: what is counted, and a file that agrees with itself."""

from __future__ import annotations

import statistics
from pathlib import Path

import pytest
import torch

pytest.importorskip("comfy_extras.nodes_train")

from realcompo.bench import true_models as true  # noqa: E402
from realcompo.bench.hollow import kept_activations  # noqa: E402
from realcompo.bench.speed import finetune as finetune_cost  # noqa: E402
from realcompo.bench.speed import finetune_runs  # noqa: E402
from realcompo.bench.speed.finetune import counts, ratio, state_bytes, timings  # noqa: E402
from realcompo.bench.speed.finetune_runs import FORMS, Subject, run  # noqa: E402

from .results import RESULTS, committed  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def subject() -> Subject:
    """SD1.5's levels with one block each: the maps at a quarter of the latent's sides."""
    kind = true.small(true.SD15, 32, 32)
    return Subject("small", true.unet(kind, torch.float32, 1), 4, 16, 32)


def test_what_a_step_counts(subject: Subject) -> None:
    found = {form: counts(subject, form, 2) for form in FORMS if form != "stock-checkpointed"}
    assert found["maps"]["samples"] == found["whole"]["samples"] == 2
    # the prediction and the frozen one beside the pass for the maps
    assert found["maps+norm"]["samples"] == 6
    # every latent with every prompt
    assert found["stock"]["samples"] == 4
    for what in ("flops", "held_bytes"):
        assert found["maps"][what] < found["whole"][what] < found["stock"][what]
    again = found["maps-checkpointed"]
    assert again["held_bytes"] < found["maps"]["held_bytes"]
    assert again["flops"] > found["maps"]["flops"]
    assert found["maps"]["flops"] < found["maps+norm"]["flops"]
    # adapters behind the last map get no gradient, and so no moments
    assert found["maps"]["state_bytes"] < found["whole"]["state_bytes"]
    assert found["maps"]["state_bytes"] < found["stock"]["state_bytes"]


@pytest.mark.parametrize("form", FORMS)
def test_every_form_is_told_step_by_step_and_leaves_the_model(subject: Subject, form: str) -> None:
    before = {k: v.clone() for k, v in subject.model.model.state_dict().items()}
    seen: list[int] = []
    run(subject, form, 1, 2, lambda optimiser: seen.append(state_bytes(optimiser)))
    assert len(seen) == 2 and seen[0] > 0
    after = subject.model.model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(value, after[key]) for key, value in before.items())


def test_state_is_parameters_gradients_and_moments() -> None:
    weight = torch.nn.Parameter(torch.ones(10))
    optimiser = torch.optim.AdamW([weight])
    weight.sum().backward()
    optimiser.step()
    # value, gradient, two moments, and AdamW's own step counter
    assert state_bytes(optimiser) == 4 * 10 * 4 + 4


def test_forms_take_turns(subject: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []

    def noted(_: Subject, form: str, batch: int, steps: int, after_step) -> None:  # noqa: ANN001
        order.append(form)
        for _ in range(steps):
            after_step(None)

    monkeypatch.setattr(finetune_cost, "run", noted)
    found = timings(subject, 1, 3, 2)
    assert order == [*FORMS, *reversed(FORMS)]
    assert all(len(values) == 2 for values in found.values())


def test_ratio_tells_the_range_of_its_pairs() -> None:
    found = ratio([2.0, 3.0, 10.0], [1.0, 1.0, 2.0])
    assert (found.mean, found.low, found.high) == (3.0, 2.0, 5.0)


def test_backward_is_looked_at_like_grad() -> None:
    layer = torch.nn.Linear(4, 4)
    x = torch.ones(8, 4, requires_grad=True)
    with kept_activations([layer]) as kept:
        layer(x * 2).exp().sum().backward()
        torch.autograd.grad(layer(x * 2).exp().sum(), x)
    assert len(kept.saved) == 2 and kept.saved[0] == kept.saved[1] > 0
    assert torch.autograd.backward.__module__.startswith("torch")


def test_unknown_forms_are_refused(subject: Subject) -> None:
    with pytest.raises(ValueError, match="none of stock"):
        run(subject, "nothing", 1, 1, lambda _: None)


def test_the_committed_file_agrees_with_itself() -> None:
    document = committed("finetune_cost")
    assert set(document["timed"]) == set(finetune_cost.SUBJECTS)
    for batches in document["timed"].values():
        for forms in batches.values():
            assert set(forms) == set(finetune_runs.FORMS)
    found = {claim["name"]: claim for claim in document["claims"]}
    name, batch = finetune_cost.CLAIMED
    forms = document["timed"][name][str(batch)]
    for what, unit in (("seconds", "seconds"), ("mib", "memory")):
        share = statistics.median(forms["maps"][what]) / statistics.median(forms["stock"][what])
        claim = found[f"sepen_step_{unit}"]
        assert claim["value"] == pytest.approx(share, abs=1e-4)
        assert claim["low"] <= claim["value"] <= claim["high"]
        assert claim["met"] == (claim["value"] <= claim["bar"])
    assert "| `maps` |" in (RESULTS / "finetune_cost.md").read_text(encoding="utf-8")
