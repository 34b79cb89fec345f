"""Cancel, a failing patch, memory running out: both models stay usable and unpatched."""

from __future__ import annotations

import copy

import pytest
import torch
from realcompo.balancer.realcompo.settings import preset

from . import pair, tiny

SETTINGS = preset("paper", spatial_only=0.0, rate=1e4, rate_end=1e4)


@pytest.fixture
def models():
    return tiny.tiny_unet(1), tiny.tiny_unet(2)


def identities(patcher) -> list[tuple[str, int, bool]]:
    """Which tensor objects a model holds: an alias left behind would show."""
    model = patcher.model
    return [(name, id(p), p.is_inference()) for name, p in model.named_parameters()]


class Check:
    """Before: reference result and state. After a failure: the state, and the result again."""

    def __init__(self, models, noise: torch.Tensor) -> None:
        self.models, self.noise = models, noise
        self.reference = pair.run(pair.guider(*models, SETTINGS), noise)
        self.parameters = [identities(model) for model in models]
        self.options = [copy.deepcopy(model.model_options) for model in models]

    def after(self, guider) -> None:
        assert [identities(model) for model in self.models] == self.parameters
        assert [model.model_options for model in self.models] == self.options
        for model in self.models:
            assert getattr(model.model, "current_patcher", None) is None
            assert all(p.is_inference() for p in model.model.parameters())
        assert not torch.is_inference_mode_enabled()
        assert torch.equal(pair.run(guider, self.noise), self.reference)
        again = pair.run(pair.guider(*self.models, SETTINGS), self.noise)
        assert torch.equal(again, self.reference)


def test_cancel_between_steps(models, noise) -> None:
    import comfy.model_management as management

    check = Check(models, noise)
    guider = pair.guider(*models, SETTINGS)

    def cancel(step, x0, x, total) -> None:
        if step == 2:
            management.interrupt_current_processing()

    with pytest.raises(management.InterruptProcessingException):
        pair.run(guider, noise, callback=cancel)
    management.interrupt_current_processing(False)
    assert len(guider.trace.steps) == 3
    check.after(guider)


def test_cancel_inside_the_probe(models, noise, monkeypatch) -> None:
    import comfy.model_management as management
    from realcompo.balancer.comfy.realcompo import probe

    check = Check(models, noise)
    guider = pair.guider(*models, SETTINGS)
    with monkeypatch.context() as patch:

        def interrupted(*args):
            raise management.InterruptProcessingException

        patch.setattr(probe, "attention_probabilities", interrupted, raising=False)
        patch.setattr(probe, "inside_share", interrupted)
        with pytest.raises(management.InterruptProcessingException):
            pair.run(guider, noise)
    check.after(guider)


@pytest.mark.parametrize("where", ["attn1", "attn2"])
def test_another_packs_patch_fails_in_the_probe(models, noise, where) -> None:
    check = Check(models, noise)
    broken = models[0].clone()
    calls = 0

    def fail(query, key, value, extra):
        nonlocal calls
        calls += 1
        if torch.is_grad_enabled() and calls > 2:
            raise ValueError("third pack")
        from realcompo.balancer.comfy.attention.readers import differentiable_attention

        return differentiable_attention(query, key, value, extra)

    broken.set_model_patch_replace(fail, where, "input", 1)
    with pytest.raises(ValueError, match="third pack"):
        pair.run(pair.guider(broken, models[1], SETTINGS), noise)
    check.after(pair.guider(*models, SETTINGS))


def test_out_of_memory_in_the_backward(models, noise, monkeypatch) -> None:
    check = Check(models, noise)
    guider = pair.guider(*models, SETTINGS)
    real, calls = torch.autograd.grad, 0

    def grad(*args, **kwargs):
        nonlocal calls
        calls += 1
        if calls == 4:
            raise torch.OutOfMemoryError("made up")
        return real(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(torch.autograd, "grad", grad)
        with pytest.raises(torch.OutOfMemoryError):
            pair.run(guider, noise)
    check.after(guider)


def test_a_gradient_that_blows_up_is_left_out_and_said(models, noise, caplog) -> None:
    guider = pair.guider(*models, SETTINGS)
    broken = models[0].clone()

    def huge(query, key, value, extra):
        from realcompo.balancer.comfy.attention.readers import differentiable_attention

        out = differentiable_attention(query, key, value, extra)
        return out * float("inf") if torch.is_grad_enabled() else out

    broken.set_model_attn1_replace(huge, "input", 1)
    guider = pair.guider(broken, models[1], SETTINGS)
    latent = pair.run(guider, noise)
    assert torch.isfinite(latent).all()
    assert guider.trace.skipped_gradients == 6
    assert "not finite" in caplog.text
