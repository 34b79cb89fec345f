"""How a language model is asked for a list of regions, and what of its answer counts.

One protocol for layouts (``planner/``) and dense captions (``captions/``): a system
prompt, few-shot examples and a JSON schema go out; the answer is read generously; if anything in it
is wrong, the model is told once what, and the better of the two answers counts. Whatever it writes
is text from outside: nothing of it is obeyed or trusted.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Generic, TypeVar

from pydantic import AliasChoices, BaseModel, ConfigDict, ValidationError

from ..errors import RealCompoError, shown
from ..text.nearest import nearest_wording
from ..text.words import find_phrase
from .answer_form import Entries, Form
from .answer_json import Answer

MAX_REGIONS = 64
"""Regions of one answer that are read."""
MOST_SHOWN = 8
"""Problems of one answer that the model and the user are told."""
LONGEST_ECHO = 8000
"""Characters of a bad answer that the model is shown again."""
_LONGEST_PHRASE = 300
_LISTS = ("regions", "objects", "boxes", "layout", "elements")

Message = dict[str, str]
Ask = Callable[[list[Message]], str]
"""A language model: messages in, the answer's text out."""
Item = TypeVar("Item")


class AnsweredRegion(BaseModel):
    """One thing as a model writes it; a field's ``AliasChoices`` are other tools' names for it."""

    model_config = ConfigDict(json_schema_extra={"additionalProperties": False})

    phrase: str

    @classmethod
    def required_fields(cls) -> list[Sequence[Any]]:
        """The names that each required field may have."""
        aliases = [f.validation_alias for f in cls.model_fields.values() if f.is_required()]
        return [alias.choices for alias in aliases if isinstance(alias, AliasChoices)]


@dataclass(frozen=True)
class FewShotPrompt:
    """The texts around one kind of request.

    ``examples`` are requests, each with the regions of its right answer, and ``placeholder`` is
    the region that ``system`` shows. ``optional`` are keys that a request may lack.
    """

    system: str
    region: type[AnsweredRegion]
    placeholder: dict[str, Any]
    examples: Sequence[tuple[dict[str, Any], list[dict[str, Any]]]]
    optional: frozenset[str] = frozenset()

    def schema(self) -> dict[str, Any]:
        """JSON schema of an answer, in the subset that every server's strict output takes."""
        region = self.region.model_json_schema(by_alias=False)
        region.pop("description", None)
        for entry in region["properties"].values():
            entry.pop("default", None)
        region["required"] = list(region["properties"])
        return {
            "type": "object",
            "properties": {"regions": {"type": "array", "items": region}},
            "required": ["regions"],
            "additionalProperties": False,
        }

    def messages(self, request: Mapping[str, Any]) -> list[Message]:
        """The conversation that puts ``request`` (with the prompt's plain text as 'caption')."""
        out = [{"role": "system", "content": self.system}]
        for example, regions in self.examples:
            out.append({"role": "user", "content": _dumped(example)})
            out.append({"role": "assistant", "content": _dumped({"regions": regions})})
        return [*out, {"role": "user", "content": _dumped(request)}]

    def one_text(self, request: Mapping[str, Any]) -> str:
        """The same request as a single text, for a chat window or a text node."""
        names = {"user": "Input", "assistant": "Answer"}
        first, *rest = self.messages(request)
        turns = [f"{names[entry['role']]}: {entry['content']}" for entry in rest]
        return "\n\n".join([first["content"], *turns, "Answer:"])

    def form(self, plain: str) -> Form:
        """What an answer for the prompt's plain text looks like, and what is only an example."""
        examples = [regions for example, regions in self.examples if example["caption"] != plain]
        keys = frozenset(self.examples[0][0]) - self.optional
        return Form(
            _LISTS, self.region.required_fields(), plain, keys, self.optional,
            [*examples, [self.placeholder]],
        )  # fmt: skip


def _dumped(value: Mapping[str, Any]) -> str:
    return json.dumps(value, ensure_ascii=False)


@dataclass
class Reading(Generic[Item]):
    """One list of an answer: what is usable of it, what was put right, what is left out and why.

    Subclasses say how one region is read. ``plain`` is the prompt's plain text.
    """

    PROMPT: ClassVar[FewShotPrompt]

    plain: str
    items: list[Item] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def take(self, region: Any, name: str) -> None:
        """Take in one ``region`` (of ``PROMPT.region``), called ``name``, or say why not."""
        raise NotImplementedError

    def take_list(self, found: Entries) -> None:
        """Take in a list of an answer, up to ``MAX_REGIONS`` of it."""
        self.notes += [found.note] if found.note else []
        for number, entry in enumerate(found.entries[:MAX_REGIONS], 1):
            try:
                region = self.PROMPT.region.model_validate(entry)
            except ValidationError as error:
                self.problems.append(f"region {number}: {_first_fault(error)}")
            else:
                self.take(region, f"region {number} ({shown(region.phrase)})")
        count = len(found.entries)
        if count > MAX_REGIONS:
            self.notes.append(f"only the first {MAX_REGIONS} of {count} regions were read")
        if found.problem:
            self.problems.append(found.problem)
        elif not self.items and not self.problems:
            self.problems.append("the answer has no regions")


@dataclass(frozen=True, kw_only=True)
class Result:
    """What came of a reading: remarks for the user and problems, one sentence each."""

    WANTED: ClassVar[str]
    """What there is to be ('region'), for the message that there is none."""

    notes: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()

    def __len__(self) -> int:
        """How much of the answer is usable."""
        raise NotImplementedError


Read = TypeVar("Read", bound=Reading[Any])
Outcome = TypeVar("Outcome", bound=Result)


def _first_fault(error: ValidationError) -> str:
    """What is wrong with a region, short: the field and the reason."""
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    name = ".".join(str(part) for part in first["loc"]) or "the region"
    return f"{shown(name, 32)}: {shown(first['msg'])}"


def prompt_wording(phrase: str, plain: str) -> tuple[str | None, str]:
    """The prompt's own words for ``phrase`` and what was changed, or None and what is wrong."""
    if len(phrase) > _LONGEST_PHRASE:
        return None, "its phrase is far too long"
    spans = find_phrase(plain, phrase)
    if spans:
        return plain[slice(*spans[0])], ""
    near = nearest_wording(plain, phrase)
    if near:
        return near, f"its phrase was read as '{near}'"
    return None, "its phrase is not in the caption"


def read(text: str, new: Callable[[], Read], secret: str = "") -> Read:
    """The best list in an answer's ``text``, taken in by a ``new`` reading. Never raises.

    Reads JSON bare, fenced, between other words, in wrappers, nearly right or cut off, and after a
    reasoning model's thoughts or the request itself; the last list with a usable region counts.
    ``secret`` is a key that nothing in the reading may show.
    """
    blank = new()
    answer = Answer(text, blank.PROMPT.form(blank.plain), secret)
    first: Read | None = None
    for found in answer.lists():
        reading = new()
        reading.take_list(found)
        if reading.items:
            return reading
        first = first or reading
    if first is None:
        blank.problems.append(answer.fault)
    return first or blank


def _listed(problems: Sequence[str], before: str, more: str) -> list[str]:
    rows = [before + problem for problem in problems[:MOST_SHOWN]]
    left = len(problems) - MOST_SHOWN
    return [*rows, f"{before}{more.format(left)}"] if left > 0 else rows


def settle(result: Outcome, where: str) -> Outcome:
    """``result`` with notes on what is left out; RealCompoError for ``where`` if all of it is."""
    if not len(result):
        raise RealCompoError(
            where,
            f"the language model's answer gives no usable {result.WANTED}: {result.problems[0]}",
            "Try another seed or a larger model, or set 'method' to 'rules'",
        )
    left_out = _listed(result.problems, "left out: ", "{} more")
    return replace(result, notes=(*result.notes, *left_out))


def _repair(messages: list[Message], answer: str, problems: Sequence[str]) -> list[Message]:
    """The conversation ``messages``, the model's ``answer``, and what it did wrong."""
    listed = "\n".join(_listed(problems, "- ", "and {} more of the kind"))
    complaint = (
        f"This answer cannot be used as it is:\n{listed}\n"
        "Answer again with the complete, corrected JSON object and nothing else."
    )
    return [
        *messages,
        {"role": "assistant", "content": answer[:LONGEST_ECHO]},
        {"role": "user", "content": complaint},
    ]


def ask_and_repair(
    ask: Ask, messages: list[Message], read_answer: Callable[[str], Outcome]
) -> Outcome:
    """What the model behind ``ask`` answers to ``messages``; a bad answer is told its faults once.

    The second answer counts unless less of it is usable. Raises RealCompoError for input 'model' if
    nothing of either is, and whatever ``ask`` raises.
    """
    answer = ask(messages)
    first = read_answer(answer)
    if not first.problems:
        return settle(first, "model")
    second = read_answer(ask(_repair(messages, answer, first.problems)))
    better = settle(second if len(second) >= len(first) else first, "model")
    return replace(better, notes=(f"the model was told once: {first.problems[0]}", *better.notes))
