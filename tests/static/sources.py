"""The pack's own files, for tests that read them."""

from __future__ import annotations

import ast
import os
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
NOT_OURS = {"build", "out", "node_modules", "__pycache__"}
TEXT = {".py", ".md", ".toml", ".yml", ".json", ".js", ".txt", ".cfg", ""}


def files(suffixes: set[str]) -> list[Path]:
    """Every file of the repository with one of these suffixes, relative to its root."""
    found = []
    for folder, below, names in os.walk(ROOT):
        below[:] = [
            name
            for name in below
            if name not in NOT_OURS and (not name.startswith(".") or name in (".ci", ".github"))
        ]
        for name in names:
            path = Path(folder, name)
            if path.suffix in suffixes and name != ".git":  # a file in a linked work tree
                found.append(path.relative_to(ROOT))
    return sorted(found)


def imports(path: Path) -> Iterator[tuple[str, bool, int]]:
    """(absolute module name, not run at import?, line) of every import in ``path``.

    Imports inside functions and below ``if TYPE_CHECKING`` do not run with the module. Relative
    imports are resolved, with the pack's root named ``realcompo``; a name imported from a package
    counts as a module of it, so that ``from . import x`` is seen as ``package.x``.
    """
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    lazy = {
        id(inner)
        for outer in ast.walk(tree)
        if isinstance(outer, (ast.FunctionDef, ast.AsyncFunctionDef))
        or (isinstance(outer, ast.If) and ast.unparse(outer.test) == "TYPE_CHECKING")
        for inner in ast.walk(outer)
    }
    package = ["realcompo", *path.parent.parts]
    for node in ast.walk(tree):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            prefix = ".".join([*base, *([node.module] if node.module else [])])
            names = [f"{prefix}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            yield name, id(node) in lazy, node.lineno
