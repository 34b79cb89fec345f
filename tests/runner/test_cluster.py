"""Rows by Ray workers: the same pictures as in one process, and a killed worker loses none."""

from __future__ import annotations

import os
import signal
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hostpack
import pytest
import torch

pytest.importorskip("pyarrow", reason="the results table needs pyarrow")
pytest.importorskip("ray", reason="RAY IS NOT INSTALLED, so nothing of --ray is tested")
pytest.importorskip("comfy", reason="no ComfyUI found: set COMFYUI_PATH or use dev.py test")

from realcompo.bench import workers as bench_workers  # noqa: E402
from realcompo.bench.runner.rows import bench_rows, demo_graph  # noqa: E402
from realcompo.bench.workers import Crew, Piece  # noqa: E402
from realcompo.runner.cluster import Cluster, Place, Workers  # noqa: E402
from realcompo.runner.errors import RunnerError  # noqa: E402
from realcompo.runner.job import Outcome  # noqa: E402
from realcompo.runner.local import InProcess  # noqa: E402
from realcompo.runner.run import run  # noqa: E402

from .rows import table  # noqa: E402


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    # two processors beyond the workers', for the other tests' own
    with Cluster(Place("local", 2, processors=4), metrics=["oracle"]) as backend:
        yield backend


def test_a_killed_worker_loses_nothing_and_the_pictures_are_those_of_one_process(
    cluster: Cluster, tmp_path: Path
) -> None:
    rows = bench_rows(8, ["realistic", "sketch"])
    graph = demo_graph(cluster, "realcompo", 1)
    outcomes: list[Outcome] = []

    class Killing(Cluster):
        def __init__(self) -> None:
            self.workers = cluster.workers

        def results(self, tasks: Any, stop: threading.Event) -> Iterator[Outcome]:
            for outcome in super().results(tasks, stop):
                outcomes.append(outcome)
                if len(outcomes) == 2:
                    os.kill(int(outcome.worker.split(":")[1]), signal.SIGKILL)
                yield outcome

    broken = {**rows[0], "id": "broken", "RealCompo Layout From Boxes.prompt": "a yacht"}
    summary = run([*rows, broken], graph, Killing(), tmp_path / "ray", progress=False)
    assert (summary.done, summary.failed) == (8, 1)
    assert Counter(outcome.id for outcome in outcomes).most_common(1)[0][1] == 1
    with InProcess(hostpack.host_path()) as local:
        run(rows, graph, local, tmp_path / "local", progress=False)
    here, there = table(tmp_path / "local"), table(tmp_path / "ray")
    assert "is not in the prompt" in there.pop("broken")["error"]
    for name, row in here.items():
        assert there[name]["pixels_sha256"] == row["pixels_sha256"]
        assert there[name]["workflow"] == row["workflow"]
        assert len(there[name]["metric.right"]) == 1


def test_workers_tell_what_they_cannot_start_or_do(cluster: Cluster, tmp_path: Path) -> None:
    """Beside rows of a workflow: any callable of the pack's; its failures are told."""
    workers = Workers(Place("local", 1), "balancer.llm.endpoint:os.getpid", {})
    with pytest.raises(RunnerError, match="A worker cannot start: AttributeError"):
        workers.start()
    workers.close()
    pieces = [
        Piece("one", "a", tmp_path),
        Piece("other", "a", tmp_path),
    ]  # a kind that it does not draw
    found = {}
    for piece, result, problem in cluster.workers.results(pieces, threading.Event()):
        found[piece.id] = (result, problem)
    assert all(result is None for result, _ in found.values())
    assert all("AttributeError" in str(problem) for _, problem in found.values())


def test_the_quality_bench_draws_its_rows_by_workers(cluster: Cluster, tmp_path: Path) -> None:
    from realcompo.bench.quality.job import job_of, load_drawn
    from realcompo.bench.quality.main import make_rows
    from realcompo.bench.quality.workers import make_rows_on
    from realcompo.bench.rows import known_rows

    rows = [row for row in known_rows(2) if row.method in ("realism", "spatial")]
    threads = torch.get_num_threads()
    here, there = job_of(3, 2, 2, tmp_path / "here"), job_of(3, 2, 2, tmp_path / "there")
    make_rows_on(there, rows, Crew(Place("local", 1), threads, ["--cpu"]))  # as this process
    make_rows(here, rows)
    for row in rows:
        one, other = load_drawn(here.drawn(row)), load_drawn(there.drawn(row))
        assert torch.equal(one.pictures, other.pictures) and one.forwards == other.forwards
    assert not list((tmp_path / "there").glob("*.lock"))


SMALL = {"scenes": 3, "prompts": 1, "repeats": 2, "steps": 2}


def test_the_alignment_bench_draws_its_stages_by_workers(cluster: Cluster, tmp_path: Path) -> None:
    from realcompo.bench.alignment.draw import Job, Stage
    from realcompo.bench.alignment.rows import BEST, FINE, rows
    from realcompo.bench.alignment.workers import make_stages_on

    methods = ("realism", f"{BEST}-oracle", FINE)
    wanted = [row for row in rows() if row.method in methods]
    here, there = Job(tmp_path / "here", **SMALL), Job(tmp_path / "there", **SMALL)
    make_stages_on(there, wanted, Crew(Place("local", 2), torch.get_num_threads(), ["--cpu"]))
    for row in wanted:
        here.make(row)
    made = {part.path.name for row in wanted for part in here.parts(row)}
    assert len(made) == 4 + 1 + 1  # the first candidate is shared by all three rows
    assert {path.name for path in there.folder.iterdir()} == made  # no lock, no half a file
    for name in made:
        one, same = (Stage.load(job.folder / name) for job in (here, there))
        assert torch.equal(one.pictures, same.pictures) and one.forwards == same.forwards
        assert one.seeds.tolist() == same.seeds.tolist()


def test_a_stage_that_another_process_is_at_is_left_to_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from realcompo.bench.alignment import workers as alignment_workers
    from realcompo.bench.alignment.draw import Job
    from realcompo.bench.alignment.rows import BEST, FINE, rows
    from realcompo.bench.kept import claimed

    waves: list[list[str]] = []

    class Here:
        """A worker in this process."""

        def __init__(self, place: Place, factory: str, settings: dict[str, Any]) -> None:
            self.work = alignment_workers.stage_worker(**settings)

        def __enter__(self) -> Here:
            return self

        def __exit__(self, *_: object) -> None: ...

        def results(self, pieces: list[Piece], stop: threading.Event) -> Iterator[Any]:
            waves.append([piece.path.name for piece in pieces])
            yield from ((piece, self.work(piece), None) for piece in pieces)

    monkeypatch.setattr(bench_workers, "Workers", Here)
    monkeypatch.setattr(alignment_workers, "start_worker", lambda *_: None)
    job = Job(tmp_path, **{**SMALL, "scenes": 1})
    best, fine = (row for row in rows() if row.method in (f"{BEST}-oracle", FINE))
    drawn = [job.drawn_path(best, candidate) for candidate in range(4)]
    with claimed(drawn[3]) as ours:
        assert ours
        alignment_workers.make_stages_on(job, [fine, best], Crew(Place(), 1))
    assert waves == [[path.name for path in drawn[:3]], [job.path(fine).name]]
    alignment_workers.make_stages_on(job, [fine, best], Crew(Place(), 1))
    assert waves[2:] == [[drawn[3].name], [job.path(best).name]]
    alignment_workers.make_stages_on(job, [fine, best], Crew(Place(), 1))
    assert len(waves) == 4


def test_a_worker_with_other_models_is_told_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from realcompo.bench.alignment import workers as alignment_workers
    from realcompo.bench.alignment.draw import Job
    from realcompo.bench.alignment.rows import Row

    monkeypatch.setattr(alignment_workers, "start_worker", lambda *_: None)  # it runs here
    work = alignment_workers.stage_worker(1, [], **Job(tmp_path, **SMALL).about)
    content = alignment_workers.Wanted(Row("realism"), {})
    with pytest.raises(RunnerError, match="other models or another pack"):
        work(Piece("one", "", tmp_path / "realism-of-another.npz", content))


def test_a_cluster_that_is_not_there_is_told() -> None:
    import ray

    ray.shutdown()
    with pytest.raises(RunnerError, match="There is no Ray at '127.0.0.1:1'"):
        Workers(Place("127.0.0.1:1"), "runner.host:GraphWorker", {}).start()


@pytest.mark.parametrize("name", ["quality", "alignment"])
def test_the_tables_tell_it_too(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import importlib

    bench = importlib.import_module(f"realcompo.bench.{name}.main")
    threads = torch.get_num_threads()
    small = ["--work", str(tmp_path), "--rows", "realism", "--scenes", "2"]
    with pytest.raises(SystemExit):
        bench.main([*small, "--ray", "127.0.0.1:1", "--workers", "2"])
    assert "There is no Ray at '127.0.0.1:1'" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        bench.main([*small, "--ray", "local", "--workers", "0"])
    assert "--workers: 0 is less than 1" in capsys.readouterr().err
    torch.set_num_threads(threads)
    assert not list(tmp_path.glob("*.npz"))
