"""Arguments that the tables have in common."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol, TypeVar

from . import RESULTS, ROOT


class Named(Protocol):
    """A row of a table, known by its method's name."""

    @property
    def method(self) -> str:
        """Its method's name."""
        ...


AnyRow = TypeVar("AnyRow", bound=Named)


def table_parser(name: str, about: str | None, work: str | None = None) -> argparse.ArgumentParser:
    """A parser for ``dev.py bench NAME``: --out, and --work if the bench keeps finished work,
    which ``work`` describes."""
    parser = argparse.ArgumentParser(prog=f"bench {name}", description=about)
    parser.add_argument("--out", type=Path, default=RESULTS)
    if work is not None:
        parser.add_argument("--work", type=Path, default=ROOT / "out" / f"bench-{name}",
                            help=f"{work}; goes on from what is there")  # fmt: skip
    return parser


def chosen_rows(
    parser: argparse.ArgumentParser, known: Sequence[AnyRow], names: Sequence[str]
) -> list[AnyRow]:
    """The rows of ``names`` in the table's order; the parser's error where there is no such row."""
    unknown = set(names) - {row.method for row in known}
    if unknown:
        parser.error(f"there is no row {', '.join(sorted(unknown))}")
    return [row for row in known if row.method in names]
