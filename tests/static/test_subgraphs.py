"""Workflows with subgraphs become the graph that the page sends: what is expected here is what the
page of ComfyUI 0.33 (1.49.6) made of the same workflows with its own classes."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from workflow import WorkflowError, classes_of, to_api

INNER, OUTER = "00000000-aaaa", "00000000-bbbb"
IMAGE = ("IMAGE", {})
METHODS = ["nearest", "area", "bicubic"]


def described(inputs: dict[str, Any], output: list[str]) -> dict[str, Any]:
    return {"input": {"required": inputs}, "input_order": {"required": list(inputs)},
            "output": output}  # fmt: skip


INFO: dict[str, Any] = {
    "Empty": described({"width": ("INT", {})}, ["IMAGE"]),
    "Scale": described(
        {"image": IMAGE, "method": (METHODS, {}), "by": ("FLOAT", {})}, ["IMAGE"]
    ),
    "Invert": described({"image": IMAGE}, ["IMAGE"]),
    "Number": described({"value": ("FLOAT", {})}, ["FLOAT"]),
    "Save": described({"images": IMAGE, "prefix": ("STRING", {})}, []),
}
Link = tuple[int, int, int, int, int, str]


def node(number: int, kind: str, values: tuple[Any, ...] = (), **more: Any) -> dict[str, Any]:
    """A saved node; ``image``, ``images`` and ``by`` are links."""
    wires = {"image": "IMAGE", "images": "IMAGE", "by": "FLOAT", "scale": "FLOAT", "": "*"}
    inputs = [
        {"name": name, "type": kind, "link": more.pop(name),
         **({"widget": {"name": name}} if kind == "FLOAT" else {})}
        for name, kind in wires.items() if name in more
    ]  # fmt: skip
    outputs = [{"name": wire, "type": wire} for wire in more.pop("outputs", ["IMAGE"])]
    return {"id": number, "type": kind, "mode": 0, "inputs": inputs, "outputs": outputs,
            "widgets_values": list(values), **more}  # fmt: skip


def subgraph(
    name: str, nodes: list[dict[str, Any]], links: list[Link], by: str = "", more: int = 0
) -> dict[str, Any]:
    """A definition with an input 'image', perhaps one for a FLOAT, and one or more outputs."""
    ends = ("id", "origin_id", "origin_slot", "target_id", "target_slot", "type")
    asked = [("image", "IMAGE"), *([(by, "FLOAT")] if by else [])]
    return {
        "id": name, "name": f"subgraph {name}", "nodes": nodes,
        "links": [dict(zip(ends, link, strict=True)) for link in links],
        "inputs": [
            {"name": n, "type": t, "linkIds": [k[0] for k in links if k[1:3] == (-10, slot)]}
            for slot, (n, t) in enumerate(asked)
        ],
        "outputs": [
            {"name": "IMAGE", "type": "IMAGE",
             "linkIds": [k[0] for k in links if k[3:5] == (-20, slot)]}
            for slot in range(1 + more)
        ],
    }  # fmt: skip


def inner() -> dict[str, Any]:
    """A picture scaled, its factor shown on the subgraph, and inverted."""
    return subgraph(
        INNER,
        [node(31, "Scale", ("nearest", 3.0), image=1, by=2), node(32, "Invert", image=3)],
        [(1, -10, 0, 31, 0, "IMAGE"), (2, -10, 1, 31, 2, "FLOAT"), (3, 31, 0, 32, 0, "IMAGE"),
         (4, 32, 0, -20, 0, "IMAGE")],
        by="by",
    )  # fmt: skip


def outer(**more: Any) -> dict[str, Any]:
    """The inner one and another inversion; the factor is shown here too, by another name."""
    return subgraph(
        OUTER,
        [node(41, INNER, (5.0,), image=1, by=2, **more), node(42, "Invert", image=3)],
        [(1, -10, 0, 41, 0, "IMAGE"), (2, -10, 1, 41, 1, "FLOAT"), (3, 41, 0, 42, 0, "IMAGE"),
         (4, 42, 0, -20, 0, "IMAGE")],
        by="scale",
    )  # fmt: skip


def around(
    use: dict[str, Any], *subgraphs: dict[str, Any], nodes: tuple[dict[str, Any], ...] = (),
    links: tuple[Link, ...] = (),
) -> dict[str, Any]:  # fmt: skip
    """A workflow of an empty picture (1), a use of a subgraph (10), and what saves it (2)."""
    return {
        "version": 0.4, "last_node_id": 10,
        "nodes": [node(1, "Empty", (64,)), use, node(2, "Save", ("x",), images=102), *nodes],
        "links": [[101, 1, 0, 10, 0, "IMAGE"], [102, 10, 0, 2, 0, "IMAGE"], *map(list, links)],
        "definitions": {"subgraphs": list(subgraphs)},
    }  # fmt: skip


def made(workflow: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Inputs by node, of the nodes of subgraphs and of what saves."""
    before = copy.deepcopy(workflow)
    graph = to_api(workflow, INFO)
    assert workflow == before
    return {name: entry["inputs"] for name, entry in graph.items() if name != "1"}


def factor(workflow: dict[str, Any], name: str = "10:31") -> Any:
    return made(workflow)[name]["by"]


def test_two_deep_each_use_has_nodes_and_values_of_its_own() -> None:
    second = node(11, OUTER, (), image=103, scale=None, title="Again")
    workflow = around(
        node(10, OUTER, (7.0,), image=101, scale=None), inner(), outer(),
        nodes=(second, node(3, "Save", ("y",), images=104)),
        links=((103, 1, 0, 11, 0, "IMAGE"), (104, 11, 0, 3, 0, "IMAGE")),
    )  # fmt: skip
    assert classes_of(workflow) == {"Empty", "Scale", "Invert", "Save"}
    assert made(workflow) == {
        "2": {"images": ["10:42", 0], "prefix": "x"},
        "3": {"images": ["11:42", 0], "prefix": "y"},
        "10:41:31": {"image": ["1", 0], "method": "nearest", "by": 7.0},
        "10:41:32": {"image": ["10:41:31", 0]},
        "10:42": {"image": ["10:41:32", 0]},
        # what this use does not say, the use inside says
        "11:41:31": {"image": ["1", 0], "method": "nearest", "by": 5.0},
        "11:41:32": {"image": ["11:41:31", 0]},
        "11:42": {"image": ["11:41:32", 0]},
    }
    titles = {name: entry["_meta"]["title"] for name, entry in to_api(workflow, INFO).items()}
    assert titles["10:41:31"] == "Scale"


def test_a_file_that_leaves_unlinked_inputs_out_says_the_same() -> None:
    use = node(10, OUTER, (7.0,), image=101)
    assert factor(around(use, inner(), outer()), "10:41:31") == 7.0


def test_a_shown_widget_takes_the_link_of_its_use() -> None:
    workflow = around(
        node(10, INNER, (7.0,), image=101, by=103), inner(),
        nodes=(node(5, "Number", (1.25,), outputs=["FLOAT"]),),
        links=((103, 5, 0, 10, 1, "FLOAT"),),
    )  # fmt: skip
    assert factor(workflow) == ["5", 0]
    # and one inside keeps its own value where the page's own primitive is linked to the use
    workflow["nodes"][-1]["type"] = "PrimitiveNode"
    assert factor(workflow) == 3.0


def test_a_shown_widget_that_leads_to_two_has_the_first_ones_value() -> None:
    both = subgraph(
        INNER,
        [node(91, "Scale", ("area", 2.0), image=1, by=2),
         node(92, "Scale", ("area", 3.0), image=3, by=4)],
        [(1, -10, 0, 91, 0, "IMAGE"), (2, -10, 1, 91, 2, "FLOAT"), (3, 91, 0, 92, 0, "IMAGE"),
         (4, -10, 1, 92, 2, "FLOAT"), (5, 92, 0, -20, 0, "IMAGE")],
        by="by",
    )  # fmt: skip
    for values, expected in (((), 2.0), ((6.0,), 6.0)):
        workflow = around(node(10, INNER, values, image=101, by=None), both)
        assert factor(workflow, "10:91") == factor(workflow, "10:92") == expected


def test_muted_and_bypassed_nodes_inside() -> None:
    inside = subgraph(
        INNER,
        [node(61, "Invert", image=1), node(62, "Scale", ("area", 2.0), image=2, mode=4),
         node(63, "Invert", image=3, mode=2), node(64, "Save", ("in",), images=4),
         node(65, "Save", ("of a muted one",), images=5), node(66, "Invert", image=6)],
        [(1, -10, 0, 61, 0, "IMAGE"), (2, 61, 0, 62, 0, "IMAGE"), (3, 62, 0, 63, 0, "IMAGE"),
         (4, 62, 0, 64, 0, "IMAGE"), (5, 63, 0, 65, 0, "IMAGE"), (6, 62, 0, 66, 0, "IMAGE"),
         (7, 66, 0, -20, 0, "IMAGE")],
    )  # fmt: skip
    assert made(around(node(10, INNER, image=101), inside)) == {
        "2": {"images": ["10:66", 0], "prefix": "x"},
        "10:61": {"image": ["1", 0]},
        "10:64": {"images": ["10:61", 0], "prefix": "in"},
        "10:65": {"prefix": "of a muted one"},
        "10:66": {"image": ["10:61", 0]},
    }


@pytest.mark.parametrize(("mode", "saved"), [(2, None), (4, ["1", 0])])
def test_a_use_that_is_muted_or_bypassed(mode: int, saved: Any) -> None:
    workflow = around(node(10, OUTER, (7.0,), image=101, scale=None, mode=mode), inner(), outer())
    assert made(workflow) == {"2": {"prefix": "x", **({"images": saved} if saved else {})}}
    # inside another its nodes stay, with nothing or something else in their place
    deeper = around(node(10, OUTER, (7.0,), image=101, scale=None), inner(), outer(mode=mode))
    found = made(deeper)
    assert set(found) == {"2", "10:41:31", "10:41:32", "10:42"}
    assert found["10:42"].get("image") == saved


def test_a_link_straight_through_and_one_through_a_reroute() -> None:
    straight = subgraph(
        INNER, [node(71, "Invert", image=None)],
        [(1, -10, 0, -20, 0, "IMAGE"), (2, 71, 0, -20, 1, "IMAGE")], more=1,
    )  # fmt: skip
    rerouted = subgraph(
        INNER, [node(73, "Reroute", **{"": 1})],
        [(1, -10, 0, 73, 0, "IMAGE"), (2, 73, 0, -20, 0, "IMAGE")],
    )  # fmt: skip
    for definition in (straight, rerouted):  # of the first the page itself makes an error
        found = made(around(node(10, INNER, image=101), definition))
        assert found["2"]["images"] == ["1", 0]


def test_ids_that_the_workflow_has_too_are_counted_on() -> None:
    same = inner()
    for entry in same["nodes"]:
        entry["id"] -= 30
    for link in same["links"]:
        for end in ("origin_id", "target_id"):
            link[end] -= 30 if link[end] > 30 else 0
    use = node(10, INNER, (7.0,), image=101, by=None, properties={"proxyWidgets": [["1", "by"]]})
    found = made(around(use, same))
    assert found["2"]["images"] == ["10:12", 0] and found["10:11"]["by"] == 7.0


def older(values: list[Any], *listed: list[str], linked: bool = True) -> dict[str, Any]:
    """A use as pages before ComfyUI 0.33 saved it: values in the order of a list."""
    definition = inner()
    if not linked:
        definition["inputs"].pop()
        definition["links"].pop(1)
        definition["nodes"][0]["inputs"].pop()
    use = node(10, INNER, tuple(values), image=101, properties={"proxyWidgets": list(listed)})
    return around(use, definition)


@pytest.mark.parametrize(
    ("values", "listed", "expected"),
    [
        (["area", 9.0], [["31", "method"], ["31", "by"]], ("area", 9.0)),
        (["area", 9.0], [["31", "method"], ["-1", "by"]], ("area", 9.0)),
        ([9.0, "area"], [["31", "by"], ["31", "method"]], ("area", 9.0)),
        ([9.0], [["31", "by"]], ("nearest", 9.0)),
        ([], [["31", "by"], ["31", "method"]], ("nearest", 3.0)),
        # of a None the page itself makes a value, which the server refuses
        ([None], [["31", "by"]], ("nearest", 3.0)),
        (["x", 9.0], [["32", "$$preview"], ["31", "by"]], ("nearest", 9.0)),
        (["x", 9.0], [["77", "by"], ["31", "by"]], ("nearest", 9.0)),
    ],
)
def test_lists_of_older_pages(
    values: list[Any], listed: list[list[str]], expected: tuple[str, float]
) -> None:
    for linked in (True, False):
        if not linked and ["-1", "by"] in listed:
            continue
        found = made(older(values, *listed, linked=linked))["10:31"]
        assert (found["method"], found["by"]) == expected


@pytest.mark.parametrize(
    ("values", "entry", "expected"),
    [
        ((8.5,), ["41", "by"], 8.5), ((8.5,), ["41", "31: by"], 8.5),
        ((8.5,), ["41", "by", "31"], 8.5), ((8.5,), ["41", "by", "99"], 8.5),
        ((), ["41", "by"], 5.0),
    ],
)  # fmt: skip
def test_lists_that_name_a_use_inside(
    values: tuple[Any, ...], entry: list[str], expected: float
) -> None:
    outside = outer()
    outside["inputs"].pop()
    outside["links"].pop(1)
    outside["nodes"][0]["inputs"].pop()
    use = node(10, OUTER, values, image=101, properties={"proxyWidgets": [entry]})
    assert factor(around(use, inner(), outside), "10:41:31") == expected


def test_what_is_missing_is_told_by_its_place() -> None:
    workflow = around(node(10, OUTER, image=101), inner(), outer())
    workflow["definitions"]["subgraphs"][0]["nodes"][1]["type"] = "Unheard"
    with pytest.raises(WorkflowError, match="node 10:41:32: the host has no class Unheard"):
        to_api(workflow, INFO)
    circle = outer()
    circle["nodes"][1]["type"] = OUTER
    with pytest.raises(WorkflowError, match="node 10:42: subgraph 'subgraph .*' holds itself"):
        to_api(around(node(10, OUTER, image=101), inner(), circle), INFO)
