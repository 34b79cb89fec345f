"""What the cost table claims, and the table: as JSON for machines, as Markdown to read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ...balancer.pictures import palette
from ...balancer.realcompo.settings import BalancerSettings
from ..report import Claim, commit, markdown_table_of_claims, rounded, write_document, write_whole
from ..statistics import Estimate
from .cpu_time import Share, Timing
from .runs import EQUILIBRIUM, EVERY_2, FLOOR, LAGGED, MIXED, PAPER, Cost

TERA, GIB = 1e12, 2**30
BASE = "realism"
LAYOUT, LAYOUT_PLAIN, KEYPOINT = "official-layout", "official-layout-plain", "official-keypoint"
GLIGEN_512, SDXL, CONTROLNET = "sd15-512", "sdxl-1024", "sdxl-1024-controlnet"
RATIOS = ((PAPER, LAYOUT), (PAPER, FLOOR), (EQUILIBRIUM, FLOOR))
"""Ratios that the FLOP claims are about; their CPU times are held against them."""

TIME_NOTE = (
    "Against one guided run of one model the pair costs more CPU time than FLOPs: at a width "
    "that can be computed here, norms, softmaxes and copies, which are not counted as FLOPs, weigh "
    "more, and the host runs GLIGEN's positive and negative one after the other."
)


@dataclass
class Row:
    """One method on one pair of networks."""

    network: str
    title: str
    method: str
    settings: BalancerSettings | None
    cost: Cost


class Table:
    """All rows, found by network and method."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self.rows = list(rows)
        self._found = {(row.network, row.method): row.cost for row in rows}

    def cost(self, network: str, method: str) -> Cost | None:
        """The cost, or None where there is no such row."""
        return self._found.get((network, method))

    def ratio(self, network: str, method: str, other: str) -> float | None:
        """FLOPs of an image by ``method``, against ``other`` on the same networks."""
        one, two = self.cost(network, method), self.cost(network, other)
        return None if one is None or two is None else one.total / two.total


def _exact(value: float) -> Estimate:
    return Estimate(value, value, value)


def _point(name: str, value: float, bar: float, **extra: Any) -> Claim:
    return Claim.judged(name, _exact(value), bar, "<=", "point", **extra)


def claims(table: Table, timing: Timing | None, share: Share | None) -> list[Claim]:
    """The claims that the rows can decide; one that lacks a row is left out."""
    found: list[Claim] = []

    def ratio(name: str, method: str, other: str, bar: float, **extra: Any) -> None:
        value = table.ratio(GLIGEN_512, method, other)
        if value is not None:
            found.append(_point(name, value, bar, method=method, other=other, **extra))

    plain = table.ratio(GLIGEN_512, PAPER, LAYOUT_PLAIN)
    ratio(
        "dynamic_vs_official_flops", PAPER, LAYOUT, 0.38,
        without_the_second_maps=None if plain is None else rounded(plain),
    )  # fmt: skip
    ratio("dynamic_vs_floor_flops", PAPER, FLOOR, 1.45)
    costs = [table.cost(GLIGEN_512, method) for method in (PAPER, EVERY_2, FLOOR)]
    if None not in costs:
        every, second, floor = (cost.total for cost in costs if cost is not None)
        found.append(_point("every_2_surplus", (second - floor) / (every - floor), 0.5))
    same = table.ratio(GLIGEN_512, EQUILIBRIUM, FLOOR)
    ratio(
        "equilibrium_vs_floor_flops", EQUILIBRIUM, MIXED, 1.0,
        note="both models in all steps; the preset has no steps of the spatial model alone",
        against_the_floor_at_t0=None if same is None else rounded(same),
    )  # fmt: skip
    ratio("lagged_vs_floor_flops", LAGGED, FLOOR, 1.25)
    ours, theirs = table.cost(CONTROLNET, PAPER), table.cost(CONTROLNET, KEYPOINT)
    if ours is not None and theirs is not None:
        value = ours.flops["balance"] / theirs.flops["step"]
        found.append(_point("keypoint_sdxl_vs_official_flops", value, 0.40, per="balanced step"))
    paper = table.cost(GLIGEN_512, PAPER)
    if paper is not None:
        kept = [rounded(size / GIB) for size in paper.saved]
        found.append(_point(
            "probe_activations_sd15_gib", paper.saved[0] / GIB, 0.35, each_backward=kept,
            note="float16; the first backward is plain SD1.5's, the second goes through GLIGEN",
        ))  # fmt: skip
    for name, network, bar in (("sd15", GLIGEN_512, 0.08), ("sdxl", SDXL, 0.3)):
        cost = table.cost(network, PAPER)
        if cost is not None and cost.checkpointed:
            each = [rounded(size / GIB) for size in cost.checkpointed]
            found.append(_point(
                f"probe_activations_{name}_checkpointed_gib", cost.checkpointed[0] / GIB, bar,
                each_backward=each, note="float16; checkpointed looks, where memory is short",
            ))  # fmt: skip
    if timing is not None:
        timed = timing.known(RATIOS)
        each = {f"{a} / {b}": _compared(timing, a, b) for a, b in timed}
        worst = max(abs(timing.excess(a, b)) for a, b in timed)
        found.append(_point("wall_clock_vs_flops", worst, 0.15, measure="CPU time", ratios=each))
    if share is not None:
        found.append(_point("balancer_share", share.value, 0.01))
    return found


def _compared(timing: Timing, method: str, other: str) -> dict[str, float | None]:
    times, work = timing.times(method, other), timing.work(method, other)
    return {"time": rounded(times), "flops": rounded(work)}


def _metric(value: float | None) -> dict[str, float | None]:
    shown = None if value is None else rounded(value)
    return {"mean": shown, "low": shown, "high": shown}


def passes_of(cost: Cost) -> dict[str, float]:
    """Forwards, partial forwards and backwards per image: as the guider counts them, or counted
    where it was not the guider, none of whose passes stop early or are shared."""
    if cost.trace is not None:
        return {name: cost.trace[name] for name in ("forwards", "partial_forwards", "backwards")}
    counted = cost.passes
    return {
        "forwards": counted["finished"], "partial_forwards": 0, "backwards": counted["backward"]
    }  # fmt: skip


def _row(table: Table, row: Row) -> dict[str, Any]:
    cost, passes = row.cost, passes_of(row.cost)
    return {
        "method": row.method,
        "network": row.network,
        "scenes": 1,
        "metrics": {
            "tflop": _metric(cost.total / TERA),
            "vs_one_model": _metric(table.ratio(row.network, row.method, BASE)),
            "vs_static_floor": _metric(table.ratio(row.network, row.method, FLOOR)),
        },
        "forwards_per_image": passes["forwards"],
        "partial_forwards_per_image": passes["partial_forwards"],
        "backwards_per_image": passes["backwards"],
        "counted": cost.passes,
        "steps": cost.steps,
        "tflop_per_step": {phase: rounded(flops / TERA) for phase, flops in cost.flops.items()},
        "activation_gib": [rounded(size / GIB) for size in cost.saved],
        "activation_gib_alive": [rounded(size / GIB) for size in cost.alive],
        "activation_gib_checkpointed": [rounded(size / GIB) for size in cost.checkpointed] or None,
        "settings": None if row.settings is None else asdict(row.settings),
    }  # fmt: skip


def as_document(
    table: Table, claims: Sequence[Claim], timing: Timing | None, share: Share | None, command: str
) -> dict[str, Any]:
    """The table as plain JSON values."""
    document: dict[str, Any] = {
        "command": command,
        "commit": commit(),
        "rows": [_row(table, row) for row in table.rows],
        "claims": [claim.as_dict() for claim in claims],
    }
    if timing is not None:
        document["cpu_time"] = {
            method: {
                "seconds": [rounded(second) for second in seconds],
                "gflop": rounded(timing.flops[method] / 1e9),
                "vs_one_model": _compared(timing, method, BASE),
            }
            for method, seconds in timing.seconds.items()
        }
    if share is not None:
        document["balancer"] = {**asdict(share), "share": rounded(share.value)}
    return document


def _cells(table: Table, row: Row) -> list[str]:
    cost = row.cost
    floor = table.ratio(row.network, row.method, FLOOR)
    one = table.ratio(row.network, row.method, BASE)
    steps = ", ".join(f"{cost.steps[p]} x {cost.flops[p] / TERA:.2f} ({p})" for p in cost.steps)
    kept = " / ".join(f"{size / GIB:.2f}" for size in cost.saved) or "-"
    return [
        f"`{row.method}`",
        *(f"{count}" for count in passes_of(cost).values()),
        f"{cost.passes['entered']}",
        f"{cost.total / TERA:.1f}",
        "-" if one is None else f"{one:.2f}",
        "-" if floor is None else f"{floor:.2f}",
        kept,
        " / ".join(f"{size / GIB:.2f}" for size in cost.checkpointed) or "-",
        steps,
    ]


HEADS = ("method", "forwards", "partial", "backwards", "first halves", "TFLOP", "x one model",
         "x static floor", "kept, GiB", "with checkpointing", "steps x TFLOP (phase)")  # fmt: skip


def markdown(
    table: Table, claims: Sequence[Claim], timing: Timing | None, share: Share | None
) -> str:
    """The table by networks, the CPU times, the claims."""
    lines: list[str] = []
    for network in dict.fromkeys(row.network for row in table.rows):
        rows = [row for row in table.rows if row.network == network]
        lines += ["", f"**{rows[0].title}**", "", f"| {' | '.join(HEADS)} |"]
        lines.append("|---|" + "---:|" * (len(HEADS) - 2) + "---|")
        lines += [f"| {' | '.join(_cells(table, row))} |" for row in rows]
    if timing is not None:
        lines += ["", "**CPU time against FLOPs**, narrow SD1.5 + GLIGEN, each against another", ""]
        lines += ["| method | against | CPU time | FLOPs |", "|---|---|---:|---:|"]
        pairs = [
            *timing.known(RATIOS),
            *((method, BASE) for method in timing.flops if method != BASE),
        ]
        lines += [
            f"| `{a}` | `{b}` | {timing.times(a, b):.2f} | {timing.work(a, b):.2f} |"
            for a, b in pairs
        ]
        lines += ["", TIME_NOTE]
    if share is not None:
        ops = share.operations
        lines += [
            "",
            f"**The balancer's own work** in a balanced step, 10 regions, SD1.5 at 512 px: "
            f"{share.seconds * 1e3:.0f} ms of CPU time outside the networks, {share.value:.2%} of "
            f"the step, whose passes take {share.network_seconds:.0f} s at the rate of a large "
            f"matrix product here ({share.rate / 1e9:.0f} GFLOP/s); about {ops['balancer']} tensor "
            f"operations beside the {ops['network']} of the networks.",
        ]
    return "\n".join([*lines, "", markdown_table_of_claims(claims)]).lstrip("\n")


def write(
    table: Table, claims: Sequence[Claim], timing: Timing | None, share: Share | None,
    command: str, out: Path, about: str,
) -> None:  # fmt: skip
    """Write ``cost.json`` and ``cost.md`` below ``out``."""
    document = as_document(table, claims, timing, share, command)
    write_document(out / "cost.json", document)
    text = markdown(table, claims, timing, share)
    write_whole(out / "cost.md", f"# Cost table\n\nMade by `{command}`. {about}\n\n{text}")


PARTS: Mapping[str, tuple[str, str]] = {
    "alone": ("one model, guided", "#999999"),
    "spatial": ("spatial model alone", palette.hex_of(palette.SKY)),
    "mix": ("both models", palette.hex_of(palette.BLUE)),
    "balance": ("both models, balanced", palette.hex_of(palette.ORANGE)),
    "realism": ("realism model alone", palette.hex_of(palette.GREEN)),
    "first": ("released procedure", palette.hex_of(palette.VERMILLION)),
    "step": ("released procedure", palette.hex_of(palette.VERMILLION)),
}
"""Phases as the chart names and colours them."""


def chart(table: Table, path: Path) -> None:
    """Bars of TFLOP per image by phase, one panel per pair of networks."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    networks = list(dict.fromkeys(row.network for row in table.rows))
    columns = min(2, len(networks))
    lines = -(-len(networks) // columns)
    figure, axes = pyplot.subplots(
        lines, columns, figsize=(6.2 * columns, 3.1 * lines), squeeze=False
    )
    used: dict[str, Any] = {}
    for axis in axes.flat[len(networks) :]:
        axis.set_visible(False)
    for axis, network in zip(axes.flat, networks, strict=False):
        rows = [row for row in table.rows if row.network == network]
        for index, row in enumerate(rows):
            left = 0.0
            for phase, number in row.cost.steps.items():
                label, colour = PARTS[phase]
                width = row.cost.flops[phase] * number / TERA
                bar = axis.barh(index, width, left=left, color=colour, edgecolor="white", lw=0.6)
                used.setdefault(label, bar[0])
                left += width
            ratio = table.ratio(network, row.method, BASE)
            label = f" {left:.0f}" if ratio is None else f" {left:.0f}  ({ratio:.1f}x)"
            axis.text(left, index, label, va="center", fontsize=8)
        axis.set_yticks(range(len(rows)), [row.method for row in rows], fontsize=8)
        axis.invert_yaxis()
        axis.margins(x=0.22)
        axis.set_title(rows[0].title, fontsize=10, loc="left")
        axis.set_xlabel("TFLOP per image of 50 steps (x: against one model)", fontsize=8)
        axis.spines[["top", "right"]].set_visible(False)
    figure.legend(
        used.values(), used.keys(), loc="lower center", ncols=3, fontsize=8, frameon=False
    )
    figure.tight_layout(rect=(0, 0.07 if lines > 1 else 0.14, 1, 1))
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110, metadata={"Software": None})
    pyplot.close(figure)
