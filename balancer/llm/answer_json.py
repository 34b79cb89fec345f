"""The lists of regions in a language model's answer, the likeliest first.

Models wrap their list, write a draft and its correction, repeat the request, break off, and break
JSON; people paste the request together with the answer. The strict reader goes first, a library
that mends JSON second, and of several lists the last usable one counts. Which is usable only the
reader of the entries knows, so that lists are handed out one by one.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import Any

from .answer_form import (
    THOUGHTS_ONLY,
    Broken,
    Entries,
    Form,
    Found,
    Lost,
    cut_off,
    fragments,
    shifted,
)
from .answer_text import LONGEST_PIECE, Budget, fault_of, mended, without_thoughts
from .redaction import without_key

MAX_TEXT = 1 << 20
"""Longest answer that is read, in characters."""
MOST_LISTS = 4
"""Lists of one answer that are handed out."""
MENDING_BUDGET = 400_000
"""Letters that may be read to mend the broken JSON of one answer."""
_LEVELS = 8
"""Objects, lists and texts in each other that are searched for a list."""
_MOST_VALUES = 10_000
_MOST_FAULTS = 1000
_WASTE = 4 << 20
"""Characters that the strict reader may read in vain."""

_ONLY_REQUEST = "the text holds only the request, and no answer to it"
# Where the strict reader may start: after a bracket stands what JSON allows there.
_OPENS = re.compile(r"\{\s*[\"}]|\[\s*[\[{\"\]\d.tfnNI-]")
# A number of thousands of digits is no number to count with: it becomes infinite.
_DECODER = json.JSONDecoder(parse_int=lambda d: int(d) if len(d) < 20 else float(d))


@dataclass(frozen=True)
class _Request:
    caption: str


@dataclass(frozen=True)
class _Single:
    region: Any


_Event = Entries | Broken | _Request | _Single
_NOTHING, _USELESS, _TRUE = 0, 1, 2
"""How much a fault says: a later one takes its place unless it says less."""


def _only_objects(value: list[Any]) -> bool:
    return bool(value) and all(isinstance(item, dict) for item in value)


@dataclass
class Answer:
    """The lists in an answer's ``text``; ``fault`` is what is wrong if there are none."""

    text: str
    form: Form
    secret: str = field(default="", repr=False)
    fault: str = "the answer holds no complete JSON object"
    _rank: int = _NOTHING

    def __post_init__(self) -> None:
        self._no_list = f"the answer's JSON has no list '{self.form.lists[0]}' of objects"
        self._events: list[_Event] = []
        self._values = self._faults = self._wasted = 0
        self._budget = Budget(MENDING_BUDGET)

    def _say(self, rank: int, fault: str) -> None:
        if rank >= self._rank:
            self._rank, self.fault = rank, fault

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
                self._say(_USELESS, _ONLY_REQUEST)
                continue
            yield replace(entries, entries=[self._hidden(entry) for entry in entries.entries])
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
                self._say(_TRUE, THOUGHTS_ONLY)
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
                self._say(_USELESS, _ONLY_REQUEST)
            else:
                now.append(event)
        weak: list[Entries] = []
        for part in (own, free, other):
            waiting = list(part)
            while waiting:
                event = waiting.pop()
                if isinstance(event, Broken):
                    waiting += self._mend(event)
                elif event.is_good:
                    yield event
                else:
                    weak.append(event)
        yield from weak

    def _take(self, value: Any, level: int) -> None:
        """Note the lists and requests in a value, in its own order."""
        self._values += 1
        if level > _LEVELS or self._values > _MOST_VALUES:
            return
        if isinstance(value, str):
            if self.form.in_text(value):
                self._take_text(value, level + 1)  # JSON as text in JSON
        elif isinstance(value, list):
            self._take_list(value, level)
        elif isinstance(value, dict):
            if self.form.is_request(value):
                self._events.append(_Request(value["caption"]))
                return
            if self.form.is_region(value):
                self._events.append(_Single(value))
                return
            for name, item in value.items():
                if name in self.form.lists and isinstance(item, list) and not _only_objects(item):
                    self._events.append(Entries(item, is_good=any(map(self.form.is_region, item))))
                else:
                    self._take(item, level + 1)

    def _take_list(self, value: list[Any], level: int) -> None:
        if any(map(self.form.is_region, value)):
            self._events.append(Entries(value))
            return
        if _only_objects(value) and any(self.form.field_names & set(item) for item in value):
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
        single: list[Found] = []  # regions outside any list that could be read
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
            if self.form.is_region(value):
                single.append((at, position, value))
                continue
            events = self._inside(value, level)
            if events:
                self._rest(text[start:at], shifted(single, start))
                self._events += events
                start, single = position, []
        self._rest(text[start:], shifted(single, start))

    def _rest(self, text: str, single: list[Found]) -> None:
        """Note what stands between the lists that could be read: single regions, broken JSON."""
        for one in fragments(text, single, self.form):
            if isinstance(one, Lost):
                self._say(_TRUE, one.fault)
            else:
                self._events.append(one)

    def _mend(self, broken: Broken) -> list[_Event]:
        """The lists of broken JSON, as the library reads it or as far as the strict reader does."""
        fault, text, lacking = fault_of(broken.text), broken.text, ""
        reason = fault or "no list in it"
        if len(text) > LONGEST_PIECE:
            text = text[: text.rfind("{", 0, LONGEST_PIECE)]
            lacking = f"the end: of broken JSON only {LONGEST_PIECE} characters are read"
        try:
            found = self._inside(self._mended(text), 1)
        except ValueError as error:
            found, reason = [], f"{fault}; {error}" if fault else str(error)
        lists = [event for event in found if isinstance(event, (Entries, Broken))]
        note = f"the answer's JSON was mended: {fault}" if fault and not broken.is_cut else ""
        out: list[_Event] = []
        for one in self._best(broken, lists, reason):
            if isinstance(one, Entries):
                problem = cut_off(len(one.entries)) if broken.is_cut else lacking
                one = replace(one, note=note, problem=problem)
            out.append(one)
        return out

    def _mended(self, text: str) -> Any:
        value = mended(text, self._budget)
        # One region a line: the library takes each for a better version of the last.
        return mended(f"[{text}", self._budget) if self.form.is_region(value) else value

    def _best(
        self, broken: Broken, lists: list[Entries | Broken], reason: str
    ) -> list[Entries | Broken]:
        """The mended ``lists``, or the regions that were read strictly if those are more."""
        longest = max((len(one.entries) for one in lists if isinstance(one, Entries)), default=0)
        if len(broken.complete) > longest:
            return [Entries(broken.complete)]
        if broken.is_cut and not longest:
            self._say(_TRUE, cut_off(0))
            return [one for one in lists if isinstance(one, Broken)]
        if not lists:
            self._say(_TRUE, f"the answer's JSON cannot be read ({reason})")
        return lists
