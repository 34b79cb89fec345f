"""The words of a prompt, before any tokenizer: where a phrase stands, in the text's own words.

Planners and converters handle wordings; which tokens those are is settled later, by the tokenizer
of the prompt's encoder (``tokens.py``). A phrase that is a slice of the prompt is always found
there.
"""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass

from .tokens import ARTICLES, FUNCTION_WORDS

_WORD = re.compile(r"[^\W_]+(?:['\u2019-][^\W_]+)*")
_WEIGHT = re.compile(r":\s*[-+]?(?:\d+\.?\d*|\.\d+)\s*(?=\))")
_ESCAPED = {"\\(": "\ue000", "\\)": "\ue001"}


@dataclass(frozen=True)
class Word:
    """One word of a text: its lower-case form, and where it stands (end exclusive)."""

    text: str
    start: int
    end: int


def plain_text(prompt: str) -> str:
    """``prompt`` without the host's weights: ``a (red car:1.2)`` becomes ``a red car``."""
    for escape, mark in _ESCAPED.items():
        prompt = prompt.replace(escape, mark)
    prompt = re.sub(r"[()]", "", _WEIGHT.sub("", prompt))
    for escape, mark in _ESCAPED.items():
        prompt = prompt.replace(mark, escape[1])
    return prompt


def words_of(text: str) -> list[Word]:
    """All words of ``text`` in order; punctuation is left out."""
    return [Word(m.group().casefold(), m.start(), m.end()) for m in _WORD.finditer(text)]


def _starts(words: list[str], wanted: list[str]) -> list[int]:
    """Where ``wanted`` begins in ``words``, from left to right, without overlap."""
    found: list[int] = []
    index = 0
    while wanted and index + len(wanted) <= len(words):
        if words[index : index + len(wanted)] == wanted:
            found.append(index)
            index += len(wanted)
        else:
            index += 1
    return found


def find_phrase(text: str, phrase: str) -> list[tuple[int, int]]:
    """Every place (start, end) of ``phrase`` in ``text``, case and punctuation aside.

    As in the search for tokens, the full wording goes first; where that is not in the text, the
    phrase is looked up without the articles in front of it.
    """
    words = words_of(text)
    wanted = [word.text for word in words_of(phrase)]
    plain = [word.text for word in words]
    skip = 0
    while skip < len(wanted):
        if len(wanted) - skip <= len(plain):
            starts = _starts(plain, wanted[skip:])
            if starts:
                last = len(wanted) - skip - 1
                return [(words[start].start, words[start + last].end) for start in starts]
        if wanted[skip] not in ARTICLES:
            break
        skip += 1
    return []


def nearest_wording(text: str, phrase: str, cutoff: float = 0.8) -> str | None:
    """The wording in ``text`` that looks most like ``phrase``, if it is at least ``cutoff`` alike.

    Alike is difflib's ratio, 0..1: a plural or a small slip is about 0.9.
    """
    wanted = [word.text for word in words_of(phrase)]
    while len(wanted) > 1 and wanted[0] in ARTICLES:
        wanted = wanted[1:]
    words = words_of(text)
    runs: dict[str, str] = {}
    for length in range(max(1, len(wanted) - 1), len(wanted) + 2):
        for start in range(len(words) - length + 1):
            run = words[start : start + length]
            if run[0].text in FUNCTION_WORDS or run[-1].text in FUNCTION_WORDS:
                continue
            key = " ".join(word.text for word in run)
            runs.setdefault(key, text[run[0].start : run[-1].end])
    best = difflib.get_close_matches(" ".join(wanted), sorted(runs), n=1, cutoff=cutoff)
    return runs[best[0]] if best else None
