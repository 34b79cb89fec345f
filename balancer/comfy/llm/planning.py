"""Plans and captions of a language model, from memory if the same was asked before."""

from __future__ import annotations

from collections.abc import Sequence

from ...captions.answer import CAPTIONS_PROMPT, Captions, captions_by
from ...planner.answer import LAYOUT_PROMPT, Plan, plan
from .answers import Answers, ServerInputs

_plans: Answers[Plan] = Answers("RealCompo Layout Planner", LAYOUT_PROMPT, "layout")
_captions: Answers[Captions] = Answers("RealCompo Dense Captions", CAPTIONS_PROMPT, "caption")


def forget_plans() -> None:
    """Empty the memory of earlier answers."""
    _plans.forget()
    _captions.forget()


def plan_with_model(prompt: str, server: ServerInputs, width: int = 0, height: int = 0) -> Plan:
    """The plan of the ``server``'s model, from memory if these inputs were asked before.

    Sizes are in pixels (0 = unknown). Failures are not remembered. Raises RealCompoError for the
    input that is at fault, and the host's exception for a stopped run.
    """
    return _plans.get(
        server, (prompt, width, height),
        lambda client: plan(client.ask, prompt, width, height, client.connection.key),
    )  # fmt: skip


def captions_with_model(
    prompt: str, tags: Sequence[str], server: ServerInputs, extend: bool = True
) -> Captions:
    """The phrases of ``prompt`` for what a detector saw (``tags``), by the ``server``'s model.

    ``extend`` as in ``read_captions``; memory and errors as in ``plan_with_model``.
    """
    return _captions.get(
        server, (prompt, tuple(tags), extend),
        lambda client: captions_by(client.ask, prompt, tags, extend, client.connection.key),
    )  # fmt: skip
