"""The cost bench counts rightly, its rebuilt procedures do what they say, and its table is true."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("comfy.samplers", reason="the bench runs the host's networks")

from realcompo.balancer.comfy.host.compat import adds_in_place  # noqa: E402
from realcompo.balancer.realcompo.settings import MODES  # noqa: E402
from realcompo.bench import hollow, passes  # noqa: E402
from realcompo.bench import true_models as true  # noqa: E402
from realcompo.bench.cost import networks as cost_networks  # noqa: E402
from realcompo.bench.cost import official as official_cost  # noqa: E402
from realcompo.bench.cost import runs as cost_runs  # noqa: E402
from realcompo.bench.cost.report import BASE, CONTROLNET, GLIGEN_512  # noqa: E402

from . import results  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def small() -> cost_networks.Pair:
    return cost_networks.QUICK["small-gligen"].small()


@pytest.fixture(scope="module")
def measured(small) -> Callable[..., cost_runs.Run]:
    """A run of the small pair, made once however many tests look at it; copies of one object."""
    made: dict[str, cost_runs.Run] = {}

    def run(*arguments: Any, **options: Any) -> cost_runs.Run:
        key = repr((arguments, options))
        if key not in made:
            made[key] = cost_runs.measure(small, *arguments, **options)
        return copy.deepcopy(made[key])

    return run


def test_a_hollow_pass_of_true_sd15_has_the_known_number_of_operations() -> None:
    network = true.unet(true.SD15, torch.float16).model.diffusion_model
    x = torch.zeros(1, 4, 64, 64, dtype=torch.float16)
    text = torch.zeros(1, 77, 768, dtype=torch.float16)
    with true.fused_attention(), torch.inference_mode(), hollow.counted() as count:
        out = network(x, torch.zeros(1), context=text, transformer_options={})
    assert out.shape == x.shape
    assert count.get_total_flops() == pytest.approx(803.3e9, rel=1e-4)


def test_a_hollow_probe_of_true_sd15_stops_half_way_and_keeps_what_it_must() -> None:
    from realcompo.balancer.attention.maps import RegionMaps, token_weights
    from realcompo.balancer.comfy.attention.families import family_of
    from realcompo.balancer.comfy.attention.family import StopProbe
    from realcompo.balancer.comfy.autograd.inference_weights import (
        gradient_mode,
        without_inference_tensors,
    )

    network = true.unet(true.SD15, torch.float16).model.diffusion_model
    maps = RegionMaps(token_weights([[2]], 77))
    family = family_of(network)
    options = family.reading_options({}, family.sites(network), 4, maps)
    with (
        true.fused_attention(), gradient_mode(), without_inference_tensors([network]),
        hollow.counted() as count, hollow.kept_activations([network]) as kept,
    ):  # fmt: skip
        x = torch.zeros(1, 4, 64, 64, dtype=torch.float16, requires_grad=True)
        text = torch.zeros(1, 77, 768, dtype=torch.float16)
        with pytest.raises(StopProbe):
            network(x, torch.zeros(1), context=text, transformer_options=options)
        assert 396.6e9 <= count.get_total_flops() <= 396.8e9
        (gradient,) = torch.autograd.grad(maps.mean().sum(), x)
    assert gradient.shape == x.shape
    assert 0.25 * 2**30 < kept.saved[0] <= 0.35 * 2**30
    assert kept.alive[0] == pytest.approx(kept.saved[0], rel=0.02)


@pytest.mark.parametrize("largest", [hollow.LARGEST, 2000])
def test_a_hollow_run_counts_what_a_computed_run_counts(
    small, measured, largest, monkeypatch
) -> None:
    """Every step of the real guider, GLIGEN, probes and backwards included."""
    computed = measured(cost_runs.PAPER, 3, hollow=False)
    original = hollow.Hollow.__init__
    monkeypatch.setattr(hollow.Hollow, "__init__", lambda self, _: original(self, largest))
    empty = cost_runs.measure(small, cost_runs.PAPER, 3)
    assert empty.steps == computed.steps
    assert sum(step.flops for step in empty.steps) > 1e8
    assert empty.trace | {"seconds": 0} == computed.trace | {"seconds": 0}
    assert empty.kept.saved == computed.kept.saved


def test_heavy_operations_are_not_computed_and_others_are() -> None:
    a = torch.full((8, 8), 2.0)
    with hollow.counted() as count:
        product, total = a @ a, a + a
    assert count.get_total_flops() == 2 * 8**3
    assert not product.any() and bool((total == 4).all())
    with hollow.counted(hollow=False) as count:
        product = a @ a
    assert count.get_total_flops() == 2 * 8**3 and bool((product == 32).all())


def test_kept_activations_are_counted_once_and_without_weights() -> None:
    layer = torch.nn.Linear(64, 64, bias=False).requires_grad_(False)
    x = torch.ones(16, 64, requires_grad=True)
    with hollow.kept_activations([layer]) as kept:
        middle = layer(x).exp()
        torch.autograd.grad((middle * middle).sum(), x)
        del middle
        torch.autograd.grad(layer(x).sum(), x)
    # the product saves exp's output twice, exp once: one storage; a linear layer saves its weight
    assert kept.saved == [16 * 64 * 4, 0]
    # the engine's own hooks make copies: those are what is kept then
    from realcompo.balancer.comfy.autograd.inference_weights import saved_copies

    with hollow.kept_activations([layer]) as kept, saved_copies([layer], True):
        torch.autograd.grad(layer(x).exp().sum(), x)
    assert kept.saved == [16 * 64 * 4]


@pytest.mark.parametrize("method", [cost_runs.PAPER, cost_runs.EQUILIBRIUM, cost_runs.FLOOR])
def test_the_guider_tells_what_an_independent_counter_counts(measured, method) -> None:
    run = measured(method, 5, flops=False)
    assert run.trace is not None
    assert run.total("finished") == run.trace["forwards"]
    assert run.total("entered") == run.trace["forwards"] + run.trace["partial_forwards"]
    assert run.total("backward") == run.trace["backwards"]


def test_runs_that_disagree_are_not_composed(measured) -> None:
    short = measured(cost_runs.PAPER, 3)
    whole = measured(cost_runs.PAPER, 5, flops=False)
    cost = cost_runs.compose(short, whole)
    assert cost.steps == {"spatial": 2, "balance": 3}
    assert cost.total == 2 * cost.flops["spatial"] + 3 * cost.flops["balance"]
    other = measured(cost_runs.EVERY_2, 5, flops=False)
    with pytest.raises(RuntimeError, match="phases"):
        cost_runs.compose(short, other)
    whole.steps[-1].passes["finished"] += 1
    with pytest.raises(RuntimeError, match="passes"):
        cost_runs.compose(short, whole)


def metered(pair: Any, name: str, hollow_run: bool) -> tuple[Any, torch.Tensor]:
    procedure = official_cost.PROCEDURES[name](pair)
    with (
        cost_networks.steady_host(),
        passes.counting(pair.networks, pair.controls) as counted,
        hollow.counted(hollow_run) as count,
    ):
        procedure.meter = cost_runs.Meter(count, counted)
        latent = procedure.sample(50, 2)
    return procedure.meter.steps, latent


def test_the_layout_procedure_makes_its_passes(small) -> None:
    """Eight forwards and two backwards a step, twelve forwards in the first."""
    if adds_in_place():
        pytest.skip("THIS COMFYUI ADDS IN PLACE, and the released procedure keeps no copies")
    steps, latent = metered(small, "official-layout", hollow_run=False)
    assert [(s.passes["finished"], s.passes["backward"]) for s in steps] == [(12, 2), (8, 2)]
    assert latent.isfinite().all()
    plain, _ = metered(small, "official-layout-plain", hollow_run=True)
    assert plain[0].passes == steps[0].passes
    assert plain[1].flops < steps[1].flops
    assert all(parameter.is_inference() for parameter in small.modules[0].parameters())


def test_the_keypoint_procedure_makes_its_passes() -> None:
    """Six U-Net and three ControlNet forwards at batch 2, two backwards."""
    pair = cost_networks.QUICK["small-controlnet"].small()
    steps, latent = metered(pair, "official-keypoint", hollow_run=False)
    for step in steps:
        assert step.passes == {"entered": 12, "finished": 12, "control": 6, "backward": 2}
    assert latent.isfinite().all()


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from realcompo.bench.cost.main import main

    folder = tmp_path_factory.mktemp("cost")
    assert main(["--quick", "--out", str(folder)]) == 0
    return folder


def test_the_quick_table_is_whole(quick: Path) -> None:
    document = json.loads((quick / "cost.json").read_text("utf-8"))
    rows = {(row["network"], row["method"]): row for row in document["rows"]}
    ours = rows["small-gligen", cost_runs.PAPER]
    assert ours["steps"] == {"spatial": 2, "balance": 3}
    assert (ours["forwards_per_image"], ours["backwards_per_image"]) == (16, 6)
    assert rows["small-controlnet", "official-keypoint"]["backwards_per_image"] == 10
    assert {claim["name"] for claim in document["claims"]} == {
        "wall_clock_vs_flops", "balancer_share"
    }  # fmt: skip
    for name in ("cost.md", "cost.png"):
        assert (quick / name).stat().st_size > 1000


@pytest.fixture(scope="module")
def committed() -> dict[str, Any]:
    return results.committed("cost")


def flops(document: dict[str, Any], network: str, method: str) -> float:
    (row,) = (r for r in document["rows"] if (r["network"], r["method"]) == (network, method))
    total = sum(row["tflop_per_step"][phase] * n for phase, n in row["steps"].items())
    assert total == pytest.approx(row["metrics"]["tflop"]["mean"], rel=1e-3)
    return total


def test_the_committed_table_has_every_row_of_the_present_settings(committed) -> None:
    found = {(row["network"], row["method"]): row for row in committed["rows"]}
    settings = cost_runs.methods()
    assert ("lagged" in MODES) == (cost_runs.LAGGED in settings)
    for network in cost_networks.NETWORKS:
        for method, chosen in settings.items():
            row = found[network, method]
            assert row["settings"] == json.loads(json.dumps(chosen.to_dict())), method
            assert sum(row["steps"].values()) == cost_runs.STEPS
            assert row["forwards_per_image"] == row["counted"]["finished"], (network, method)
            if network != CONTROLNET:  # one checkpoint in both branches may share its passes
                counted = row["counted"]
                both = row["forwards_per_image"] + row["partial_forwards_per_image"]
                assert (both, row["backwards_per_image"]) == (
                    counted["entered"], counted["backward"]
                )  # fmt: skip


def test_the_committed_claims_follow_from_the_rows(committed) -> None:
    claims = {claim["name"]: claim for claim in committed["claims"]}

    def ratio(method: str, other: str) -> float:
        return flops(committed, GLIGEN_512, method) / flops(committed, GLIGEN_512, other)

    expected = {
        "dynamic_vs_official_flops": ratio(cost_runs.PAPER, "official-layout"),
        "dynamic_vs_floor_flops": ratio(cost_runs.PAPER, cost_runs.FLOOR),
        "equilibrium_vs_floor_flops": ratio(cost_runs.EQUILIBRIUM, cost_runs.MIXED),
        "every_2_surplus": (ratio(cost_runs.EVERY_2, cost_runs.FLOOR) - 1)
        / (ratio(cost_runs.PAPER, cost_runs.FLOOR) - 1),
    }
    if cost_runs.LAGGED in cost_runs.methods():
        expected["lagged_vs_floor_flops"] = ratio(cost_runs.LAGGED, cost_runs.FLOOR)
    for name, value in expected.items():
        assert claims[name]["value"] == pytest.approx(value, rel=1e-3), name
    for claim in claims.values():
        assert claim["met"] == (claim["value"] <= claim["bar"])
    names = {"keypoint_sdxl_vs_official_flops", "probe_activations_sd15_gib",
             "wall_clock_vs_flops", "balancer_share"}  # fmt: skip
    assert names <= set(claims)


def test_the_readme_quotes_the_table(committed) -> None:
    rows = {r["method"]: r for r in committed["rows"] if r["network"] == GLIGEN_512}
    told = {}
    for line in (ROOT / "README.md").read_text("utf-8").splitlines():
        cells = [cell.strip(" *") for cell in line.strip("|").split("|")]
        found = re.search(r"\(`(\S+)`\)$", cells[0])
        if found and found[1] in rows and len(cells) == 5:
            told[found[1]] = cells[1:]
    assert {
        BASE,
        cost_runs.FLOOR,
        cost_runs.PAPER,
        cost_runs.EQUILIBRIUM,
        "official-layout",
    } <= set(told)
    for method, cells in told.items():
        row = rows[method]
        assert cells == [
            f"{row['forwards_per_image']} + {row['partial_forwards_per_image']}",
            f"{row['backwards_per_image']}",
            f"{row['metrics']['tflop']['mean']:.0f}",
            f"{row['metrics']['vs_one_model']['mean']:.1f}",
        ], method
