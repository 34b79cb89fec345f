"""The quality table on own checkpoints, with tiny random models in the place of real ones."""

from __future__ import annotations

import json
import sys
import types
import zlib
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("comfy.samplers")
import comfy.sd  # noqa: E402
from realcompo.balancer.layouts.layout import Layout, Region  # noqa: E402
from realcompo.tests.host import tiny  # noqa: E402

ROWS = ("realism", "realcompo-equilibrium", "control")
SEEDS, STEPS, SIDE = 2, 3, 64
LAYOUTS = [
    Layout(
        (Region("a red star", (0.0, 0.1, 0.5, 0.6)), Region("a blue circle", (0.5, 0.3, 1.0, 0.9))),
        "a red star and a blue circle",
    ),
    Layout((Region("a cat", (0.25, 0.25, 0.75, 0.75)),), "a photo of (a cat:1.2) on a sofa"),
]


class Clip:
    """A text encoder whose vectors depend on the text alone."""

    def tokenize(self, text: str) -> str:
        return text

    def encode_from_tokens_scheduled(self, tokens: str) -> Any:
        return tiny.conditioning(zlib.crc32(tokens.encode()))

    def encode_from_tokens(self, tokens: str, return_pooled: object = False) -> Any:
        assert return_pooled == "unprojected"
        return torch.zeros(1, 77, 64), tiny.pooled_phrase(zlib.crc32(tokens.encode()))


class Vae:
    """Eight pixels per latent position, coloured by three of its channels."""

    def decode(self, latent: torch.Tensor) -> torch.Tensor:
        large = torch.nn.functional.interpolate(latent[:, :3], scale_factor=8)
        return torch.sigmoid(large).movedim(1, -1)


class Loaders:
    """The host's loaders, handing out tiny models and counting how often they are asked."""

    def __init__(self) -> None:
        names = ("look.safetensors", "place.safetensors")
        self.models = {name: tiny.tiny_unet(seed) for seed, name in enumerate(names, 1)}
        self.gligen = tiny.tiny_gligen(self.models["place.safetensors"], 5)
        self.asked: list[str] = []

    def checkpoint(self, path: str, **_: Any) -> Any:
        self.asked.append(Path(path).name)
        return self.models[Path(path).name], Clip(), Vae(), None

    def grounding(self, path: str) -> Any:
        self.asked.append(Path(path).name)
        return self.gligen


@pytest.fixture(scope="module")
def models() -> Loaders:
    return Loaders()


@pytest.fixture
def loaders(models: Loaders, monkeypatch: pytest.MonkeyPatch) -> Loaders:
    monkeypatch.setattr(comfy.sd, "load_checkpoint_guess_config", models.checkpoint)
    monkeypatch.setattr(comfy.sd, "load_gligen", models.grounding)
    models.asked.clear()
    return models


def arguments(folder: Path, content: Any = None, **changes: Any) -> list[str]:
    """A command line over files in ``folder``; a change of None takes an option away."""
    if content is None:
        content = [layout.to_dict() for layout in LAYOUTS]
    for name in ("look.safetensors", "place.safetensors", "boxes.safetensors"):
        if not (folder / name).exists():
            (folder / name).write_bytes(b"the loaders do not read this")
    (folder / "layouts.json").write_text(json.dumps(content), encoding="utf-8")
    options: dict[str, Any] = {
        "realism": folder / "look.safetensors", "spatial": folder / "place.safetensors",
        "gligen": folder / "boxes.safetensors", "layouts": folder / "layouts.json",
        "work": folder / "work", "out": folder / "out", "seeds": SEEDS, "steps": STEPS,
        "size": f"{SIDE}x{SIDE}", **changes,
    }  # fmt: skip
    words = [w for k, v in options.items() if v is not None for w in (f"--{k}", str(v))]
    return [*words, "--rows", *ROWS]


def bench(words: list[str]) -> int:
    from realcompo.bench.quality.main import main

    return main(words)


def report(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "out" / "quality.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def finished(models: Loaders, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run without judges."""
    folder = tmp_path_factory.mktemp("checkpoints")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(comfy.sd, "load_checkpoint_guess_config", models.checkpoint)
        patch.setattr(comfy.sd, "load_gligen", models.grounding)
        assert bench(arguments(folder)) == 0
    return folder


def test_the_report_has_every_row_and_what_was_measured(finished: Path) -> None:
    document = report(finished)
    rows = {row["method"]: row for row in document["rows"]}
    assert tuple(rows) == ROWS
    assert document["claims"] == []
    assert document["command"].startswith("python dev.py bench quality --realism look.safetensors")
    assert str(finished) not in json.dumps(document)
    assert [Layout.from_dict(value) for value in document["layouts"]] == LAYOUTS
    for row in rows.values():
        assert row["scenes"] == len(LAYOUTS) * SEEDS
        for name in ("attention_realism", "attention_spatial"):
            value = row["metrics"][name]
            assert 0 < value["low"] <= value["mean"] <= value["high"] < 1
        assert "clip_score" not in row["metrics"] and "detector_iou" not in row["metrics"]
        assert "style" not in row["settings"]
    during = {"attention", "attention_run_realism", "attention_run_spatial"}
    assert during <= set(rows["realcompo-equilibrium"]["metrics"])
    assert not during & set(rows["realism"]["metrics"])
    assert rows["realism"]["forwards_per_image"] == 2 * STEPS
    assert rows["realcompo-equilibrium"]["backwards_per_image"] > 0
    assert rows["control"]["backwards_per_image"] == 0
    assert any("clip_score" in notice for notice in document["notices"])
    assert any("detector_iou" in notice for notice in document["notices"])


def test_pictures_table_and_sheet_are_there(finished: Path) -> None:
    from PIL import Image

    text = (finished / "out" / "quality.md").read_text(encoding="utf-8")
    assert all(f"`{row}`" in text for row in ROWS)
    assert "attention realism" in text and "| clip score" not in text
    pictures = {path.relative_to(finished / "out") for path in finished.rglob("out/**/layout*.png")}
    assert len(pictures) == len(ROWS) * len(LAYOUTS) * SEEDS
    opened = {Image.open(finished / "out" / path).tobytes() for path in pictures}
    assert len(opened) == len(pictures), "methods, layouts and seeds give different pictures"
    assert Image.open(finished / "out" / "quality_sheet.png").size[1] > len(ROWS) * SIDE


def test_a_row_alone_is_the_hosts_own_sampling(finished: Path, loaders: Loaders) -> None:
    import numpy as np
    from PIL import Image
    from realcompo.tests.host import pair

    noise = tiny.latent_noise(1, height=SIDE // 8, width=SIDE // 8)
    latent = pair.run_alone(
        loaders.models["look.safetensors"], noise, steps=STEPS, cfg=7.5, seed=1,
        positive=Clip().encode_from_tokens_scheduled(LAYOUTS[1].prompt),
        negative=Clip().encode_from_tokens_scheduled(""),
    )  # fmt: skip
    expected = (Vae().decode(latent)[0] * 255).round().byte().numpy()
    path = finished / "out" / "pictures" / "realism" / "layout-02-seed-1.png"
    assert np.array_equal(np.asarray(Image.open(path)), expected)


def test_attention_is_what_an_independent_probe_sees(finished: Path, loaders: Loaders) -> None:
    """The finished latent, noised to the middle, through the probe without any guider."""
    import comfy.sampler_helpers
    import comfy.samplers
    from realcompo.balancer.comfy.attention.families import find_sites
    from realcompo.balancer.comfy.attention.family import choose_level
    from realcompo.balancer.comfy.gligen import apply_gligen
    from realcompo.balancer.comfy.inputs.types import resolve
    from realcompo.bench.checkpoints.studio import LOOK_SEED
    from realcompo.tests.host import pair

    look, place = (loaders.models[f"{name}.safetensors"] for name in ("look", "place"))
    layout, seed = LAYOUTS[0], 1
    plain = Clip().encode_from_tokens_scheduled(layout.prompt)
    empty = Clip().encode_from_tokens_scheduled("")
    latent = pair.run_alone(
        look, tiny.latent_noise(seed, height=SIDE // 8, width=SIDE // 8), steps=STEPS, cfg=7.5,
        positive=plain, negative=empty, seed=seed,
    )  # fmt: skip
    grounded = apply_gligen(plain, Clip(), loaders.gligen, layout)
    noise = tiny.latent_noise(LOOK_SEED, height=SIDE // 8, width=SIDE // 8)
    seen = {}
    for name, patcher, positive in (("realism", look, plain), ("spatial", place, grounded)):
        model = patcher.model
        sigma = float(model.model_sampling.percent_to_sigma(0.5))
        x = model.process_latent_in(latent) + sigma * noise
        sites = find_sites(model.diffusion_model)
        level = choose_level(sites, "auto")
        with torch.inference_mode():
            # hosts of 2024 prepare and clean up nothing
            getattr(patcher, "pre_run", list)()
            conds = comfy.samplers.process_conds(
                model, x,
                {"positive": comfy.sampler_helpers.convert_cond(positive),
                 "negative": comfy.sampler_helpers.convert_cond(empty)},
                x.device,
            )  # fmt: skip
            entry = conds["positive"][0]
            shot = pair.probed(model, entry, x, sigma, level, None, layout, resolve(layout))
            getattr(patcher, "cleanup", list)()
        assert shot is not None
        seen[name] = shot.shares[0].tolist()
    files = (finished / "work" / "checkpoints").glob(f"realism-{seed}-*.json")
    entries = [json.loads(path.read_text(encoding="utf-8")) for path in files]
    (entry,) = (e for e in entries if len(e["attention_realism"]) == len(layout.regions))
    assert entry["attention_realism"] == pytest.approx(seen["realism"], rel=1e-5)
    assert entry["attention_spatial"] == pytest.approx(seen["spatial"], rel=1e-5)
    assert seen["realism"] != pytest.approx(seen["spatial"], rel=1e-3)


def test_a_second_run_loads_nothing_and_draws_nothing(finished: Path, loaders: Loaders) -> None:
    before = (finished / "out" / "quality.json").read_bytes()
    assert bench(arguments(finished)) == 0
    assert not loaders.asked
    assert (finished / "out" / "quality.json").read_bytes() == before


def test_a_stopped_run_goes_on(
    finished: Path, loaders: Loaders, monkeypatch: pytest.MonkeyPatch
) -> None:
    from realcompo.bench.checkpoints.studio import CheckpointStudio

    before = report(finished)
    gone = sorted((finished / "work" / "checkpoints").glob("realcompo-equilibrium-0-*.json"))
    kept = gone[0].with_suffix(".png").read_bytes()
    gone[0].unlink()
    drawn: list[int] = []
    draw = CheckpointStudio.draw

    def counted(self: Any, asked: Any, seed: int, *args: Any, **more: Any) -> Any:
        drawn.append(seed)
        return draw(self, asked, seed, *args, **more)

    monkeypatch.setattr(CheckpointStudio, "draw", counted)
    assert bench(arguments(finished)) == 0
    assert drawn == [0]
    assert loaders.asked == ["look.safetensors", "place.safetensors", "boxes.safetensors"]
    assert gone[0].with_suffix(".png").read_bytes() == kept
    after = report(finished)
    assert [r["metrics"] for r in after["rows"]] == [r["metrics"] for r in before["rows"]]


def test_keys_follow_all_that_a_picture_depends_on(tmp_path: Path) -> None:
    import argparse

    from realcompo.bench.checkpoints.run import Album, add_arguments, plan_of

    parser = argparse.ArgumentParser()
    for name in ("--work", "--out"):
        parser.add_argument(name)
    parser.add_argument("--rows", nargs="+")
    parser.add_argument("--quick", action="store_true")
    add_arguments(parser)

    def keys(content: Any = None, **changes: Any) -> list[str]:
        plan = plan_of(parser.parse_args(arguments(tmp_path, content, **changes)))
        album = Album(plan, print)
        return [album.key(row, 0, 0) for row in plan.rows]

    usual = keys()
    assert usual == keys() and len(set(usual)) == len(ROWS)
    others = [keys(cfg=5), keys(steps=STEPS + 1), keys(size="64x128")]
    moved = LAYOUTS[0].to_dict() | {"prompt": "a red star and a blue circle again"}
    others.append(keys([moved, LAYOUTS[1].to_dict()]))
    (tmp_path / "boxes.safetensors").write_bytes(b"another model")
    others.append(keys())
    for other in others:
        assert not set(other) & set(usual)
    # of the rows only the control learns from the other layout
    usual = keys()
    fewer = keys([LAYOUTS[0].to_dict(), LAYOUTS[1].to_dict() | {"prompt": "a cat"}])
    assert [a == b for a, b in zip(fewer, usual, strict=True)] == [True, True, False]


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"spatial": None, "gligen": None}, "--spatial and --gligen not given"),
        ({"realism": None, "spatial": None, "gligen": None, "layouts": None}, "--realism and"),
        ({"gligen": "nowhere.safetensors"}, "there is no file 'nowhere.safetensors'"),
        ({"vae": "nowhere.pt"}, "'--vae': there is no file"),
        ({"size": "100x100"}, "no picture size"),
        ({"seeds": 0}, "too few"),
        ({"cfg": "nan"}, "--cfg"),
        ({"layouts": "nowhere.json"}, "cannot be read"),
    ],
)
def test_bad_arguments_are_refused_before_loading(
    tmp_path: Path, loaders: Loaders, capsys: pytest.CaptureFixture[str], changes: Any, told: str
) -> None:
    with pytest.raises(SystemExit):
        bench(arguments(tmp_path, **changes))
    assert told in capsys.readouterr().err
    assert not loaders.asked and not (tmp_path / "work").exists()


FIRST = LAYOUTS[0].to_dict()


@pytest.mark.parametrize(
    ("layouts", "told"),
    [
        ({}, "no list of layouts"),
        ([], "no list of layouts"),
        ([FIRST, {"prompt": "x"}], "layout 2: the layout's JSON has no list 'regions'"),
        ([FIRST, {"prompt": "a dog", "regions": []}], "layout 2: the layout has no regions"),
        ([FIRST | {"prompt": "nothing of it"}], "layout 1: "),
        ([FIRST, FIRST], "layout 2 is layout 1 again"),
        ([{"prompt": "a b", "regions": [{"box": [0, 0, 1, 1], "tokens": [1]}]}], "phrase"),
    ],
)
def test_a_broken_layout_is_refused_before_loading(
    tmp_path: Path, loaders: Loaders, capsys: pytest.CaptureFixture[str], layouts: Any, told: str
) -> None:
    with pytest.raises(SystemExit):
        bench(arguments(tmp_path, layouts))
    assert told in capsys.readouterr().err
    assert not loaders.asked and not (tmp_path / "work").exists()


def test_a_checkpoint_without_its_parts_is_refused(
    tmp_path: Path, models: Loaders, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    parts: dict[str, Any] = {"clip": None, "vae": Vae()}

    def load(path: str, **_: Any) -> Any:
        return models.models["look.safetensors"], parts["clip"], parts["vae"], None

    monkeypatch.setattr(comfy.sd, "load_checkpoint_guess_config", load)
    monkeypatch.setattr(comfy.sd, "load_gligen", models.grounding)
    with pytest.raises(SystemExit):
        bench(arguments(tmp_path))
    assert "'look.safetensors' has no text encoder" in capsys.readouterr().err
    parts.update(clip=Clip(), vae=None)
    with pytest.raises(SystemExit):
        bench(arguments(tmp_path))
    assert "'look.safetensors' has no VAE" in capsys.readouterr().err
    assert not list(tmp_path.rglob("*.png"))


def test_a_picture_of_nan_is_no_picture(
    tmp_path: Path, loaders: Loaders, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    decode = Vae.decode
    monkeypatch.setattr(Vae, "decode", lambda self, latent: decode(self, latent) * float("nan"))
    with pytest.raises(SystemExit):
        bench(arguments(tmp_path, seeds=1, steps=1))
    assert "'--vae': the picture of 'a red star" in capsys.readouterr().err
    assert not list(tmp_path.rglob("*.png"))


def test_the_control_needs_a_second_layout(
    tmp_path: Path, loaders: Loaders, capsys: pytest.CaptureFixture[str]
) -> None:
    assert bench(arguments(tmp_path, [FIRST], seeds=1, steps=2)) == 0
    document = report(tmp_path)
    assert [row["method"] for row in document["rows"]] == ["realism", "realcompo-equilibrium"]
    assert any("control is left out" in notice for notice in document["notices"])
    assert any("no intervals" in notice for notice in document["notices"])
    assert "control is left out" in capsys.readouterr().out


def test_without_transformers_the_scores_are_left_out_and_said(
    finished: Path, loaders: Loaders, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setitem(sys.modules, "transformers", None)
    assert bench(arguments(finished, **{"clip-model": "my-clip", "detector": "my-owl"})) == 0
    document, said = report(finished), capsys.readouterr().out
    for metric, model in (("clip_score", "my-clip"), ("detector_iou", "my-owl")):
        assert not any(metric in row["metrics"] for row in document["rows"])
        (notice,) = (notice for notice in document["notices"] if metric in notice)
        assert f"'{model}'" in notice and "transformers" in notice
        assert notice in said
    assert not loaders.asked


class Transformers(types.ModuleType):
    """The classes that the judges use, with scores that follow from the picture and the text."""

    def __init__(self) -> None:
        super().__init__("transformers")
        self.loaded: list[tuple[str, bool]] = []
        self.detected: list[tuple[int, int]] = []
        module = self

        class Pretrained:
            tokenizer, image_processor = "tokenizer", "image_processor"

            @classmethod
            def from_pretrained(cls, name: str, local_files_only: bool = False) -> Any:
                module.loaded.append((name, local_files_only))
                return cls()

            def eval(self) -> Any:
                return self

            def to(self, device: Any) -> Any:
                return self

        class Processor(Pretrained):
            def __call__(self, text: list[str], images: list[Any], **_: Any) -> Any:
                red = torch.tensor(images[0].resize((1, 1)).getpixel((0, 0))).float() / 255
                return {"red": red, "length": torch.tensor([len(text[0])])}

        class Model(Pretrained):
            def __call__(self, red: torch.Tensor, length: torch.Tensor) -> Any:
                return {"image_embeds": 3 * red[None], "text_embeds": 5 * torch.eye(3)[:1]}

        self.CLIPModel = self.AutoModelForZeroShotObjectDetection = Model
        self.CLIPProcessor = self.AutoProcessor = Processor

    def pipeline(self, task: str, model: Any, device: Any, **parts: str) -> Any:
        assert task == "zero-shot-object-detection"
        assert parts == {"tokenizer": "tokenizer", "image_processor": "image_processor"}

        def detect(picture: Any, candidate_labels: list[str], threshold: float) -> Any:
            self.detected.append(picture.size)
            wide, high = picture.size
            # the star's lower half and a box elsewhere, no circle, the whole cat
            known = {"a red star": [(0.0, 0.35, 0.5, 0.6), (0.8, 0.8, 1.0, 1.0)],
                     "a cat": [(0.25, 0.25, 0.75, 0.75)]}  # fmt: skip
            return [
                {"score": 0.5, "label": label, "box": {
                    "xmin": x0 * wide, "ymin": y0 * high, "xmax": x1 * wide, "ymax": y1 * high}}
                for label in candidate_labels for x0, y0, x1, y1 in known.get(label, [])
            ]  # fmt: skip

        return detect


def test_scores_of_the_users_models_arrive(
    finished: Path, loaders: Loaders, monkeypatch: pytest.MonkeyPatch
) -> None:
    import numpy as np
    from PIL import Image

    fake = Transformers()
    monkeypatch.setitem(sys.modules, "transformers", fake)
    words = arguments(finished, **{"clip-model": "my-clip", "detector": "my-owl"})
    assert bench(words) == 0
    assert not loaders.asked, "judging needs no new pictures"
    assert fake.loaded and all(local for _, local in fake.loaded)
    assert len(fake.detected) == len(ROWS) * len(LAYOUTS) * SEEDS
    document = report(finished)
    assert document["notices"] == []
    assert document["about"]["judges"] == {"clip_score": "my-clip", "detector_iou": "my-owl"}
    for row in document["rows"]:
        # half of the star, none of the circle, all of the cat
        assert row["metrics"]["detector_iou"]["mean"] == pytest.approx((0.25 + 1) / 2, abs=1e-4)
        cosines = []
        for path in (finished / "out" / "pictures" / row["method"]).glob("*.png"):
            colour = np.array(Image.open(path).resize((1, 1)).getpixel((0, 0)), float)
            cosines.append(colour[0] / np.linalg.norm(colour))
        value = row["metrics"]["clip_score"]
        assert value["mean"] == pytest.approx(np.mean(cosines), abs=1e-4)
        assert value["low"] <= value["mean"] <= value["high"]
    fake.detected.clear()
    assert bench(words) == 0
    assert not fake.detected, "scores are kept"


def test_real_classes_tell_boxes_in_the_picture_and_cosines(tmp_path: Path) -> None:
    """A tiny OWLv2 that finds its own anchors, on a picture that is not square; a tiny CLIP."""
    pytest.importorskip("transformers")
    import comfy
    from PIL import Image
    from realcompo.bench.checkpoints.judges import find_judges
    from transformers import (
        CLIPConfig,
        CLIPImageProcessor,
        CLIPModel,
        CLIPProcessor,
        CLIPTokenizer,
        Owlv2Config,
        Owlv2ForObjectDetection,
        Owlv2ImageProcessor,
        Owlv2Processor,
    )

    vocabulary = Path(comfy.sd.__file__).parent / "sd1_tokenizer"
    tokenizer = CLIPTokenizer.from_pretrained(str(vocabulary))
    small = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1,
             "num_attention_heads": 2}  # fmt: skip
    seeing = {**small, "image_size": 64, "patch_size": 8}
    torch.manual_seed(0)
    clip = CLIPModel(CLIPConfig(text_config=small, vision_config=seeing, projection_dim=8))
    resize = CLIPImageProcessor(size={"shortest_edge": 64}, crop_size=64)
    owl = Owlv2ForObjectDetection(Owlv2Config(
        text_config={**small, "max_position_embeddings": 16}, vision_config=seeing,
        projection_dim=32,
    ))  # fmt: skip
    with torch.no_grad():
        for part in (owl.box_head, owl.class_head):
            for parameter in part.parameters():
                parameter.zero_()
    whole = Owlv2ImageProcessor(size={"height": 64, "width": 64})
    for model, processor, name in (
        (clip, CLIPProcessor(resize, tokenizer), "clip"),
        (owl, Owlv2Processor(whole, tokenizer), "owl"),
    ):
        model.save_pretrained(tmp_path / name)
        processor.save_pretrained(tmp_path / name)
    (clip_judge, detector), notices = find_judges(str(tmp_path / "clip"), str(tmp_path / "owl"))
    assert notices == []
    # 8 x 8 anchors of an eighth of the square, around every eighth: here at pixel (64, 32)
    layout = Layout(
        (Region("a cat", (56 / 128, 24 / 64, 72 / 128, 40 / 64)),), "a photo of (a cat:1.2)"
    )
    picture = Image.effect_noise((128, 64), 80).convert("RGB")
    for judge in (clip_judge, detector):
        judge.to(torch.device("cpu"))
    # detections come in whole pixels; told in another frame the box would miss by half its size
    assert detector.score(picture, layout) > 0.9
    image = resize(picture, return_tensors="pt")
    text = tokenizer(["a photo of a cat"], return_tensors="pt")
    with torch.no_grad():
        expected = float(clip(**text, **image).logits_per_image / clip.logit_scale.exp())
    assert clip_judge.score(picture, layout) == pytest.approx(expected, abs=1e-5)
    assert abs(expected) < 1
