"""DenseDiffusion's rows: drawn as the node would, and a cost file that is quoted rightly."""

from __future__ import annotations

import json

import pytest
import torch

pytest.importorskip("comfy.samplers")

from realcompo.balancer.dense.modulation import DenseSettings  # noqa: E402
from realcompo.bench import rows  # noqa: E402
from realcompo.bench.dense_pictures import dense_guider  # noqa: E402
from realcompo.bench.pictures import STEPS, Studio  # noqa: E402
from realcompo.bench.quality.job import Job  # noqa: E402
from realcompo.bench.speed import dense as dense_cost  # noqa: E402
from realcompo.shapes.world import make_scenes  # noqa: E402

from .results import ROOT, committed  # noqa: E402


def test_rows_are_known_and_told_apart(tmp_path) -> None:
    known = rows.known_rows(STEPS)
    names = [row.method for row in known]
    assert len(names) == len(set(names))
    dense = [row for row in known if row.dense is not None]
    assert {"dense", "dense-cross-only", "dense-self-only", "dense-no-area", "dense-released",
            "dense+realcompo"} == {row.method for row in dense}  # fmt: skip
    job = Job(make_scenes(2, torch.Generator().manual_seed(1)), tmp_path, STEPS, 2)
    known = [row for row in known if row.lora is None]
    assert len({job.key(row).rpartition("-")[2] for row in known}) == len(known)
    json.dumps([row.recipe() for row in dense])


def test_the_committed_table_has_them_if_it_says_so() -> None:
    document = committed("quality")
    methods = {row["method"] for row in document["rows"]}
    assert ("dense" in methods) == rows.DENSE_IN_TABLE


def test_own_checkpoints_get_the_papers_numbers() -> None:
    own = {row.method: row for row in rows.own_rows(STEPS)}
    assert own["dense"].dense == DenseSettings()
    assert "dense-released" not in own and "dense+realcompo" in own


@pytest.mark.parametrize("beside", [False, True])
@torch.inference_mode()
def test_a_batch_is_what_the_nodes_make_of_each_scene(beside) -> None:
    from realcompo.balancer.comfy.realcompo.guider import RealCompoGuider
    from realcompo.nodes.modulation import RealCompoDenseAttention

    studio = Studio("realistic")
    asked = studio.ask(make_scenes(3, torch.Generator().manual_seed(4)), 50)
    settings = rows.fixed(0.5 if beside else 1.0)
    numbers = {"cross_strength": 1.0, "self_strength": 1.0, "end_fraction": 0.6, "power": 1.0}
    make = dense_guider(studio.realism, studio.clip, DenseSettings(**numbers), beside)
    batch = studio.draw(asked, settings, make, steps=4)
    plain = studio.draw(asked, rows.fixed(1.0), steps=4)
    assert float((batch.pictures - plain.pictures).abs().amax((1, 2, 3)).min()) > 0.05
    for number, one in enumerate(asked):
        model, marked = RealCompoDenseAttention().apply(
            studio.realism, studio.clip, [[one.text, {}]], one.layout, **numbers
        )

        def by_node(realism, spatial, positive, negative, *rest, model=model, marked=marked):
            layout, tokens, *more = rest[2:]
            branches = (realism, model, positive, negative, marked, negative)
            if not beside:
                branches = (model, spatial, marked, negative, *rest[:2])
            return RealCompoGuider(*branches, layout, tokens, *more)

        alone = studio.draw([one], settings, by_node, steps=4)
        assert float((alone.pictures[0] - batch.pictures[number]).abs().max()) < 1e-2


def test_the_forms_that_are_timed_agree(monkeypatch) -> None:
    monkeypatch.setattr(dense_cost, "SIDE", 20)
    import comfy.ldm.modules.attention as attention

    monkeypatch.setattr(attention, "optimized_attention", attention.optimized_attention)
    with torch.inference_mode():
        printed, rewritten, plain = (make()() for make in dense_cost.FORMS.values())
    assert float((printed - rewritten).abs().max()) < 1e-4
    assert float((plain - rewritten)[1].abs().max()) > 1e-2
    assert torch.equal(plain[0], rewritten[0])


def test_the_cost_file_and_what_the_readme_says_of_it() -> None:
    document = committed("dense_cost")
    claims = {claim["name"]: claim for claim in document["claims"]}
    assert set(claims) == {"dense_attention_speedup", "dense_attention_memory", "dense_run_flops",
                         "dense_run_seconds"}  # fmt: skip
    for claim in claims.values():
        above = claim["direction"] == ">="
        reached = claim["value"] >= claim["bar"] if above else claim["value"] <= claim["bar"]
        assert claim["met"] == reached
        assert claim["low"] <= claim["value"] <= claim["high"]
    text = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())
    assert f"{claims['dense_attention_speedup']['value']:.0f} times less processor time" in text
    assert f"{claims['dense_attention_memory']['value']:.0f} times less memory" in text
