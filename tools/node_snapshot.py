"""Guard saved workflows: what the pack's nodes look like from outside, against a committed file.

``python dev.py nodes`` compares, ``python dev.py nodes --update`` writes the file anew.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import hostpack
from execute import host_from_environment, object_info

FILE = hostpack.ROOT / "tests" / "static" / "node_snapshot.json"
# Their choices belong to the host and differ between its releases, or are the user's files.
HOST_CHOICES = {"sampler_name", "scheduler", "trace_file"}


def _inputs(info: dict[str, Any], section: str) -> list[dict[str, Any]]:
    entries = []
    for name in info["input_order"].get(section, []):
        kind = info["input"][section][name][0]
        if not isinstance(kind, list):
            entries.append({"name": name, "type": kind})
        elif name in HOST_CHOICES:
            entries.append({"name": name, "type": "COMBO"})
        else:
            entries.append({"name": name, "type": "COMBO", "choices": list(kind)})
    return entries


def take(infos: dict[str, Any]) -> dict[str, Any]:
    """What must not change, from descriptions in the form of ``GET /object_info``."""
    return {
        name: {
            "display_name": info["display_name"],
            "required": _inputs(info, "required"),
            "optional": _inputs(info, "optional"),
            "outputs": [
                {"name": label, "type": kind}
                for label, kind in zip(info["output_name"], info["output"], strict=True)
            ],
        }
        for name, info in sorted(infos.items())
    }


def take_pack() -> dict[str, Any]:
    """The snapshot of the pack as it is now, in this process; the host must have been started."""
    pack = hostpack.load_pack()
    shown = pack.NODE_DISPLAY_NAME_MAPPINGS
    nodes = pack.NODE_CLASS_MAPPINGS.items()
    return take({name: object_info(name, node, shown.get(name, name)) for name, node in nodes})


def _prefix(old: list[dict[str, Any]], new: list[dict[str, Any]]) -> str | None:
    """Why ``new`` does not begin with ``old``, or None if it does."""
    for index, entry in enumerate(old):
        if index >= len(new):
            return f"'{entry['name']}' is gone"
        now = new[index]
        if (now["name"], now["type"]) != (entry["name"], entry["type"]):
            return f"place {index + 1} was '{entry['name']}' {entry['type']}, is '{now['name']}'"
        lost = [choice for choice in entry.get("choices", []) if choice not in now["choices"]]
        if lost:
            return f"'{entry['name']}' lost the choice {lost[0]!r}"
    return None


def breaks(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """Changes from ``old`` to ``new`` that break a saved workflow, one sentence each.

    Allowed are new nodes, new choices, and new optional inputs and outputs at the end.
    """
    problems = []
    for name, was in old.items():
        if name not in new:
            problems.append(f"{name}: the node is gone")
            continue
        if len(new[name]["required"]) > len(was["required"]):
            problems.append(f"{name}: a new input must be optional")
        for section in ("required", "optional", "outputs"):
            why = _prefix(was[section], new[name][section])
            if why is not None:
                problems.append(f"{name}, {section}: {why}")
    return problems


def main(argv: list[str]) -> int:
    """Compare with the committed file, or write it; returns the exit code."""
    hostpack.start_host(host_from_environment())
    new = take_pack()
    old = json.loads(FILE.read_text(encoding="utf-8")) if FILE.exists() else {}
    problems = breaks(old, new)
    for problem in problems:
        print(f"breaks saved workflows: {problem}")
    if "--update" in argv:
        FILE.write_text(json.dumps(new, indent=1) + "\n", encoding="utf-8")
        print(f"{FILE.name}: {len(new)} nodes written")
        return 0
    if not problems:
        print("as committed" if new == old else "changed, compatibly: run with --update")
    return 1 if new != old else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
