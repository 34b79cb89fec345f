"""The cost table: ``python dev.py bench cost``.

Every method is run by the code that users run, on the host's networks of true size, with the heavy
operations counted instead of computed (see ``bench/hollow.py``); then a narrow pair is computed
really, for CPU time against FLOPs. Needs no weights and about 4 GiB; the whole takes minutes.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from .cost_networks import NETWORKS, QUICK, Network, Pair, steady_host
from .cost_report import GLIGEN_512, LAYOUT, Row, Table, chart, claims, markdown, write
from .cost_runs import (
    ALONE,
    EQUILIBRIUM,
    FLOOR,
    LAGGED,
    PAPER,
    SHORT,
    STEPS,
    Cost,
    Meter,
    compose,
    measure,
    methods,
)
from .cpu_time import balancer_share, timed_pair, timing
from .hollow import counted, kept_activations
from .official_cost import PROCEDURES
from .passes import counting

ROOT = Path(__file__).resolve().parents[1]
REGIONS = 10
TIMED = ("realism", "spatial", FLOOR, PAPER, EQUILIBRIUM, LAYOUT)
REPETITIONS = 5
FRUGAL = (PAPER, LAGGED)
QUICK_ROWS = ("realism", FLOOR, PAPER)
QUICK_TIMED = ("realism", FLOOR, PAPER)
ABOUT = (
    "FLOPs (2 per multiply-add; matrix products, convolutions, attention) of one image of 50 steps "
    "with guidance, t0 = 0.4. *forwards*: samples through a whole U-Net; *partial*: samples that "
    "stop at the last map they need; *first halves*: down paths that were computed, fewer than "
    "forwards where one checkpoint in both branches shares them; *kept*: what autograd holds as "
    "each backward begins, weights left out, in float16. `static-floor`: the spatial model alone "
    "for 40 % of the steps, then both, "
    "without a balancer; `fixed-0.50`: both in all steps. `official-`: the released procedures, "
    "rebuilt from their description (`-plain`: without the second computing of GLIGEN's maps)."
)


def official(pair: Pair, name: str, steps: int) -> Cost:
    """The cost of a released procedure: its first steps are run, the others are as the last."""
    procedure = PROCEDURES[name](pair)
    with (
        steady_host(),
        counting(pair.networks, pair.controls) as passes,
        counted() as count,
        kept_activations(pair.modules) as kept,
    ):
        procedure.meter = Meter(count, passes)
        procedure.sample(steps, 2)
    done = procedure.meter.steps
    flops = {step.phase: step.flops for step in done}
    numbers = {phase: 1 for phase in flops}
    numbers[done[-1].phase] += steps - len(flops)
    each = {step.phase: step.passes for step in done}
    total = {
        name: sum(each[phase][name] * number for phase, number in numbers.items())
        for name in done[0].passes
    }
    # its two backwards share a graph: what the second finds was kept by the first
    return Cost(flops, numbers, total, None, kept.saved[:1], kept.alive[:1])


def rows_of(name: str, network: Network, steps: int, only: Sequence[str] = ()) -> list[Row]:
    """All rows of a pair of networks (or the guider's rows named), printed as they come."""
    small, pair = network.small(), network.true_size()
    chosen = methods()
    rows = []

    def add(method: str, cost: Cost) -> None:
        rows.append(Row(name, network.title, method, chosen.get(method), cost))
        print(f"{name:22} {method:26} {cost.total / 1e12:10.3f} TFLOP", flush=True)

    for method in only or (*ALONE, *chosen):
        if name.endswith("1024") and method == "spatial":
            continue  # two models of one kind: the same as the realism model alone
        whole = measure(small, method, steps, flops=False)
        cost = compose(measure(pair, method, SHORT), whole)
        if method in FRUGAL:
            kept = measure(pair, method, SHORT, checkpointed=True).kept.saved[: len(cost.saved)]
            cost = replace(cost, checkpointed=kept)
        add(method, cost)
    if name == GLIGEN_512:
        for procedure in ("official-layout", "official-layout-plain"):
            add(procedure, official(pair, procedure, steps))
    if pair.control is not None:
        add("official-keypoint", official(pair, "official-keypoint", steps))
    return rows


def main(argv: list[str]) -> int:
    """Make the table; 0 when it is written."""
    parser = argparse.ArgumentParser(prog="bench cost", description=__doc__)
    parser.add_argument("--out", type=Path, default=ROOT / "bench" / "results")
    parser.add_argument("--quick", action="store_true",
                        help="small networks, short runs, fewer rows; out/bench-cost")  # fmt: skip
    choice = parser.parse_args(argv)
    if choice.quick and choice.out == parser.get_default("out"):
        choice.out = ROOT / "out" / "bench-cost"
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    # hollow gradients are not numbers, which the guider would say in every run
    level = logging.getLogger().level
    logging.getLogger().setLevel(logging.ERROR)
    try:
        rows: list[Row] = []
        for name, network in (QUICK if choice.quick else NETWORKS).items():
            quick = (SHORT + 2, QUICK_ROWS) if choice.quick else (STEPS, ())
            rows += rows_of(name, network, *quick)
        table = Table(rows)
        (step,) = {
            row.cost.flops["balance"] for row in rows
            if row.method == PAPER and row.network == rows[0].network
        }  # fmt: skip
        share = balancer_share(REGIONS, step, choice.quick)
        which = (QUICK_TIMED, 1) if choice.quick else (TIMED, REPETITIONS)
        times = timing(timed_pair(choice.quick), *which)
    finally:
        torch.set_num_threads(before)
        logging.getLogger().setLevel(level)
    told = claims(table, times, share)
    command = "python dev.py bench cost" + (" --quick" if choice.quick else "")
    write(table, told, times, share, command, choice.out, ABOUT)
    chart(table, choice.out / "cost.png")
    print(markdown(table, told, times, share))
    print(f"Table, JSON and chart are in {choice.out}")
    return 0
