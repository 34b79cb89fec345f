"""The chain's stages, their figures and differences: as JSON for machines, as Markdown to read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..report import estimate_dict, rounded
from ..statistics import Bootstrap, RowResult

PLAIN, SEPEN, REALCOMPO, CANDIDATES, BEST, FINE, CHAIN = (
    "plain", "sepen", "realcompo", "candidates", "best", "fine", "chain",
)  # fmt: skip
STAGES = {
    PLAIN: "the realism model",
    SEPEN: "finetuned by Separate-and-Enhance",
    REALCOMPO: "RealCompo alone",
    CANDIDATES: "RealCompo, its realism branch finetuned and with Dense Attention",
    BEST: "best of 4 of these",
    FINE: "fine stage: drawn again",
    CHAIN: "the whole chain: the better of the last two",
}
"""Stages by the name that the workflow saves their pictures under, in words."""
SHEET = {
    PLAIN: "realism model", SEPEN: "Separate-and-Enhance", REALCOMPO: "RealCompo alone",
    CANDIDATES: "RealCompo, finetuned, Dense Attention", BEST: "best of 4",
    CHAIN: "and fine stage: the whole chain",
}  # fmt: skip
BEFORE = {
    SEPEN: (PLAIN,), REALCOMPO: (PLAIN,), CANDIDATES: (REALCOMPO,), BEST: (CANDIDATES, REALCOMPO),
    FINE: (BEST, REALCOMPO), CHAIN: (BEST, REALCOMPO, PLAIN),
}  # fmt: skip
"""What each stage is held against: the one before, and RealCompo alone."""
SHOWN = ("right", "present", "both", "count", "binding", "style")
HEADS = ("right place", "present", "both there", "count", "exact", "style")
ABOUT = (
    "The workflow `realcompo_all_four.json`, drawn by the runner: two objects of a pair that no"
    " finetuning saw, every scene with its own prompt, layout and seed. Of four candidates the"
    " first counts, which has the other stages' noise. *right place*: objects of the right colour"
    " and shape that fit their box; *present*: objects that are somewhere in the picture; *both"
    " there*: pictures with both; *count*: pictures with two things; *exact*: pictures with both"
    " objects and no other kind, however many of each; *style*: how much a judge takes the picture"
    " for a real one of the realism model's style, 0 to 1; *forwards*: passes of one latent through"
    " one network until the picture is there. Intervals: 95 %, paired bootstrap over scenes."
)
NOTES = (
    "RealCompo with boxes leaves little to be mended here, so that the stages after it move a few"
    " pictures only; a difference whose interval holds zero cannot be told from none on so many"
    " scenes. The captioner sees what is missing better than what is there twice, and most captions"
    " of four such candidates are right: the choice is often between equals. A picture that is"
    " drawn again can lose what was right in it; its caption's reward does not show all of that.",
    "Settings were chosen on pairs that finetuning may use, which are not among these: the strength"
    " of Dense Attention on 22 scenes (count .77 without it, .91 with cross-attention alone, .95"
    " with both); the reward and the fine stage's start on 24. There captions chose better than the"
    " likelihood (exact .92 and .88), and pictures drawn from the same noise by both models were"
    " ahead of those from the coarse latent (exact .96 and .92; .88 for what they were drawn from)."
    " That the fine stage helps did not hold above. Choosing between coarse and fine picture did"
    " not help there either (exact .92); it is kept in the chain as a guard.",
)
"""What the figures mean, and where the settings come from."""


def document_of(
    bootstrap: Bootstrap, results: Sequence[RowResult], about: Mapping[str, Any]
) -> dict[str, Any]:
    """Everything as plain JSON values, figures rounded to four decimals."""
    named = {row.method: row for row in results}
    return {
        **about,
        "seconds_per_scene": rounded(about["seconds_per_scene"]),
        "rows": [
            {
                "stage": row.method, "what": STAGES[row.method],
                "metrics": {name: estimate_dict(bootstrap.estimate(row, name)) for name in SHOWN},
                "forwards": rounded(row.forwards_per_image),
            }
            for row in results
        ],
        "differences": [
            {
                "stage": stage, "against": other,
                "metrics": {
                    name: estimate_dict(bootstrap.difference(named[stage], named[other], name))
                    for name in SHOWN
                },
            }
            for stage, others in BEFORE.items() for other in others
        ],
    }  # fmt: skip


def _cell(estimate: Mapping[str, float | None], sign: str = "") -> str:
    if estimate["mean"] is None:
        return "-"
    mean, low, high = (f"{estimate[key]:{sign}.2f}" for key in ("mean", "low", "high"))
    return f"{mean} <sub>{low} to {high}</sub>"


def markdown(document: Mapping[str, Any]) -> str:
    """Both tables, stages and differences, in GitHub's Markdown; ends with a newline."""
    rule = "|---|" + "---:|" * len(HEADS)
    lines = [
        "# All four methods in one workflow", "",
        f"Made by `{document['command']}` from {document['scenes']} scenes. {ABOUT}", "",
        f"| stage | {' | '.join(HEADS)} | forwards |", rule + "---:|",
    ]  # fmt: skip
    for row in document["rows"]:
        cells = [_cell(row["metrics"][name]) for name in SHOWN]
        lines.append(f"| {row['what']} | {' | '.join(cells)} | {row['forwards']:.0f} |")
    lines += ["", f"| difference | {' | '.join(HEADS)} |", rule]
    for entry in document["differences"]:
        cells = [_cell(entry["metrics"][name], "+") for name in SHOWN]
        what = f"{STAGES[entry['stage']]}, against: {STAGES[entry['against']]}"
        lines.append(f"| {what} | {' | '.join(cells)} |")
    for note in NOTES:
        lines += ["", note]
    return "\n".join(lines) + "\n"
