"""A node class's inputs as the page lays them out: which are widgets, in what order, with what.

``info`` is a class's entry of ``GET /object_info``, ``spec`` an input's type with its options.
Pure Python.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

WIDGET_TYPES = {
    *("INT", "FLOAT", "STRING", "BOOLEAN", "COMBO"),
    *("MARKDOWN", "TEXTAREA", "COLOR", "COLORS", "CURVE", "BOUNDING_BOX", "BOUNDING_BOXES"),
}
DYNAMIC = "COMFY_DYNAMICCOMBO_V3"
"""A combo that brings further inputs with each of its choices."""
AFTER_GENERATE = {"fixed", "increment", "decrement", "randomize"}
SEED_NAMES = {"seed", "noise_seed"}
Spec = Any


class WorkflowError(ValueError):
    """The workflow cannot be run as it is; the message names the node and the reason."""


def options_of(spec: Spec) -> dict[str, Any]:
    """The options of an input."""
    return (spec[1:] or [{}])[0]


def kind_of(spec: Spec) -> str:
    """The type of an input; a combo of an older class has the list of its choices there."""
    return "COMBO" if isinstance(spec[0], list) else spec[0]


def is_widget(spec: Spec) -> bool:
    """Is the input set on the node itself, not only by a link? ``widgetType`` names a widget of a
    pack's own, or one of several types."""
    options = options_of(spec)
    typed = kind_of(spec) in WIDGET_TYPES | {DYNAMIC} or "widgetType" in options
    return typed and not options.get("forceInput", False)


def has_seed_control(name: str, spec: Spec) -> bool:
    """Does the page put a widget behind this one that says what becomes of it after a run?"""
    flag = options_of(spec).get("control_after_generate")
    wanted = kind_of(spec) == "INT" and name in SEED_NAMES if flag is None else bool(flag)
    return is_widget(spec) and wanted


def choices(spec: Spec) -> list[Any]:
    """What a combo lets choose from."""
    return list(spec[0] if isinstance(spec[0], list) else options_of(spec).get("options") or ())


def specs_of(info: dict[str, Any]) -> list[tuple[str, Spec]]:
    """Name and spec of a class's inputs, in order."""
    return list(_listed(info["input"], info.get("input_order", {}), ""))


def _listed(
    sections: dict[str, Any], order: dict[str, Any], before: str
) -> Iterator[tuple[str, Spec]]:
    for section in ("required", "optional"):
        specs = sections.get(section) or {}
        for name in order.get(section) or specs:
            yield before + name, specs[name]


def brought(name: str, spec: Spec, chosen: Any) -> list[tuple[str, Spec]]:
    """The inputs that a dynamic combo has while ``chosen`` is its value."""
    for option in choices(spec) if kind_of(spec) == DYNAMIC else ():
        if option["key"] == chosen:
            return list(_listed(option["inputs"], {}, f"{name}."))
    return []


def _companions(name: str, spec: Spec, value: Any, rest: list[Any]) -> int:
    """How many of the saved values ``rest``, behind an input's ``value``, belong to it as well."""
    count = 0
    if has_seed_control(name, spec) and rest and rest[0] in AFTER_GENERATE:
        count += 1
    if options_of(spec).get("image_upload") and rest[count : count + 1] == ["image"]:
        count += 1  # the upload button counts as a widget
    if kind_of(spec) == "BOUNDING_BOX" and isinstance(value, dict):
        edges = [value.get(edge) for edge in ("x", "y", "width", "height")]
        count += 4 if rest[count : count + 4] == edges else 0  # and so do the numbers of a box
    return count


def widget_values(node: dict[str, Any], info: dict[str, Any], where: str) -> dict[str, Any]:
    """A saved node's values by input name; the page also saves those that a link overrides.

    ``where`` names the node in a ``WorkflowError``, for more values than there are widgets.
    """
    saved, open_specs = node.get("widgets_values") or [], specs_of(info)
    if isinstance(saved, dict):
        return {name: saved[name] for name, _ in open_specs if name in saved}
    rest, values = list(saved), {}
    while open_specs:
        name, spec = open_specs.pop(0)
        if not is_widget(spec):
            continue
        if rest:
            values[name] = rest.pop(0)
            del rest[: _companions(name, spec, values[name], rest)]
        elif "default" in options_of(spec):
            values[name] = options_of(spec)["default"]  # the node gained this input since
        open_specs[:0] = brought(name, spec, values.get(name))
    if any(value is not None for value in rest):  # what a node shows after a run is saved as None
        raise WorkflowError(
            f"node {where} ({node['type']}) saves {len(rest)} widget values more than it has "
            f"widgets: {rest}"
        )
    return values
