"""The demo models through the host's own nodes, as a user runs them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from realcompo.balancer.errors import RealCompoError
from realcompo.nodes.demo import NODE_CLASS_MAPPINGS, RealCompoShapesLoader
from realcompo.shapes.oracle import judge_scenes, rates
from realcompo.shapes.world import Scene, make_caption, make_scenes

SCENES = 8
STEPS = 12


@pytest.fixture(scope="module")
def nodes() -> Any:
    return pytest.importorskip("nodes")


@pytest.fixture(scope="module")
def parts() -> dict[str, tuple[Any, Any, Any, Any]]:
    loader = NODE_CLASS_MAPPINGS["RealCompoShapesLoader"]()
    with torch.inference_mode():
        return {p: loader.load("realistic", p) for p in ("realism", "spatial")}


@pytest.fixture(autouse=True)
def as_in_the_executor() -> Iterator[None]:
    with torch.inference_mode():
        yield


def sample(nodes: Any, loaded: Any, text: str, boxes: list[Any], latent: Any, **extra: Any) -> Any:
    """Stock nodes only; boxes are (phrase, x, y, width, height) in pixels."""
    model, clip, _, gligen = loaded
    positive = nodes.CLIPTextEncode().encode(clip, text)[0]
    negative = nodes.CLIPTextEncode().encode(clip, "")[0]
    for phrase, x, y, wide, high in boxes:
        apply = nodes.GLIGENTextBoxApply().append
        positive = apply(positive, clip, gligen, phrase, wide, high, x, y)[0]
    run = {"seed": 5, "steps": STEPS, "sampler": "euler", **extra}
    return nodes.KSampler().sample(
        model, run["seed"], run["steps"], 3.0, run["sampler"], "normal", positive, negative, latent
    )[0]


def pixel_boxes(scene: Scene) -> list[Any]:
    """Boxes rounded to the 8-pixel grid of the stock node."""
    result = []
    for thing in scene.objects:
        x0, y0, x1, y1 = (round(v * 16) * 8 for v in thing.box)
        result.append((thing.phrase, x0, y0, x1 - x0, y1 - y0))
    return result


def test_node_is_described() -> None:
    for options in RealCompoShapesLoader.INPUT_TYPES()["required"].values():
        assert options[1]["tooltip"]
    node = RealCompoShapesLoader
    assert len(node.RETURN_TYPES) == len(node.RETURN_NAMES) == len(node.OUTPUT_TOOLTIPS) == 4
    assert node.DESCRIPTION and node.CATEGORY == "RealCompo/demo"


def test_files_are_those_that_were_exported() -> None:
    from realcompo.shapes.host_models import WEIGHTS, read_weights, weight_hashes

    total = 0
    listed = weight_hashes()
    assert set(listed) == {p.name for p in WEIGHTS.glob("*.safetensors")}
    for name, digest in listed.items():
        content = (WEIGHTS / name).read_bytes()
        assert hashlib.sha256(content).hexdigest() == digest
        assert len(content) <= 8 * 2**20
        total += len(content)
        assert {"about", "trained_by", "images"} <= set(read_weights(name)[1])
        assert name in (WEIGHTS / "CARD.md").read_text(encoding="utf-8")
    assert total <= 12 * 2**20


@pytest.mark.parametrize("name", ["realism", "text", "codec", "grounding"])
def test_missing_and_damaged_files_are_named(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from realcompo.shapes import host_models

    file = f"{name}.safetensors"
    for path in host_models.WEIGHTS.glob("*.safetensors"):
        if path.name != file:
            (tmp_path / path.name).symlink_to(path)
    content = (host_models.WEIGHTS / file).read_bytes()
    monkeypatch.setattr(host_models, "WEIGHTS", tmp_path)
    with pytest.raises(RealCompoError, match="missing") as missing:
        host_models.load_demo("realistic", "realism")
    (tmp_path / file).write_bytes(content[: len(content) // 2])
    with pytest.raises(RealCompoError, match="damaged") as damaged:
        host_models.load_demo("realistic", "realism")
    for error in (missing, damaged):
        told = str(error.value)
        assert file in told and "Load Shapes Demo Models" in told and str(tmp_path) not in told


def test_foreign_weights_do_not_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from realcompo.shapes import host_models

    for path in host_models.WEIGHTS.glob("*.safetensors"):
        if path.name != "realism.safetensors":
            (tmp_path / path.name).symlink_to(path)
    (tmp_path / "realism.safetensors").symlink_to(host_models.WEIGHTS / "codec.safetensors")
    monkeypatch.setattr(host_models, "WEIGHTS", tmp_path)
    with pytest.raises(RealCompoError, match="does not fit"):
        host_models.load_demo("realistic", "realism")


@pytest.mark.parametrize(("style", "part"), [("oil", "realism"), ("realistic", "both")])
def test_unknown_choice(style: str, part: str) -> None:
    with pytest.raises(RealCompoError, match="there is no"):
        RealCompoShapesLoader().load(style, part)


def test_host_types(parts: Any) -> None:
    import comfy.model_patcher
    import comfy.sd

    for model, clip, vae, gligen in parts.values():
        assert isinstance(model, comfy.model_patcher.ModelPatcher)
        assert isinstance(clip, comfy.sd.CLIP) and isinstance(vae, comfy.sd.VAE)
        assert isinstance(gligen, comfy.model_patcher.ModelPatcher)
        assert model.get_model_object("latent_format").latent_channels == 16
        assert not any(p.requires_grad for p in model.model.parameters())


@pytest.mark.parametrize("part", ["realism", "spatial"])
@pytest.mark.parametrize("sampler", ["euler", "dpmpp_2m"])
def test_stock_nodes_end_to_end(nodes: Any, parts: Any, part: str, sampler: str) -> None:
    latent = nodes.EmptyLatentImage().generate(144, 120, 2)[0]
    boxes = [("a red circle", 8, 8, 48, 48)]
    out = sample(
        nodes,
        parts[part],
        "a red circle",
        boxes if part == "spatial" else [],
        latent,
        steps=3,
        sampler=sampler,
    )
    assert out["samples"].shape == (2, 16, 15, 18)
    vae = parts[part][2]
    image = nodes.VAEDecode().decode(vae, out)[0]
    assert image.shape == (2, 120, 144, 3) and torch.isfinite(image).all()
    again = nodes.VAEEncode().encode(vae, image)[0]["samples"]
    assert again.shape == out["samples"].shape


def test_same_seed_same_latent(nodes: Any, parts: Any) -> None:
    latent = nodes.EmptyLatentImage().generate(128, 128, 1)[0]
    one, two = (
        sample(nodes, parts["realism"], "a red circle", [], latent, steps=2)["samples"]
        for _ in range(2)
    )
    assert torch.equal(one, two)


def test_tiled_decode_agrees(nodes: Any, parts: Any) -> None:
    vae = parts["realism"][2]
    latent = torch.randn(1, 16, 24, 24, generator=torch.Generator().manual_seed(1))
    whole = vae.decode(latent)
    tiled = vae.decode_tiled(latent, tile_x=20, tile_y=20, overlap=8)
    assert tiled.shape == whole.shape
    assert (whole - tiled).abs().mean() < 0.02


def test_gradient_through_the_models(parts: Any) -> None:
    from realcompo.balancer.comfy.compat import adds_in_place
    from realcompo.balancer.comfy.gradients import gradient_mode, saved_copies

    with gradient_mode(), saved_copies([], adds_in_place()):
        for part in ("realism", "spatial"):
            unet = parts[part][0].model.diffusion_model
            copy = {k: v.clone() for k, v in unet.state_dict().items()}
            x = torch.randn(1, 16, 16, 16, requires_grad=True)
            out = torch.func.functional_call(
                unet, copy, (x, torch.tensor([500.0])), {"context": torch.randn(1, 77, 64)}
            )
            out.square().mean().backward()
            assert x.grad is not None and torch.isfinite(x.grad).all() and x.grad.abs().max() > 0


def test_spatial_part_puts_objects_into_their_boxes(nodes: Any, parts: Any) -> None:
    scenes = make_scenes(SCENES, torch.Generator().manual_seed(640))
    got = {}
    for part in ("spatial", "realism"):
        pictures = []
        for number, scene in enumerate(scenes):
            latent = nodes.EmptyLatentImage().generate(128, 128, 1)[0]
            boxes = pixel_boxes(scene) if part == "spatial" else []
            text = make_caption(scene).text
            out = sample(nodes, parts[part], text, boxes, latent, seed=700 + number)
            pictures.append(nodes.VAEDecode().decode(parts[part][2], out)[0].movedim(-1, 1))
        got[part] = rates(judge_scenes(torch.cat(pictures), scenes))
    assert got["spatial"]["right"] >= 0.8
    assert got["spatial"]["colour"] >= 0.9
    assert got["realism"]["right"] <= got["spatial"]["right"] - 0.4
    # Knows what, not where: the realism part draws what is asked far more often than in place.
    assert got["realism"]["present"] >= got["realism"]["right"] + 0.2
