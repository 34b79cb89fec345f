"""What language models answered, kept as long as the host runs: a request is sent once."""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar

from ...errors import RealCompoError
from ...llm.endpoint import read_endpoint, read_key
from ...llm.protocol import FewShotPrompt
from ...llm.redaction import without_key
from ...log import LOG
from .chat import ChatClient
from .http_post import Connection

_KEPT = 256
LONGEST_NAME = 512
"""Characters of a model's name."""
_AGAIN = "same inputs as before: not asked again"
Answer = TypeVar("Answer")
"""A dataclass with ``notes``, a tuple of sentences."""


@dataclass(frozen=True)
class ServerInputs:
    """What a node's inputs say of a language model, as a user typed it; ``timeout`` in seconds."""

    endpoint: str
    model: str
    seed: int
    api_key_env: str = ""
    timeout: float = 120.0


class Answers(Generic[Answer]):
    """The latest 256 answers of one node.

    ``node`` is the name in the log, ``prompt`` what models are asked by, ``about`` what the user
    knows an answer as ('layout').
    """

    def __init__(self, node: str, prompt: FewShotPrompt, about: str) -> None:
        self.node, self.prompt, self.about = node, prompt, about
        self._known: OrderedDict[tuple[object, ...], Answer] = OrderedDict()
        self._guard = threading.Lock()

    def forget(self) -> None:
        """Empty the memory."""
        with self._guard:
            self._known.clear()

    def _recall(self, request: tuple[object, ...]) -> Answer | None:
        with self._guard:
            found = self._known.get(request)
            if found is not None:
                self._known.move_to_end(request)
            return found

    def _remember(self, request: tuple[object, ...], answer: Answer) -> None:
        with self._guard:
            self._known[request] = answer
            while len(self._known) > _KEPT:
                self._known.popitem(last=False)

    def get(
        self, server: ServerInputs, request: tuple[object, ...],
        make: Callable[[ChatClient], Answer],
    ) -> Answer:
        """What ``make`` makes of a client for the ``server``, from memory for a known ``request``.

        Failures are not remembered. Raises RealCompoError for the input that is at fault, and the
        host's exception for a stopped run.
        """
        address, model = read_endpoint(server.endpoint), _model_name(server.model)
        request = (*request, address.url, model, server.seed)
        known: Any = self._recall(request)
        if known is not None:
            return replace(known, notes=(*known.notes, _AGAIN))
        key = read_key(server.api_key_env, address, os.environ)
        connection = Connection(address, server.timeout, key)
        client = ChatClient(connection, model, server.seed, self.prompt, self.about)
        LOG.info("%s: asking %s at %s", self.node, without_key(model, key), address.host)
        made: Any = make(client)
        made = replace(made, notes=(*client.notes, *made.notes))
        self._remember(request, made)
        return made


def _model_name(typed: str) -> str:
    """A model's name as a user typed it; RealCompoError for what cannot be one."""
    name = typed.strip()
    if len(name) > LONGEST_NAME:
        raise RealCompoError(
            "model", f"the name has {len(name)} characters", f"Up to {LONGEST_NAME} are sent"
        )
    if not name:
        raise RealCompoError(
            "model", "there is no name of a model", "Write the name that the server knows it by"
        )
    return name
