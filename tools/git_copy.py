"""Copy one revision of a git repository into a folder, also from a source that lacks a blob.

``git checkout`` refuses when a single large file is absent from the source. This writes every blob
that is there and reports the rest. Standard library and git only.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path

ORIGIN = "realcompo-origin.json"
REACH_SECONDS = 30
COPY_SECONDS = 900


class CopyError(RuntimeError):
    """The repository or the revision could not be had; the message says why."""


def _git(arguments: list[str], seconds: float, cwd: Path | None = None) -> str:
    """Run git without ever asking a question; past ``seconds`` its whole process group ends."""
    values = {
        **os.environ,
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_ASKPASS": "true",
        "GIT_SSH_COMMAND": "ssh -o BatchMode=yes -o ConnectTimeout=10",
        "GIT_HTTP_LOW_SPEED_LIMIT": "1000",
        "GIT_HTTP_LOW_SPEED_TIME": "30",
        "GIT_NO_LAZY_FETCH": "1",
        "LC_ALL": "C",
    }
    try:
        process = subprocess.Popen(
            ["git", *arguments], cwd=cwd, env=values, text=True, errors="replace",
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            start_new_session=os.name == "posix",
        )  # fmt: skip
    except FileNotFoundError:
        raise CopyError("git is not installed") from None
    try:
        output, errors = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        # git's transport is a child of its own that would keep the pipes open.
        if os.name == "posix":
            os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()
        process.communicate()
        raise CopyError(f"git {arguments[0]} got no answer within {seconds:.0f} s") from None
    if process.returncode != 0:
        lines = [line.strip() for line in errors.splitlines() if line.strip()] or ["no message"]
        word = next((line for line in lines if line.startswith("fatal:")), lines[-1])
        raise CopyError(f"git {arguments[0]} failed: {word}")
    return output


def _write_tree(repository: Path, folder: Path) -> list[str]:
    """Write every blob of HEAD that the repository holds; returns the paths that it does not."""
    entries = []
    listing = _git(["ls-tree", "-r", "-z", "HEAD"], 60, repository)
    for line in listing.split("\0"):
        if line:
            meta, name = line.split("\t", 1)
            mode, kind, blob = meta.split()
            if kind == "blob":
                entries.append((mode, blob, name))
    missing = []
    with subprocess.Popen(
        ["git", "cat-file", "--batch"], cwd=repository,
        env={**os.environ, "GIT_NO_LAZY_FETCH": "1"},
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
    ) as reader:  # fmt: skip
        assert reader.stdin is not None and reader.stdout is not None
        for mode, blob, name in entries:
            reader.stdin.write(blob.encode() + b"\n")
            reader.stdin.flush()
            head = reader.stdout.readline().split()
            if len(head) != 3:
                missing.append(name)
                if not head:  # git gave up on a damaged object store
                    raise CopyError(f"git cannot read {name} ({blob})")
                continue
            data = reader.stdout.read(int(head[2]))
            reader.stdout.read(1)
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(data)
            if mode == "100755":
                target.chmod(0o755)
        reader.stdin.close()
    return missing


def fetch(source: str, revision: str, target: Path) -> list[str]:
    """Put ``revision`` (tag or branch) of ``source`` into ``target``, whole or not at all.

    Returns the paths that the source lacks (never a ``.py`` file). Raises ``CopyError``.
    """
    local = Path(source.removeprefix("file://"))
    if local.is_dir():
        # By path git copies the object files as they are, so that a missing blob does not matter.
        source = str(local.resolve())
    found = _git(["ls-remote", source, revision], REACH_SECONDS)
    if not found.strip():
        raise CopyError(f"{source} has no tag or branch {revision}")
    target.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f"{target.name}.partial-", dir=target.parent))
    try:
        repository, tree = work / "git", work / "tree"
        clone = ["clone", "--quiet", "--no-checkout", "--depth", "1", "--branch", revision]
        clone += ["-c", "advice.detachedHead=false"]
        _git([*clone, source, str(repository)], COPY_SECONDS)
        tree.mkdir()
        missing = _write_tree(repository, tree)
        lost = [name for name in missing if name.endswith(".py")]
        if lost:
            raise CopyError(f"{source} lacks {len(lost)} source files, the first is {lost[0]}")
        commit = _git(["rev-parse", "HEAD"], 30, repository).strip()
        origin = {"revision": revision, "commit": commit, "missing": missing}
        (tree / ORIGIN).write_text(json.dumps(origin, indent=1), encoding="utf-8")
        if target.exists():
            target.replace(work / "old")
        tree.replace(target)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return missing


def commit_of(folder: Path) -> str:
    """Commit that ``fetch`` copied into ``folder``, or an empty string."""
    path = folder / ORIGIN
    if not path.is_file():
        return ""
    return str(json.loads(path.read_text(encoding="utf-8")).get("commit", ""))
