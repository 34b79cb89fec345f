"""The published benchmark's form, on a small folder made here, up to the table on it."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("comfy.samplers")

from realcompo.balancer.errors import RealCompoError  # noqa: E402
from realcompo.bench.checkpoints.plan import read_layouts  # noqa: E402
from realcompo.bench.checkpoints.published_layouts import read_published, segment_colours  # noqa: E402

RED, BLUE, BLACK, EDGE = (200, 30, 20), (10, 60, 220), (0, 0, 0), (105, 15, 10)
ITEMS = [
    {"id": 0, "textual_condition": "a lighthouse on a rocky cliff by night",
     "segment_descriptions": ["", "a rocky cliff", "a lighthouse"]},
    {"id": 1, "textual_condition": "a fox in the birch forest",
     "segment_descriptions": ["the birch forest", "a fox"]},
    {"id": 10, "textual_condition": "a red truck behind a fire hydrant",
     "segment_descriptions": ["", "a red truck", "a fire hydrant"]},
]  # fmt: skip


def picture(number: int) -> np.ndarray:
    """512x512: a mute black background; a forest with an edge colour; all foreground."""
    pixels = np.zeros((512, 512, 3), np.uint8)
    if number == 0:
        pixels[:] = RED
        pixels[:128] = BLACK
        pixels[128:256, :256] = BLUE
    elif number == 1:
        pixels[:] = RED
        pixels[256:, 256:] = BLUE
        pixels[256:264, 256:] = EDGE
    else:
        pixels[:, :320] = RED
        pixels[:, 320:] = BLUE
    return pixels


def folder_of(path: Path, items: list[dict[str, Any]] = ITEMS, pickled: bool = False) -> Path:
    from PIL import Image

    pictures = path / "layouts" if pickled else path
    pictures.mkdir(exist_ok=True)
    for item in items:
        Image.fromarray(picture(item["id"])).save(pictures / f"{item['id']}.png")
    if pickled:
        kept = {i["id"]: {k: v for k, v in i.items() if k != "id"} for i in items}
        (path / "set.pkl").write_bytes(pickle.dumps(kept))
    else:
        (path / "captions.json").write_text(json.dumps(items), encoding="utf-8")
    return path


@pytest.mark.parametrize("pickled", [False, True])
def test_captions_phrases_and_masks(tmp_path, pickled) -> None:
    layouts = read_layouts(folder_of(tmp_path, pickled=pickled))
    assert [layout.prompt for layout in layouts] == [i["textual_condition"] for i in ITEMS]
    assert [[r.phrase for r in layout.regions] for layout in layouts] == [
        ["a rocky cliff", "a lighthouse"], ["the birch forest", "a fox"],
        ["a red truck", "a fire hydrant"],
    ]  # fmt: skip
    assert (layouts[0].width, layouts[0].height) == (512, 512)
    # black is the background, though red is the larger: the cliff is the red of the other two
    assert layouts[0].regions[0].box == (0.0, 0.25, 1.0, 1.0)
    assert layouts[0].regions[1].box == (0.0, 0.25, 0.5, 0.5)
    # the edge's colour belongs to nobody
    assert layouts[1].regions[1].box == (0.5, 33 / 64, 1.0, 1.0)
    area = layouts[1].regions[0].mask
    assert area is not None and float(area.tensor().mean()) == 0.75
    # one description more than colours: a background that the picture does not have
    assert layouts[2].regions[0].box == (0.0, 0.0, 0.625, 1.0)


def test_order_of_colours() -> None:
    pixels = picture(0)
    assert segment_colours(pixels, 3) == [BLACK, RED, BLUE]
    assert segment_colours(pixels, 2) == [BLACK, RED]
    assert segment_colours(picture(1), 2) == [RED, BLUE]


@pytest.mark.parametrize(
    "spoil, words",
    [
        (lambda path: (path / "captions.json").unlink(), "no captions.json"),
        (lambda path: (path / "captions.json").write_text("[3]"), "cannot be read"),
        (lambda path: (path / "1.png").unlink(), "item 1 has no picture"),
        (lambda path: (path / "1.png").write_text("x"), "no picture"),
    ],
)
def test_spoilt_folders_are_refused(tmp_path, spoil, words) -> None:
    folder_of(tmp_path)
    spoil(tmp_path)
    with pytest.raises(RealCompoError, match=words) as caught:
        read_layouts(tmp_path)
    assert caught.value.where == "--layouts"


def test_too_few_colours_and_foreign_phrases_are_refused(tmp_path) -> None:
    more = [{**ITEMS[1], "segment_descriptions": ["the birch forest", "a fox", "x", "y"]}]
    with pytest.raises(RealCompoError, match="item 1: 4 descriptions"):
        read_published(folder_of(tmp_path, more))
    other = [{**ITEMS[1], "segment_descriptions": ["the birch forest", "a badger"]}]
    with pytest.raises(RealCompoError, match="badger"):
        read_layouts(folder_of(tmp_path, other))


def test_a_pickle_that_wants_to_run_something_is_refused(tmp_path) -> None:
    class Bomb:
        def __reduce__(self):
            return (print, ("never",))

    folder_of(tmp_path, pickled=True)
    (tmp_path / "set.pkl").write_bytes(pickle.dumps({0: Bomb()}))
    with pytest.raises(RealCompoError, match="cannot be read"):
        read_published(tmp_path)


def test_the_table_of_one_model_on_the_folder(tmp_path, monkeypatch) -> None:
    """--realism and --layouts alone, rows that need no second model."""
    import comfy.sd
    from realcompo.bench.quality.main import main
    from realcompo.tests.host import tiny

    from .test_checkpoints import Clip, Vae

    model = tiny.tiny_unet(1)
    monkeypatch.setattr(
        comfy.sd, "load_checkpoint_guess_config", lambda path, **_: (model, Clip(), Vae(), None)
    )
    (tmp_path / "look.safetensors").write_bytes(b"the loaders do not read this")
    words = ["--realism", str(tmp_path / "look.safetensors"),
             "--layouts", str(folder_of(tmp_path)), "--seeds", "1", "--steps", "4",
             "--size", "64x64", "--work", str(tmp_path / "work"), "--out", str(tmp_path / "out"),
             "--rows", "realism", "dense", "dense+realcompo"]  # fmt: skip
    assert main(words) == 0
    document = json.loads((tmp_path / "out" / "quality.json").read_text(encoding="utf-8"))
    rows = {row["method"]: row for row in document["rows"]}
    assert list(rows) == ["realism", "dense", "dense+realcompo"]
    assert rows["dense"]["settings"]["dense"]["power"] == 5.0
    assert rows["dense"]["forwards_per_image"] == 2 * 4
    assert rows["dense+realcompo"]["backwards_per_image"] > 0
    latents = {row: (tmp_path / "out" / "pictures" / row).glob("*.png") for row in rows}
    seen = {row: [path.read_bytes() for path in sorted(paths)] for row, paths in latents.items()}
    assert all(len(files) == len(ITEMS) for files in seen.values())
    assert not set(seen["realism"]) & set(seen["dense"])
    assert torch.is_grad_enabled()
    with pytest.raises(SystemExit):
        main([*words[:-1], "realcompo-paper"])
