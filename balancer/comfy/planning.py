"""Plans of a language model, kept as long as the host runs: the same question is asked once."""

from __future__ import annotations

import logging
import os
import threading
from collections import OrderedDict

from ..endpoint import read_endpoint, read_key
from ..errors import RealCompoError
from ..planner import Plan, plan
from .chat import ChatClient

_KEPT = 256
_plans: OrderedDict[tuple[object, ...], Plan] = OrderedDict()
_guard = threading.Lock()


def forget_plans() -> None:
    """Empty the memory of earlier answers."""
    with _guard:
        _plans.clear()


def _recall(question: tuple[object, ...]) -> Plan | None:
    with _guard:
        found = _plans.get(question)
        if found is not None:
            _plans.move_to_end(question)
        return found


def _remember(question: tuple[object, ...], made: Plan) -> None:
    with _guard:
        _plans[question] = made
        while len(_plans) > _KEPT:
            _plans.popitem(last=False)


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
    address = read_endpoint(endpoint)
    model = model.strip()
    if not model:
        raise RealCompoError(
            "model", "there is no name of a model", "Write the name that the server knows it by"
        )
    question = (prompt, address.url, model, seed, width, height)
    known = _recall(question)
    if known is not None:
        return Plan(known.regions, (*known.notes, "same inputs as before: not asked again"))
    key = read_key(api_key_env, address, os.environ)
    client = ChatClient(address, model, seed, timeout, key)
    logging.info("RealCompo Layout Planner: asking %s at %s", model, address.host)
    made = plan(client.ask, prompt, width, height)
    made = Plan(made.regions, (*client.notes, *made.notes))
    _remember(question, made)
    return made
