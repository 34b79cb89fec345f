"""Golden values: what the example workflows give, as hashes; ``--update`` writes them anew.

A change that is to change nothing keeps them all: pictures, latents, masks and LoRAs of every node
of thirteen workflows, and the nodes' declarations. They hold for one processor, release of torch
and host, which stand beside them; elsewhere the last bits of a float differ.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import platform
import sys
import tempfile
from pathlib import Path
from typing import Any

import find_host
from execute import InProcess, host_from_environment
from workflow import classes_of, to_api

ROOT = Path(__file__).resolve().parent.parent
FILE = ROOT / "tests" / "golden.json"
SNAPSHOT = ROOT / "tests" / "static" / "node_snapshot.json"
# The demo, and workflows that together use every method; none needs a user's files.
WORKFLOWS = (
    "demo", "guider", "controlnet", "style_swap", "inspect", "masks", "planner", "dense_pair",
    "dense", "fine_latent", "coarse", "separate_enhance", "refl",
)  # fmt: skip


def digest(value: Any) -> str | None:
    """SHA-256 of the tensors' numbers, types and shapes in a value; None where it holds none."""
    import torch

    named = value if isinstance(value, dict) else {"": value}
    tensors = {str(k): v for k, v in named.items() if isinstance(v, torch.Tensor)}
    known = hashlib.sha256()
    for name in sorted(tensors):
        plain = tensors[name].detach().cpu().contiguous()
        known.update(f"{name} {plain.dtype} {tuple(plain.shape)} ".encode())
        known.update(plain.numpy().tobytes())
    return known.hexdigest() if tensors else None


def values(host: InProcess, name: str) -> dict[str, str]:
    """Hashes of what a workflow's nodes give, by node's id, class, output and place in the list."""
    path = ROOT / "workflows" / f"realcompo_{name}.json"
    workflow = json.loads(path.read_text(encoding="utf-8"))
    graph = to_api(workflow, host.object_info(classes_of(workflow)))
    found = {}
    done = host.run(graph, on_event=lambda kind, data: None)
    for node, outputs in done.values.items():
        if getattr(host.node_class(graph[node]["class_type"]), "OUTPUT_NODE", False):
            continue  # gives what it got
        for number, output in enumerate(outputs):
            for index, value in enumerate(output):
                known = digest(value)
                if known is not None:
                    found[f"{node} {graph[node]['class_type']} {number} {index}"] = known
    return found


def machine(host: Path) -> dict[str, str]:
    """What decides a float's last bits."""
    import torch

    return {
        "processor": torch.backends.cpu.get_cpu_capability(), "machine": platform.machine(),
        "torch": torch.__version__.partition("+")[0], "host": find_host.version(host),
    }  # fmt: skip


def main(arguments: list[str]) -> int:
    """Compare with the committed values, or write them; 1 where something differs."""
    import torch

    parser = argparse.ArgumentParser(prog="golden", description=__doc__)
    parser.add_argument("--update", action="store_true", help="write the values anew")
    parser.add_argument("names", nargs="*", help=f"workflows (default: {', '.join(WORKFLOWS)})")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    path = host_from_environment()
    known = json.loads(FILE.read_text(encoding="utf-8")) if FILE.is_file() else {}
    new: dict[str, Any] = {"machine": machine(path)}
    new["nodes"] = hashlib.sha256(SNAPSHOT.read_bytes()).hexdigest()
    with tempfile.TemporaryDirectory() as base:
        host = InProcess(path, Path(base))
        for name in options.names or WORKFLOWS:
            print(name, flush=True)
            new[name] = values(host, name)
    if options.update:
        FILE.write_text(json.dumps({**known, **new}, indent=1) + "\n", encoding="utf-8")
        return 0
    wrong = [f"{key}: {known.get(key)}, here {new[key]}" for key in ("machine", "nodes")
             if new[key] != known.get(key)]  # fmt: skip
    for name in options.names or WORKFLOWS:
        then, now = known.get(name, {}), new[name]
        wrong += [f"{name}: {key}" for key in sorted(then.keys() | now.keys())
                  if then.get(key) != now.get(key)]  # fmt: skip
    print("\n".join(wrong) or "everything is as it was")
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
