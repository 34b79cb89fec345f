"""A prompt taken apart into things and what it says about their places: English, by rules.

No grammar, only closed word lists (``lexicon.py``): things are the runs of words between
commas, conjunctions, verbs and words about places. Verbs that no list holds are known by the
article after them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from .lexicon import (
    DETERMINERS,
    NUMBERS,
    PRONOUNS,
    SURROUNDINGS,
    is_number,
    leading_group,
)
from .scan import ACTION, DOER, Anchor, Item, joined_adjectives, scan_items
from .words import mention, word_texts

MOST_COPIES = 12


@dataclass(frozen=True)
class Thing:
    """A noun phrase of the prompt: its slice, how many there are, and its place if it names one."""

    phrase: str
    start: int
    count: int = 1
    anchor: Anchor = ("", "")
    is_surroundings: bool = False
    is_certain: bool = True


@dataclass(frozen=True)
class Relation:
    """``kind`` says of thing ``one`` where it is from thing ``other``: left, above, on, beside,
    at, inside or front."""

    kind: str
    one: int
    other: int


@dataclass
class Parsed:
    """Things in the order of the prompt, the relations between them, and remarks."""

    things: list[Thing] = field(default_factory=list)
    relations: list[Relation] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def _count(words: list[str]) -> int:
    number, size = leading_group(words)
    if size:
        return number
    first = words[1] if len(words) > 1 and words[0] == "the" else words[0]
    if first.isdecimal() and len(first) < 3:
        return max(1, int(first))
    return NUMBERS.get(first, 1)


def _thing(text: str, item: Item) -> Thing | None:
    """The thing that a slice names; None for pronouns and the like."""
    words = word_texts(text[item.start : item.end])
    if not words or all(w in PRONOUNS or w in DETERMINERS for w in words):
        return None
    head = words
    for stop in ("of", "with"):
        head = head[: head.index(stop, 1)] if stop in head[1:] else head
    count = _count(words)
    return Thing(
        phrase=text[item.start : item.end].strip(),
        start=item.start,
        count=count,
        is_surroundings=head[-1] in SURROUNDINGS,
        is_certain=words[0] in DETERMINERS or is_number(words[0]) or count > 1,
    )


class _Reader:
    """Reads items from left to right and keeps what they may still refer to."""

    def __init__(self, text: str) -> None:
        self.text, self.out = text, Parsed()
        self.group: list[int] = []  # things that a relation or a place would be said of
        self.group_open = False  # may an 'and' add to the group?
        self.group_whole = False  # was the last one added by an 'and'? After a comma it is alone.
        self.acting = False  # was the last verb one that the group does to what comes next?
        self.subjects: list[int] = []  # of the last relation, for '... and above'
        self.pending: list[str] = []
        self.operands: list[int] = []
        self.fronted: list[tuple[str, list[int]]] = []  # relations that came before their subject
        self.place: Anchor | None = None
        # Things by their last word: number and all words.
        self.named: dict[str, list[tuple[int, set[str]]]] = defaultdict(list)
        self.before = ""
        self.after_and = False  # does the last thing stand behind an 'and'?

    def read(self, items: list[Item]) -> Parsed:
        for item in items:
            getattr(self, f"_{item.kind}")(item)
            if item.kind != "verb":
                self.before = item.kind
        self._finish()
        return self.out

    def _finish(self) -> None:
        if self.pending and not self.operands and self.subjects:
            # '... and a square below': below what came before.
            self.operands = list(range(min(self.subjects)))
        if self.pending and self.operands:
            self._relate()
        self.pending, self.operands, self.fronted, self.place = [], [], [], None

    def _verb(self, item: Item) -> None:
        if self.pending and self.operands:
            self._relate()
        self.acting = item.value == ACTION

    def _separator(self, item: Item) -> None:
        if self.pending and self.operands and self.pending != ["between"]:
            self._relate()
        if item.value == "e":
            name = self.text[item.start : item.end]
            self.out.notes.append(f"left out: '{name}' (a textual embedding)")
        elif item.value in ".;!?\n:":
            self._finish()
            self.group, self.subjects = [], []

    def _place(self, item: Item) -> None:
        if self.pending and self.operands:
            self._relate()
        if self.group and self.before == "thing":
            for index in self._said_of():
                self.out.things[index] = replace(self.out.things[index], anchor=item.anchor)
            self.group_open = False
        else:
            self.place = item.anchor

    def _relation(self, item: Item) -> None:
        if self.pending and self.operands:
            self._relate()
        if self.pending:
            self.pending.append(item.value)  # 'above and to the left of'
            return
        after_separator = self.before in ("separator", "place")
        self.subjects = self.subjects if after_separator and self.subjects else self._said_of()
        self.pending = [item.value]

    def _said_of(self) -> list[int]:
        """Of whom the next words speak: 'a cat and a dog' of both, 'a cat, a dog' of the dog."""
        return list(self.group if self.group_whole else self.group[-1:])

    def _thing(self, item: Item) -> None:
        thing = _thing(self.text, item)
        if thing is None:
            self._pronoun(word_texts(self.text[item.start : item.end]))
            return
        if self.place is not None:
            thing, self.place = replace(thing, anchor=self.place), None
        before = self.text[max(0, item.start - 16) : item.start].rstrip().lower()
        self.after_and = before.endswith(("and", "&"))
        things = self.out.things
        index = self._known(item)
        if index is not None:
            things[index] = replace(things[index], anchor=max(thing.anchor, things[index].anchor))
            self._refer(index)
            return
        joined = self.before == "separator" and self.after_and
        if not thing.is_certain and (self.pending or self.fronted or (
            joined and things and things[-1].is_certain
        ) or (item.value == DOER and not things)):  # fmt: skip
            thing = replace(thing, is_certain=True)
        things.append(thing)
        said = word_texts(thing.phrase)
        self.named[said[-1]].append((len(things) - 1, set(said)))
        self._refer(len(things) - 1)

    def _known(self, item: Item) -> int | None:
        """The thing that 'the teapot' means after 'a brass teapot', if there is just one."""
        words = word_texts(self.text[item.start : item.end])
        if words[0] != "the" or len(words) < 2:
            return None
        fitting: list[int] = []
        for index, earlier in self.named.get(words[-1], ()):
            if set(words[1:]) <= earlier:
                fitting.append(index)
                if len(fitting) > 1:
                    return None
        return fitting[0] if fitting else None

    def _refer(self, index: int) -> None:
        """Thing ``index`` is spoken of: it closes a relation, or one may be said of it."""
        if self.pending:
            self.operands.append(index)
            if "between" not in self.pending or len(self.operands) == 2:
                self._relate()
            return
        if self.fronted:
            for kind, operands in self.fronted:
                self._add(kind, [index], operands)
            self.fronted = []
            self.group, self.group_open, self.subjects = [index], False, []
            return
        self.group = [*self.group, index] if self.group_open else [index]
        self.group_whole, self.acting = self.after_and or self.acting, False
        self.group_open, self.subjects = True, []

    def _pronoun(self, words: list[str]) -> None:
        """'next to each other' is about the group itself, 'below them' about what came before."""
        if not self.pending or not self.subjects or not words:
            self.pending = []
            return
        before = list(range(min(self.subjects)))
        if words[-1] in ("other", "another") and len(self.subjects) > 1:
            for one, other in zip(self.subjects, self.subjects[1:], strict=False):
                self._add("beside", [one], [other])
        elif words[-1] in ("them", "both", "these", "those") and before:
            self.operands = before
            self._relate()
        elif words[-1] in ("it", "him", "her") and before:
            self.operands = before[-1:]
            self._relate()
        self.pending = []

    def _relate(self) -> None:
        """Close a relation whose other side is now known."""
        if self.subjects:
            for kind in self.pending:
                self._add(kind, self.subjects, self.operands)
        else:
            self.fronted += [(kind, self.operands) for kind in self.pending]
        self.group, self.group_open = [self.operands[-1]], False
        self.pending, self.operands = [], []

    def _add(self, kind: str, ones: list[int], others: list[int]) -> None:
        turned = {"right": "left", "below": "above", "behind": "front", "holds": "inside"}
        add = self.out.relations.append
        for one in ones:
            if kind == "between" and len(others) == 2:
                add(Relation("left", others[0], one))
                add(Relation("left", one, others[1]))
                continue
            for other in others:
                if one == other:
                    continue
                if kind in turned:
                    add(Relation(turned[kind], other, one))
                else:
                    add(Relation("beside" if kind == "between" else kind, one, other))


def _left_out(parsed: Parsed) -> dict[int, str]:
    """Things that get no box, with the remark that says why."""
    bound = {index for r in parsed.relations if r.kind not in ("inside", "on", "at")
             for index in (r.one, r.other)}  # fmt: skip
    bound |= {index for index, thing in enumerate(parsed.things) if any(thing.anchor)}
    related = bound | {relation.one for relation in parsed.relations}
    any_certain = any(thing.is_certain for thing in parsed.things)
    out: dict[int, str] = {}
    for index, thing in enumerate(parsed.things):
        if thing.is_surroundings and index not in bound:
            out[index] = f"left out: '{thing.phrase}' (surroundings)"
        elif any_certain and not thing.is_certain and index not in related:
            out[index] = f"left out: '{thing.phrase}' (no article or number: style?)"
    return out


def parse_prompt(text: str) -> Parsed:
    """Things and relations of a prompt without weights (``weights.plain_text``).

    Left out, with a remark: surroundings that nothing is placed against, and, if some things have
    an article or a number, comma-separated words that have none (style words mostly have none).
    """
    parsed = _Reader(text).read(joined_adjectives(list(scan_items(text)), text))
    left_out = _left_out(parsed)
    keep = [index for index in range(len(parsed.things)) if index not in left_out]
    notes = [*parsed.notes, *left_out.values()]
    if not keep:  # better those than none
        keep, notes = list(range(len(parsed.things))), []
    things = [parsed.things[index] for index in keep]
    notes += [
        f"'{thing.phrase}': only {MOST_COPIES} boxes"
        for thing in things
        if thing.count > MOST_COPIES
    ]
    number = {old: new for new, old in enumerate(keep)}
    relations = [
        Relation(r.kind, number[r.one], number[r.other])
        for r in parsed.relations
        if r.one in number and r.other in number
    ]
    things = [replace(thing, count=min(thing.count, MOST_COPIES)) for thing in things]
    return Parsed(things, relations, notes)


def occurrences(text: str, things: Iterable[Thing]) -> list[int]:
    """Which occurrence of its phrase in ``text`` (0 = first) every thing of ``text`` is.

    As the sampler counts them (``words.mention``); what it would not find there is counted among
    equal wordings.
    """
    spoken: dict[tuple[str, ...], int] = defaultdict(int)
    out: list[int] = []
    for thing in things:
        key = tuple(word_texts(thing.phrase))
        index = mention(text, thing.phrase, thing.start)
        out.append(spoken[key] if index is None else index)
        spoken[key] += 1
    return out
