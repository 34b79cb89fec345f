"""The pack logs by one logger of its own name: a user can turn it up or down by itself."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from .sources import ROOT, files

HOME = Path("balancer/log.py")
LOGGED = ("balancer", "nodes", "shapes")
# programs: they quiet the host's loggers and the pack's together, or send both to a file
PROGRAMS = ("bench", "runner")
SAYS = {"debug", "info", "warning", "warn", "error", "exception", "critical", "log"}


def misuses(path: Path, source: str) -> Iterator[str]:
    """What ``source`` logs past the pack's logger, one sentence each."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.module == "logging":
            yield f"{path.as_posix()}:{node.lineno} takes names out of logging"
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
            continue
        called = ast.unparse(node.func)
        if called.removeprefix("logging.") in SAYS and called.startswith("logging."):
            yield f"{path.as_posix()}:{node.lineno} calls {called}: use balancer/log.py's LOG"
        of_root = called == "logging.getLogger" and not node.args
        other = called == "logging.getLogger" and node.args and path != HOME
        if other or of_root and path.parts[0] not in PROGRAMS:
            yield f"{path.as_posix()}:{node.lineno} makes a logger: use balancer/log.py's LOG"


@pytest.mark.parametrize(
    ("path", "source", "wrong"),
    [
        ("balancer/x.py", "import logging\nlogging.info('a')", 1),
        ("balancer/x.py", "import logging\nlogging.getLogger().warning('a')", 1),
        ("nodes/x.py", "import logging\nlogging.getLogger('x').info('a')", 1),
        ("nodes/x.py", "from logging import warning", 1),
        ("bench/x.py", "import logging\nlogging.error('a')", 1),
        ("bench/x.py", "import logging\nlogging.getLogger().setLevel(logging.WARNING)", 0),
        ("balancer/x.py", "from .log import LOG\nLOG.info('a')", 0),
        ("balancer/log.py", "import logging\nLOG = logging.getLogger('realcompo')", 0),
    ],
)
def test_the_rule_itself_judges_right(path: str, source: str, wrong: int) -> None:
    assert len(list(misuses(Path(path), source))) == wrong


def test_no_module_logs_past_the_packs_logger() -> None:
    ours = [path for path in files({".py"}) if path.parts[0] in (*LOGGED, *PROGRAMS)]
    assert HOME in ours
    problems = [
        problem
        for path in ours
        for problem in misuses(path, (ROOT / path).read_text(encoding="utf-8"))
    ]
    assert not problems, "\n".join(problems)
