"""Keep the page's translations in step with the nodes: ``locales/<language>/nodeDefs.json``.

``python dev.py locales`` says what is missing or left over in any language;
``python dev.py locales --update`` writes the English texts, which are those of the node classes,
and names the texts whose translation has to follow.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import hostpack
from execute import host_from_environment, object_info

FOLDER = hostpack.ROOT / "locales"
ENGLISH = FOLDER / "en" / "nodeDefs.json"


def english(infos: dict[str, Any]) -> dict[str, Any]:
    """The texts of the node classes, from descriptions in the form of ``GET /object_info``.

    The form is the page's: by node id, inputs by name, outputs by index.
    """
    return {
        node: {
            "display_name": info["display_name"],
            "description": info["description"],
            "inputs": {
                name: {"name": name, "tooltip": info["input"][section][name][1]["tooltip"]}
                for section in ("required", "optional")
                for name in info["input_order"].get(section, [])
            },
            "outputs": {
                str(index): {"name": name, "tooltip": tip}
                for index, (name, tip) in enumerate(
                    zip(info["output_name"], info["output_tooltips"], strict=True)
                )
            },
        }
        for node, info in sorted(infos.items())
    }


def flat(texts: Any, path: str = "") -> dict[str, Any]:
    """Every text by its path, such as ``RealCompoLayout/inputs/prompt/tooltip``."""
    if not isinstance(texts, dict):
        return {path: texts}
    found: dict[str, Any] = {}
    for key, value in texts.items():
        found |= flat(value, f"{path}/{key}" if path else key)
    return found


def gaps(wanted: dict[str, Any], texts: dict[str, Any]) -> list[str]:
    """What ``texts`` lack of, or have beyond, the entries of ``wanted``; one sentence each."""
    needed, there = flat(wanted), flat(texts)
    problems = [f"{path} is missing" for path in needed if path not in there]
    problems += [f"{path} belongs to nothing" for path in there if path not in needed]
    problems += [
        f"{path} is empty"
        for path, text in there.items()
        if path in needed and not (isinstance(text, str) and text.strip())
    ]
    return problems


def read(path: Path) -> dict[str, Any]:
    """The texts of one language; none if the file does not exist yet."""
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def main(argv: list[str]) -> int:
    """Compare the languages with the nodes, or write the English one; returns the exit code."""
    hostpack.start_host(host_from_environment())
    pack = hostpack.load_pack()
    shown = pack.NODE_DISPLAY_NAME_MAPPINGS
    nodes = pack.NODE_CLASS_MAPPINGS.items()
    now = english({name: object_info(name, node, shown.get(name, name)) for name, node in nodes})
    was = flat(read(ENGLISH))
    changed = [path for path, text in flat(now).items() if was.get(path) != text]
    for path in changed:
        print(f"en: {path} {'has changed' if path in was else 'is new'}")
    if "--update" in argv:
        text = json.dumps(now, indent=2, ensure_ascii=False)
        ENGLISH.write_text(text + "\n", encoding="utf-8")
        print(f"{len(now)} nodes written; texts changed or new, to be translated: {len(changed)}")
        changed = []
    problems = [
        f"{path.parent.name}: {problem}"
        for path in sorted(FOLDER.glob("*/nodeDefs.json"))
        for problem in gaps(now, read(path))
    ]
    print("\n".join(problems) or "every language has every entry")
    return 1 if problems or changed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
