"""What language models answered, kept as long as the host runs: a question is asked once."""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, Generic, TypeVar

from ..endpoint import Endpoint, read_endpoint, read_key
from ..errors import RealCompoError
from ..log import LOG
from ..redaction import without_key
from .chat import ChatClient

_KEPT = 256
LONGEST_NAME = 512
"""Characters of a model's name."""
Answer = TypeVar("Answer")


class Answers(Generic[Answer]):
    """Answers by question, the latest 256 of them."""

    def __init__(self) -> None:
        self._known: OrderedDict[tuple[object, ...], Answer] = OrderedDict()
        self._guard = threading.Lock()

    def forget(self) -> None:
        """Empty the memory."""
        with self._guard:
            self._known.clear()

    def recall(self, question: tuple[object, ...]) -> Answer | None:
        """The answer to a question that was asked before, else None."""
        with self._guard:
            found = self._known.get(question)
            if found is not None:
                self._known.move_to_end(question)
            return found

    def remember(self, question: tuple[object, ...], answer: Answer) -> None:
        """Keep an answer."""
        with self._guard:
            self._known[question] = answer
            while len(self._known) > _KEPT:
                self._known.popitem(last=False)


def read_server(endpoint: str, model: str) -> tuple[Endpoint, str]:
    """Address and model's name as a user typed them; RealCompoError for what cannot be meant."""
    address = read_endpoint(endpoint)
    name = model.strip()
    if len(name) > LONGEST_NAME:
        raise RealCompoError(
            "model", f"the name has {len(name)} characters", f"Up to {LONGEST_NAME} are sent"
        )
    if not name:
        raise RealCompoError(
            "model", "there is no name of a model", "Write the name that the server knows it by"
        )
    return address, name


def ask_server(
    node: str,
    address: Endpoint,
    model: str,
    seed: int,
    api_key_env: str,
    timeout: float,
    make: Callable[[ChatClient], Answer],
    **form: Any,
) -> tuple[Answer, list[str]]:
    """What ``make`` makes of a client for the server, and what the client has to say.

    ``node`` is who asks, for the log; ``form`` are ``schema`` and ``about`` of the client. Raises
    RealCompoError for the input that is at fault, and the host's exception for a stopped run.
    """
    key = read_key(api_key_env, address, os.environ)
    client = ChatClient(address, model, seed, timeout, key, **form)
    LOG.info("%s: asking %s at %s", node, without_key(model, key), address.host)
    made = make(client)
    return made, client.notes
