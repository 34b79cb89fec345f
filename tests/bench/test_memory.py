"""Memory of looks at networks of true size, by hollow runs: what is expected is what is kept.

Weights of any kind: as computed with, or stored otherwise and cast at every call.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from realcompo.balancer.realcompo.settings import plain_settings, preset
from realcompo.bench import hollow
from realcompo.bench import true_models as true
from realcompo.tests.host import pair, tiny

F, H, B = torch.float32, torch.float16, torch.bfloat16
GIB = 2**30


def network(kind: Any, stored: torch.dtype, computed: torch.dtype) -> Any:
    """A hollow U-Net whose weights are kept in one dtype and cast to another, as the host does."""
    with torch.inference_mode():
        patcher = true.unet(kind, stored)
        if stored != computed:
            patcher.model.manual_cast_dtype = computed
            for layer in patcher.model.diffusion_model.modules():
                if hasattr(layer, "comfy_cast_weights"):
                    layer.comfy_cast_weights = True
    return patcher


def probed(
    patcher: Any, kind: Any, pixels: int, batch: int = 1, beside: Any = None,
    checkpointed: bool = False,
) -> tuple[hollow.Kept, int]:  # fmt: skip
    """What one probe keeps, and what it was expected to."""
    import comfy.sampler_helpers
    import comfy.samplers
    from realcompo.balancer.comfy.attention.families import find_sites
    from realcompo.balancer.comfy.attention.family import choose_level
    from realcompo.balancer.comfy.autograd import activation_memory
    from realcompo.balancer.comfy.realcompo import differentiable_pass

    network = patcher.model.diffusion_model
    level = choose_level(find_sites(network), "auto")
    expected: list[int] = []

    def decide(network: Any, sites: Any, what: Any, device: Any) -> bool:
        expected.append(activation_memory.kept_bytes(network, sites, what))
        return checkpointed

    text = true.conditioning(kind, 3)
    with torch.inference_mode():
        about = {**text[0][1], "width": pixels, "height": pixels, **(beside or {})}
        conds = {"positive": comfy.sampler_helpers.convert_cond([[text[0][0], about]])}
        x = torch.zeros(batch, 4, pixels // 8, pixels // 8)
        conds = comfy.samplers.process_conds(patcher.model, x, conds, x.device, None, None, 0)
    patcher.model.current_patcher = patcher
    weights = [network]
    if beside and "gligen" in beside:
        weights.append(beside["gligen"][1].model)
    with (
        pytest.MonkeyPatch.context() as patch, torch.inference_mode(), hollow.counted(),
        hollow.kept_activations(weights) as kept,
    ):  # fmt: skip
        patch.setattr(differentiable_pass, "must_be_checkpointed", decide)
        entry, options = conds["positive"][0], {"transformer_options": {}}
        pair.probed(patcher.model, entry, x, 5.0, level, options)
    return kept, expected[0]


@pytest.mark.parametrize(
    ("kind", "stored", "computed", "pixels", "batch"),
    [
        (true.SD15, F, F, 256, 1),
        (true.SD15, B, F, 256, 1),
        (true.SD15, H, H, 512, 2),
        (true.SD15, torch.float8_e4m3fn, H, 512, 1),
        (true.SDXL_BASE, H, H, 1024, 1),
        (true.SDXL_BASE, B, H, 768, 1),
    ],
)
def test_what_is_expected_is_kept(kind, stored, computed, pixels, batch) -> None:
    kept, expected = probed(network(kind, stored, computed), kind, pixels, batch)
    print(f"kept {kept.alive[0] / GIB:.3f} GiB, expected {expected / GIB:.3f}")
    assert expected == pytest.approx(kept.alive[0], rel=0.15)


def test_with_gligen_and_with_a_controlnet() -> None:
    patcher = network(true.SD15, H, H)
    with torch.inference_mode():
        gligen = true.grounding(patcher, H)
        hint = torch.zeros(1, 3, 512, 512)
        net = true.control(true.SD15, H).copy().set_cond_hint(hint, 0.8, (0.0, 1.0))
    grounded = {"gligen": ("position", gligen, [(torch.zeros(1, 768), 8, 8, 0, 0)])}
    for beside in (grounded, {"control": net, "control_apply_to_uncond": True}):
        kept, expected = probed(patcher, true.SD15, 512, beside=beside)
        assert expected == pytest.approx(kept.alive[0], rel=0.15)


def test_checkpointed_looks_of_sdxl_keep_a_tenth() -> None:
    patcher = network(true.SDXL_BASE, B, H)
    kept, expected = probed(patcher, true.SDXL_BASE, 1024, checkpointed=True)
    assert kept.alive[0] < 0.1 * expected and kept.alive[0] < 0.5 * GIB


@pytest.mark.parametrize("mode", ["dynamic", "lagged"])
def test_a_balanced_step_needs_little_more_than_a_static_mix(mode) -> None:
    """SD1.5 at 256 px in float32, kept in bfloat16. Cast weights live for one layer's call, in
    looks as elsewhere."""
    models = [network(true.SD15, B, F) for _ in range(2)]
    text, empty = true.conditioning(true.SD15, 3), true.conditioning(true.SD15, 4)
    noise = tiny.latent_noise(5, height=32, width=32)
    peaks = []
    for settings in (
        plain_settings(mode="fixed", preset="fixed"), preset("paper", spatial_only=0.0, mode=mode)
    ):  # fmt: skip
        guider = pair.guider(*models, settings, positive=text, negative=empty)
        weights = [patcher.model for patcher in models]
        with true.fused_attention(), hollow.counted(), hollow.peak_memory(weights) as peak:
            pair.run(guider, noise, steps=1)
        peaks.append(peak.bytes)
    assert guider.trace.backwards == 2
    print(f"static mix {peaks[0] / GIB:.3f} GiB, {mode} {peaks[1] / GIB:.3f}")
    assert peaks[1] - peaks[0] <= 0.3 * GIB
