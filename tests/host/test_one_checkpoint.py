"""One checkpoint behind both branches, with patches of its own on either.

The bar: with the mix forced to one branch the result is that of the host's KSampler with that
branch's model alone, to the last bit, and no second copy of the weights exists.
"""

from __future__ import annotations

import gc
from typing import Any

import pytest
import torch
from realcompo.balancer.realcompo.settings import preset
from torch import Tensor

from . import pair, tiny
from .test_guider_company import ALONE, SETTINGS, new_host

BLOCK = "diffusion_model.input_blocks.1.1.transformer_blocks.0"
VALUES = f"{BLOCK}.attn2.to_v"
LAYERS = (VALUES, f"{BLOCK}.attn1.to_q", f"{BLOCK}.ff.net.2", f"{BLOCK}.attn2.to_out.0")
CONVOLUTION = "diffusion_model.output_blocks.0.0.in_layers.2"

pytestmark = pytest.mark.older_hosts


def drawn(like: Tensor | tuple[int, ...], seed: int) -> Tensor:
    size = like.shape if isinstance(like, Tensor) else like
    return torch.randn(size, generator=torch.Generator().manual_seed(seed))


def lora(model: Any, strength: float = 0.5, seed: int = 3) -> Any:
    """As the host's LoRA loader puts it: linear layers and a convolution."""
    import comfy.sd

    weights = model.model.state_dict()
    file: dict[str, Tensor] = {}
    for number, path in enumerate((*LAYERS, CONVOLUTION)):
        size = weights[f"{path}.weight"].shape
        name = "lora_unet_" + path.removeprefix("diffusion_model.").replace(".", "_")
        up, down = (size[0], 4, 1, 1), (4, *size[1:])
        if len(size) == 2:
            up, down = up[:2], down[:2]
        file[f"{name}.lora_up.weight"] = drawn(up, seed + number)
        file[f"{name}.lora_down.weight"] = drawn(down, seed + 50 + number) / size[1] ** 0.5
    patched, _ = comfy.sd.load_lora_for_models(model, None, file, strength, 0.0)
    assert {f"{path}.weight" for path in (*LAYERS, CONVOLUTION)} <= patched.patches.keys()
    return patched


def norms_and_biases(model: Any) -> Any:
    """What a trained network of full differences changes besides."""
    patched = model.clone()
    weights = model.model.state_dict()
    for key in (f"{BLOCK}.norm2.weight", f"{BLOCK}.norm2.bias", f"{BLOCK}.ff.net.2.bias"):
        patched.add_patches({key: (0.3 * drawn(weights[key], 7),)})
    return lora(patched)


def decomposed(model: Any) -> Any:
    """A DoRA, whose difference depends on the weight that it is added to."""
    import comfy.lora
    import comfy.sd

    size = model.model.state_dict()[f"{VALUES}.weight"].shape
    name = "lora_unet_" + VALUES.removeprefix("diffusion_model.").replace(".", "_")
    file = {
        f"{name}.lora_up.weight": drawn((size[0], 4), 11),
        f"{name}.lora_down.weight": drawn((4, size[1]), 12),
        f"{name}.dora_scale": 1.0 + drawn((size[0], 1), 13).abs(),
    }
    patched, _ = comfy.sd.load_lora_for_models(model, None, file, 0.8, 0.0)
    assert f"{VALUES}.weight" in patched.patches
    return patched


def multiplied(model: Any) -> Any:
    """As core's UNetCrossAttentionMultiply: weights times a number, no tensor at all."""
    patched = model.clone()
    for key in patched.model_state_dict():
        if key.endswith(("attn2.to_k.weight", "attn2.to_v.weight", "attn2.to_v.bias")):
            patched.add_patches({key: (None,)}, 0.0, 1.3)
    return patched


def merged(model: Any) -> Any:
    """As a merge of models: patches as large as the weights."""
    patched = model.clone()
    weights = model.model.state_dict()
    keys = [key for key in weights if key.endswith("weight") and "attn" in key]
    patched.add_patches({key: (0.05 * drawn(weights[key], 5),) for key in keys}, 0.7, 0.6)
    return patched


def exchanged(model: Any) -> Any:
    """A layer exchanged for another by an object patch."""
    patched = model.clone()
    with torch.inference_mode():
        layer = tiny.copied(patched.get_model_object(VALUES))
        layer.weight *= -0.5
    patched.add_object_patch(VALUES, layer)
    return patched


def exchanged_and_lora(model: Any) -> Any:
    return lora(exchanged(model))


def other_levels(model: Any) -> Any:
    """As core's ModelSamplingContinuousEDM, which tells the model other timesteps."""
    import comfy.model_sampling as kinds

    class Sampling(kinds.ModelSamplingContinuousEDM, kinds.EPS):
        pass

    patched = model.clone()
    sampling = Sampling(model.model.model_config)
    # noise is scaled by the first model's highest level: the same one in both
    sampling.set_parameters(0.03, float(model.model.model_sampling.sigma_max), 1.0)
    patched.add_object_patch("model_sampling", sampling)
    return patched


def in_another_dtype(model: Any) -> Any:
    """As core's ModelComputeDtype."""
    if not hasattr(model, "set_model_compute_dtype"):
        pytest.skip("hosts before 2025 compute in the one dtype")
    patched = model.clone()
    patched.set_model_compute_dtype(torch.bfloat16)
    return patched


def wrapped_weights(model: Any) -> Any:
    if not hasattr(model, "add_weight_wrapper"):
        pytest.skip("hosts before 2025 have no weight wrappers")
    patched = lora(model)
    patched.add_weight_wrapper(f"{VALUES}.weight", lambda weight: weight.clamp(-0.2, 0.2))
    return patched


def injected(model: Any) -> Any:
    """As packs that put their modules into the network while it is loaded."""
    if not new_host():
        pytest.skip("injections came with the hosts of December 2024")
    from comfy.model_patcher import PatcherInjection

    patched = model.clone()
    layer = model.get_model_object(VALUES)
    hooks: list[Any] = []

    def inject(_: Any) -> None:
        if not hooks:
            hooks.append(layer.register_forward_hook(lambda *args: args[2] * 0.5))

    def eject(_: Any) -> None:
        # patchers believe to be injected if they were cloned from one that is
        while hooks:
            hooks.pop().remove()

    patched.set_injections("test", [PatcherInjection(inject, eject)])
    return patched


KINDS = {
    "lora": lora, "dora": decomposed, "norms": norms_and_biases, "multiplied": multiplied,
    "merged": merged,
    "exchanged": exchanged, "both": exchanged_and_lora, "levels": other_levels,
    "dtype": in_another_dtype, "wrapped": wrapped_weights, "injected": injected,
}  # fmt: skip
LARGE = ("merged",)


@pytest.fixture
def model() -> Any:
    return tiny.tiny_unet(1)


def state(model: Any) -> list[Any]:
    """All that a run could leave behind in the layers."""
    return [
        (name, type(layer), id(layer), layer.comfy_cast_weights, len(layer.weight_function or ()))
        for name, layer in model.model.named_modules()
        if hasattr(layer, "comfy_cast_weights")
    ]


def run_pair(guider: Any, noise: Tensor, levels_of: Any, steps: int = 3) -> Tensor:
    """A run at the noise levels of another model, as a patch may change those of the first."""
    import comfy.samplers

    with torch.inference_mode():
        return guider.sample(
            noise, torch.zeros_like(noise), comfy.samplers.sampler_object("euler"),
            pair.sigmas_for(levels_of, steps), disable_pbar=True, seed=1,
        )  # fmt: skip


@pytest.mark.parametrize("branch", ["realism", "spatial"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_patch_on_one_branch_is_that_models_ksampler(model, noise, kind, branch) -> None:
    patched = KINDS[kind](model)
    alone = {m: pair.run_alone(m, noise, steps=3) for m in (patched, model)}
    assert not torch.equal(alone[model], alone[patched])
    before = state(model)
    models = (patched, model) if branch == "realism" else (model, patched)
    for which, expected in zip(("realism", "spatial"), models, strict=True):
        guider = pair.guider(*models, ALONE[which])
        one = guider.companions[0].patcher.model is guider.model_patcher.model
        assert one == (kind not in LARGE)
        result = run_pair(guider, noise, expected)
        torch.testing.assert_close(result, alone[expected], rtol=0, atol=0)
    # whoever comes next finds the model as it was
    del guider
    gc.collect()
    assert torch.equal(pair.run_alone(patched, noise, steps=3), alone[patched])
    assert torch.equal(pair.run_alone(model, noise, steps=3), alone[model])
    if kind != "dtype":
        assert state(model) == before


@pytest.mark.parametrize("common", [False, True])
def test_a_lora_of_its_own_on_each_branch(model, noise, common) -> None:
    """Also over a LoRA that both have; and again with other strengths."""
    base = lora(model, 0.3, seed=200) if common else model
    for strengths in ((0.5, 0.4), (-0.6, 0.9)):
        models = lora(base, strengths[0], 3), norms_and_biases(lora(base, strengths[1], 100))
        alone = [pair.run_alone(m, noise, steps=2) for m in models]
        for which, expected in zip(("realism", "spatial"), alone, strict=True):
            guider = pair.guider(*models, ALONE[which])
            assert guider.companions[0].one_model
            assert not guider.companions[0].shared
            assert torch.equal(pair.run(guider, noise, steps=2), expected)
    assert torch.equal(pair.run_alone(model, noise), pair.run_alone(tiny.tiny_unet(1), noise))


@pytest.mark.parametrize("branch", ["realism", "spatial"])
def test_a_lora_of_both_in_a_layer_that_one_exchanges(model, noise, branch) -> None:
    """The host puts patches into whichever layer stands there."""
    plain = lora(model)
    models = {"realism": plain, "spatial": plain, branch: exchanged(plain)}
    for which in models:
        expected = pair.run_alone(models[which], noise, steps=2)
        guider = pair.guider(*models.values(), ALONE[which])
        assert guider.companions[0].one_model
        assert torch.equal(pair.run(guider, noise, steps=2), expected)


@pytest.mark.parametrize("branch", ["realism", "spatial"])
def test_layers_of_the_second_branch_are_brought_to_the_models_device(model, branch) -> None:
    """The host loads what is in the model at the first branch's turn."""
    from realcompo.balancer.comfy.patchers.turns import Turns

    other = exchanged(model)
    layers = {"own": model.get_model_object(VALUES), "exchanged": other.get_model_object(VALUES)}
    first, second = (model.clone(), other.clone())[:: -1 if branch == "realism" else 1]
    before = {name: layer.weight.data_ptr() for name, layer in layers.items()}
    with torch.inference_mode():
        first.patch_model()
        turns = Turns(first, second)
        turns.begin(torch.device("meta"))
        turns.to(second)
        moved = layers["own" if branch == "realism" else "exchanged"]
        assert model.model.get_submodule(VALUES) is moved
        assert {name for name, layer in layers.items() if layer.weight.is_meta} == {
            name for name, layer in layers.items() if layer is moved
        }
        turns.end()
        assert model.model.get_submodule(VALUES) is not moved
        first.unpatch_model()
    assert {name: layer.weight.data_ptr() for name, layer in layers.items()} == before
    assert model.model.get_submodule(VALUES) is layers["own"]


@pytest.mark.parametrize("known_loader", [False, True])
def test_a_copy_takes_patches_off_before_others_come(model, noise, known_loader) -> None:
    if known_loader:
        if not hasattr(model, "cached_patcher_init"):
            pytest.skip("hosts before 2026 cannot load a model again by themselves")
        model.cached_patcher_init = (lambda seed, disable_dynamic: tiny.tiny_unet(seed), (1,))
    for strength in (0.2, 0.7):
        patched = merged(lora(model, strength))
        expected = pair.run_alone(patched, noise, steps=2)
        guider = pair.guider(model, patched, ALONE["spatial"])
        assert guider.companions[0].patcher.model is not model.model
        assert torch.equal(pair.run(guider, noise, steps=2), expected)
        del guider
        gc.collect()


@pytest.mark.parametrize("mode", ["dynamic", "lagged"])
@pytest.mark.parametrize("branch", ["realism", "spatial"])
def test_balanced_as_with_two_checkpoints(model, noise, mode, branch) -> None:
    """Looks, gradients and mix are those of a pair whose second model has the LoRA merged in."""
    settings = preset("paper", spatial_only=0.0, rate=1e4, rate_end=1e4, mode=mode)
    patched, apart = lora(model), lora(tiny.tiny_unet(1))
    runs = []
    for other in (patched, apart):
        models = (other, model) if branch == "realism" else (model, other)
        guider = pair.guider(*models, settings)
        runs.append((pair.run(guider, noise, steps=3), guider.trace))
        assert guider.companions[0].one_model == (other is patched)
    (result, trace), (expected, reference) = runs
    torch.testing.assert_close(result, expected, rtol=1e-4, atol=1e-4)
    assert trace.backwards == reference.backwards > 0
    for ours, theirs in zip(trace.steps, reference.steps, strict=True):
        torch.testing.assert_close(ours.mix, theirs.mix, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(ours.loss_spatial, theirs.loss_spatial, rtol=1e-5, atol=1e-5)


def test_the_weights_are_there_once(model, noise) -> None:
    """No tensor of the second branch beside its LoRA's own; the weights are never written to."""
    patched = lora(model)
    before = {key: (id(p), p.clone()) for key, p in model.model.state_dict(keep_vars=True).items()}
    guider = pair.guider(model, patched, SETTINGS)
    seen: list[int] = []

    def count(*_: Any) -> None:
        gc.collect()
        held = {
            t.untyped_storage().data_ptr(): t.untyped_storage().nbytes()
            for t in gc.get_objects() if type(t) is torch.nn.Parameter
        }  # fmt: skip
        seen.append(sum(held.values()))

    count()
    pair.run(guider, noise, steps=2, callback=count)
    assert seen[1:] == [seen[0]] * 2
    after = model.model.state_dict(keep_vars=True)
    assert all(id(after[key]) == old for key, (old, _) in before.items())
    assert all(torch.equal(after[key], old) for key, (_, old) in before.items())


@pytest.mark.parametrize("where", ["prediction", "look"])
def test_a_run_that_fails_leaves_one_model_as_it_was(model, noise, where, monkeypatch) -> None:
    patched = exchanged(injected(lora(model))) if new_host() else exchanged(lora(model))
    alone = [pair.run_alone(m, noise, steps=2) for m in (patched, model)][::-1]
    before = state(model)
    broken = patched.clone()

    def fail(apply_model: Any, args: Any) -> Tensor:
        if torch.is_grad_enabled() == (where == "look"):
            raise RuntimeError("stop here")
        return apply_model(args["input"], args["timestep"], **args["c"])

    broken.set_model_unet_function_wrapper(fail)
    with pytest.raises(RuntimeError, match="stop here"):
        pair.run(pair.guider(model, broken, SETTINGS), noise)
    assert torch.equal(pair.run_alone(model, noise, steps=2), alone[0])
    assert state(model) == before
    assert torch.equal(pair.run_alone(patched, noise, steps=2), alone[1])


def test_a_lora_where_weights_are_cast_at_every_use(model, noise) -> None:
    """With too little memory the host adds what is common in the layers itself."""
    import comfy.model_management as management

    common = lora(model, 0.3, seed=200)
    patched = lora(common)
    alone = [pair.run_alone(m, noise, steps=2) for m in (common, patched)]
    loads: list[float] = []
    kind = type(model)
    load = kind.load

    def partly(self: Any, device_to: Any = None, *_: Any, **__: Any) -> Any:
        loads.append(1.0)
        return load(self, device_to, lowvram_model_memory=1.0, full_load=False)

    pair.run_alone(tiny.tiny_unet(9), noise, steps=1)
    management.unload_all_models()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kind, "load", partly)
        guiders = [pair.guider(common, patched, ALONE[which]) for which in ("realism", "spatial")]
        results = [pair.run(guider, noise, steps=2) for guider in guiders]
        management.unload_all_models()
    assert loads
    for result, expected in zip(results, alone, strict=True):
        torch.testing.assert_close(result, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("branch", ["realism", "spatial"])
def test_a_lora_beside_a_lora_as_a_hook(model, noise, branch) -> None:
    """The hook is in the weights, the patch on top of them: the host's order where memory is short;
    otherwise it adds them the other way round, which is the same but for rounding."""
    if not new_host():
        pytest.skip("hooks came with the hosts of December 2024")
    patched = lora(model)
    delta = drawn(model.model.state_dict()[f"{VALUES}.weight"], 21)
    text = tiny.with_weight_hook(tiny.conditioning(3), delta, key=f"{VALUES}.weight")
    texts = {"realism": tiny.conditioning(3), "spatial": tiny.conditioning(3), branch: text}
    models = {"realism": model, "spatial": model, branch: patched}
    guiders = {
        which: pair.guider(
            *models.values(), ALONE[which], positive=texts["realism"],
            spatial_positive=texts["spatial"],
        ) for which in models
    }  # fmt: skip
    for which, guider in guiders.items():
        assert guider.companions[0].one_model
        expected = pair.run_alone(models[which], noise, steps=2, positive=texts[which])
        result = pair.run(guider, noise, steps=2)
        torch.testing.assert_close(result, expected, rtol=1e-4, atol=1e-3)
    balanced = pair.guider(
        *models.values(), SETTINGS, positive=texts["realism"], spatial_positive=texts["spatial"]
    )
    first, second = (pair.run(balanced, noise, steps=2) for _ in range(2))
    assert torch.equal(first, second)
    assert torch.equal(pair.run_alone(model, noise), pair.run_alone(tiny.tiny_unet(1), noise))


@pytest.mark.parametrize("pages", ["resident", "evicted", "changing"])
@pytest.mark.parametrize("mode", ["dynamic", "lagged"])
def test_a_lora_on_one_branch_in_dynamic_vram(model, noise, pages, mode, monkeypatch) -> None:
    """Weights come from pages and buffers, to which nothing may be added in place."""
    from realcompo.balancer.comfy.patchers import turns

    from .dynamic_vram import available, dynamic_vram

    if not available():
        pytest.skip("this ComfyUI has no dynamic VRAM")
    settings = preset("paper", spatial_only=0.0, rate=1e4, rate_end=1e4, mode=mode)
    patched = norms_and_biases(model)
    expected = pair.run(pair.guider(model, patched, settings), noise, steps=2)
    alone = pair.run_alone(patched, noise, steps=2)
    monkeypatch.setattr(turns, "is_dynamic", lambda _: True)
    guiders = [pair.guider(model, patched, one) for one in (settings, ALONE["spatial"])]
    with dynamic_vram(model.model, pages=pages) as card:
        result, spatial = (pair.run(guider, noise, steps=2) for guider in guiders)
    assert card.faults > 0
    assert guiders[0].trace.backwards > 0
    torch.testing.assert_close(result, expected, rtol=1e-5, atol=1e-5 * float(expected.abs().max()))
    torch.testing.assert_close(spatial, alone, rtol=1e-5, atol=1e-5 * float(alone.abs().max()))


@pytest.mark.parametrize(
    ("kept", "used"),
    [
        (torch.float32, torch.float32),
        (torch.float16, torch.float16),
        (torch.bfloat16, torch.float32),
        (torch.float8_e4m3fn, torch.float16),
        (torch.float8_e5m2, torch.bfloat16),
    ],
    ids=str,
)
def test_a_weight_is_what_the_host_would_have_loaded(kept, used) -> None:
    """To the last bit, the rounding of 8-bit weights included."""
    import comfy.model_patcher
    import comfy.ops
    from realcompo.balancer.comfy.patchers.layer_functions import Added

    with torch.inference_mode():
        root = torch.nn.Module()
        root.layer = comfy.ops.manual_cast.Linear(24, 16, dtype=kept, device="cpu")
        root.layer.weight.copy_(drawn((16, 24), 1).to(kept))
        root.layer.bias.zero_()
        cpu = torch.device("cpu")
        patcher = comfy.model_patcher.ModelPatcher(root, cpu, cpu)
        patcher.add_patches({"layer.weight": (drawn((16, 24), 2),)}, 0.4, 0.9)
        plain = root.layer.weight.detach().clone()
        added = Added(
            "layer.weight", patcher.patches["layer.weight"], root.layer, "weight", dynamic=False
        )
        result = added(plain.to(used))
        patcher.patch_weight_to_device("layer.weight", device_to=cpu)
        loaded = root.layer.weight.to(used)
    assert result.dtype == used
    assert not torch.equal(loaded, plain.to(used))
    assert torch.equal(result, loaded)
