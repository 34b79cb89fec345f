"""Named numbers of a row's pictures: the user's own functions, and the demo world's oracle."""

from __future__ import annotations

import importlib
import importlib.util
import io
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from ..balancer.values.foreign_json import parse_json
from .errors import RowError, RunnerError, one_line
from .job import Picture

Numbers = Mapping[str, float | Sequence[float]]
Metric = Callable[[list[Any], dict[str, Any]], Numbers]
"""Takes the row's pictures (PIL, RGB, in the order of their files) and the row: its cells, with
'id' and, as 'workflow', the graph that drew it. Gives numbers: one for the row, or a list with one
per picture."""

BUILT_IN = {"oracle": f"{__package__}.oracle:oracle"}


def check_metric(name: str) -> str:
    """``name`` if it can name a metric; what it names is loaded where it is computed, later.

    Raises ``RunnerError``.
    """
    if not BUILT_IN.get(name, name).rpartition(":")[0]:
        raise RunnerError(f"The metric '{name}' is not written as module:function.")
    return name


def load_metric(name: str) -> Metric:
    """The function that 'module:function' or 'path/to/file.py:function' names, or 'oracle'.

    Raises ``RunnerError`` if there is none.
    """
    source, _, function = BUILT_IN.get(name, check_metric(name)).rpartition(":")
    try:
        module = _file(Path(source)) if source.endswith(".py") else _module(source)
    except Exception as error:  # whatever a user's module does when it is imported
        said = f"{type(error).__name__}: {one_line(error)}"
        raise RunnerError(f"The metric '{name}' cannot be loaded: {said}.") from error
    found: Any = getattr(module, function, None)
    if not callable(found):
        raise RunnerError(f"The metric '{name}': {source} has no function '{function}'.")
    return cast(Metric, found)


def _module(name: str) -> Any:
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.append(here)  # last: a file of the user's must not hide one of ComfyUI's
    return importlib.import_module(name)


def _file(path: Path) -> Any:
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    spec = importlib.util.spec_from_file_location(f"metric_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} is no Python file")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def measure(
    metrics: Mapping[str, Metric], pictures: Sequence[Picture], row: dict[str, Any]
) -> dict[str, float | list[float]]:
    """All numbers of all metrics for one row. Raises ``RowError`` if one fails or gives none."""
    if not metrics:
        return {}
    try:
        opened = [_open(picture) for picture in pictures if picture.digest]
    except Exception as error:  # a picture that has no colours, or too many
        raise RowError(f"its picture cannot be measured: {one_line(error)}") from error
    found: dict[str, float | list[float]] = {}
    for name, metric in metrics.items():
        try:
            numbers = {str(key): _numbers(value) for key, value in metric(opened, row).items()}
        except Exception as error:  # a user's code; the other rows go on
            said = f"{type(error).__name__}: {one_line(error)}"
            raise RowError(f"metric '{name}' failed: {said}") from error
        doubled = sorted(set(numbers) & set(found))
        if doubled:
            raise RowError(f"two metrics give a number '{doubled[0]}'")
        found |= numbers
    return found


def _numbers(value: Any) -> float | list[float]:
    if hasattr(value, "tolist"):
        value = value.tolist()  # numpy, torch
    if isinstance(value, (list, tuple)):
        return [float(one) for one in value]
    return float(value)


def _open(picture: Picture) -> Any:
    from PIL import Image

    with Image.open(io.BytesIO(picture.data)) as image:
        return image.convert("RGB")


def regions_of(row: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The layout's regions of a row, from its cell 'layout', or from the layout in its workflow.

    Raises ``ValueError`` if it has none.
    """
    texts = [row[name] for name in row if name == "layout" or name.endswith(".layout_json")]
    graph = row.get("workflow") or {}
    texts += [node["inputs"]["layout_json"] for node in graph.values()
              if isinstance(node["inputs"].get("layout_json"), str)]  # fmt: skip
    for text in texts:
        if isinstance(text, str) and text.strip():
            value = parse_json(text)
            found = value.get("regions") if isinstance(value, dict) else None
            if not isinstance(found, list):
                raise ValueError("the row's layout has no list 'regions'")
            return found
    lines = [node["inputs"]["phrases"] for node in graph.values()
             if isinstance(node["inputs"].get("phrases"), str)]  # fmt: skip
    if lines:
        from ..balancer.layouts.boxes import parse_boxes

        found = parse_boxes(None, lines[0], 0, 0)
        return [{"phrase": region.phrase, "box": list(region.box)} for region in found]
    raise ValueError("the row has no layout: give a column 'layout' with a layout's JSON")
