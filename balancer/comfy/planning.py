"""Plans and captions of a language model, from memory if the same was asked before."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ..caption_answer import Captions, caption_schema, captions_by
from ..planner import Plan, plan
from .answers import Answers, ask_server, read_server

_plans: Answers[Plan] = Answers()
_captions: Answers[Captions] = Answers()
_AGAIN = "same inputs as before: not asked again"


def forget_plans() -> None:
    """Empty the memory of earlier answers."""
    _plans.forget()
    _captions.forget()


def plan_with_model(
    prompt: str,
    endpoint: str,
    model: str,
    seed: int,
    *,
    api_key_env: str = "",
    timeout: float = 120.0,
    width: int = 0,
    height: int = 0,
) -> Plan:
    """The plan of ``model`` behind ``endpoint``, from memory if these inputs were asked before.

    Sizes are in pixels (0 = unknown), ``timeout`` in seconds. Failures are not remembered. Raises
    RealCompoError for the input that is at fault, and the host's exception for a stopped run.
    """
    address, model = read_server(endpoint, model)
    question = (prompt, address.url, model, seed, width, height)
    known = _plans.recall(question)
    if known is not None:
        return replace(known, notes=(*known.notes, _AGAIN))
    made, said = ask_server(
        "RealCompo Layout Planner", address, model, seed, api_key_env, timeout,
        lambda client: plan(client.ask, prompt, width, height, client.key),
    )  # fmt: skip
    made = replace(made, notes=(*said, *made.notes))
    _plans.remember(question, made)
    return made


def captions_with_model(
    prompt: str,
    tags: Sequence[str],
    endpoint: str,
    model: str,
    seed: int,
    *,
    api_key_env: str = "",
    timeout: float = 120.0,
    extend: bool = True,
) -> Captions:
    """The phrases of ``prompt`` for what a detector saw (``tags``), by ``model``.

    ``extend`` as in ``read_captions``; the rest, and what is raised, as in ``plan_with_model``.
    """
    address, model = read_server(endpoint, model)
    question = (prompt, tuple(tags), address.url, model, seed, extend)
    known = _captions.recall(question)
    if known is not None:
        return replace(known, notes=(*known.notes, _AGAIN))
    made, said = ask_server(
        "RealCompo Dense Captions", address, model, seed, api_key_env, timeout,
        lambda client: captions_by(client.ask, prompt, tags, extend, client.key),
        schema=caption_schema(), about="caption",
    )  # fmt: skip
    made = replace(made, notes=(*said, *made.notes))
    _captions.remember(question, made)
    return made
