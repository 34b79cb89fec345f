"""Which methods stand in the quality table, and the numbers behind each."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from typing import Any

from ..balancer.dense.modulation import DenseSettings
from ..balancer.realcompo.settings import BalancerSettings, plain_settings, preset

OURS, CONTROL, EVEN_MIX = "realcompo-equilibrium", "control", "fixed-0.50"
DENSE = "dense"
SWAP, ALONE, ABLATION = "style-", "realism-", "ablation-"
CONTROLLED = ("segmentation-", "keypoints-")
FINETUNED = ("sepen+", "refl+")
"""``style-<name>`` is our row with that style's realism model, ``realism-<name>`` that model alone;
``realism`` without a name is the model of the target style of every other row. ``ablation-<name>``
is our row with one of its numbers changed."""

FIXED = (0.2, 0.4, 0.5, 0.6, 0.8)
SWITCH = (0.2, 0.25, 0.3, 0.4)
MASK_SWITCH = (0.4,)
MATCHED_SWITCH = (0.6,)
STYLES = ("sketch", "neon")
CONTROLS = ("segmentation", "keypoints")
# Parts of the noise schedule that the LoRAs of Separate-and-Enhance and of the caption reward by
# ReFL are in force in. Chosen on pairs to train on: what is where is settled in the first steps; in
# force any longer a LoRA wins nothing more there, and costs looks.
SEPEN_UNTIL, REFL_UNTIL = 0.2, 0.35
TUNED = {"sepen": SEPEN_UNTIL, "refl": REFL_UNTIL}
# Whether the committed table has the rows of ``dense_rows``; set together with that table.
DENSE_IN_TABLE = True
# The same for the rows of ``tuned_rows``.
TUNED_IN_TABLE = True
# Chosen on the tuning scenes (see docs/how_it_works.md): the demo's models settle places later
# than SD does, and have four attention sites at half the latent's sides where SD has sixteen.
SHAPES_DENSE = DenseSettings(cross_strength=1.0, self_strength=1.0, end_fraction=0.6, power=1.0)
# Rows of the contact sheet, and of the quick table with its number of steps.
SHEET = (
    "realism", "spatial", "fixed-0.50", "switch-0.20", "realcompo-paper",
    "realcompo-equilibrium", "style-sketch", "style-neon",
)  # fmt: skip
QUICK_ROWS = (
    "realism", "spatial", "fixed-0.50", "switch-0.20", "realcompo-equilibrium", "control"
)  # fmt: skip
QUICK_STEPS = 15
# Rows of the second contact sheet, below each kind's control pictures.
CONTROL_SHEET = ("alone", "fixed-0.50", "boxes", "masks")


GROUPS = {
    "Models alone": lambda m: m in ("realism", "spatial") or m.startswith(ALONE),
    "Fixed mixes": lambda m: m.startswith("fixed-"),
    "Time switches": lambda m: m.startswith("switch-"),
    "Time switches inside the regions": lambda m: m.startswith("mask-switch-"),
    "The same with the background matched": lambda m: m.startswith("matched-"),
    "RealCompo": lambda m: m.startswith("realcompo") or m == CONTROL,
    "Other realism models": lambda m: m.startswith(SWAP),
    "A ControlNet instead of boxes": lambda m: m.startswith(CONTROLLED),
    "DenseDiffusion": lambda m: m.startswith(DENSE),
    "A finetuned realism model": lambda m: m.startswith(FINETUNED),
    "One number of the equilibrium changed": lambda m: m.startswith(ABLATION),
    "Other methods": lambda m: True,
}
"""Headings of the Markdown table; a row goes below the first that takes its name."""


@dataclass(frozen=True)
class Row:
    """One row: a method's name, its settings, the realism model's style.

    ``schedule_of``: the row replays the mean shares of these settings without a gradient.
    ``control``: the spatial branch is steered by this kind of ControlNet instead of boxes, and
    ``regions`` says what the layout's regions are then, 'boxes' or the objects' true 'masks'.
    ``dense``: the realism model is modulated by these settings: as itself, or, ``beside`` the
    plain one, as the spatial branch, which then needs no model of its own.
    ``lora``: the realism model is finetuned by this file of ``shapes/weights/tuned``, in the first
    part ``until`` (0..1) of the noise schedule.
    """

    method: str
    settings: BalancerSettings
    style: str = "realistic"
    schedule_of: BalancerSettings | None = None
    control: str | None = None
    regions: str = "boxes"
    dense: DenseSettings | None = None
    beside: bool = False
    lora: str | None = None
    until: float = 1.0

    def recipe(self) -> dict[str, Any]:
        """Everything that decides the row's pictures, as JSON values."""
        shown = {"settings": asdict(self.settings), "style": self.style}
        if self.schedule_of is not None:
            shown["schedule_of"] = asdict(self.schedule_of)
        if self.control is not None:
            shown |= {"control": self.control, "regions": self.regions}
        if self.dense is not None:
            shown["dense"] = {**asdict(self.dense), "beside": self.beside}
        if self.lora is not None:
            shown["lora"] = self.lora
        if self.until < 1.0:
            shown["until"] = self.until
        return shown


def fixed(mix: float, **changes: Any) -> BalancerSettings:
    """A constant realism share: the paper's ablation."""
    # there is no prior to end, but kept pictures go by all the numbers
    numbers = {"mode": "fixed", "initial_mix": mix, "region_prior": 0.0, "prior_until": 0.5}
    return plain_settings(**numbers | changes)


def switch(part: float) -> BalancerSettings:
    """The spatial model for the first ``part`` of the steps, then the realism model."""
    return fixed(1.0, spatial_only=part)


def mask_switch(part: float, steps: int) -> BalancerSettings:
    """The spatial model inside the regions for the first ``part`` of ``steps``, then realism."""
    # As many logits as tell the models apart completely; the ends of the sigmoid are infinite.
    return plain_settings(
        mode="fixed", initial_mix=1 / (1 + math.exp(-30)), region_prior=60.0, prior_until=1.0,
        realism_only=1.0 - round(part * steps) / steps,
    )  # fmt: skip


def matched_switch(part: float) -> BalancerSettings:
    """``switch``, with the spatial model's background in the realism model's colours."""
    # both models must run for that: a mix that is the spatial model's to seven digits
    return fixed(1e-7, realism_only=1.0 - part, match_background=1.0)


def leaning(name: str) -> BalancerSettings:
    """``equilibrium`` with more say for one of the models.

    'layout' and 'look' move the starting share alone (0.5 to 0.2 and to 0.8).
    """
    chosen = preset("equilibrium")
    return replace(chosen, preset="custom", initial_mix={"layout": 0.2, "look": 0.8}[name])


def table(steps: int) -> list[Row]:
    """All rows in the table's order, for runs of ``steps`` steps."""
    main = preset("equilibrium")
    rows = [Row("realism", fixed(1.0)), Row("spatial", fixed(0.0))]
    rows += [Row(f"fixed-{mix:.2f}", fixed(mix)) for mix in FIXED]
    rows += [Row(f"switch-{part:.2f}", switch(part)) for part in SWITCH]
    rows += [Row(f"mask-switch-{part:.2f}", mask_switch(part, steps)) for part in MASK_SWITCH]
    rows += [Row(f"matched-switch-{part:.2f}", matched_switch(part)) for part in MATCHED_SWITCH]
    rows += [
        Row("realcompo-official", preset("official")),
        Row("realcompo-paper", preset("paper")),
        Row("realcompo-equilibrium", main),
        Row("realcompo-lagged", replace(main, preset="custom", mode="lagged")),
        Row("realcompo-equilibrium-layout", leaning("layout")),
        Row("realcompo-equilibrium-look", leaning("look")),
        Row("control", main, schedule_of=main),
    ]
    rows += [Row(f"ablation-{name}", chosen) for name, chosen in ablations()]
    for style in STYLES:
        rows.append(Row(f"realism-{style}", fixed(1.0), style))
        rows.append(Row(f"style-{style}", main, style))
    for kind in CONTROLS:
        rows.append(Row(f"{kind}-alone", fixed(0.0), control=kind))
        rows.append(Row(f"{kind}-fixed-0.50", fixed(0.5), control=kind))
        rows.append(Row(f"{kind}-boxes", main, control=kind))
        rows.append(Row(f"{kind}-masks", main, control=kind, regions="masks"))
    rows += dense_rows() if DENSE_IN_TABLE else []
    return rows + (tuned_rows() if TUNED_IN_TABLE else [])


def dense_rows(dense: DenseSettings = SHAPES_DENSE) -> list[Row]:
    """DenseDiffusion on the realism model, its parts left out one by one, the released code's
    numbers, and the modulated model as the spatial branch of the pair."""
    alone = fixed(1.0)
    return [
        Row("dense", alone, dense=dense),
        Row("dense-cross-only", alone, dense=replace(dense, self_strength=0.0)),
        Row("dense-self-only", alone, dense=replace(dense, cross_strength=0.0)),
        Row("dense-no-area", alone, dense=replace(dense, area=0.0)),
        Row("dense-released", alone, dense=DenseSettings()),
        Row("dense+realcompo", preset("equilibrium"), dense=dense, beside=True),
    ]


def tuned_rows() -> list[Row]:
    """RealCompo with a realism branch that was finetuned for what its prompts ask for."""
    main = preset("equilibrium")
    return [
        Row(f"{name}+realcompo", main, lora=f"{name}-realistic", until=until)
        for name, until in TUNED.items()
    ]


def known_rows(steps: int) -> list[Row]:
    """The table's rows, and those that may be named though the table does not have them yet."""
    rows = table(steps)
    return rows + [row for row in (*dense_rows(), *tuned_rows()) if row not in rows]


def ablations() -> list[tuple[str, BalancerSettings]]:
    """``equilibrium`` with one of its numbers put back."""
    main = preset("equilibrium", preset="custom")
    return [
        ("no-gradient", replace(main, mode="fixed")),
        ("no-prior", replace(main, region_prior=0.0)),
        ("raw-rate", replace(main, rate=1e5, rate_end=1e5, normalize_rate=False)),
        ("memory-1", replace(main, memory=1.0)),
        ("no-smoothing", replace(main, smoothing=0)),
        ("mix-to-the-end", replace(main, realism_only=0.0)),
        ("no-matching", replace(main, match_background=0.0)),
    ]


def own_rows(steps: int) -> list[Row]:
    """The rows for a user's own checkpoints: one look, DenseDiffusion by the paper's numbers."""
    rows = [row for row in table(steps) if row.style == "realistic"]
    rows = [row for row in rows if row.dense is None and row.control is None and row.lora is None]
    paper = dense_rows(DenseSettings())
    return rows + [row for row in paper if row.method != "dense-released"]
