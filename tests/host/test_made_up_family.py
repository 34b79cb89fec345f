"""A family of models that nobody has: one object, and every method knows what to do with it.

Its blocks attend to the text in a way of their own, through readers under a key of their own.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from realcompo.balancer.attention.maps import RegionMaps
from realcompo.balancer.comfy.attention import families
from realcompo.balancer.comfy.attention.family import Family, Site, stop
from realcompo.balancer.comfy.attention.phrases import clip_phrases
from realcompo.balancer.errors import RealCompoError
from realcompo.balancer.layouts.layout import Layout, Region
from realcompo.balancer.realcompo.settings import preset
from torch import Tensor, nn

from . import pair, tiny

KEY, WIDTH = "woven_readers", 16
PROMPT = "a red star and a blue circle"
LAYOUT = Layout(
    (Region("red star", pair.BOXES[0]), Region("blue circle", pair.BOXES[1])), PROMPT
)  # fmt: skip
SPANS = ((2, 3), (6, 7))


class Woven(nn.Module):
    """Two blocks at the latent's own size, each a little attention to the text."""

    dtype = torch.float32

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.leave = nn.Conv2d(4, WIDTH, 1), nn.Conv2d(WIDTH, 4, 1)
        self.text = nn.ModuleList([nn.Linear(64, 2 * WIDTH) for _ in range(2)])

    def forward(self, x: Tensor, timesteps: Tensor, context: Tensor, **given: Any) -> Tensor:
        h = self.enter(x).flatten(2).transpose(1, 2)
        for number, text in enumerate(self.text):
            key, value = text(context).chunk(2, dim=-1)
            probabilities = (h @ key.transpose(1, 2) / WIDTH).softmax(dim=-1)
            read = given["transformer_options"].get(KEY, {}).get(number)
            if read is not None:
                read(probabilities, *x.shape[-2:])
            h = h + probabilities @ value
        return self.leave(h.transpose(1, 2).unflatten(2, x.shape[-2:]))


class WovenFamily(Family):
    abilities = frozenset({"balance", "look"})

    def includes(self, network: nn.Module) -> bool:
        return isinstance(network, Woven)

    def sites(self, network: nn.Module) -> tuple[Site, ...]:
        return tuple(Site(("woven", number), 1) for number in range(2))

    def refusal(self, ability: Any, network: nn.Module) -> tuple[str, str] | None:
        if ability == "modulate":
            return "'{name}' is woven and cannot be modulated", "Unravel it first"
        return super().refusal(ability, network)

    def reading_options(
        self, options: Any, sites: Sequence[Site], factor: int, maps: RegionMaps,
        picture: Any = None, at_last: Callable[[], None] = stop,
    ) -> dict[str, Any]:  # fmt: skip
        def reader(site: Site) -> Callable[..., None]:
            def read(probabilities: Tensor, height: int, width: int) -> None:
                maps.add(probabilities[:, None], height, width)
                if site is sites[-1]:
                    at_last()

            return read

        return {**options, KEY: {site.key[1]: reader(site) for site in sites}}

    def observing_options(
        self, options: Any, sites: Sequence[Site], weights: Callable[[int], Tensor], found: Any
    ) -> dict[str, Any]:
        def reader(site: Site) -> Callable[..., None]:
            def read(probabilities: Tensor, height: int, width: int) -> None:
                maps = RegionMaps(weights(probabilities.shape[-1]))
                maps.add(probabilities[:, None], height, width)
                found[site] = maps.mean()

            return read

        return {**options, KEY: {site.key[1]: reader(site) for site in sites}}

    def encodes(self, model: Any) -> bool:
        return isinstance(model.diffusion_model, Woven)

    def tokens(self, layout: Layout, conditioning: Any, where: str) -> Any:
        return clip_phrases(layout, conditioning, where)

    def text_layer(self, network: Any) -> nn.Module:
        return network.text[0]


def woven(seed: int) -> Any:
    patcher = tiny.tiny_unet(seed)
    with torch.inference_mode():
        patcher.model.diffusion_model = network = Woven()
        tiny._seal(network, seed)
    return patcher


@pytest.fixture
def models(monkeypatch: pytest.MonkeyPatch) -> tuple[Any, Any]:
    monkeypatch.setattr(families, "KNOWN", [*families.KNOWN, WovenFamily()])
    return woven(1), woven(2)


def inputs(models: tuple[Any, Any]) -> dict[str, Any]:
    return {
        "realism_model": models[0], "spatial_model": models[1],
        "positive": tiny.conditioning(3), "negative": tiny.conditioning(4), "layout": LAYOUT,
        "latent_image": {"samples": torch.zeros(1, 4, 16, 16)}, "seed": 7, "steps": 2, "cfg": 5.0,
        "sampler_name": "euler", "scheduler": "normal", "denoise": 1.0,
        "balancer": preset("paper", spatial_only=0.0),
    }  # fmt: skip


def literal_maps(network: Woven, x: Tensor, context: Tensor) -> Tensor:
    """Both blocks' maps (2, R, H, W) of the phrases, written out."""
    seen: list[Tensor] = []
    readers = {n: lambda probabilities, *_: seen.append(probabilities) for n in range(2)}
    network(x, torch.zeros(1), context, transformer_options={KEY: readers})
    columns = [torch.stack([s[0, :, list(span)].mean(-1) for span in SPANS]) for s in seen]
    return torch.stack(columns).unflatten(2, x.shape[-2:])


def test_the_probe_reads_and_differentiates_it(models) -> None:
    from realcompo.nodes.sampling import RealCompoDualSampler

    with torch.inference_mode():
        shown = RealCompoDualSampler().sample(**inputs(models))
    latent, trace = shown["result"]
    assert bool(torch.isfinite(latent["samples"]).all())
    balanced = [record for record in trace.steps if record.phase == "balance"]
    assert balanced and trace.skipped_gradients == 0
    assert trace.partial_forwards == 2 * len(balanced)
    for record in balanced:
        for shares in (record.shares_realism, record.shares_spatial):
            assert bool(((shares > 0) & (shares < 1)).all())
        assert float(record.mix.std()) > 0


def test_attention_maps_are_its_own(models) -> None:
    from realcompo.balancer.comfy.attention_report import read_attention

    positive, noise = tiny.conditioning(3), tiny.latent_noise(5)
    seen: list[tuple[Tensor, Tensor]] = []
    network = models[0].model.diffusion_model
    handle = network.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append((args[0], kwargs["context"])), with_kwargs=True
    )
    with torch.inference_mode():
        tokens = families.locate(LAYOUT, models[0].model, positive, "positive")
        reading = read_attention(
            models[0], positive, {"samples": noise}, LAYOUT, tokens, 3, (0.5,), "auto", "layers"
        )
        handle.remove()
        expected = literal_maps(network, *seen[0])
    assert tokens == SPANS
    (columns,) = reading.columns
    assert [column.name for column in columns] == ["woven 0.0", "woven 1.0"]
    for column, maps in zip(columns, expected, strict=True):
        torch.testing.assert_close(column.maps[0], maps, rtol=1e-5, atol=1e-7)


def test_what_it_cannot_do_is_told_in_its_words(models) -> None:
    from realcompo.balancer.comfy.inputs.checks import require_ability
    from realcompo.nodes.modulation import RealCompoDenseAttention

    with pytest.raises(RealCompoError, match="'TinySD15' is woven and cannot be modulated. Unrav"):
        RealCompoDenseAttention().apply(
            models[0], None, tiny.conditioning(3), LAYOUT, 1.0, 0.3, 0.3
        )  # fmt: skip
    with pytest.raises(RealCompoError, match="has no cross-attention blocks to train"):
        require_ability(models[0], "train")


def test_text_of_another_width_is_refused(models) -> None:
    from realcompo.nodes.sampling import RealCompoDualSampler

    wide = {**inputs(models), "positive": tiny.conditioning(3, dim=48)}
    with pytest.raises(RealCompoError, match="48 numbers for every token, the model takes 64"):
        RealCompoDualSampler().sample(**wide)


def test_without_the_object_nobody_knows_it(models, monkeypatch) -> None:
    from realcompo.nodes.sampling import RealCompoDualSampler

    monkeypatch.setattr(families, "KNOWN", families.KNOWN[:-1])
    with pytest.raises(RealCompoError, match="no attention to its prompt that can be read"):
        RealCompoDualSampler().sample(**inputs(models))


def test_only_the_families_name_networks() -> None:
    """The two files beside them count and checkpoint the blocks of U-Nets, of which they speak."""
    folder = Path(families.__file__).parents[1]
    network = re.compile(r"\bUNetModel\b|comfy\.ldm\.(flux|chroma|qwen_image)|mmdit")
    naming = {
        path.name for path in folder.rglob("*.py")
        if path.parent.name != "attention" and network.search(path.read_text("utf-8"))
    }  # fmt: skip
    assert naming == {"activation_memory.py", "checkpointing.py"}
