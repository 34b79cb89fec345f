"""Run the demo workflow as a user would and leave pictures, layout and scores in ``out/``.

Started by ``dev.py demo`` with the interpreter of ``.venv``; ``COMFYUI_PATH`` and
``REALCOMPO_HOST_KIND`` name the host.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from execute import InProcess, ancestors, host_from_environment, is_link
from live_server import BASE, ROOT, LiveServer, ServerError
from workflow import WorkflowError, classes_of, to_api

OUT = ROOT / "out"
WORKFLOW = ROOT / "workflows" / "realcompo_demo.json"


class Progress:
    """Shows which node runs, on one moving line, and keeps how long each took (seconds)."""

    def __init__(self, graph: dict[str, Any]) -> None:
        self.graph, self.seconds = graph, dict.fromkeys(graph, 0.0)
        self._node, self._since, self._count = "", time.monotonic(), 0

    def __call__(self, kind: str, data: dict[str, Any]) -> None:
        """Take one event of the host."""
        if kind in ("executing", "execution_success"):
            self._close()
            self._node = str(data.get("node") or "")
            if self._node in self.graph:
                self._count += 1
                self._show("")
        elif kind == "progress" and self._node in self.graph:
            self._show(f" {data['value']}/{data['max']}")

    def _close(self) -> None:
        now = time.monotonic()
        if self._node in self.graph:
            self.seconds[self._node] += now - self._since
            if not sys.stdout.isatty() and now - self._since > 1:
                self._line(f" {now - self._since:.1f} s", "\n")
        self._since = now

    def _show(self, step: str) -> None:
        if sys.stdout.isatty():
            self._line(step, "\r")

    def _line(self, tail: str, end: str) -> None:
        title = self.graph[self._node]["_meta"]["title"]
        text = f"  [{self._count}/{len(self.graph)}] {title}{tail}"
        print(f"{text[:78]:<78}", end=end, flush=True)

    def finish(self) -> None:
        """Clear the moving line."""
        if sys.stdout.isatty():
            print(" " * 79, end="\r", flush=True)


def _on_server(host: Path, workflow: dict[str, Any]) -> tuple[dict, dict, dict, Progress]:
    """(graph, descriptions, what nodes showed, progress) of a run on a live server."""
    with LiveServer(host, Path(sys.executable), dict(os.environ)) as server:
        print(f"ComfyUI serves at {server.url}", flush=True)
        info = server.get("/object_info")
        graph = to_api(workflow, info)
        progress = Progress(graph)
        entry = server.run_prompt(graph, progress)
    return graph, info, entry["outputs"], progress


def _in_process(host: Path, workflow: dict[str, Any]) -> tuple[dict, dict, dict, Progress]:
    """The same without a server."""
    runner = InProcess(host, BASE)
    info = runner.object_info(classes_of(workflow))
    graph = to_api(workflow, info)
    progress = Progress(graph)
    done = runner.run(graph, on_event=progress)
    progress("execution_success", {})
    return graph, info, done.shown, progress


def _input_types(info: dict[str, Any], node: dict[str, Any]) -> set[str]:
    sections = info[node["class_type"]]["input"]
    specs = {**(sections.get("required") or {}), **(sections.get("optional") or {})}
    return {spec[0] for spec in specs.values() if isinstance(spec[0], str)}


def _sampler_of(node: str, graph: dict[str, Any], info: dict[str, Any]) -> str | None:
    """The node that denoised the picture that ``node`` saves, or None for a drawing.

    A picture comes straight from a decoder (a node that takes a VAE); its sampler is the nearest
    node that turns a LATENT into a LATENT.
    """
    source = graph[node]["inputs"].get("images")
    if not is_link(source) or "VAE" not in _input_types(info, graph[str(source[0])]):
        return None
    for name in ancestors(graph, node):
        kinds = _input_types(info, graph[name])
        if "LATENT" in kinds and "LATENT" in info[graph[name]["class_type"]]["output"]:
            return name
    return None


def _stock_forwards(graph: dict[str, Any], sampler: str | None) -> int | None:
    """Forwards of a picture by the host's KSampler at full denoise with a one-look sampler.

    It reports none itself; each step runs the model with the prompt and, but for cfg 1, without.
    """
    node = graph.get(sampler or "", {})
    inputs = node.get("inputs", {})
    if node.get("class_type") != "KSampler" or inputs.get("sampler_name") != "euler":
        return None
    if inputs.get("denoise", 1.0) != 1.0:
        return None
    return int(inputs["steps"]) * (1 if inputs["cfg"] == 1 else 2)


def collect(
    graph: dict[str, Any],
    info: dict[str, Any],
    shown: dict[str, Any],
    seconds: dict[str, float],
    saved: Path,
    out: Path,
) -> list[dict[str, Any]]:
    """Copy every saved picture to ``out`` under its method's name; returns one row per picture.

    The method is the last part of the save node's file name prefix. A node on the way that showed
    ``realcompo`` (JSON texts, such as the forwards it took) adds to its method's rows: to the one
    that the text names, else to the picture that it sampled.
    """
    reports = {
        name: [json.loads(text) for text in ui.get("realcompo", [])] for name, ui in shown.items()
    }
    by_method = {
        report["method"]: report for texts in reports.values() for report in texts
        if "method" in report
    }  # fmt: skip
    rows = []
    for name, ui in shown.items():
        prefix = str(graph[name]["inputs"].get("filename_prefix", ""))
        method = prefix.rsplit("/", 1)[-1]
        pictures = [entry for entry in ui.get("images", []) if entry.get("type") == "output"]
        sampler = _sampler_of(name, graph, info)
        report = dict(by_method.get(method, {}))
        for text in reports.get(sampler or "", []):
            if text.get("method", method) == method:
                report = {**text, **report}
        for index, entry in enumerate(pictures):
            target = out / (f"{method}.png" if index == 0 else f"{method}-{index + 1}.png")
            shutil.copyfile(saved / entry.get("subfolder", "") / entry["filename"], target)
            rows.append({
                "method": method,
                "file": target.relative_to(out.parent).as_posix(),
                "oracle": None,
                "forwards": report.get("forwards") or _stock_forwards(graph, sampler),
                "seconds": round(seconds[sampler], 2) if sampler else None,
                "report": report or None,
                "sampled": sampler is not None,
            })  # fmt: skip
    return sorted(rows, key=lambda row: not row["sampled"])


def _layout(host: Path, graph: dict[str, Any]) -> dict[str, Any]:
    """The layout that the workflow's nodes make, as its JSON document."""
    for node in graph.values():
        source = node["inputs"].get("layout")
        if is_link(source):
            done = InProcess(host, BASE).run(graph, [str(source[0])])
            return done.values[str(source[0])][source[1]][0].to_dict()
    raise WorkflowError("no node of the workflow takes a layout")


def summary(score: dict[str, Any]) -> dict[str, Any]:
    """A picture's score, with its shares over the layout's regions and their mean IoU in front."""
    objects = score["objects"]
    shares = {
        key: round(sum(float(entry[key]) for entry in objects) / len(objects), 4)
        for key in ("right", "colour", "shape", "present", "iou")
    }
    return {**shares, **score}


def _score(files: list[Path], layout: Path) -> list[dict[str, Any]]:
    """The oracle's judgement of each picture, in order."""
    command = [sys.executable, str(ROOT / "tools" / "run.py"), "shapes.score"]
    command += [*map(str, files), "--layout", str(layout), "--json"]
    without_host = {key: value for key, value in os.environ.items() if key != "COMFYUI_PATH"}
    result = subprocess.run(command, capture_output=True, text=True, env=without_host, check=False)
    if result.returncode not in (0, 1):  # 1 says that some object is not right
        raise WorkflowError(f"scoring failed:\n{result.stdout}{result.stderr}")
    scores = json.loads(result.stdout)
    return [summary(scores[str(file)]) for file in files]


def _number(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.2f}"
    return "" if value is None else str(value)


def print_table(rows: list[dict[str, Any]]) -> None:
    """One line per picture: shares of the layout's regions, cost, file."""
    columns = ["method", "right", "colour", "shape", "present", "iou", "count"]
    columns += ["forwards", "seconds", "file"]
    lines = [columns]
    for row in rows:
        flat = {**(row["oracle"] or {}), **{k: v for k, v in row.items() if k != "oracle"}}
        lines.append([_number(flat.get(name)) for name in columns])
    widths = [max(len(line[i]) for line in lines) for i in range(len(columns))]
    for line in lines:
        cells = [f"{text:<{width}}" for text, width in zip(line, widths, strict=True)]
        print("  " + "  ".join(cells))


def _clear(out: Path) -> None:
    """Remove the pictures of an earlier run, and nothing else."""
    out.mkdir(exist_ok=True)
    listing = out / "demo.json"
    if listing.exists():
        for row in json.loads(listing.read_text(encoding="utf-8")):
            (out.parent / row["file"]).unlink(missing_ok=True)
        listing.unlink()
    shutil.rmtree(BASE / "output" / "realcompo_demo", ignore_errors=True)


def main(argv: list[str] | None = None) -> int:
    """Run the demo; returns the exit code."""
    parser = argparse.ArgumentParser(prog="dev.py demo", description=__doc__)
    parser.add_argument("--workflow", type=Path, default=WORKFLOW, help="a saved workflow")
    options = parser.parse_args(argv)
    host, kind = host_from_environment(), os.environ.get("REALCOMPO_HOST_KIND", "full")
    if not options.workflow.is_file():
        raise WorkflowError(f"there is no workflow {options.workflow.name}")
    workflow = json.loads(options.workflow.read_text(encoding="utf-8"))
    _clear(OUT)
    start = time.monotonic()
    run = _on_server if kind == "full" else _in_process
    graph, info, shown, progress = run(host, workflow)
    progress.finish()
    rows = collect(graph, info, shown, progress.seconds, BASE / "output", OUT)
    if not rows:
        raise WorkflowError(f"{options.workflow.name} saved no picture")
    layout = OUT / "layout.json"
    layout.write_text(json.dumps(_layout(host, graph), indent=1), encoding="utf-8")
    sampled = [row for row in rows if row["sampled"]]
    files = [OUT.parent / row["file"] for row in sampled]
    for row, scores in zip(sampled, _score(files, layout), strict=True):
        row["oracle"] = scores
    for row in rows:
        del row["sampled"]
    (OUT / "demo.json").write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    print(f"Done in {time.monotonic() - start:.0f} s on the {kind} host.")
    print("The oracle says, in shares of the regions:")
    print_table(rows)
    print(f"Pictures, layout.json and demo.json are in {OUT}")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (ServerError, WorkflowError) as problem:
        sys.exit(f"The demo failed: {problem}")
    except KeyboardInterrupt:
        sys.exit(130)
