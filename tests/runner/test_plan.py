"""Columns find their inputs, cells become values, rows get names and an order."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from realcompo.runner.errors import RowError, RunnerError
from realcompo.runner.host import files_of
from realcompo.runner.job import Shelf, Task
from realcompo.runner.plan import Plan, make_plan
from realcompo.runner.table import Table, TableRow, table_of
from realcompo.runner.values import coerce
from realcompo.runner.workflow import Target, bind, graph_hash, read_workflow

from .rows import INFO, graph


def plan(rows: list[dict[str, Any]], **more: Any) -> Plan:
    return make_plan(graph(), table_of(rows), INFO, **more)


@pytest.mark.parametrize(
    ("column", "targets"),
    [
        ("8.steps", [("8", "steps")]),
        ("KSampler v1.5.steps", [("8", "steps")]),  # a title with a dot
        ("Sampler.cfg", [("8", "cfg")]),  # by its class
        ("Positive.text", [("4", "text")]),
        ("8.mode", [("8", "mode")]),  # optional, not in the exported file
        ("steps", [("8", "steps")]),  # only one node has it
        ("seed", [("8", "seed")]),
        ("author", []),  # a label
        ("id", []),
    ],
)
def test_a_column_finds_its_input(column: str, targets: list[tuple[str, str]]) -> None:
    binding = bind(graph(), [column], INFO)
    assert list(binding.columns.get(column, ())) == [Target(*target) for target in targets]
    assert binding.labels == (() if targets else (column,))


def test_a_row_has_one_seed_wherever_it_is_drawn_from() -> None:
    two = graph()
    two["10"] = {"class_type": "Noise", "inputs": {"noise_seed": 3}}
    two["11"] = {"class_type": "Noise", "inputs": {"noise_seed": ["10", 0]}}
    assert bind(two, ["seed"], INFO).columns["seed"] == (
        Target("8", "seed"), Target("10", "noise_seed")
    )  # fmt: skip


def test_a_mapping_names_inputs_that_columns_do_not() -> None:
    mapping = {"prompt": ["4.text", "Negative.text"], "steps": []}
    binding = bind(graph(), ["prompt", "steps"], INFO, mapping)
    assert binding.columns == {"prompt": (Target("4", "text"), Target("5", "text"))}
    assert binding.labels == ("steps",)


@pytest.mark.parametrize(
    ("columns", "mapping", "words"),
    [
        (["Possitive.text"], {}, "'Possitive'; the nearest is 'Positive'"),
        (["8.stepz"], {}, "no input 'stepz'; the nearest is 'steps'"),
        (["text"], {}, "fits 2 nodes: rename it to 4.text or 5.text"),
        (["8.model"], {}, "takes a MODEL from another node"),
        (["8.seed", "seed"], {}, "Columns '8.seed' and 'seed' both fill"),
        (["a"], {"prompt": ["4.text"]}, "no column 'prompt'"),
        (["a"], {"a": ["text"]}, "no node with the id or title"),
        (["a"], {}, "No column of the table fills an input"),
        (["seed", "status"], {}, "a column 'status' of their own"),
        (["seed", "metric.x"], {}, "a column 'metric.x' of their own"),
    ],
)
def test_a_column_that_fits_nothing_or_too_much_is_refused(
    columns: list[str], mapping: dict[str, list[str]], words: str
) -> None:
    rows = Table(columns, [TableRow(1, dict.fromkeys(columns, 1))])
    with pytest.raises(RunnerError) as refusal:
        make_plan(graph(), rows, INFO, mapping)
    assert words in str(refusal.value) and "\n" not in str(refusal.value)


def test_two_nodes_of_one_title_are_named_by_id() -> None:
    same = graph()
    same["5"]["_meta"]["title"] = "Positive"
    with pytest.raises(RunnerError, match="nodes 4, 5 are all called 'Positive'"):
        bind(same, ["Positive.text"], INFO)


def in_subgraphs() -> dict[str, Any]:
    """The sampler in two uses of a subgraph, one of them two deep, as the page exports them."""
    made = graph()
    sampler = made.pop("8")
    for name in ("57:8", "58:12:8"):
        made[name] = {**sampler, "inputs": dict(sampler["inputs"])}
    made["9"]["inputs"]["images"] = ["57:8", 0]
    made["57:9"] = {"class_type": "Save", "inputs": {"images": ["58:12:8", 0]}}
    return made


@pytest.mark.parametrize(
    ("column", "node"),
    [("57:8.steps", "57:8"), ("58:12:8.steps", "58:12:8"), ("57:KSampler v1.5.steps", "57:8"),
     ("58:12:Sampler.steps", "58:12:8"), ("57:Save.filename_prefix", "57:9"),
     ("Negative.text", "5")],
)  # fmt: skip
def test_nodes_inside_subgraphs_are_named_by_the_way_to_them(column: str, node: str) -> None:
    (target,) = bind(in_subgraphs(), [column], INFO).columns[column]
    assert target == Target(node, column.rpartition(".")[2])


@pytest.mark.parametrize(
    ("column", "words"),
    [("KSampler v1.5.steps", "nodes 57:8, 58:12:8 are all called"), ("58:Sampler.steps", "no node"),
     ("steps", "fits 2 nodes: rename it to 57:8.steps or 58:12:8.steps")],
)  # fmt: skip
def test_what_several_subgraphs_have_is_asked_for(column: str, words: str) -> None:
    with pytest.raises(RunnerError, match=words):
        bind(in_subgraphs(), [column], INFO)


def test_a_row_has_one_seed_in_all_subgraphs_and_files_in_their_order() -> None:
    entry = make_plan(in_subgraphs(), table_of([{"seed": 5}]), INFO).entries[0]
    assert [entry.task.graph[n]["inputs"]["seed"] for n in ("57:8", "58:12:8")] == [5, 5]
    shown = {n: {"images": [{"filename": n, "type": "output"}]} for n in ("57:10", "9", "57:9")}
    assert [node for node, _ in files_of(shown)] == ["9", "57:9", "57:10"]


INT, COMBO = ("INT", {"min": 0, "max": 10}), (["euler", "dpm"], {})


@pytest.mark.parametrize(
    ("value", "spec", "result"),
    [
        ("7", INT, 7), (" 7 ", INT, 7), (7.0, INT, 7), ("7.0", INT, 7),
        (str(2**63 + 1), ("INT", {}), 2**63 + 1),
        ("2.5", ("FLOAT", {}), 2.5), (3, ("FLOAT", {}), 3.0),
        ("True", ("BOOLEAN", {}), True), ("0", ("BOOLEAN", {}), False), (1, ("BOOLEAN", {}), True),
        ("", ("STRING", {}), ""), (5, ("STRING", {}), "5"), ("007", ("STRING", {}), "007"),
        ("dpm", COMBO, "dpm"), ("2", ([1, 2], {}), 2),
        ("x", ("COMBO", {"options": ["x"]}), "x"), ("any.png", (["a.png"], {"image_upload": True}),
                                                   "any.png"),
        ([1, 2], ("CURVE", {}), {"__value__": [1, 2]}),
    ],
)  # fmt: skip
def test_a_cell_becomes_what_the_input_takes(value: Any, spec: Any, result: Any) -> None:
    found = coerce(value, spec, None)
    assert found == result and type(found) is type(result)


@pytest.mark.parametrize(
    ("value", "spec", "words"),
    [
        ("seven", INT, "'seven' is no whole number"), ("7.5", INT, "no whole number"),
        ("", INT, "'' is no whole number"), (True, INT, "no number"),
        (float("nan"), INT, "no whole number"), ("11", INT, "11 is not in 0 to 10"),
        (-1, INT, "not in 0 to 10"), ("inf", ("FLOAT", {}), "no finite number"),
        ("maybe", ("BOOLEAN", {}), "neither true nor false"),
        ("ddim", COMBO, "'ddim' is not one of euler, dpm"),
    ],
)  # fmt: skip
def test_a_cell_that_does_not_fit_is_refused(value: Any, spec: Any, words: str) -> None:
    with pytest.raises(RowError) as refusal:
        coerce(value, spec, None)
    assert words in str(refusal.value)


def test_what_the_host_does_not_describe_is_taken_as_the_workflow_has_it() -> None:
    assert coerce("4", None, 3) == 4 and coerce("4", None, "x") == "4"
    assert coerce("true", None, False) is True


def test_rows_are_filled_and_named_after_what_they_compute() -> None:
    made = plan([{"seed": "3", "Positive.text": "a star", "who": "me"}])
    (entry,) = made.entries
    inputs = entry.task.graph["8"]["inputs"]
    assert inputs["seed"] == 3 and entry.task.graph["4"]["inputs"]["text"] == "a star"
    assert entry.columns == {
        "group": entry.task.id, "repeat": 0, "seed": 3, "Positive.text": "a star", "who": "me"
    }  # fmt: skip
    assert "labels: who" in made.notices[0]
    renamed = graph()
    renamed["8"]["_meta"]["title"] = "another title"
    same = make_plan(renamed, table_of([{"seed": 3, "Positive.text": "a star"}]), INFO)
    assert same.entries[0].task.id == entry.task.id
    other = plan([{"seed": 4, "Positive.text": "a star"}])
    assert other.entries[0].task.id != entry.task.id


def test_a_row_that_cannot_be_filled_stays_with_its_problem() -> None:
    rows = Table(["seed"], [TableRow(1, {"seed": "x"}), TableRow(2, {"seed": 2}),
                            TableRow(3, problem="line 4 is no JSON"), TableRow(4, {})])  # fmt: skip
    made = make_plan(graph(), rows, INFO, repeat=2)
    problems = {entry.task.number: entry.problem for entry in made.problems}
    assert problems == {
        1: "column 'seed': 'x' is no whole number", 3: "line 4 is no JSON",
        4: "column 'seed' has no value",
    }  # fmt: skip
    assert len(made.entries) == 5  # the good row twice


def test_repeats_have_the_seeds_that_follow_and_one_group() -> None:
    made = plan([{"seed": 2**64 - 1, "id": "p"}], repeat=3)
    seeds = [entry.task.graph["8"]["inputs"]["seed"] for entry in made.entries]
    assert seeds == [2**64 - 1, 0, 1]
    assert [entry.task.id for entry in made.entries] == ["p-0", "p-1", "p-2"]
    assert [entry.columns["repeat"] for entry in made.entries] == [0, 1, 2]
    assert {entry.columns["group"] for entry in made.entries} == {"p"}


def test_equal_rows_are_drawn_once_and_one_id_means_one_row() -> None:
    made = plan([{"seed": 1}, {"seed": 1}, {"seed": 2}])
    assert [entry.task.number for entry in made.entries] == [1, 3]
    assert "row 2 equals row 1" in made.notices[0]
    with pytest.raises(RunnerError, match="Rows 1 and 2 have the same id 'a' and differ"):
        plan([{"seed": 1, "id": "a"}, {"seed": 2, "id": "a"}])
    assert "cannot be a file name" in str(plan([{"seed": 1, "id": "../a"}]).problems[0].problem)


def test_every_row_saves_below_a_name_of_its_own() -> None:
    prefixes = {entry.task.graph["9"]["inputs"]["filename_prefix"]
                for entry in plan([{"seed": n} for n in range(50)]).entries}  # fmt: skip
    assert len(prefixes) == 50 and all(one.startswith("out/") for one in prefixes)


def test_rows_of_the_same_models_stand_together() -> None:
    rows = [{"1.name": name, "seed": n} for n, name in enumerate("abacab")]
    made = plan(rows)
    order = [entry.task.graph["1"]["inputs"]["name"] for entry in made.entries]
    assert order == list("aaabbc")
    assert [entry.task.number for entry in made.entries] == [1, 3, 5, 2, 6, 4]


def test_a_worker_keeps_its_models_and_then_helps_where_most_is_left() -> None:
    shelf = Shelf([Task(f"{key}{n}", n, {}, {}, key) for key in "aaaabbc" for n in [0]])
    taken = [shelf.take("one").key, shelf.take("two").key, shelf.take("one").key]
    assert taken == ["a", "b", "a"]
    assert [shelf.take("two").key for _ in range(4)] == ["b", "a", "a", "c"]
    assert shelf.take("one") is None and len(shelf) == 0
    poison = Task("x", 1, {}, {}, "z")
    assert [shelf.put_back(poison) for _ in range(3)] == [True, True, False]


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ({"nodes": [], "links": []}, "choose Workflow > Export \\(API\\)"),
        ([1], "is no workflow"),
        ({"1": {"inputs": {}}}, "'1' has no class_type"),
        ({"1": {"class_type": "A", "inputs": {"x": ["9", 0]}}}, "linked to node 9"),
        ("{", "is no JSON"),
        (None, "cannot be read: No such file"),
    ],
)
def test_a_file_that_is_no_api_workflow_is_refused(value: Any, words: str, tmp_path: Path) -> None:
    path = tmp_path / "w.json"
    if value is not None:
        path.write_text(value if isinstance(value, str) else json.dumps(value), encoding="utf-8")
    with pytest.raises(RunnerError, match=words) as refusal:
        read_workflow(path)
    assert "\n" not in str(refusal.value)


def test_an_unknown_class_and_a_workflow_that_saves_nothing_are_refused() -> None:
    strange = graph()
    strange["8"]["class_type"] = "Samplr"
    with pytest.raises(RunnerError, match=r"Node 8 \(KSampler v1.5\) is of class 'Samplr'"):
        make_plan(strange, table_of([{"seed": 1}]), INFO)
    silent = {key: node for key, node in graph().items() if key != "9"}
    with pytest.raises(RunnerError, match="has no output node"):
        make_plan(silent, table_of([{"seed": 1}]), INFO)
    with pytest.raises(RunnerError, match="--repeat has no use"):
        seedless = {key: node for key, node in graph().items() if key != "8"}
        seedless["9"]["inputs"]["images"] = ["4", 0]
        make_plan(seedless, table_of([{"4.text": "x"}]), INFO, repeat=2)


def test_the_hash_is_stable() -> None:
    """Ids name pictures of finished runs: they may not change from release to release."""
    assert graph_hash(graph()) == "b8d2878ca60eb2df"
