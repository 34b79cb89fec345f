"""GLIGEN boxes of a layout against the host's own GLIGENTextBoxApply, and through its sampler."""

from __future__ import annotations

import math
import zlib

import pytest
import torch

pytest.importorskip("comfy.samplers")
import comfy.model_management  # noqa: E402
import comfy.sampler_helpers  # noqa: E402
import comfy.samplers  # noqa: E402
from realcompo.balancer.comfy.gligen import (  # noqa: E402
    EMPTY,
    GROUNDED,
    LatentShare,
    apply_gligen,
)
from realcompo.balancer.errors import RealCompoError  # noqa: E402
from realcompo.balancer.layouts.layout import Layout, Region  # noqa: E402
from realcompo.tests.host import tiny  # noqa: E402

PIXELS = {  # phrase -> x, y, width, height
    "a red star": (8, 16, 40, 24),
    "a blue circle": (56, 40, 24, 72),
    "a red star again": (88, 8, 16, 16),
}


class Clip:
    """The two calls of a CLIP that GLIGEN needs; a phrase's vector depends on its text alone."""

    def __init__(self, width: int = 768) -> None:
        self.width, self.calls = width, []

    def tokenize(self, text: str) -> str:
        return text

    def encode_from_tokens(self, tokens: str, return_pooled: object = False):
        assert return_pooled == "unprojected"
        self.calls.append(tokens)
        generator = torch.Generator().manual_seed(zlib.crc32(tokens.encode()))
        return torch.zeros(1, 77, 64), torch.randn(1, self.width, generator=generator)


@pytest.fixture(scope="module")
def unet():
    return tiny.tiny_unet(3)


@pytest.fixture(scope="module")
def gligen(unet):
    return tiny.tiny_gligen(unet, 5)


def layout_of(width: int, height: int, phrases=tuple(PIXELS)) -> Layout:
    boxes = {p: PIXELS[p] for p in phrases}
    return Layout(
        tuple(
            Region(p, (x / width, y / height, (x + w) / width, (y + h) / height))
            for p, (x, y, w, h) in boxes.items()
        )
    )


def stock(positive, clip, gligen, phrases=tuple(PIXELS)):
    """What a chain of the host's own nodes makes of the same boxes."""
    nodes = pytest.importorskip("nodes")
    for phrase in phrases:
        x, y, w, h = PIXELS[phrase]
        (positive,) = nodes.GLIGENTextBoxApply().append(positive, clip, gligen, phrase, w, h, x, y)
    return positive


def hook_outputs(gligen, cond, rows: int, columns: int) -> list[torch.Tensor]:
    """Every fuser's output for the entry's boxes, on random features of its own width."""
    hook = gligen.model.set_position((2, 4, rows, columns), cond[0][1]["gligen"][2], "cpu")
    out = []
    for index, fuser in enumerate(gligen.model.module_list):
        width = fuser.linear.out_features
        generator = torch.Generator().manual_seed(index)
        features = torch.randn(2, 9, width, generator=generator)
        out.append(hook(features, {"transformer_index": index}))
    return out


@pytest.mark.parametrize(("width", "height"), [(128, 128), (104, 136), (512, 768), (1000, 328)])
def test_equals_a_chain_of_stock_nodes_bit_for_bit(gligen, width: int, height: int) -> None:
    clip = Clip()
    cond = tiny.conditioning(1)
    mine = apply_gligen(cond, clip, gligen, layout_of(width, height))
    theirs = stock(cond, clip, gligen)
    assert len(mine) == len(theirs) == 1
    with torch.inference_mode():
        pairs = zip(
            hook_outputs(gligen, mine, height // 8, width // 8),
            hook_outputs(gligen, theirs, height // 8, width // 8),
            strict=True,
        )
        assert all(torch.equal(a, b) for a, b in pairs)
    assert "gligen" not in cond[0][1]


def boxes_seen(gligen, cond, rows: int, columns: int, monkeypatch) -> torch.Tensor:
    seen = []
    with monkeypatch.context() as patched:
        patched.setattr(gligen.model, "_set_position", lambda boxes, *_: seen.append(boxes))
        gligen.model.set_position((1, 4, rows, columns), cond[0][1]["gligen"][2], "cpu")
    return seen[0][0]


def test_boxes_fit_every_latent_size(gligen, monkeypatch) -> None:
    layout = Layout((Region("x", (0.13, 0.2, 0.71, 0.9)), Region("y", (0.0, 0.0, 1.0, 1.0))))
    cond = apply_gligen(tiny.conditioning(1), Clip(), gligen, layout)
    for rows, columns in [(16, 16), (13, 31), (64, 96), (1, 1)]:
        boxes = boxes_seen(gligen, cond, rows, columns, monkeypatch)
        expected = torch.tensor([region.box for region in layout.regions])
        assert torch.equal(boxes[:2], expected)
        assert not boxes[2:].any()


def test_a_share_knows_no_other_arithmetic() -> None:
    from fractions import Fraction

    share = LatentShare(Fraction(1, 3))
    assert (share + share) / 17 == 2 / 3
    for operation in (lambda: share + 1, lambda: 1 + share, lambda: share * 2, lambda: share < 1):
        with pytest.raises(TypeError):
            operation()


def test_equal_phrases_are_encoded_once(gligen) -> None:
    clip = Clip()
    box = (0.0, 0.0, 0.5, 0.5)
    layout = Layout((Region("corgi", box), Region("corgi", (0.5, 0.5, 1, 1)), Region("cat", box)))
    cond = apply_gligen(tiny.conditioning(1), clip, gligen, layout)
    assert clip.calls == ["corgi", "cat"]
    assert len(cond[0][1]["gligen"][2]) == 3


def test_chains_with_stock_nodes_on_both_sides(unet, gligen) -> None:
    clip, cond = Clip(), tiny.conditioning(1)
    first, second, third = PIXELS
    mixed = stock(cond, clip, gligen, (first,))
    mixed = apply_gligen(mixed, clip, gligen, layout_of(128, 128, (second,)))
    mixed = stock(mixed, clip, gligen, (third,))
    whole = stock(cond, clip, gligen)
    assert torch.equal(sampled(unet, mixed), sampled(unet, whole))


def sampled(unet, positive, steps: int = 3, cfg: float = 3.0) -> torch.Tensor:
    with torch.inference_mode():
        guider = comfy.samplers.CFGGuider(unet)
        guider.set_conds(positive, tiny.conditioning(2))
        guider.set_cfg(cfg)
        sigmas = comfy.samplers.calculate_sigmas(
            unet.get_model_object("model_sampling"), "normal", steps
        )
        noise = tiny.latent_noise(7, 1, 4, 16, 16)
        return guider.sample(
            noise,
            torch.zeros_like(noise),
            comfy.samplers.sampler_object("euler"),
            sigmas,
            disable_pbar=True,
        )


def test_boxes_change_the_picture(unet, gligen) -> None:
    cond = tiny.conditioning(1)
    layout = layout_of(128, 128)
    moved = Layout(tuple(Region(r.phrase, (0.5, 0.5, 1.0, 1.0)) for r in layout.regions))
    plain = sampled(unet, cond)
    one = sampled(unet, apply_gligen(cond, Clip(), gligen, layout))
    other = sampled(unet, apply_gligen(cond, Clip(), gligen, moved))
    assert not torch.allclose(plain, one)
    assert not torch.allclose(one, other)


def processed(unet, positive) -> dict[str, list[dict]]:
    """Both sides as the host hands them to the model."""
    with torch.inference_mode():
        comfy.model_management.load_models_gpu([unet])
        conds = {
            "positive": comfy.sampler_helpers.convert_cond(positive),
            "negative": comfy.sampler_helpers.convert_cond(tiny.conditioning(2)),
        }
        noise = tiny.latent_noise(7, 1, 4, 16, 16)
        return comfy.samplers.process_conds(unet.model, noise, conds, torch.device("cpu"))


@pytest.mark.parametrize(
    ("start", "end", "own"),
    [(0.0, 1.0, None), (0.0, 0.5, None), (0.25, 1.0, None), (0.25, 0.5, None),
     (0.3, 0.6, (0.5, 1.0)), (0.6, 0.9, (0.0, 0.5)), (0.0, 0.5, (0.0, 0.5))],
)  # fmt: skip
def test_every_step_runs_exactly_one_entry(unet, gligen, start, end, own) -> None:
    cond = tiny.conditioning(1)
    if own:
        cond[0][1]["start_percent"], cond[0][1]["end_percent"] = own
    positive = apply_gligen(cond, Clip(), gligen, layout_of(128, 128), start, end)
    entries = processed(unet, positive)["positive"]
    sampling = unet.get_model_object("model_sampling")
    low, high = own or (0.0, 1.0)
    x = torch.zeros(1, 4, 16, 16)
    # 'start' and 'end' themselves are among the sampled places: a border must not run twice.
    for percent in sorted({*torch.linspace(0.02, 0.98, 49).tolist(), start, end, 0.25, 0.5}):
        if not 0 < percent < 1 or not low <= percent <= high:
            continue
        sigma = torch.tensor([sampling.percent_to_sigma(percent)])
        active = [
            entry["gligen"][0]
            for entry in entries
            if comfy.samplers.get_area_and_mult(entry, x, sigma) is not None
        ]
        assert active == [GROUNDED if start <= percent <= end else EMPTY], percent


def test_negative_of_a_schedule_has_null_tokens(unet, gligen) -> None:
    layout = layout_of(128, 128)
    whole = processed(unet, apply_gligen(tiny.conditioning(1), Clip(), gligen, layout))
    assert [c["gligen"][0] for c in whole["negative"]] == [GROUNDED]  # as with stock nodes
    part = apply_gligen(tiny.conditioning(1), Clip(), gligen, layout, 0.0, 0.4)
    conds = processed(unet, part)
    assert [c["gligen"][0] for c in conds["positive"]] == [GROUNDED, EMPTY]
    assert [c["gligen"][0] for c in conds["negative"]] == [EMPTY]


def test_outside_the_schedule_the_picture_has_null_tokens(unet, gligen) -> None:
    positive = apply_gligen(tiny.conditioning(1), Clip(), gligen, layout_of(128, 128), 0.0, 0.5)
    empty = [[positive[0][0], {"gligen": (EMPTY, gligen, [])}]]
    sampling = unet.get_model_object("model_sampling")
    x = tiny.latent_noise(7, 1, 4, 16, 16) * 5
    with torch.inference_mode():
        unet.pre_run() if hasattr(unet, "pre_run") else None
        for percent, same in ((0.3, False), (0.7, True)):
            sigma = torch.tensor([sampling.percent_to_sigma(percent)])
            a, b = (
                comfy.samplers.calc_cond_batch(
                    unet.model, [processed(unet, c)["positive"]], x, sigma, {}
                )[0]
                for c in (positive, empty)
            )
            assert torch.equal(a, b) is same
        unet.cleanup() if hasattr(unet, "cleanup") else None


def test_scheduled_sampling_runs_and_differs_from_both_ends(unet, gligen) -> None:
    layout, cond = layout_of(128, 128), tiny.conditioning(1)
    pictures = [
        sampled(unet, apply_gligen(cond, Clip(), gligen, layout, 0.0, end))
        for end in (0.3, 0.7, 1.0)
    ]
    assert all(bool(torch.isfinite(p).all()) for p in pictures)
    assert not torch.allclose(pictures[0], pictures[1])
    assert not torch.allclose(pictures[1], pictures[2])


def test_second_layout_fills_the_gaps_of_a_schedule(gligen) -> None:
    box = (0.0, 0.0, 0.5, 0.5)
    first = apply_gligen(
        tiny.conditioning(1), Clip(), gligen, Layout((Region("a cat", box),)), 0.0, 0.5
    )
    both = apply_gligen(first, Clip(), gligen, Layout((Region("a dog", box),)))
    assert [(c[1]["gligen"][0], len(c[1]["gligen"][2])) for c in both] == [
        (GROUNDED, 2),
        (GROUNDED, 1),
    ]


def test_boxes_of_an_area_are_shares_of_it(gligen, monkeypatch) -> None:
    cond = tiny.conditioning(1)
    cond[0][1]["area"] = ("percentage", 0.5, 0.5, 0.25, 0.5)  # height, width, y, x
    layout = Layout((Region("in", (0.625, 0.375, 0.75, 0.5)), Region("out", (0.0, 0.0, 0.25, 0.2))))
    out = apply_gligen(cond, Clip(), gligen, layout)
    boxes = boxes_seen(gligen, out, 8, 8, monkeypatch)
    assert torch.equal(boxes[0], torch.tensor([0.25, 0.25, 0.5, 0.5]))
    assert not boxes[1:].any()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"gligen": None}, "gligen_textbox_model.*no GLIGEN model"),
        ({"clip": None}, "clip.*no text encoder"),
        ({"clip": Clip(1280)}, "clip.*768 numbers.*1280"),
        ({"layout": Layout(())}, "no regions"),
        ({"layout": Layout((Region("", (0, 0, 1, 1), tokens=(1,)),))}, "region 1.*no phrase"),
        ({"layout": Layout((Region("x", (0, 0, 1, 1)),) * 31)}, "31 boxes.*30"),
        ({"positive": []}, "conditioning is empty"),
        ({"start": 0.5, "end": 0.5}, "schedule runs from 0.5 to 0.5"),
        ({"start": -0.1}, "schedule"),
        ({"end": math.nan}, "schedule"),
    ],
)
def test_refuses_with_a_remedy(gligen, change, message) -> None:
    inputs = {
        "positive": tiny.conditioning(1),
        "clip": Clip(),
        "gligen": gligen,
        "layout": layout_of(128, 128),
    } | change
    with pytest.raises(RealCompoError, match=message):
        apply_gligen(**inputs)


def test_refuses_boxes_it_cannot_join(unet, gligen) -> None:
    layout = layout_of(128, 128)
    once = apply_gligen(tiny.conditioning(1), Clip(), gligen, layout)
    with pytest.raises(RealCompoError, match="another GLIGEN model"):
        apply_gligen(once, Clip(), tiny.tiny_gligen(unet, 6), layout)
    apply_gligen(once, Clip(), gligen.clone(), layout)  # a clone is the same model
    foreign = [[once[0][0], {"gligen": ("position_batched", gligen, [])}]]
    with pytest.raises(RealCompoError, match="position_batched"):
        apply_gligen(foreign, Clip(), gligen, layout)
    ten = Layout(layout.regions * 10)
    with pytest.raises(RealCompoError, match="33 boxes"):
        apply_gligen(once, Clip(), gligen, ten)
    pixels = [[once[0][0], {"area": (8, 8, 0, 0)}]]
    with pytest.raises(RealCompoError, match="area in pixels"):
        apply_gligen(pixels, Clip(), gligen, layout)
    bounds = [[once[0][0], {"mask": torch.ones(1, 8, 8), "set_area_to_bounds": True}]]
    with pytest.raises(RealCompoError, match="mask's bounds"):
        apply_gligen(bounds, Clip(), gligen, layout)
