"""Random model files: written as announced, and taken by the host's own loaders as the real ones.

Narrow files are used: the fewest and narrowest layers that the loaders know a family by.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("comfy.samplers", reason="files are made of the host's networks")
nodes = pytest.importorskip("nodes", reason="the loaders are the host's nodes")

import comfy.ops  # noqa: E402
import comfy.utils  # noqa: E402
import folder_paths  # noqa: E402
from realcompo.balancer.layouts.layout import Layout, Region  # noqa: E402
from realcompo.balancer.realcompo.settings import plain_settings  # noqa: E402
from realcompo.bench.model_files import main as random_files  # noqa: E402
from realcompo.bench.model_files.values import drawn  # noqa: E402
from realcompo.nodes.sampling import RealCompoDualSampler  # noqa: E402

FP8 = torch.float8_e4m3fn
QUANTISES = hasattr(comfy.utils, "detect_layer_quantization")
"""Whether this host knows layers of 8 bits with scales (hosts of 2026)."""
SIDE = 8
"""Of the latents, in their own pixels."""
PROMPT = "a corgi and a black cat on a sofa"
LAYOUT = Layout(
    regions=(
        Region("a corgi", (0.0, 0.25, 0.5, 1.0), tokens=(1, 2)),
        Region("a black cat", (0.5, 0.25, 1.0, 1.0), tokens=(4, 5, 6)),
    ),
    prompt=PROMPT,
)  # fmt: skip
Write = Callable[..., Path]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where the host's loaders find files of any kind."""
    place = tmp_path_factory.mktemp("random")
    with pytest.MonkeyPatch.context() as patched, torch.inference_mode():
        for function in ("get_full_path", "get_full_path_or_raise"):
            patched.setattr(folder_paths, function, lambda kind, name: str(place / name))
        yield place


@pytest.fixture
def write(folder: Path) -> Iterator[Write]:
    """Write a file for the loaders, unless it is there. Large ones are gone after the test."""
    with torch.inference_mode():
        yield lambda kind, **options: random_files.write(kind, folder, **options)
    comfy.model_management.unload_all_models()
    for path in folder.iterdir():
        if path.stat().st_size > 250 * 2**20:
            with contextlib.suppress(PermissionError):  # on Windows, while it is still open
                path.unlink()


@pytest.fixture
def quiet(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """No loader missed a weight or found one too many: it would have warned of it."""
    with caplog.at_level(logging.WARNING):
        yield
    for when in ("setup", "call"):
        told = [record.getMessage() for record in caplog.get_records(when)]
        assert not told


@pytest.fixture(scope="module")
def unet(folder: Path) -> Any:
    """A narrow U-Net of SD1.5, loaded once."""
    return _unet(random_files.write("unet_sd15", folder))


def _tensors(path: Path) -> dict[str, torch.Tensor]:
    return comfy.utils.load_torch_file(str(path))


def _unet(path: Path, weights: str = "default") -> Any:
    return nodes.UNETLoader().load_unet(path.name, weights)[0]


def _holds(model: Any, path: Path, prefix: str = "") -> None:
    """Every weight of the U-Net is the file's, and the file has no others."""
    stored = {k[len(prefix) :]: v for k, v in _tensors(path).items() if k.startswith(prefix)}
    _same(model.model.diffusion_model, stored)


def _same(module: Any, stored: dict[str, torch.Tensor]) -> None:
    loaded = module.state_dict()
    assert loaded.keys() == stored.keys()
    for name, tensor in loaded.items():
        assert torch.equal(tensor.float(), stored[name].float()), name


def _sound(tensor: torch.Tensor) -> torch.Tensor:
    assert tensor.isfinite().all() and tensor.std() > 1e-3
    return tensor


def _drawn_prompts(width: int = 768) -> list[Any]:
    """Conditioning without a text encoder."""
    return [[[drawn(name, (1, 77, width), 1) * width**0.5, {}]] for name in ("yes", "no")]


def _prompts(clip: Any) -> list[Any]:
    return [nodes.CLIPTextEncode().encode(clip, text)[0] for text in (PROMPT, "blurry")]


def _sample(model: Any, positive: Any, negative: Any) -> torch.Tensor:
    """Two steps of the host's KSampler from an empty latent."""
    latent = {"samples": torch.zeros(1, 4, SIDE, SIDE)}
    (out,) = nodes.KSampler().sample(
        model, 1, 2, 4.0, "euler", "normal", positive, negative, latent, 1.0
    )
    return _sound(out["samples"])


@pytest.mark.parametrize("family, width, pooled", [("sd15", 768, 768), ("sdxl", 2048, 1280)])
def test_a_checkpoint_is_known_by_its_family_and_gives_a_picture(
    family: str, width: int, pooled: int, write: Write, quiet: None
) -> None:
    path = write(family)
    model, clip, vae = nodes.CheckpointLoaderSimple().load_checkpoint(path.name)
    assert type(model.model.model_config).__name__ == family.upper()
    _holds(model, path, "model.diffusion_model.")
    (positive,) = nodes.CLIPTextEncode().encode(clip, PROMPT)
    ((text, extra),) = positive
    assert _sound(text).shape == (1, 77, width)
    assert _sound(extra["pooled_output"]).shape == (1, pooled)
    latent = _sample(model, positive, nodes.ConditioningZeroOut().zero_out(positive)[0])
    (picture,) = nodes.VAEDecode().decode(vae, {"samples": latent})
    assert _sound(picture).shape == (1, 8 * SIDE, 8 * SIDE, 3) and 0.01 < picture.mean() < 0.99


def test_a_unet_alone_is_known_and_keeps_its_numbers(write: Write, quiet: None) -> None:
    path = write("unet_sd15", dtype=torch.bfloat16)
    model = _unet(path)
    assert type(model.model.model_config).__name__ == "SD15"
    _holds(model, path)


def test_parts_of_sdxl_are_put_together_and_take_a_lora(write: Write, quiet: None) -> None:
    path = write("unet_sdxl")
    model = _unet(path)
    assert type(model.model.model_config).__name__ == "SDXL"
    _holds(model, path)
    parts = [write("clip_l"), write("clip_g")]
    (clip,) = nodes.DualCLIPLoader().load_clip(*(part.name for part in parts), "sdxl")
    for part, encoder in zip(parts, ("clip_l", "clip_g"), strict=True):
        _same(getattr(clip.cond_stage_model, encoder).transformer, _tensors(part))
    lora = write("lora_sdxl")
    tuned, taught = nodes.LoraLoader().load_lora(model, clip, lora.name, 1.0, 1.0)
    layers = [name for name in _tensors(lora) if name.endswith(".alpha")]
    assert len(tuned.patches) + len(taught.patcher.patches) == len(layers)


def test_an_autoencoder_alone_decodes_what_it_encodes(write: Write, quiet: None) -> None:
    (vae,) = nodes.VAELoader().load_vae(write("vae").name)
    (picture,) = nodes.VAEDecode().decode(vae, {"samples": torch.randn(1, 4, 8, 8)})
    assert _sound(picture).shape == (1, 64, 64, 3)
    (latent,) = nodes.VAEEncode().encode(vae, picture)
    assert _sound(latent["samples"]).shape == (1, 4, 8, 8)


def test_a_lora_reaches_every_layer_it_names_and_changes_the_picture(
    unet: Any, write: Write, quiet: None
) -> None:
    text = write("clip_l")
    (clip,) = nodes.CLIPLoader().load_clip(text.name, "stable_diffusion")
    _same(clip.cond_stage_model.clip_l.transformer, _tensors(text))
    path = write("lora_sd15")
    tuned, taught = nodes.LoraLoader().load_lora(unet, clip, path.name, 0.5, 0.5)
    layers = [name for name in _tensors(path) if name.endswith(".alpha")]
    assert len(tuned.patches) + len(taught.patcher.patches) == len(layers) == 120 + 72
    before, after = _prompts(clip), _prompts(taught)
    assert (before[0][0][0] - after[0][0][0]).std() > 0.05
    assert (_sample(unet, *before) - _sample(tuned, *before)).std() > 0.05


def test_gligen_has_a_fuser_in_every_block_and_moves_the_picture(
    unet: Any, write: Write, quiet: None
) -> None:
    (gligen,) = nodes.GLIGENLoader().load_gligen(write("gligen").name)
    sites = [k for k in unet.model.diffusion_model.state_dict() if k.endswith("attn2.to_q.weight")]
    assert len(gligen.model.module_list) == len(sites) == 10
    positive, negative = _drawn_prompts()
    phrase = drawn("phrase", (1, 768), 1)
    boxed = [[positive[0][0], {"gligen": ("position", gligen, [(phrase, 8, 4, 0, 4)])}]]
    plain, grounded = (_sample(unet, prompt, negative) for prompt in (positive, boxed))
    assert (plain - grounded).std() > 0.05


@pytest.mark.parametrize(
    "kind, residuals",
    [
        ("control_sd15", 8 + 1), ("control_sdxl", 9 + 1), ("control_sd15_diffusers", 12 + 1),
        ("control_sdxl_union", 9 + 1),
    ],
)  # fmt: skip
def test_a_controlnet_gives_residuals(
    kind: str, residuals: int, unet: Any, write: Write, quiet: None
) -> None:
    (control,) = nodes.ControlNetLoader().load_controlnet(write(kind).name)
    stored, held = _tensors(write(kind)), control.control_model.state_dict()
    assert sum(t.numel() for t in stored.values()) == sum(t.numel() for t in held.values())
    if kind.endswith("union"):
        control.set_extra_arg("control_type", [0])
    control = control.copy().set_cond_hint(torch.rand(1, 3, 64, 64), 1.0, (0.0, 1.0))
    schedule = unet.model.model_sampling
    control.pre_run(unet.model, schedule.percent_to_sigma)
    given = {"c_crossattn": _drawn_prompts(2048 if "sdxl" in kind else 768)[0][0][0]}
    if "sdxl" in kind:
        given["y"] = torch.randn(1, 2816)
    more = {"transformer_options": {}} if hasattr(comfy, "patcher_extension") else {}
    out = control.get_control(torch.randn(1, 4, SIDE, SIDE), torch.ones(1), given, 1, **more)
    found = [tensor for side in out.values() for tensor in side if tensor is not None]
    assert len(found) == residuals and all(t.isfinite().all() for t in found)
    # the one in diffusers' layout for SD1.5 is without values below the first level
    below = kind == "control_sd15_diffusers"
    assert all(t.std() > 1e-3 for t in found if not (below and t.shape[-1] < SIDE))


EIGHT_BITS = {
    "stored": ({"dtype": FP8}, "fp8_e4m3fn"),
    "on loading": ({}, "fp8_e4m3fn"),
    "comfy_quant": ({"quantised": "comfy_quant"}, "default"),
    "metadata": ({"quantised": "metadata"}, "default"),
    "scaled_fp8": ({"quantised": "scaled_fp8"}, "default"),
}


def _plain(path: Path, on_loading: str) -> Any:
    """The model with the very same weights of 8 bits as ordinary numbers."""
    import comfy.sd

    stored = _tensors(path)
    weights = {}
    for name, tensor in stored.items():
        if name.endswith((".comfy_quant", "_scale", "scale_weight")) or name == "scaled_fp8":
            continue
        layer = name.removesuffix(".weight")
        scales = [stored.get(f"{layer}.{end}") for end in ("weight_scale", "scale_weight")]
        scale = next((s for s in scales if s is not None and layer != name), 1.0)
        weights[name] = (tensor.to(FP8) if on_loading == "fp8_e4m3fn" else tensor).float() * scale
    return comfy.sd.load_diffusion_model_state_dict(weights)


def _balanced(mode: str, realism: Any, spatial: Any) -> tuple[Any, Any]:
    """Latent and trace of two balanced steps of the pair."""
    settings = plain_settings(mode=mode, rate=4.0, initial_mix=0.5, region_prior=0.0, every=1)
    positive, negative = _drawn_prompts()
    latent, trace = RealCompoDualSampler().sample(
        {"samples": torch.zeros(1, 4, SIDE, SIDE)}, seed=1, steps=2, sampler_name="euler",
        scheduler="normal", denoise=1.0, realism_model=realism, spatial_model=spatial,
        positive=positive, negative=negative, layout=LAYOUT, cfg=4.0, balancer=settings,
    )["result"]  # fmt: skip
    assert trace.steps[0].phase == "balance" and trace.steps[0].mix.std() > 0.01
    assert trace.backwards > 0 and trace.skipped_gradients == 0
    return _sound(latent["samples"]), trace


def _eight_bits(form: str, write: Write) -> tuple[Any, Any]:
    """The U-Net in 8 bits, and in full with the same numbers; other ones than the fixture's."""
    options, on_loading = EIGHT_BITS[form]
    scaled = form == "scaled_fp8" and hasattr(comfy.ops, "scaled_fp8_ops")
    if "quantised" in options and not (QUANTISES or scaled):
        pytest.skip("THIS COMFYUI HAS NO QUANTISED LAYERS (they came in late 2025)")
    path = write("unet_sd15", seed=2, **options)
    model = _unet(path, on_loading)
    layer = model.model.diffusion_model.input_blocks[1][1].transformer_blocks[0].attn2.to_q
    held = getattr(layer.weight, "_qdata", layer.weight)
    wrapped = "quantised" in options and QUANTISES
    assert held.dtype == FP8 and wrapped == hasattr(layer.weight, "_qdata")
    return model, _plain(path, on_loading)


@pytest.mark.parametrize("form", ["stored", "metadata"])
def test_weights_of_eight_bits_are_read_as_the_same_numbers_in_full(
    form: str, write: Write, quiet: None
) -> None:
    model, plain = _eight_bits(form, write)
    positive, negative = _drawn_prompts()
    got, wanted = (_sample(one, positive, negative) for one in (model, plain))
    assert torch.allclose(got, wanted, atol=1e-3), (got - wanted).abs().max()


@pytest.mark.parametrize("form", ["on loading", "comfy_quant", "scaled_fp8"])
def test_weights_of_eight_bits_are_balanced_as_the_same_numbers_in_full(
    form: str, unet: Any, write: Write, quiet: None
) -> None:
    spatial, plain = _eight_bits(form, write)
    for mode in ("dynamic", "lagged"):
        latent, trace = _balanced(mode, unet, spatial)
        full, told = _balanced(mode, unet, plain)
        assert torch.allclose(latent, full, atol=2e-3), (mode, (latent - full).abs().max())
        for ours, theirs in zip(trace.steps, told.steps, strict=True):
            assert torch.allclose(ours.mix, theirs.mix, atol=2e-3), mode


@pytest.mark.skipif(not QUANTISES, reason="THIS COMFYUI HAS NO QUANTISED LAYERS")
def test_layers_that_multiply_in_eight_bits_are_balanced(
    unet: Any, write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on cards that can; activations are rounded too, so that the mix is only near the full
    one's."""
    monkeypatch.setattr(comfy.model_management, "supports_fp8_compute", lambda device=None: True)
    spatial, plain = _eight_bits("comfy_quant", write)
    for mode in ("dynamic", "lagged"):
        mixes = [_balanced(mode, unet, model)[1].steps[0].mix for model in (spatial, plain)]
        apart, spread = (mixes[0] - mixes[1]).std(), mixes[1].std()
        assert 0 < apart < 0.3 * spread, (mode, float(apart), float(spread))
