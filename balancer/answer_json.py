"""The lists of regions in a language model's answer, the likeliest first.

Models wrap their list, write a draft and its correction, repeat what they were asked, break off,
and break JSON; people paste the request together with the answer. The strict reader goes first, a
library that mends JSON second, and of several lists the last usable one counts. Which is usable
only the reader of the entries knows, so that lists are handed out one by one.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

from .answer_text import LONGEST_PIECE, Looks, fault_of, mended, without_thoughts
from .redaction import without_key

MAX_TEXT = 1 << 20
"""Longest answer that is read, in characters."""
MOST_LISTS = 4
"""Lists of one answer that are looked at."""
LOOKS = 400_000
"""Letters that may be looked at to mend the broken JSON of one answer."""
_LEVELS = 8
"""Objects, lists and texts in each other that are looked through for a list."""
_MOST_VALUES = 10_000
_MOST_FAULTS = 1000
_WASTE = 4 << 20
"""Characters that the strict reader may read in vain."""
_NEAR = 200
"""Characters before a field's name in which its object must begin."""

_ONLY_ASKED = "the text holds only the request, and no answer to it"
_TOKENS = "let the server write more tokens, or ask for fewer things"
# Where the strict reader may start: after a bracket stands what JSON allows there.
_OPENS = re.compile(r"\{\s*[\"}]|\[\s*[\[{\"\]\d.tfnNI-]")
# A number of thousands of digits is no number to count with: it becomes infinite.
_DECODER = json.JSONDecoder(parse_int=lambda d: int(d) if len(d) < 20 else float(d))


@dataclass(frozen=True)
class Form:
    """What an answer looks like, and what was asked.

    ``lists`` are names for the list of regions. A region has a key of each group of ``fields``.
    ``caption`` is the prompt that was asked about; an object with ``asked`` (and perhaps
    ``may_ask``) as its only keys is a request. ``examples`` are lists that stand in the request.
    """

    lists: Sequence[str]
    fields: Sequence[Collection[str]]
    caption: str
    asked: frozenset[str]
    may_ask: frozenset[str] = frozenset()
    examples: Sequence[list[Any]] = ()


@dataclass(frozen=True)
class Entries:
    """One list of an answer: its entries, what was put right, what is lacking ('' = nothing)."""

    entries: list[Any]
    note: str = ""
    problem: str = ""
    is_good: bool = True


@dataclass(frozen=True)
class _Broken:
    text: str
    complete: list[Any]  # regions in it that are read strictly
    is_cut: bool


@dataclass(frozen=True)
class _Request:
    caption: str


@dataclass(frozen=True)
class _Single:
    region: Any


_Found = tuple[int, int, Any]
"""A value with its start and end in a text."""
_Event = Entries | _Broken | _Request | _Single
_NOTHING, _USELESS, _TRUE = 0, 1, 2
"""How much a fault says: a later one takes its place unless it says less."""


def _shifted(found: list[_Found], by: int) -> list[_Found]:
    return [(start - by, end - by, value) for start, end, value in found] if by else found


def _only_objects(value: list[Any]) -> bool:
    return bool(value) and all(isinstance(item, dict) for item in value)


def _cut_off(count: int) -> str:
    if not count:
        return f"the answer is cut off before its first region is complete; {_TOKENS}"
    regions = "1 complete region" if count == 1 else f"{count} complete regions"
    return f"the end: the answer is cut off after {regions}; {_TOKENS}"


@dataclass
class Answer:
    """The lists in an answer's ``text``; ``fault`` is what is wrong if there are none."""

    text: str
    form: Form
    secret: str = field(default="", repr=False)
    fault: str = "the answer holds no complete JSON object"
    _said: int = _NOTHING

    def __post_init__(self) -> None:
        self._fields = {name for group in self.form.fields for name in group}
        names = self._fields.union(self.form.lists)
        self._names = re.compile(rf"\b(?:{'|'.join(sorted(names))})\b[\s\"'\\\u2019\u201d]*[:=]")
        self._no_list = f"the answer's JSON has no list '{self.form.lists[0]}' of objects"
        self._events: list[_Event] = []
        self._values = self._faults = self._wasted = 0
        self._looks = Looks(LOOKS)

    def _say(self, rank: int, fault: str) -> None:
        if rank >= self._said:
            self._said, self.fault = rank, fault

    def lists(self) -> Iterator[Entries]:
        """The lists, the likeliest first, at most ``MOST_LISTS``. After a request for this very
        caption only what follows it counts; what follows a request for another one comes last."""
        if len(self.text) > MAX_TEXT:
            self.fault = f"the answer is longer than {MAX_TEXT} characters"
            return
        self._read()
        handed = 0
        for entries in self._in_order():
            if entries.entries in self.form.examples:
                self._say(_USELESS, _ONLY_ASKED)
                continue
            yield Entries(
                [self._hidden(entry) for entry in entries.entries], entries.note, entries.problem
            )
            handed += 1
            if handed == MOST_LISTS:
                return

    def _hidden(self, entry: Any) -> Any:
        if not (self.secret and isinstance(entry, dict)):
            return entry
        return {
            k: without_key(v, self.secret) if isinstance(v, str) else v for k, v in entry.items()
        }

    def _read(self) -> None:
        text = self.text.strip()
        if not text:
            self._say(_TRUE, "the answer is empty: it holds no complete JSON object")
            return
        try:
            value = _DECODER.decode(text)
        except (ValueError, RecursionError):
            spoken = without_thoughts(text)
            if not spoken.strip():
                self._say(_TRUE, f"the answer holds only the model's thoughts; {_TOKENS}")
            self._scan(spoken, 1)
        else:
            self._say(_NOTHING, self._no_list)
            self._events = self._inside(value, 1)

    def _in_order(self) -> Iterator[Entries]:
        own, free, other = [], [], []
        now = free
        for event in self._events:
            if isinstance(event, _Request):
                same = event.caption.split() == self.form.caption.split()
                now = own if same else other
                self._say(_USELESS, _ONLY_ASKED)
            else:
                now.append(event)
        weak: list[Entries] = []
        for part in (own, free, other):
            waiting = list(part)
            while waiting:
                event = waiting.pop()
                if isinstance(event, _Broken):
                    waiting += self._mend(event)
                elif event.is_good:
                    yield event
                else:
                    weak.append(event)
        yield from weak

    def _holds_json(self, text: str) -> bool:
        return ("{" in text or "[" in text) and self._names.search(text) is not None

    def _is_request(self, value: dict[Any, Any]) -> bool:
        keys, asked = set(value), self.form.asked
        return asked <= keys <= asked | self.form.may_ask and isinstance(value["caption"], str)

    def _is_region(self, value: Any) -> bool:
        """Whether an object is one region: it has the fields, and its phrase holds no JSON."""
        if not isinstance(value, dict):
            return False
        is_wrapper = any(isinstance(value.get(name), list) for name in self.form.lists)
        if is_wrapper or self._is_request(value):
            return False
        phrase = next((value[name] for name in self.form.fields[0] if name in value), None)
        if not isinstance(phrase, str) or self._holds_json(phrase):
            return False
        return all(any(name in value for name in group) for group in self.form.fields[1:])

    def _take(self, value: Any, level: int) -> None:
        """Note the lists and requests in a value, in its own order."""
        self._values += 1
        if level > _LEVELS or self._values > _MOST_VALUES:
            return
        if isinstance(value, str):
            if self._holds_json(value):
                self._take_text(value, level + 1)  # JSON as text in JSON
        elif isinstance(value, list):
            self._take_list(value, level)
        elif isinstance(value, dict):
            if self._is_request(value):
                self._events.append(_Request(value["caption"]))
                return
            if self._is_region(value):
                self._events.append(_Single(value))
                return
            for name, item in value.items():
                if name in self.form.lists and isinstance(item, list) and not _only_objects(item):
                    self._events.append(Entries(item, is_good=any(map(self._is_region, item))))
                else:
                    self._take(item, level + 1)

    def _take_list(self, value: list[Any], level: int) -> None:
        if any(map(self._is_region, value)):
            self._events.append(Entries(value))
            return
        if _only_objects(value) and any(self._fields & set(item) for item in value):
            self._events.append(Entries(value, is_good=False))
        for item in value[:_MOST_VALUES]:
            self._take(item, level + 1)

    def _inside(self, value: Any, level: int) -> list[_Event]:
        """The events of one value alone; single regions in a row are one list."""
        before, self._events = self._events, []
        self._take(value, level)
        found, self._events = self._events, before
        out: list[_Event] = []
        for is_single, row in groupby(found, lambda event: isinstance(event, _Single)):
            if is_single:
                out.append(Entries([one.region for one in row if isinstance(one, _Single)]))
            else:
                out += row
        return out

    def _take_text(self, text: str, level: int) -> None:
        """Note the lists and requests in a text that is JSON or holds some."""
        try:
            value = _DECODER.decode(text.strip())
        except (ValueError, RecursionError):
            self._scan(text, level)
        else:
            self._take(value, level)

    def _scan(self, text: str, level: int) -> None:
        """Note the lists and requests between the words of a text."""
        start = position = 0
        single: list[_Found] = []  # regions outside any list that could be read
        while self._faults < _MOST_FAULTS and self._wasted < _WASTE:
            found = _OPENS.search(text, position)
            if found is None:
                break
            at = found.start()
            try:
                value, position = _DECODER.raw_decode(text, at)
            except (ValueError, RecursionError) as error:
                self._faults += 1
                self._wasted += getattr(error, "pos", len(text)) - at
                position = at + 1
                continue
            self._say(_NOTHING, self._no_list)
            if self._is_region(value):
                single.append((at, position, value))
                continue
            events = self._inside(value, level)
            if events:
                self._rest(text[start:at], _shifted(single, start))
                self._events += events
                start, single = position, []
        self._rest(text[start:], _shifted(single, start))

    def _named(self, text: str, start: int, end: int) -> int | None:
        """Where the first object or list begins that has a known name in it, None if none does."""
        for name in self._names.finditer(text, start, end):
            head = text[max(start, name.start() - _NEAR) : name.start()]
            opened = max(head.rfind("{"), head.rfind("["))
            if opened >= 0:
                return self._outermost(text, name.start() - len(head) + opened, start)
        return None

    @staticmethod
    def _outermost(text: str, opened: int, start: int) -> int:
        """The first of the brackets that stand directly before the one at ``opened``."""
        head = text[max(start, opened - _NEAR) : opened]
        rest = len(head.rstrip("{[ \t\r\n\"'"))
        brackets = [at for at in (head.find("{", rest), head.find("[", rest)) if at >= 0]
        return opened - len(head) + min(brackets) if brackets else opened

    def _rest(self, text: str, single: list[_Found]) -> None:
        """Note what stands between the lists that could be read: single regions, broken JSON. A
        fence ends whatever was open before it."""
        begin = at = 0
        row: list[_Found] = []
        for left, right, value in [*single, (len(text), len(text), None)]:
            while (fence := text.find("```", at, left)) >= 0:
                self._section(text[begin:fence], _shifted(row, begin))
                begin = at = fence + 3
                row = []
            row.append((left, right, value))
            at = right
        self._section(text[begin:], _shifted(row[:-1], begin))

    def _section(self, text: str, single: list[_Found]) -> None:
        if "{" not in text and "[" not in text:
            return
        opened = text.rfind("{")
        # An object that nothing closes is the incomplete last region of an answer that broke off.
        is_cut = opened > text.rfind("}") and self._named(text, 0, len(text)) is not None
        body = text[:opened] if is_cut else text
        begin = at = 0
        row: list[_Found] = []
        for left, right, value in [*single, (len(body), len(body), None)]:
            named = self._named(body, at, left) if row else None
            if named is not None and "]" in body[at:named]:
                # The list before is closed: it is a draft, or another answer.
                self._piece(body[begin:named], _shifted(row, begin), False)
                begin, row = named, []
            row.append((left, right, value))
            at = right
        self._piece(body[begin:], _shifted(row[:-1], begin), is_cut)

    def _piece(self, text: str, single: list[_Found], is_cut: bool) -> None:
        """Note one list that could not be read as a whole, with the ``single`` regions of it."""
        start, at = None, 0
        for left, right, _ in [*single, (len(text), len(text), None)]:
            start = self._named(text, at, left)
            if start is not None:
                break
            at = right
        values = [value for _, _, value in single]
        if single:
            first = self._outermost(text, single[0][0], 0)
            first = first if start is None else min(start, first)
            is_listed = "[" in text[first : single[0][0]]
            is_cut = is_cut or is_listed and "]" not in text[single[-1][1] :]
            start = None if start is None else first
        elif start is not None:
            is_cut = is_cut or text.count("[", start) > text.count("]", start)
        if start is not None:
            self._events.append(_Broken(text[start:], values, is_cut))
        elif values:
            self._events.append(Entries(values, problem=_cut_off(len(values)) if is_cut else ""))
        elif is_cut:
            self._say(_TRUE, _cut_off(0))

    def _mend(self, broken: _Broken) -> list[_Event]:
        """The lists of broken JSON, as the library reads it or as far as the strict reader does."""
        why, text, problem = fault_of(broken.text), broken.text, ""
        reason = why or "no list in it"
        if len(text) > LONGEST_PIECE:
            text = text[: text.rfind("{", 0, LONGEST_PIECE)]
            problem = f"the end: of broken JSON only {LONGEST_PIECE} characters are read"
        try:
            value = mended(text, self._looks)
            if self._is_region(value):
                # One region a line: the library takes each for a better version of the last.
                value = mended(f"[{text}", self._looks)
            found = self._inside(value, 1)
        except ValueError as error:
            found, reason = [], f"{why}; {error}" if why else str(error)
        lists = [event for event in found if isinstance(event, (Entries, _Broken))]
        longest = max((len(one.entries) for one in lists if isinstance(one, Entries)), default=0)
        if len(broken.complete) > longest:
            lists = [Entries(broken.complete)]
        elif broken.is_cut and not longest:
            lists = [one for one in lists if isinstance(one, _Broken)]
            self._say(_TRUE, _cut_off(0))
        elif not lists:
            self._say(_TRUE, f"the answer's JSON cannot be read ({reason})")
        note = f"the answer's JSON was mended: {why}" if why and not broken.is_cut else ""
        out: list[_Event] = []
        for one in lists:
            if isinstance(one, Entries):
                lacking = _cut_off(len(one.entries)) if broken.is_cut else problem
                one = Entries(one.entries, note, lacking, one.is_good)
            out.append(one)
        return out
