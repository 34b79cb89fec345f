"""The demo's captioner: what it says, what it finds likely, and that training it can be resumed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from realcompo.shapes import train_captioner as training
from realcompo.shapes.captioner import (
    FOLDER,
    VOCABULARY,
    caption_ids,
    read_pairs,
    write_folder,
)
from realcompo.shapes.render import render
from realcompo.shapes.world import (
    COLOURS,
    OPPOSITE,
    SHAPES,
    STYLES,
    Relation,
    Scene,
    ShapeObject,
    make_caption,
    make_scenes,
)

COUNT = 24


@pytest.fixture(scope="module")
def captioner() -> Any:
    from realcompo.balancer.comfy.captions.captioner_folder import load_captioner

    return load_captioner(FOLDER)


def drawn(style: str, seed: int, objects: tuple[int, ...]) -> tuple[torch.Tensor, list[Scene]]:
    """Drawings after the codec, as near to a model's picture as can be."""
    from realcompo.shapes.host_models import load_codec

    generator = torch.Generator().manual_seed(seed)
    scenes = make_scenes(COUNT, generator, objects)
    codec = load_codec()
    with torch.no_grad():
        latents = codec.encode(render(scenes, style, generator) * 2 - 1)
        return ((codec.decode(latents) + 1) / 2).clamp(0, 1), scenes


@pytest.mark.parametrize("style", STYLES)
def test_captions_name_what_is_there_and_little_else(captioner: Any, style: str) -> None:
    pictures, scenes = drawn(style, 990_001, (1, 2, 3))
    told = [read_pairs(text) for text in captioner.caption(pictures)]
    truth = [{(o.colour, o.shape) for o in scene.objects} for scene in scenes]
    hits = sum(len(a & b) for a, b in zip(told, truth, strict=True))
    assert hits / sum(map(len, truth)) > 0.8
    assert hits / sum(map(len, told)) > 0.8


def two(a: tuple[str, str], b: tuple[str, str]) -> str:
    """Caption of two things, wherever they are."""
    return make_caption(
        Scene(tuple(ShapeObject(*pair, (0.0, 0.0, 1.0, 1.0)) for pair in (a, b)))
    ).text


def test_the_right_prompt_is_likelier_than_a_missing_a_swapped_and_an_unrelated_one(
    captioner: Any,
) -> None:
    generator = torch.Generator().manual_seed(990_002)
    scenes = [
        scene
        for scene in make_scenes(200, generator, (2,))
        if scene.kind == "free"
        and len({o.colour for o in scene.objects}) == len({o.shape for o in scene.objects}) == 2
    ][:COUNT]
    pictures = render(scenes, "realistic", generator)

    texts: dict[str, list[str]] = {"right": [], "swapped": [], "half": [], "unrelated": []}
    for scene in scenes:
        first, second = scene.objects
        other = [c for c in COLOURS if c not in (first.colour, second.colour)]
        shapes = [s for s in SHAPES if s not in (first.shape, second.shape)]

        right = ((first.colour, first.shape), (second.colour, second.shape))
        texts["right"].append(two(*right))
        texts["swapped"].append(two((first.colour, second.shape), (second.colour, first.shape)))
        # the second thing is not in the picture
        texts["half"].append(two(right[0], (other[0], shapes[0])))
        texts["unrelated"].append(two((other[0], shapes[0]), (other[1], shapes[1])))
    with torch.no_grad():
        found = {name: captioner.likelihood(pictures, lines) for name, lines in texts.items()}
    means = {name: float(values.mean()) for name, values in found.items()}
    assert means["right"] > means["half"] > means["unrelated"]
    assert means["right"] > means["swapped"]
    # picture by picture, too
    assert float((found["right"] > found["half"]).float().mean()) > 0.9
    assert float((found["half"] > found["unrelated"]).float().mean()) > 0.9
    assert float((found["right"] > found["swapped"]).float().mean()) > 0.9


def test_words_have_the_numbers_that_the_folders_tokenizer_gives_them(captioner: Any) -> None:
    scenes = make_scenes(40, torch.Generator().manual_seed(5))
    for scene in scenes:
        caption = make_caption(scene)
        ids, mask = caption_ids([caption.words])
        family, tokenizer = captioner.family, captioner.tokenizer
        assert ids[0].tolist() == family.begin(tokenizer, "") + family.text(tokenizer, caption.text)
        assert bool(mask.all())
    assert len(captioner.tokenizer) == len(VOCABULARY)


def test_pairs_are_read_from_captions() -> None:
    text = "a photo of three blue stars, a red circle to the left of an orange cross and blue"
    assert read_pairs(text) == {("blue", "star"), ("red", "circle"), ("orange", "cross")}
    assert read_pairs("") == read_pairs("circle red") == set()


def test_patches_are_named_by_the_thing_they_lie_in() -> None:
    thing = ShapeObject("green", "cross", (0.25, 0.5, 0.75, 1.0))
    found = training.patch_classes([Scene((thing,))]).view(8, 8)
    pair = COLOURS.index("green") * len(SHAPES) + SHAPES.index("cross")
    assert bool((found[5:7, 3:5] == pair).all()) and bool((found[:3] == training.NOTHING).all())
    assert int(found[4, 2]) == training.UNSURE
    moved = training.patch_classes([Scene((thing,))], right=16, down=-16).view(8, 8)
    assert torch.equal(moved[:7, 1:], found[1:, :7])


def test_a_mirror_turns_left_into_right() -> None:
    things = (
        ShapeObject("red", "star", (0.1, 0.1, 0.4, 0.4)),
        ShapeObject("blue", "cross", (0.6, 0.2, 0.9, 0.5)),
    )
    turned = training._mirrored(Scene(things, "relation", Relation(0, "left", 1)))
    assert turned.relation == Relation(0, OPPOSITE["left"], 1)
    assert turned.objects[0].box == pytest.approx((0.6, 0.1, 0.9, 0.4))
    above = training._mirrored(Scene(things, "relation", Relation(0, "above", 1)))
    assert above.relation == Relation(0, "above", 1)


def test_training_goes_on_as_if_it_had_not_been_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "POOL", {"realistic": 64, "neon": 64})
    monkeypatch.setattr(training, "BATCH", 4)
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    for folder in (whole, parts):
        folder.mkdir()
    training.train_captioner(whole, 1.0, 4, False)

    class PowerCut(Exception):
        """Stands for the end of the machine in mid-run."""

    real = training.Run.update

    def cut(run: Any, *args: Any) -> None:
        real(run, *args)
        if run.step == 1:
            run.step += 1
            run.save()
            raise PowerCut

    (parts / "captioner_pictures.pt").write_bytes((whole / "captioner_pictures.pt").read_bytes())
    with monkeypatch.context() as patched:
        patched.setattr(training.Run, "update", cut)
        with pytest.raises(PowerCut):
            training.train_captioner(parts, 1.0, 4, False)
    training.train_captioner(parts, 1.0, 4, True)
    first = torch.load(whole / "captioner.pt")["averaged_model"]
    second = torch.load(parts / "captioner.pt")["averaged_model"]
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_the_folder_is_an_ordinary_one(tmp_path: Path, captioner: Any) -> None:
    from transformers import AutoTokenizer, BlipForConditionalGeneration

    tokenizer = AutoTokenizer.from_pretrained(str(FOLDER), local_files_only=True)
    model = BlipForConditionalGeneration.from_pretrained(str(FOLDER), local_files_only=True)
    pictures, _ = drawn("realistic", 990_003, (2,))
    pixels = captioner.preparation(pictures[:1])
    told = model.float().generate(pixel_values=pixels, max_new_tokens=40)
    theirs = tokenizer.decode(told[0], skip_special_tokens=True)
    assert read_pairs(theirs) == read_pairs(captioner.caption(pictures[:1])[0])
    files = write_folder(tmp_path, captioner.module.state_dict(), {})
    for path in files[:-1]:
        assert path.read_bytes() == (FOLDER / path.name).read_bytes()
