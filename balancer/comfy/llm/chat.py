"""Ask an OpenAI-compatible server for one answer, in the strictest format that it takes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from ...errors import RealCompoError
from ...llm.protocol import FewShotPrompt, Message
from ...values.foreign_json import parse_json
from .http_post import Connection, Reply
from .waiting import run_interruptible

_REFUSED = {400, 415, 422, 501}
_SEEDS = 1 << 31  # servers read 32-bit numbers
_FORMATS = ("a JSON schema", "JSON mode", "plain text")


def _content(reply: Reply) -> str:
    """The answer's text in a reply. Raises ValueError that says what is wrong with the reply."""
    try:
        value = parse_json(reply.text, finite=False)
    except ValueError:
        kind = reply.kind or "of no type"
        raise ValueError(f"the reply ({kind}) is no JSON that can be read") from None
    choices = value.get("choices") if isinstance(value, dict) else None
    message = choices[0].get("message") if (
        isinstance(choices, list) and choices and isinstance(choices[0], dict)
    ) else None  # fmt: skip
    if not isinstance(message, dict):
        raise ValueError("the reply has no 'choices' with a 'message'")
    content = message.get("content")
    if isinstance(content, list):
        parts = [part.get("text") for part in content if isinstance(part, dict)]
        content = "".join(part for part in parts if isinstance(part, str))
    # An empty answer is the model's failure, not the server's: it can be told so and try again.
    return content if isinstance(content, str) else ""


@dataclass
class ChatClient:
    """One model behind one connection. ``notes`` fills with what a user should know.

    Answers look as ``prompt`` says; ``about`` is what the user knows one as ('layout').
    """

    connection: Connection
    model: str
    seed: int
    prompt: FewShotPrompt
    about: str
    notes: list[str] = field(default_factory=list)
    _format: int = 0
    _seeded: bool = True

    def ask(self, messages: list[Message]) -> str:
        """The model's answer to ``messages``.

        It holds no key, and neither does an error: servers like to quote what they refuse. Raises
        RealCompoError for inputs 'endpoint', 'model', 'api_key_env' or 'timeout', and the host's
        own exception when the run is stopped.
        """
        try:
            return self.connection.clean(run_interruptible(lambda: self._ask(messages)))
        except RealCompoError as error:
            problem, remedy = map(self.connection.clean, (error.problem, error.remedy))
            raise RealCompoError(error.where, problem, remedy) from None

    async def _ask(self, messages: list[Message]) -> str:
        async with self.connection.session() as session:
            while True:
                reply = await self.connection.send(
                    session, self._payload(messages), self._is_about_schema
                )
                if reply.status == 200:
                    try:
                        return _content(reply)
                    except ValueError as error:
                        problem = f"{error}: {self.connection.said(reply)}"
                        raise self.connection.wrong(problem) from None
                if not self._step_down(reply):
                    raise self._refusal(reply)

    def _is_about_schema(self, reply: Reply) -> bool:
        """Whether a server fails at the schema, so that another attempt must go without."""
        can_step_down = self._format + 1 < len(_FORMATS)
        return reply.status == 500 and can_step_down and "schema" in reply.text.lower()

    def _payload(self, messages: list[Message]) -> dict[str, Any]:
        body: dict[str, Any] = {"model": self.model, "messages": messages, "stream": False}
        if self._seeded:
            body["seed"] = self.seed % _SEEDS
        if self._format == 0:
            named = {"name": self.about, "strict": True, "schema": self.prompt.schema()}
            body["response_format"] = {"type": "json_schema", "json_schema": named}
        elif self._format == 1:
            body["response_format"] = {"type": "json_object"}
        return body

    def _step_down(self, reply: Reply) -> bool:
        """Ask for less if the server refused what was asked; False if there is nothing less."""
        text = reply.text.lower()
        about_format = any(w in text for w in ("response_format", "schema", "grammar", "json"))
        if reply.status not in _REFUSED and not (reply.status == 500 and about_format):
            return False
        if self._seeded and "seed" in text:
            self._seeded = False
            self.notes.append(
                f"the server takes no seed: the same inputs may give other {self.about}s"
            )
            return True
        if self._format + 1 < len(_FORMATS):
            refused = _FORMATS[self._format]
            self._format += 1
            now = _FORMATS[self._format]
            self.notes.append(f"the server refused {refused}: asked for {now} instead")
            return True
        return False

    def _refusal(self, reply: Reply) -> RealCompoError:
        host, said = self.connection.endpoint.host, self.connection.said(reply)
        problem = f"{host} refuses with status {reply.status}: {said}"
        if reply.status in (401, 403):
            none = "the name of the variable that holds your key"
            wanted = "another key" if self.connection.key else none
            return RealCompoError("api_key_env", problem, f"The server wants {wanted}")
        if reply.status == 404:
            return RealCompoError(
                "model", problem, "Check the model's name (and the path of 'endpoint')"
            )
        return RealCompoError("endpoint", problem, "Check endpoint and model")
