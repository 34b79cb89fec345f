"""The small executor keeps the server's order and list rules, and the demo names its pictures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from demo import Progress, collect
from execute import Executor, ancestors, object_info
from headless import save_image_path
from workflow import WorkflowError


class Number:
    """A source; counts how often it runs."""

    runs = 0
    RETURN_TYPES = ("INT",)
    FUNCTION = "go"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {"value": ("INT", {})}}

    def go(self, value: int) -> tuple[int]:
        Number.runs += 1
        return (value,)


class Range(Number):
    """Gives a list of values that later nodes take one by one."""

    OUTPUT_IS_LIST = (True,)

    def go(self, value: int) -> tuple[list[int]]:  # type: ignore[override]
        return (list(range(value)),)


class Add(Number):
    RETURN_TYPES = ("INT", "INT")

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {"a": ("INT", {}), "b": ("INT", {})},
            "hidden": {"me": "UNIQUE_ID", "prompt": "PROMPT"},
        }

    def go(self, a: int, b: int, me: str, prompt: dict) -> dict[str, Any]:  # type: ignore[override]
        assert prompt[me]["class_type"] == "Add"
        return {"ui": {"text": [f"{me}:{a + b}"]}, "result": (a + b, a - b)}


class Total(Number):
    """Takes all values of its input at once, and is an output node."""

    INPUT_IS_LIST = True
    OUTPUT_NODE = True
    RETURN_TYPES = ()

    def go(self, value: list[int]) -> dict[str, Any]:  # type: ignore[override]
        import torch

        assert torch.is_inference_mode_enabled()
        return {"ui": {"text": [str(sum(value))]}}


class Output:
    """What newer classes of the host give: outputs, what is shown, and two things more."""

    def __init__(self, *args: Any, ui: Any = None) -> None:
        self.args, self.ui, self.expand, self.block_execution = args, ui, None, None

    @property
    def result(self) -> tuple[Any, ...] | None:
        return self.args or None


class Shown:
    def as_dict(self) -> dict[str, Any]:
        return {"images": ["a picture"]}


class Newer(Number):
    OUTPUT_NODE = True

    def go(self, value: int) -> Output:  # type: ignore[override]
        return Output(value + 1, ui=Shown()) if value else Output()


CLASSES = {"Number": Number, "Range": Range, "Add": Add, "Total": Total, "Newer": Newer}


def find(name: str) -> type:
    if name not in CLASSES:
        raise WorkflowError(f"no class {name}")
    return CLASSES[name]


def graph_of(**nodes: tuple[str, dict[str, Any]]) -> dict[str, Any]:
    return {
        name: {"class_type": kind, "inputs": inputs, "_meta": {"title": name}}
        for name, (kind, inputs) in nodes.items()
    }


def test_each_node_runs_once_after_its_sources_and_only_if_needed() -> None:
    graph = graph_of(
        n=("Number", {"value": 3}), unused=("Number", {"value": 9}),
        sum=("Add", {"a": ["n", 0], "b": ["n", 0]}), all=("Total", {"value": ["sum", 0]}),
    )  # fmt: skip
    Number.runs = 0
    order: list[str] = []
    done = Executor(graph, find, lambda kind, data: order.append(data["node"])).run()
    assert order == ["n", "sum", "all"] and Number.runs == 1
    assert done.values["sum"] == [[6], [0]]
    assert done.shown == {"sum": {"text": ["sum:6"]}, "all": {"text": ["6"]}}
    assert ancestors(graph, "all") == ["sum", "n"]


def test_lists_are_mapped_and_gathered_as_on_the_server() -> None:
    graph = graph_of(
        r=("Range", {"value": 4}), ten=("Number", {"value": 10}),
        sum=("Add", {"a": ["ten", 0], "b": ["r", 0]}), all=("Total", {"value": ["sum", 1]}),
    )  # fmt: skip
    done = Executor(graph, find).run()
    assert done.values["sum"] == [[10, 11, 12, 13], [10, 9, 8, 7]]
    assert done.shown["all"] == {"text": ["34"]}
    only = Executor(graph, find).run(["r"])
    assert set(only.values) == {"r"}


def test_newer_classes_give_an_object() -> None:
    done = Executor(graph_of(a=("Newer", {"value": 3}), b=("Newer", {"value": 0})), find).run()
    assert done.values == {"a": [[4]], "b": [[]]}
    assert done.shown == {"a": {"images": ["a picture"]}}


def test_the_hosts_own_newer_classes_run_and_describe_themselves() -> None:
    io = pytest.importorskip("comfy_api.latest", reason="this host has no newer classes").io

    class Square(io.ComfyNode):
        @classmethod
        def define_schema(cls) -> Any:
            return io.Schema(
                node_id="Square", inputs=[io.Int.Input("value", default=2)],
                outputs=[io.Int.Output(display_name="square")], is_output_node=True,
            )  # fmt: skip

        @classmethod
        def execute(cls, value: int) -> Any:
            return io.NodeOutput(value * value, ui={"text": [str(value)]})

    info = object_info("Square", Square, "Square")
    assert info["output_name"] == ["square"] and info["input"]["required"]["value"][0] == "INT"
    done = Executor(graph_of(a=("Square", {"value": 3})), lambda _: Square).run()
    assert done.values == {"a": [[9]]} and done.shown == {"a": {"text": ["3"]}}


@pytest.mark.parametrize(
    ("graph", "words"),
    [
        (graph_of(a=("Total", {"value": ["b", 0]}), b=("Number", {"value": ["a", 0]})), "circle"),
        (graph_of(a=("Total", {})), "nothing at input value"),
        (graph_of(a=("Nothing", {})), "no class Nothing"),
    ],
)
def test_a_graph_that_cannot_run_is_refused(graph: dict[str, Any], words: str) -> None:
    with pytest.raises(WorkflowError, match=words):
        Executor(graph, find).run()


def test_pictures_get_numbers_and_stay_in_the_output_folder(tmp_path: Path) -> None:
    folder, name, counter, subfolder, _ = save_image_path("demo/real", str(tmp_path), 8, 9)
    assert (Path(folder), name, counter, subfolder) == (tmp_path / "demo", "real", 1, "demo")
    (tmp_path / "demo" / "real_00007_.png").touch()
    (tmp_path / "demo" / "realcompo_00099_.png").touch()
    assert save_image_path("demo/real", str(tmp_path))[2] == 8
    assert save_image_path("%width%x%height%", str(tmp_path), 8, 9)[1] == "8x9"
    with pytest.raises(ValueError, match="leaves the output folder"):
        save_image_path("../x", str(tmp_path))


def _described(**inputs: str) -> dict[str, Any]:
    return {"required": {name: (kind,) for name, kind in inputs.items()}}


DEMO_INFO = {
    "Sampler": {"input": _described(model="MODEL", latent="LATENT"), "output": ["LATENT"]},
    "Empty": {"input": _described(), "output": ["LATENT"]},
    "Decode": {"input": _described(samples="LATENT", vae="VAE"), "output": ["IMAGE"]},
    "Plot": {"input": _described(trace="TRACE", latent="LATENT"), "output": ["IMAGE"]},
    "Save": {"input": _described(images="IMAGE"), "output": []},
}


def test_the_demo_names_copies_and_attributes_its_pictures(tmp_path: Path) -> None:
    graph = graph_of(
        e=("Empty", {}), s1=("Sampler", {"latent": ["e", 0]}), s2=("Sampler", {"latent": ["e", 0]}),
        d1=("Decode", {"samples": ["s1", 0]}), d2=("Decode", {"samples": ["s2", 0]}),
        plot=("Plot", {"trace": ["s2", 1], "latent": ["s2", 0]}),
        o3=("Save", {"images": ["plot", 0], "filename_prefix": "realcompo_demo/trace"}),
        o1=("Save", {"images": ["d1", 0], "filename_prefix": "realcompo_demo/realism"}),
        o2=("Save", {"images": ["d2", 0], "filename_prefix": "realcompo_demo/realcompo"}),
    )  # fmt: skip
    host, out = tmp_path / "host", tmp_path / "out"
    (host / "realcompo_demo").mkdir(parents=True)
    out.mkdir()

    def image(name: str) -> dict[str, str]:
        (host / "realcompo_demo" / name).write_text(name)
        return {"filename": name, "subfolder": "realcompo_demo", "type": "output"}

    shown = {
        "o3": {"images": [image("trace_1.png")]},
        "o1": {"images": [image("realism_1.png"), image("realism_2.png")]},
        "o2": {"images": [image("realcompo_1.png")]},
        "s2": {"realcompo": [json.dumps({"forwards": 61, "balancer": "paper"})]},
        "s1": {"realcompo": [json.dumps({"method": "realism", "forwards": 40})]},
    }
    rows = collect(graph, DEMO_INFO, shown, {"s1": 1.234, "s2": 5.0}, host, out)
    found = {row["file"]: row for row in rows}
    assert list(found) == [
        "out/realism.png", "out/realism-2.png", "out/realcompo.png", "out/trace.png",
    ]  # fmt: skip
    assert (out / "realism-2.png").read_text() == "realism_2.png"
    assert found["out/realism.png"]["forwards"] == 40
    assert found["out/realism.png"]["seconds"] == 1.23
    assert found["out/realcompo.png"]["forwards"] == 61
    assert found["out/realcompo.png"]["report"]["balancer"] == "paper"
    assert not found["out/trace.png"]["sampled"] and found["out/trace.png"]["forwards"] is None


def test_progress_keeps_the_time_of_each_node(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 1.0, 4.0, 4.5])
    monkeypatch.setattr("demo.time.monotonic", lambda: next(clock))
    progress = Progress(graph_of(a=("Number", {}), b=("Number", {})))
    progress("executing", {"node": "a"})
    progress("executing", {"node": "b"})
    progress("execution_success", {})
    assert progress.seconds == {"a": 3.0, "b": 0.5}


def test_object_info_is_what_the_server_says() -> None:
    info = object_info("Add", Add, "Sum")
    assert info["input_order"] == {"required": ["a", "b"], "hidden": ["me", "prompt"]}
    assert info["output"] == ["INT", "INT"] and info["output_is_list"] == [False, False]
    assert info["display_name"] == "Sum" and not info["output_node"]
