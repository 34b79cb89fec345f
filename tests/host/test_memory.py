"""Memory of a balanced step with true SD1.5 sizes. Slow: REALCOMPO_SLOW=1 runs it.

Needs about 10 GiB and five minutes on two cores.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from realcompo.balancer.realcompo.settings import plain_settings, preset

from . import pair, tiny

GIB = 2**30


class Peak:
    """Largest resident memory of this process seen while a block runs, in bytes."""

    def __init__(self) -> None:
        self.bytes = 0


@contextmanager
def peak_memory() -> Iterator[Peak]:
    import psutil

    process, peak, done = psutil.Process(), Peak(), threading.Event()

    def watch() -> None:
        while not done.is_set():
            peak.bytes = max(peak.bytes, process.memory_info().rss)
            time.sleep(0.005)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield peak
    finally:
        done.set()
        thread.join()


@pytest.mark.skipif(os.environ.get("REALCOMPO_SLOW") != "1", reason="slow: set REALCOMPO_SLOW=1")
def test_a_balanced_step_of_two_sd15_models_and_gligen() -> None:
    models = tiny.sd15_sized(1), tiny.sd15_sized(2)
    gligen = tiny.tiny_gligen(models[1], 7)
    text, empty = tiny.conditioning(3, dim=768), tiny.conditioning(4, dim=768)
    boxes = [(tiny.pooled_phrase(8), 32, 32, 0, 0), (tiny.pooled_phrase(9), 48, 32, 16, 32)]
    grounded = tiny.with_gligen(text, gligen, boxes)
    noise = tiny.latent_noise(5, height=64, width=64)
    peaks = {}
    for settings in (
        plain_settings(mode="fixed", preset="fixed"),
        preset("paper", spatial_only=0.0, preset="dynamic"),
    ):
        guider = pair.guider(
            *models, settings, positive=text, negative=empty, spatial_positive=grounded
        )
        with peak_memory() as peak:
            started = time.perf_counter()
            pair.run(guider, noise, steps=1)
        peaks[settings.preset] = peak.bytes
        print(
            f"{settings.preset}: peak {peak.bytes / GIB:.2f} GiB, "
            f"{time.perf_counter() - started:.0f} s, {guider.trace.cost()}"
        )
    assert guider.trace.backwards == 2
    assert peaks["dynamic"] - peaks["fixed"] <= 1.5 * GIB
    for patcher in (*models, gligen):
        assert all(p.is_inference() for p in patcher.model.parameters())


@pytest.mark.skipif(os.environ.get("REALCOMPO_SLOW") != "1", reason="slow: set REALCOMPO_SLOW=1")
@pytest.mark.parametrize("stored", ["float32", "bfloat16"])
def test_a_look_needs_little_more_than_a_static_mix_whatever_weights_are_kept_in(stored) -> None:
    """SD1.5 at 256 px, one checkpoint in both branches, so that 6 GiB are enough."""
    import torch

    model = tiny.sd15_sized(1)
    if stored != "float32":
        with torch.inference_mode():
            model.model.to(getattr(torch, stored))
        model.model.manual_cast_dtype = torch.float32
        for layer in model.model.modules():
            if hasattr(layer, "comfy_cast_weights"):
                layer.comfy_cast_weights = True
    texts = [tiny.conditioning(n, dim=768) for n in (3, 4, 7)]
    noise = tiny.latent_noise(5, height=32, width=32)
    peaks = {}
    for settings in (
        plain_settings(mode="fixed", preset="fixed"),
        preset("paper", spatial_only=0.0, preset="dynamic"),
    ):
        guider = pair.guider(
            model, model, settings, positive=texts[0], negative=texts[1], spatial_positive=texts[2]
        )
        pair.run(guider, noise, steps=1)  # libraries take their own room once
        with peak_memory() as peak:
            pair.run(guider, noise, steps=1)
        peaks[settings.preset] = peak.bytes
        print(f"{stored}, {settings.preset}: peak {peak.bytes / GIB:.2f} GiB")
    assert guider.trace.backwards == 2
    assert peaks["dynamic"] - peaks["fixed"] <= 0.3 * GIB


def test_weights_are_lent_not_copied() -> None:
    """During the gradient pass the weights are other tensors on the very same memory."""
    import torch
    from realcompo.balancer.comfy.autograd.inference_weights import (
        gradient_mode,
        without_inference_tensors,
    )

    model = tiny.tiny_unet(1).model.diffusion_model
    before = {name: (id(p), p.data_ptr()) for name, p in model.named_parameters()}
    assert all(p.is_inference() for p in model.parameters())
    with torch.inference_mode(), gradient_mode(), without_inference_tensors([model]):
        assert not torch.is_inference_mode_enabled()
        for name, parameter in model.named_parameters():
            assert not parameter.is_inference()
            assert not parameter.requires_grad
            assert parameter.data_ptr() == before[name][1]
    assert {name: (id(p), p.data_ptr()) for name, p in model.named_parameters()} == before
