"""Every example's pictures on this host and on another release, named in REALCOMPO_OTHER_HOST, are
the same, pixel for pixel."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from live_server import LiveServer
from workflow import to_api

from .examples import LOADERS, WORKFLOWS, older_trainer, pictures, pixels, shorten, use_demo_models

OTHER = "REALCOMPO_OTHER_HOST"


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    """A server of the other release, with the pack."""
    path = Path(os.environ.get(OTHER, ""))
    if not (path / "main.py").is_file():
        pytest.skip(f"NO SECOND COMFYUI: name the folder of another release in {OTHER}")
    base = tmp_path_factory.mktemp("other-base")
    with LiveServer(path, Path(sys.executable), dict(os.environ), base) as running:
        yield running


def drawn(workflow: dict[str, Any], server: LiveServer) -> dict[str, list[bytes]]:
    """Pixels of every picture by the node that shows it."""
    graph = to_api(workflow, server.get("/object_info"))
    if LOADERS & {node["class_type"] for node in graph.values()}:
        use_demo_models(graph)
    shorten(graph)
    entry = server.run_prompt(graph, seconds=900)
    return {
        f"{node} ({graph[node]['class_type']})": [pixels(path) for path in found]
        for node, found in pictures(entry, server).items()
    }


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_an_example_gives_the_same_pictures_on_both_hosts(
    path: Path, server: LiveServer, other: LiveServer
) -> None:
    workflow = json.loads(path.read_text(encoding="utf-8"))
    if any(older_trainer(workflow, one.get("/object_info")) for one in (server, other)):
        pytest.skip("MADE FOR THE LATER TRAINER OF COMFYUI 0.33, AS ITS NOTE SAYS")
    here, there = drawn(workflow, server), drawn(workflow, other)
    assert here and here.keys() == there.keys()
    different = [node for node, found in here.items() if found != there[node]]
    assert not different, f"other pictures at node {', '.join(different)}"
