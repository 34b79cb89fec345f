"""The demo's finetuned realism models: which LoRA files come with the pack."""

from __future__ import annotations

from ..balancer.errors import RealCompoError

NONE = "none"
FILES = {"Separate and Enhance": "sepen", "ReFL": "refl"}
"""Ways of finetuning, and how their files in ``weights/tuned`` begin; a style's name follows."""
STYLES = {"sepen": ("realistic", "sketch", "neon"), "refl": ("realistic",)}


def file_of(finetuned: str, style: str, part: str) -> str | None:
    """The LoRA's file below ``weights``, None for 'none'.

    Raises RealCompoError at 'finetuned' for a way, a style or a part that there is no file of.
    """
    if finetuned == NONE:
        return None
    where = "finetuned"
    if finetuned not in FILES:
        choice = ", ".join(f"'{name}'" for name in (NONE, *FILES))
        raise RealCompoError(where, f"there is no '{finetuned}'", f"Choose one of {choice}")
    if part != "realism":
        raise RealCompoError(where, "only the realism part is finetuned", f"Choose '{NONE}'")
    name = FILES[finetuned]
    if style not in STYLES[name]:
        choice = " or ".join(f"'{one}'" for one in STYLES[name])
        raise RealCompoError(
            where, f"no model of the style '{style}' was finetuned by {finetuned}",
            f"Choose the style {choice}, or '{NONE}'",
        )  # fmt: skip
    return f"tuned/{name}-{style}.safetensors"
