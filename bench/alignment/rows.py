"""Which methods stand in the alignment table: realism models before and after finetuning."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..rows import REFL_UNTIL, SEPEN_UNTIL

STYLES = {"realistic": "", "sketch": "-sketch", "neon": "-neon"}
"""Styles of the realism models, and what is added to a method's name for each."""
TUNED = "refl-realistic"
"""The LoRA that the captioner's reward trained."""
SEPEN, REFL, BEST, FINE = "sepen", "realign-refl", "realign-best-of-4", "realign-fine"
AGAIN = "realign-again"
"""No fine stage, but drawn again from the latent as it does: what the second drawing alone does."""
SEPEN_PARTS = ("to-k", "to-k-sep-only", "to-k-en-only", "to-v")
"""Separate-and-Enhance on keys, as in the paper, also with one loss only; and on values."""
CANDIDATES = 4
# Whether the committed table has the rows of ``more_rows``; set together with that table.
MORE_IN_TABLE = False


@dataclass(frozen=True)
class Row:
    """One row: how a picture of a prompt comes about.

    ``style``: whose realism model. ``lora``: name of the LoRA that finetuned it, in force in the
    first part ``until`` (0..1) of the noise schedule. ``best_of``: as many pictures are drawn, and
    the one of the highest ``reward`` is kept. ``fine``: the kept picture goes through the fine
    stage, drawn again from its own 'noise' or from its 'latent' (or 'light', with other numbers);
    or, for comparison, it is drawn again from its latent by the 'plain' prompt.
    ``drawings``: no model at all but what it was trained on, drawings of such scenes after the
    codec; what the figures would be at best. ``adapted``: no finetuning; the latent is moved by
    Separate-and-Enhance's losses while it is drawn.
    """

    method: str
    style: str = "realistic"
    lora: str | None = None
    until: float = 1.0
    best_of: int = 1
    reward: str | None = None
    fine: str | None = None
    drawings: bool = False
    adapted: bool = False

    @property
    def base(self) -> str:
        """Method of the row that this one is held against: the model as it was."""
        return "realism" + STYLES[self.style]

    def recipe(self) -> dict[str, Any]:
        """Everything that decides the row's pictures, as JSON values; defaults left out."""
        shown: dict[str, Any] = {"style": self.style}
        for name in ("lora", "reward", "fine"):
            if (value := getattr(self, name)) is not None:
                shown[name] = value
        if self.best_of > 1:
            shown["best_of"] = self.best_of
        if self.until < 1.0:
            shown["until"] = self.until
        for name in ("drawings", "adapted"):
            if getattr(self, name):
                shown[name] = True
        return shown


def _best(method: str, reward: str, **more: Any) -> Row:
    return Row(method, best_of=CANDIDATES, reward=reward, **more)


def _sepen(method: str, lora: str, style: str = "realistic", **more: Any) -> Row:
    return Row(method, style, lora, SEPEN_UNTIL, **more)


def rows() -> list[Row]:
    """All rows in the table's order."""
    found = [Row(f"drawings{end}", style, drawings=True) for style, end in STYLES.items()]
    found += [Row(f"realism{end}", style) for style, end in STYLES.items()]
    found += [_sepen(SEPEN + end, f"{SEPEN}-{style}", style) for style, end in STYLES.items()]
    found.append(Row(f"{SEPEN}-all-steps", lora=f"{SEPEN}-realistic"))
    found += [_sepen(f"{SEPEN}-{part}", f"{SEPEN}-{part}") for part in SEPEN_PARTS]
    found += [Row(f"{SEPEN}-test-time{end}", style, adapted=True) for style, end in STYLES.items()]
    found += [
        _best(BEST, "caption"),
        _best(f"{BEST}-likelihood", "likelihood"),
        _best(f"{BEST}-oracle", "oracle"),
        Row(REFL, lora=TUNED, until=REFL_UNTIL),
        Row(f"{REFL}-all-steps", lora=TUNED),
        Row(FINE, fine="latent"),
        Row(f"{FINE}-noise", fine="noise"),
        _best(f"{BEST}+fine", "caption", fine="latent"),
        _best(f"{BEST}-likelihood+fine", "likelihood", fine="latent"),
        _best(f"{BEST}+fine-noise", "caption", fine="noise"),
        Row(f"{FINE}-light", fine="light"),
        _best(f"{BEST}+fine-light", "caption", fine="light"),
        _best(f"{BEST}-likelihood+fine-light", "likelihood", fine="light"),
        Row(AGAIN, fine="plain"),
        _best(f"{BEST}+again", "caption", fine="plain"),
        _best(f"{BEST}+again-light", "caption", fine="plain-light"),
        Row(f"{REFL}+fine", lora=TUNED, until=REFL_UNTIL, fine="latent"),
    ]
    return found + (more_rows() if MORE_IN_TABLE else [])


def more_rows() -> list[Row]:
    """Rows that the committed table does not have yet; they may be named."""
    return [
        _best(f"{REFL}+best-of-4", "caption", lora=TUNED, until=REFL_UNTIL),
        _sepen(f"{SEPEN}+fine", f"{SEPEN}-realistic", fine="latent"),
    ]


def known_rows() -> list[Row]:
    """The table's rows, and those that may be named though the table does not have them yet."""
    found = rows()
    return found + [row for row in more_rows() if row not in found]


SHEET = ("realism", SEPEN, REFL, FINE, BEST, f"{BEST}+fine")
"""Rows of the contact sheet, before and after, where the table has them."""
SHEETS_OF_STYLES = ("sketch", "neon")
