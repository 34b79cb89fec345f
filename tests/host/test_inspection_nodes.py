"""The inspection nodes as a graph calls them: pictures, files, and what bad input gives."""

from __future__ import annotations

import errno
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from realcompo.balancer.errors import RealCompoError
from realcompo.balancer.layouts.layout import Layout, Region
from realcompo.balancer.realcompo.settings import preset
from realcompo.balancer.realcompo.trace import Trace

from . import pair, tiny

LAYOUT = Layout(
    (Region("a red star", (0.1, 0.1, 0.5, 0.5)), Region("a blue circle", (0.5, 0.5, 0.9, 0.9))),
    "a red star and a blue circle",
)


@pytest.fixture
def folders(tmp_path: Path) -> Iterator[SimpleNamespace]:
    """Output and input folders of the host, empty ones."""
    import folder_paths
    import headless

    before = {name: getattr(folder_paths, f"get_{name}_directory") for name in ("output", "input")}
    paths = {name: Path(get()) for name, get in before.items()}
    headless.give_folders(folder_paths, tmp_path)
    yield SimpleNamespace(output=tmp_path / "output", input=tmp_path / "input")
    for name, path in paths.items():
        setter = getattr(folder_paths, f"set_{name}_directory", None)
        if setter is not None:
            setter(str(path))
        else:
            setattr(folder_paths, f"get_{name}_directory", before[name])


@pytest.fixture(scope="module")
def trace(models) -> Trace:
    guider = pair.guider(*models, preset("paper", spatial_only=0.0))
    pair.run(guider, tiny.latent_noise(5, batch=2), steps=3)
    return guider.trace


def look(model: Any, **changes: Any) -> Any:
    from realcompo.nodes.inspection_attention import RealCompoAttentionMaps

    inputs = {
        "model": model, "positive": tiny.conditioning(3),
        "latent_image": {"samples": tiny.latent_noise(5, batch=2, height=16, width=24)},
        "layout": LAYOUT, "seed": 1, "noise_levels": "0.2, 0.6", "map_level": "auto",
        "sites": "blocks", **changes,
    }  # fmt: skip
    with torch.inference_mode():
        return RealCompoAttentionMaps().draw(**inputs)


def test_attention_maps_are_sheets_masks_and_numbers(models) -> None:
    image, masks, shares = look(models[0])
    assert image.shape[0] == 2 and image.shape[-1] == 3
    assert float(image.min()) >= 0.0 and float(image.max()) <= 1.0
    assert masks.shape == (4, 128, 192)
    first, second = json.loads(shares)
    assert [level["part"] for level in first["levels"]] == [0.2, 0.6]
    sites = first["levels"][0]["sites"]
    assert list(sites) == ["input 1", "output 2", "output 3"]
    assert sites["input 1"][0]["phrase"] == "a red star"
    assert first != second
    over = look(models[0], image=torch.rand(1, 64, 96, 3))[0]
    assert not torch.equal(over, image)


def refused(call: Any, node: str, where: str) -> RealCompoError:
    with pytest.raises(RealCompoError) as caught:
        call()
    assert re.fullmatch(rf"{node}, input '{where}': [^\n]+\.", str(caught.value))
    return caught.value


@pytest.mark.parametrize(
    ("changes", "where"),
    [
        ({"noise_levels": "soon"}, "noise_levels"),
        ({"model": None}, "model"),
        ({"positive": "a star"}, "positive"),
        ({"latent_image": None}, "latent_image"),
        ({"latent_image": {"samples": torch.ones(1, 16, 8, 8)}}, "latent_image"),
        ({"layout": Layout((), "a prompt")}, "layout"),
        ({"layout": None}, "layout"),
        ({"map_level": "8"}, "map_level"),
        ({"image": torch.zeros(3)}, "image"),
    ],
)
def test_attention_maps_says_what_is_wrong(models, changes, where) -> None:
    inputs = {"model": models[0], **changes}
    refused(lambda: look(**inputs), "RealCompo Attention Maps", where)


def test_attention_maps_of_a_model_without_any() -> None:
    refused(lambda: look(tiny.tiny_flux(1)), "RealCompo Attention Maps", "model")


def test_a_trace_is_saved_and_loaded_and_drawn_the_same(folders, trace) -> None:
    from realcompo.nodes.inspection import RealCompoMixPreview, RealCompoTracePlot
    from realcompo.nodes.trace_files import RealCompoLoadTrace, RealCompoSaveTrace

    def drawn(value: Trace) -> list[torch.Tensor]:
        mix = RealCompoMixPreview().draw(value, maps=4, columns=2, side=128)[0]
        return [mix, RealCompoTracePlot().plot(value)[0]]

    done = RealCompoSaveTrace().save(trace, "folder/run")
    (name,) = done["result"]
    assert name == "folder/run_00001_.trace.safetensors [output]"
    assert done["ui"]["text"] == [name]
    assert sorted(path.name for path in (folders.output / "folder").iterdir()) == [
        "run_00001_.trace.json", "run_00001_.trace.safetensors",
    ]  # fmt: skip
    choices = RealCompoLoadTrace.INPUT_TYPES()["required"]["trace_file"][0]
    assert choices == ["newest in output", name]
    ways = ({"trace_file": choices[0]}, {"trace_file": name}, {"trace_file": "", "file": name})
    for given in ways:
        (back,) = RealCompoLoadTrace().load(**given)
        assert all(map(torch.equal, drawn(back), drawn(trace)))
        assert torch.equal(back.steps[1].maps_spatial, trace.steps[1].maps_spatial)


def test_the_newest_is_the_last_saved_and_a_new_one_is_noticed(folders, trace) -> None:
    from realcompo.nodes.trace_files import RealCompoLoadTrace, RealCompoSaveTrace

    newest = "newest in output"
    assert RealCompoLoadTrace.IS_CHANGED(newest) == ""
    saved = [RealCompoSaveTrace().save(trace, "run")["result"][0] for _ in range(2)]
    assert saved[1].startswith("run_00002_")
    files = [folders.output / name.removesuffix(" [output]") for name in saved]
    os.utime(files[0], ns=(10**18, 10**18))
    os.utime(files[1], ns=(2 * 10**18, 2 * 10**18))
    before = RealCompoLoadTrace.IS_CHANGED(newest)
    assert "run_00002_" in before
    os.utime(files[0], ns=(3 * 10**18, 3 * 10**18))
    assert "run_00001_" in RealCompoLoadTrace.IS_CHANGED(newest)
    assert RealCompoLoadTrace.IS_CHANGED(saved[1]) == before


def test_input_files_can_be_chosen(folders, trace) -> None:
    from realcompo.nodes.trace_files import RealCompoLoadTrace, RealCompoSaveTrace

    RealCompoSaveTrace().save(trace, "run")
    (folders.output / "run_00001_.trace.safetensors").rename(
        folders.input / "mine.trace.safetensors"
    )
    choices = RealCompoLoadTrace.INPUT_TYPES()["required"]["trace_file"][0]
    assert choices == ["newest in output", "mine.trace.safetensors [input]"]
    assert RealCompoLoadTrace().load(choices[1])[0].steps
    node = "RealCompo Load Trace"
    refused(lambda: RealCompoLoadTrace().load(choices[0]), node, "trace_file")


@pytest.mark.parametrize(
    "name",
    [
        "../../secret.trace.safetensors [output]", "/etc/passwd [input]", "a/../../b [input]",
        "plain.trace.safetensors", " [output]", "x [temp]", ". [output]",
    ],
)  # fmt: skip
def test_no_file_outside_the_hosts_folders_is_read(folders, trace, name) -> None:
    from realcompo.balancer.realcompo.trace_file import save_trace
    from realcompo.nodes.trace_files import RealCompoLoadTrace

    save_trace(trace, folders.output.parent.parent / "secret.trace.safetensors")
    load = RealCompoLoadTrace().load
    error = refused(lambda: load("newest in output", name), "RealCompo Load Trace", "file")
    assert "leads out of" in str(error) or "names no file" in str(error)


@pytest.mark.parametrize(
    "prefix",
    ["../run", "/elsewhere/run", "a/../../run", "a\0b", "\ud800", "x" * 300, "CON", "a:b", "run..",
     "runs/", ""],
)  # fmt: skip
def test_no_file_outside_the_output_folder_is_written(folders, trace, prefix) -> None:
    from realcompo.nodes.trace_files import RealCompoSaveTrace

    save = RealCompoSaveTrace().save
    refused(lambda: save(trace, prefix), "RealCompo Save Trace", "filename_prefix")
    assert not list(folders.output.parent.rglob("*.safetensors"))


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS])
def test_a_folder_that_cannot_be_made_is_told_at_both_save_nodes(
    folders, trace, monkeypatch, number
) -> None:
    from realcompo.nodes.finetuning_tools import RealCompoSaveLoRA
    from realcompo.nodes.trace_files import RealCompoSaveTrace

    def fails(*args, **kwargs) -> None:
        raise OSError(number, os.strerror(number))

    # hosts make folders in either way
    monkeypatch.setattr(os, "makedirs", fails)
    monkeypatch.setattr(os, "mkdir", fails)
    monkeypatch.setattr(Path, "mkdir", fails)
    save, keep = RealCompoSaveTrace().save, RealCompoSaveLoRA().save
    lora = {"a": torch.zeros(1)}
    for run, shown in (
        (lambda: save(trace, "new/run"), "RealCompo Save Trace"),
        (lambda: keep(lora, "new/run"), "RealCompo Save LoRA"),
        (lambda: keep(lora, "a\0b"), "RealCompo Save LoRA"),
    ):
        refused(run, shown, "filename_prefix")
    assert not list(folders.output.rglob("*.*"))


@pytest.mark.parametrize(
    "name", ["a\0b [output]", "\ud800 [output]", "x" * 9000, "x" * 300 + " [input]"]
)
def test_odd_names_of_traces_are_refused(folders, name) -> None:
    from realcompo.nodes.trace_files import RealCompoLoadTrace

    assert RealCompoLoadTrace.IS_CHANGED("newest in output", name) == ""
    load = RealCompoLoadTrace().load
    error = refused(lambda: load("newest in output", name), "RealCompo Load Trace", "file")
    assert len(str(error)) < 400


def test_what_is_no_trace(folders) -> None:
    from realcompo.nodes.inspection import RealCompoMixPreview
    from realcompo.nodes.trace_files import RealCompoSaveTrace

    save, draw = RealCompoSaveTrace().save, RealCompoMixPreview().draw
    for bad in (None, Trace()):
        refused(lambda bad=bad: save(bad, "x"), "RealCompo Save Trace", "trace")
        refused(lambda bad=bad: draw(bad), "RealCompo Mix Preview", "trace")
    assert not list(folders.output.iterdir())


def test_a_step_that_the_run_does_not_have(trace) -> None:
    from realcompo.nodes.inspection import RealCompoMixPreview

    draw = RealCompoMixPreview().draw
    refused(lambda: draw(trace, step=9), "RealCompo Mix Preview", "step")
    refused(lambda: draw(trace, sample=5), "RealCompo Mix Preview", "sample")
    refused(lambda: draw(trace, layout="x"), "RealCompo Mix Preview", "layout")
