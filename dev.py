"""One door for everything: ``python dev.py demo`` shows the pack, ``python dev.py test`` checks it.

Needs Python 3.10 or newer and nothing else; makes ``.venv``, finds or fetches a ComfyUI, and runs
each step with the interpreter of ``.venv``. Run ``python dev.py --help`` for the other commands.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

if sys.version_info < (3, 10):  # noqa: UP036 (the message is for older ones)
    sys.exit(f"RealCompo needs Python 3.10 or newer; this is {sys.version.split()[0]}.")

ROOT = Path(__file__).resolve().parent
TOOLS = ROOT / "tools"
sys.path.insert(0, str(TOOLS))

import environment  # noqa: E402
import find_host  # noqa: E402
import live_server  # noqa: E402
from benches import BENCHES  # noqa: E402

OLDER_HOSTS = "older_hosts"
"""Marker of the tests that are run on the older hosts as well (tests/pytest.ini)."""

NEWER_PAGE = "1.58.1"
"""Release of ComfyUI's page that the browser tests use for Nodes 2.0."""

COMMANDS = {
    "demo": "run the demo workflow and leave pictures and scores in out/",
    "test": "run the whole test suite (--older: a part of it on the older hosts); further "
    "arguments go to pytest",
    "serve": "serve ComfyUI in the browser with the pack and the demo models",
    "host": "say which ComfyUI is used and why (--refresh: clone it again)",
    "lint": "ruff on everything, pyright on what pyproject.toml lists",
    "page": "set up and check the page's sources in js/: types and unit tests",
    "nodes": "compare the nodes with tests/static/node_snapshot.json (--update: write it)",
    "locales": "compare the translations with the nodes (--update: write the English texts)",
    "golden": "compare thirteen workflows, bit for bit, with tests/golden.json (--update: write)",
    "train": "train the demo models; further arguments go to shapes.train",
    "bench": "run a bench: dev.py bench NAME ...",
    "run": "draw every row of a table with a workflow: dev.py run WORKFLOW.json --set TABLE ...",
}


def _run(command: list[str], values: dict[str, str] | None = None) -> int:
    """Run a step in the foreground; its exit code. Stopped, it lets the step clean up first."""
    process = subprocess.Popen(command, cwd=ROOT, env=values)
    try:
        return process.wait()
    except BaseException as stop:
        if not isinstance(stop, KeyboardInterrupt):  # Ctrl+C reaches the step by itself
            process.terminate()
        try:
            process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            process.kill()
        raise


def _reported(host: find_host.Host) -> find_host.Host:
    print(f"ComfyUI {host.version} ({host.kind}): {host.path}\n  because: {host.reason}")
    return host


def _host(refresh: bool = False) -> find_host.Host:
    return _reported(find_host.find(refresh))


def _small(host: find_host.Host) -> dict[str, str]:
    """Environment for tiny models: one thread is the fastest, and stays so on a busy machine."""
    return {**host.environment(), "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")}


def _demo(arguments: list[str]) -> int:
    python = environment.ensure()
    return _run([str(python), str(TOOLS / "demo.py"), *arguments], _small(_host()))


def _pytest(host: find_host.Host, arguments: list[str]) -> int:
    """Run the suite, or what ``arguments`` name of it, on ``host``."""
    # Not from the root: pytest would import the pack's __init__, which belongs to the host.
    named = any(argument.startswith("tests") for argument in arguments)
    where = [] if named else ["tests"]
    # A file's tests share what they set up, so files are what is shared out over the cores.
    cores = [] if {"-n", "-x", "--pdb"} & set(arguments) else ["-n", "auto", "--dist", "loadfile"]
    command = [str(environment.venv_python()), "-m", "pytest", "--durations=10"]
    return _run([*command, *cores, *arguments, *where], _small(host))


def _test(arguments: list[str]) -> int:
    environment.ensure()
    if "--older" in arguments:
        return _test_older([argument for argument in arguments if argument != "--older"])
    host = _host()
    code = _pytest(host, arguments)
    if host.kind != "full":
        print(
            "\nSERVER AND BROWSER TESTS WERE SKIPPED: THIS MACHINE HAS NO FULL COMFYUI, ONLY THE "
            f"HEADLESS COPY ({host.reason})."
        )
    return code


def _marked() -> list[str]:
    """Files with tests for the older hosts: the others need not even be read there."""
    mark = f"pytest.mark.{OLDER_HOSTS}"
    files = sorted((ROOT / "tests").glob("*/test_*.py"))
    found = [path for path in files if mark in path.read_text(encoding="utf-8")]
    return [path.relative_to(ROOT).as_posix() for path in found]


def _test_older(arguments: list[str]) -> int:
    """The tests marked for it on the older hosts that can be had, or on the one asked for by name;
    all run, whatever one says."""
    newest, worst = find_host.find(), 0
    where = [] if any(argument.startswith("tests") for argument in arguments) else _marked()
    named = os.environ.get("REALCOMPO_HOST", "")
    for name in (named,) if named else find_host.OLDER:
        print(f"\nOlder host {name}")
        try:
            host = _reported(find_host.find(name=name))
        except environment.SetUpError as problem:
            if name == find_host.MODULES_OF_2024:  # the package index has them everywhere
                raise
            print(f"NOT TESTED ON {name}. {problem}")
            continue
        if host.path == newest.path and not named:
            print("  is the newest host here: `dev.py test` runs the whole suite on it")
            continue
        worst = max(worst, _pytest(host, ["-m", OLDER_HOSTS, *arguments, *where]))
    return worst


def _serve(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="dev.py serve")
    parser.add_argument("--port", type=int, default=8188)
    options = parser.parse_args(arguments)
    python, host = environment.ensure(), _host()
    if host.kind != "full":
        raise environment.SetUpError(
            "The headless ComfyUI has no server. Set COMFYUI_PATH to a ComfyUI of yours, or "
            "COMFYUI_GIT to a copy of its repository that this machine reaches."
        )
    server = live_server.LiveServer(host.path, python, host.environment(), port=options.port)
    server.prepare()
    print(f"Open {server.url} (stop with Ctrl+C); models go below {server.base / 'models'}")
    return _run(server.command(), host.environment())


def _show_host(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="dev.py host")
    parser.add_argument("--refresh", action="store_true", help="clone again, whatever is cached")
    parser.add_argument(
        "--requirements", action="store_true",
        help="also install what this ComfyUI asks for into .venv (for releases after the pinned)",
    )  # fmt: skip
    options = parser.parse_args(arguments)
    host = _host(options.refresh)
    if options.requirements:
        environment.ensure()
        environment.host_requirements(host.path)
    return 0


def _lint(arguments: list[str]) -> int:
    python = environment.ensure()
    environment.ensure_node()
    ruff = _run([str(python), "-m", "ruff", "check", ".", *arguments])
    # Without it pyright looks for torch in whatever Python the shell finds, and knows no tensors.
    pyright = _run([str(python), "-m", "pyright", "--pythonpath", str(python)])
    return ruff or pyright


def _page(arguments: list[str]) -> int:
    python = environment.ensure()
    npm = shutil.which("npm")
    if npm is None:
        raise environment.SetUpError("The page's checks need Node.js 20 or newer with npm.")
    code = _run([npm, "ci", "--no-audit", "--no-fund"])
    newer = ROOT / "build" / f"frontend-{NEWER_PAGE}"
    if not (newer / "comfyui_frontend_package").is_dir():
        package = f"comfyui-frontend-package=={NEWER_PAGE}"
        environment.pip(["--no-deps", "--target", str(newer), package], "a page with Nodes 2.0")
    return code or _run(
        [str(python), "-m", "pytest", *arguments, "tests/js"], _host().environment()
    )


def _nodes(arguments: list[str]) -> int:
    python, host = environment.ensure(), _host()
    return _run([str(python), str(TOOLS / "node_snapshot.py"), *arguments], host.environment())


def _locales(arguments: list[str]) -> int:
    python, host = environment.ensure(), _host()
    return _run([str(python), str(TOOLS / "locales.py"), *arguments], host.environment())


def _golden(arguments: list[str]) -> int:
    python, host = environment.ensure(), _host()
    return _run([str(python), str(TOOLS / "golden.py"), *arguments], host.environment())


def _module(name: str, arguments: list[str]) -> int:
    python, host = environment.ensure(), _host()
    return _run([str(python), str(TOOLS / "run.py"), name, *arguments], host.environment())


def _bench(arguments: list[str]) -> int:
    if not arguments or arguments[0] not in BENCHES:
        print(f"Benches: {', '.join(BENCHES)}. Run one with: python dev.py bench NAME")
        return 2
    return _module(f"bench.{arguments[0]}", arguments[1:])


def _rows(arguments: list[str]) -> int:
    python = environment.ensure()
    # servers have a ComfyUI of their own
    alone = any(argument.split("=")[0] == "--server" for argument in arguments)
    values = dict(os.environ) if alone else _host().environment()
    return _run([str(python), str(TOOLS / "run.py"), "runner.main", *arguments], values)


def _named_host(argv: list[str]) -> tuple[str | None, list[str]]:
    """What ``--host`` names anywhere on the line, and the rest of the line."""
    name, rest = None, list(argv)
    for index, word in enumerate(argv):
        if word == "--host":
            if index + 1 == len(argv) or argv[index + 1].startswith("-"):
                sys.exit("dev.py: --host needs the name of a host, see dev.py --help.")
            name, rest = argv[index + 1], [*argv[:index], *argv[index + 2 :]]
            break
        if word.startswith("--host="):
            name, rest = word.removeprefix("--host="), [*argv[:index], *argv[index + 1 :]]
            break
    return name, rest


def main(argv: list[str]) -> int:
    """Run one command; returns its exit code."""
    listing = "\n".join(f"  {name:<7} {text}" for name, text in COMMANDS.items())
    parser = argparse.ArgumentParser(
        prog="dev.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=f"commands:\n{listing}",
    )  # fmt: skip
    parser.add_argument(
        "--host", metavar="NAME",
        help=f"ComfyUI to use, anywhere on the line: pinned ({find_host.RELEASE}), a release or "
        f"branch, {find_host.MODULES_OF_2024} (headless modules), or a folder; also REALCOMPO_HOST",
    )  # fmt: skip
    parser.add_argument("command", choices=COMMANDS, metavar="command")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help="handed to the command")
    name, rest = _named_host(argv)
    options = parser.parse_args(rest)
    if name is not None:
        os.environ["REALCOMPO_HOST"] = name
    steps = {
        "demo": _demo,
        "test": _test,
        "serve": _serve,
        "host": _show_host,
        "lint": _lint,
        "page": _page,
        "nodes": _nodes,
        "locales": _locales,
        "golden": _golden,
        "train": lambda arguments: _module("shapes.train", arguments),
        "bench": _bench,
        "run": _rows,
    }
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        return steps[options.command](options.arguments)
    except KeyboardInterrupt:
        return 130
    except environment.SetUpError as problem:
        print(f"\n{problem}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
