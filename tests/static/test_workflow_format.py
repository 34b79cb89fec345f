"""Saved workflows become the graph that the page would send."""

from __future__ import annotations

from typing import Any

import pytest
from workflow import WorkflowError, to_api

INFO: dict[str, Any] = {
    "Load": {
        "input": {"required": {"file": (["a.png", "b.png"], {"image_upload": True})}},
        "input_order": {"required": ["file"]},
        "output": ["IMAGE", "MASK"],
        "display_name": "Load a File",
    },
    "Sample": {
        "input": {
            "required": {
                "model": ("MODEL",),
                "seed": ("INT", {"default": 0}),
                "cfg": ("FLOAT", {"default": 8.0}),
                "name": (["euler", "ddim"],),
            },
            "optional": {
                "image": ("IMAGE",),
                "strength": ("FLOAT", {"default": 0.5}),
                "wired_text": ("STRING", {"forceInput": True}),
            },
        },
        "input_order": {
            "required": ["model", "seed", "cfg", "name"],
            "optional": ["image", "strength", "wired_text"],
        },
        "output": ["IMAGE"],
        "display_name": "Sample",
    },
    "Model": {"input": {"required": {}}, "input_order": {}, "output": ["MODEL"]},
    "Count": {
        "input": {
            "required": {"n": ("INT", {"control_after_generate": True}), "t": ("STRING", {})}
        },
        "input_order": {"required": ["n", "t"]},
        "output": ["INT"],
    },
    "Mix": {
        "input": {"required": {"m": ("MASK",), "a": ("IMAGE",), "b": ("IMAGE",)}},
        "input_order": {"required": ["m", "a", "b"]},
        "output": ["IMAGE"],
    },
    "Save": {
        "input": {"required": {"images": ("IMAGE",), "prefix": ("STRING", {"default": "x"})}},
        "input_order": {"required": ["images", "prefix"]},
        "output": [],
    },
}


def node(number: int, kind: str, values: Any = None, **more: Any) -> dict[str, Any]:
    """A saved node; ``inputs`` as (name, type, link) and ``outputs`` as types."""
    inputs = [
        {"name": name, "type": wire, "link": link, **({"widget": {"name": name}} if rest else {})}
        for name, wire, link, *rest in more.pop("inputs", [])
    ]
    outputs = [{"name": wire, "type": wire, "links": []} for wire in more.pop("outputs", [])]
    saved = {"id": number, "type": kind, "mode": 0, "inputs": inputs, "outputs": outputs, **more}
    return saved if values is None else {**saved, "widgets_values": values}


def saved(nodes: list[dict[str, Any]], *links: tuple[int, int, int, int, int, str]) -> dict:
    """A saved workflow; links as (id, from node, slot, to node, slot, type)."""
    return {"version": 0.4, "nodes": nodes, "links": [list(link) for link in links]}


def sample(**more: Any) -> dict[str, Any]:
    return node(2, "Sample", [7, "randomize", 3.5, "ddim", 0.25], **more)


def inputs_of(workflow: dict[str, Any], number: int) -> dict[str, Any]:
    return to_api(workflow, INFO)[str(number)]["inputs"]


def test_links_widgets_and_the_seed_control_find_their_places() -> None:
    workflow = saved(
        [node(1, "Model", outputs=["MODEL"]), sample(inputs=[("model", "MODEL", 5)])],
        (5, 1, 0, 2, 0, "MODEL"),
    )
    assert to_api(workflow, INFO) == {
        "1": {"class_type": "Model", "inputs": {}, "_meta": {"title": "Model"}},
        "2": {
            "class_type": "Sample",
            "inputs": {
                "model": ["1", 0], "seed": 7, "cfg": 3.5, "name": "ddim", "strength": 0.25,
            },
            "_meta": {"title": "Sample"},
        },
    }  # fmt: skip


def test_the_seed_control_is_optional_in_the_file_and_not_only_for_seeds() -> None:
    without = saved([node(2, "Sample", [7, 3.5, "ddim", 0.25])])
    assert inputs_of(without, 2) == {"seed": 7, "cfg": 3.5, "name": "ddim", "strength": 0.25}
    flagged = saved([node(3, "Count", [4, "increment", "hello"])])
    assert inputs_of(flagged, 3) == {"n": 4, "t": "hello"}


def test_a_widget_turned_into_an_input_keeps_its_place_and_takes_the_link() -> None:
    workflow = saved(
        [node(1, "Count", [9, "fixed", ""], outputs=["INT"]),
         sample(inputs=[("model", "MODEL", None), ("seed", "INT", 6, "widget")])],
        (6, 1, 0, 2, 1, "INT"),
    )  # fmt: skip
    found = inputs_of(workflow, 2)
    assert found["seed"] == ["1", 0] and found["cfg"] == 3.5 and "model" not in found


def test_a_primitive_becomes_its_value() -> None:
    workflow = saved(
        [node(1, "PrimitiveNode", [42, "fixed"], outputs=["INT"]),
         sample(inputs=[("seed", "INT", 6, "widget")])],
        (6, 1, 0, 2, 1, "INT"),
    )  # fmt: skip
    assert inputs_of(workflow, 2)["seed"] == 42
    assert "1" not in to_api(workflow, INFO)


def test_reroutes_and_notes_vanish() -> None:
    workflow = saved(
        [node(1, "Model", outputs=["MODEL"]),
         node(8, "Reroute", inputs=[("", "*", 5)], outputs=["MODEL"]),
         node(9, "Reroute", inputs=[("", "*", 6)], outputs=["MODEL"]),
         node(10, "Note", ["read me"]), node(11, "MarkdownNote", ["read me"]),
         sample(inputs=[("model", "MODEL", 7)])],
        (5, 1, 0, 8, 0, "MODEL"), (6, 8, 0, 9, 0, "MODEL"), (7, 9, 0, 2, 0, "MODEL"),
    )  # fmt: skip
    assert set(to_api(workflow, INFO)) == {"1", "2"}
    assert inputs_of(workflow, 2)["model"] == ["1", 0]


def test_a_circle_of_reroutes_is_refused() -> None:
    workflow = saved(
        [node(8, "Reroute", inputs=[("", "*", 6)]), node(9, "Reroute", inputs=[("", "*", 5)]),
         sample(inputs=[("model", "MODEL", 5)])],
        (5, 8, 0, 2, 0, "MODEL"), (6, 9, 0, 8, 0, "MODEL"),
    )  # fmt: skip
    with pytest.raises(WorkflowError, match="circle"):
        to_api(workflow, INFO)


def test_a_muted_node_and_its_links_are_left_out() -> None:
    workflow = saved(
        [node(1, "Model", outputs=["MODEL"], mode=2), sample(inputs=[("model", "MODEL", 5)])],
        (5, 1, 0, 2, 0, "MODEL"),
    )
    assert set(to_api(workflow, INFO)) == {"2"}
    assert "model" not in inputs_of(workflow, 2)


@pytest.mark.parametrize(("a", "b", "source"), [(4, 6, 2), (4, None, 2), (None, 6, None)])
def test_a_bypassed_node_passes_on_the_first_input_of_the_right_type_linked_or_not(
    a: int | None, b: int | None, source: int | None
) -> None:
    workflow = saved(
        [node(1, "Load", ["a.png", "image"], outputs=["IMAGE", "MASK"]),
         node(2, "Load", ["a.png"], outputs=["IMAGE", "MASK"]),
         node(3, "Load", ["b.png"], outputs=["IMAGE", "MASK"]),
         node(4, "Mix", mode=4, outputs=["IMAGE"],
              inputs=[("m", "MASK", 9), ("a", "IMAGE", a), ("b", "IMAGE", b)]),
         node(5, "Save", ["p"], inputs=[("images", "IMAGE", 7)])],
        (9, 1, 1, 4, 0, "MASK"), (4, 2, 0, 4, 1, "IMAGE"), (6, 3, 0, 4, 2, "IMAGE"),
        (7, 4, 0, 5, 0, "IMAGE"),
    )  # fmt: skip
    graph = to_api(workflow, INFO)
    assert "4" not in graph
    assert graph["5"]["inputs"].get("images") == ([str(source), 0] if source else None)


def test_values_of_an_older_save_are_completed_by_defaults() -> None:
    assert inputs_of(saved([node(5, "Save", [])]), 5) == {"prefix": "x"}


def test_named_values_lists_and_link_objects_are_read() -> None:
    named = saved([node(5, "Save", {"prefix": "p", "other": 1})])
    assert inputs_of(named, 5) == {"prefix": "p"}
    listed = saved([node(5, "Save", [["p", "q"]])])
    assert inputs_of(listed, 5) == {"prefix": {"__value__": ["p", "q"]}}
    linked = saved([node(1, "Model", outputs=["MODEL"]), sample(inputs=[("model", "MODEL", 5)])])
    linked["links"] = [{"id": 5, "origin_id": 1, "origin_slot": 0, "target_id": 2}]
    assert inputs_of(linked, 2)["model"] == ["1", 0]


@pytest.mark.parametrize(
    ("workflow", "words"),
    [
        (saved([node(1, "Unheard")]), "no class Unheard"),
        (saved([node(5, "Save", ["p", "q", 3])]), "2 widget values more"),
    ],
)
def test_what_cannot_be_run_is_refused_with_the_reason(
    workflow: dict[str, Any], words: str
) -> None:
    with pytest.raises(WorkflowError, match=words):
        to_api(workflow, INFO)
