"""What the alignment table claims, and its files: JSON, Markdown, and before beside after."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ..report import Claim, estimate_dict
from ..statistics import DISTANCE, Bootstrap, Estimate, RowResult
from .rows import AGAIN, BEST, FINE, REFL, SEPEN, STYLES

GROUPS = {
    "Drawings of such scenes": lambda m: m.startswith("drawings"),
    "Realism models as they were": lambda m: m.startswith("realism"),
    "Separate-and-Enhance": lambda m: m.startswith(SEPEN),
    "After RealignDiff": lambda m: m.startswith("realign-"),
    "Other methods": lambda m: True,
}
COARSE = {
    BEST: "best_of_fine", f"{BEST}-likelihood": "likelihood_fine", REFL: "refl_fine",
}  # fmt: skip
"""Rows of the coarse stage that have one with the fine stage after it, and those rows' claims."""
PRESENT, BOUND = ("present", "binding"), ("binding", "bound", "present")
GAINS = {
    BEST: ("realign_best_of", PRESENT), REFL: ("realign_refl", PRESENT),
    f"{REFL}-all-steps": ("refl_all_steps", PRESENT), FINE: ("fine", BOUND),
    f"{FINE}-noise": ("fine_noise", BOUND),
}  # fmt: skip
"""Rows that are held against the model as it was, their claims, and in which metrics they gain."""
DRAWN_AGAIN = {
    (FINE, AGAIN): "fine", (f"{BEST}+fine", f"{BEST}+again"): "best_of_fine",
    (f"{BEST}+fine-light", f"{BEST}+again-light"): "best_of_fine_light",
}  # fmt: skip
"""Rows of the fine stage with those that draw again without it, and their claims."""
GAIN, KEPT, AS_DIVERSE = 0.08, 0.95, 0.90
ABOUT = (
    "Two objects of a pair that no finetuning saw; prompts without boxes. *present*: objects asked "
    "for that are somewhere in the picture in their colour and shape; *shown*: their shape is, in "
    "whatever colour; *both*: pictures with both objects; *bound*: present / shown, the share of "
    "the shapes that have their colour; *count*: pictures with two things; *binding*: pictures "
    "with both objects and no other kind; *realism distance*, *style*: as in the quality table, "
    "against drawings of such scenes; *diversity*: difference of pictures of one prompt, in the "
    "codec's latents and in the style judge's features. `drawings` are what the models were "
    "trained on, after the codec. LoRAs of `sepen` and `refl` are in force for the first part of "
    "the schedule, in `-all-steps` for the whole of it; `-test-time` trains nothing and moves the "
    "latent by the losses instead. `fine` draws again from the coarse latent, `-noise` from the "
    "coarse picture's noise, `-light` with less noise on the latent; `again` does the same without "
    "the fine stage, by the prompt alone. Intervals: 95 %, paired bootstrap over scenes."
)


def claims(bootstrap: Bootstrap, rows: Sequence[RowResult]) -> list[Claim]:
    """The claims that ``rows`` can decide; one that lacks a row is left out."""
    named = {row.method: row for row in rows}
    found: list[Claim] = []
    for kind in ("", "-test-time"):
        for end in STYLES.values():
            method = SEPEN + kind + end
            if method in named and f"realism{end}" in named:
                name, base = method.replace("-", "_"), named[f"realism{end}"]
                found += _sepen(bootstrap, named[method], base, name)
    if (base := named.get("realism")) is None:
        return found
    for method, (name, metrics) in GAINS.items():
        if method in named:
            found += _gains(bootstrap, named[method], base, name, metrics)
            found += _kept(bootstrap, named[method], base, name)
    for (method, again), name in DRAWN_AGAIN.items():
        if method in named and again in named:
            name = f"{name}_over_drawn_again"
            found.append(_over(bootstrap, named[method], named[again], name))
    for method, name in COARSE.items():
        for kind, mark in (("", ""), ("-light", "_light")):
            if f"{method}+fine{kind}" in named:
                found += _two_stages(bootstrap, named, method, kind, f"{name}{mark}")
    return found


def _two_stages(
    bootstrap: Bootstrap, named: Mapping[str, RowResult], coarse: str, kind: str, name: str
) -> list[Claim]:
    """A row of the coarse stage with the fine stage after it, against each of the two alone."""
    both = named[f"{coarse}+fine{kind}"]
    alone = {
        "coarse": coarse, "fine": FINE + kind,
        # the fine stage on a picture that nobody chose does better from its noise
        "fine_from_noise": f"{FINE}-noise",
    }  # fmt: skip
    found = [
        _over(bootstrap, both, named[method], f"{name}_over_{end}")
        for end, method in alone.items()
        if method in named
    ]
    return found + _kept(bootstrap, both, named["realism"], name)


def _sepen(bootstrap: Bootstrap, tuned: RowResult, base: RowResult, name: str) -> list[Claim]:
    """Presence or binding up by eight points, at no more than 5 % less realism.

    Presence is counted by object, and by picture: the paper's rate of success counts pictures with
    both objects.
    """
    names = {
        "present": f"{name}_presence_gain",
        "both": f"{name}_success_gain",
        "binding": f"{name}_binding_gain",
    }
    gains = [
        Claim.judged(
            claim, bootstrap.difference(tuned, base, metric), GAIN, ">=", metric=metric,
            note=f"{' or '.join(names.values())}: one suffices",
        )
        for metric, claim in names.items()
    ]  # fmt: skip
    return gains + _kept(bootstrap, tuned, base, name)


def _gains(
    bootstrap: Bootstrap,
    row: RowResult,
    base: RowResult,
    name: str,
    metrics: Sequence[str],
) -> list[Claim]:
    """A row above the model as it was; the first metric gives the claim its plain name."""
    return [
        Claim.judged(
            f"{name}_gain" if metric == metrics[0] else f"{name}_{metric}_gain",
            bootstrap.difference(row, base, metric), 0.0, ">=", metric=metric,
        )
        for metric in metrics
    ]  # fmt: skip


def _kept(bootstrap: Bootstrap, row: RowResult, base: RowResult, name: str) -> list[Claim]:
    """Realism by the style judge and by the Frechet distance, and diversity, as shares of what
    they were."""

    def ratio(metric: str) -> Estimate:
        return Estimate.of(bootstrap.ratio_values(row, base, metric))

    found = [
        Claim.judged(f"{name}_style_kept", ratio("style"), KEPT, ">=", "point", metric="style"),
        Claim.judged(
            f"{name}_distance_kept", ratio(DISTANCE), 2 - KEPT, "<=", "point", metric=DISTANCE,
            difference=estimate_dict(bootstrap.difference(row, base, DISTANCE)),
        ),
    ]  # fmt: skip
    if bootstrap.has(row, "diversity") and bootstrap.has(base, "diversity"):
        found.append(Claim.judged(
            f"{name}_diversity_kept", ratio("diversity"), AS_DIVERSE, ">=", "point",
            metric="diversity", look=estimate_dict(ratio("diversity_look")),
        ))  # fmt: skip
    return found


def _over(bootstrap: Bootstrap, both: RowResult, one: RowResult, name: str) -> Claim:
    """Two stages against one of them, by binding, which asks for all objects and attributes."""
    present = estimate_dict(bootstrap.difference(both, one, "present"))
    return Claim.judged(
        name, bootstrap.difference(both, one, "binding"), 0.0, ">=", metric="binding",
        present_difference=present,
    )  # fmt: skip


def notes(missing: Mapping[str, str]) -> str:
    """The rows that could not be made, in Markdown; empty if all were."""
    lines = [f"- `{method}` is not in the table: {reason}." for method, reason in missing.items()]
    return "\n" + "\n".join(lines) + "\n" if lines else ""
