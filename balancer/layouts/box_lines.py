"""Boxes and phrases as somebody types them: one region a line.

A prompt may hold what looks like a line's marks ('a jersey #23', 'a clock showing 10:30'). The
prompt's own wording goes before the marks; where the prompt is not known, a backslash does.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from functools import cached_property

from ..errors import RealCompoError, shown
from ..text.weights import plain_text
from .layout import checked_prompt

MOST_BOXES = 1024
"""Boxes, phrases or lines in one input: a picture's attention maps have about as many cells."""

_NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d{1,4})?"
_ONE = re.compile(_NUMBER)
_BOX_TAIL = 200
"""Characters that the numbers of a box may take."""
_WEIGHT = re.compile(rf"\*\s*(?P<weight>{_NUMBER})$")
_OCCURRENCE = re.compile(r"#\s*(?P<occurrence>\d{1,6})$")
_MARK_TAIL = 40
_MARKS = re.compile(r"[#*:\\]")
# Each looks at a row of backslashes from its start only, so that a long row takes linear time.
_ESCAPED = re.compile(r"(?<!\\)(\\+)([#*:])")
_SIGN = re.compile(r"(?<!\\)(\\*)([#*:])")
_COMMENT = re.compile(r"#+(?:\s|$)")
_WRITE = "Write: phrase: x0 y0 x1 y1"
_HITS = 64


@dataclass(frozen=True)
class BoxEntry:
    """One box or phrase before units and names are settled. ``where`` names it in messages.

    ``relative``: the values are shares of the image already. ``numbers`` counts those after the
    last colon of a line that make no box. ``sized`` names what says that the values were given as
    x, y, width and height, where that is a conclusion.
    """

    where: str
    phrase: str = ""
    values: tuple[float, ...] | None = None
    relative: bool = False
    occurrence: int = 0
    weight: float = 1.0
    numbers: int = 0
    sized: str = ""


def require_count(count: int, things: str, where: str) -> None:
    """Raise RealCompoError for input ``where`` if there are more ``things`` than are read."""
    if count > MOST_BOXES:
        raise RealCompoError(
            where, f"there are {count} {things}, and up to {MOST_BOXES} are read",
            "Keep the most important ones",
        )  # fmt: skip


def _folded(text: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


@dataclass(frozen=True)
class Wordings:
    """What stands in a prompt, letter by letter (case, width and blanks aside).

    Raises RealCompoError for input 'prompt' if it is too long.
    """

    prompt: str = ""

    def __post_init__(self) -> None:
        checked_prompt(self.prompt)

    @cached_property
    def _texts(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys((_folded(self.prompt), _folded(plain_text(self.prompt)))))

    def hold(self, phrase: str) -> bool:
        """Whether ``phrase`` stands in the prompt as it is written, as whole words."""
        wanted = _folded(phrase)
        if not wanted or not self.prompt.strip():
            return False
        return any(_stands(text, wanted) for text in self._texts)


def _stands(text: str, wanted: str) -> bool:
    start = -1
    for _ in range(_HITS):
        start = text.find(wanted, start + 1)
        if start < 0:
            return False
        end = start + len(wanted)
        inside = (
            wanted[0].isalnum() and text[max(0, start - 1) : start].isalnum(),
            wanted[-1].isalnum() and text[end : end + 1].isalnum(),
        )
        if not any(inside):
            return True
    return False


def _escaped(text: str, at: int) -> bool:
    """Whether the mark at ``at`` has a backslash before it that is not itself escaped."""
    before = text[:at]
    return (len(before) - len(before.rstrip("\\"))) % 2 == 1


def _unescaped(text: str) -> str:
    r"""``\#`` as ``#`` and so on; backslashes before anything else belong to the prompt."""
    return _ESCAPED.sub(lambda found: "\\" * (len(found[1]) // 2) + found[2], text)


def _before(text: str, at: int) -> str:
    """What stands before the mark at ``at``; doubled backslashes there are single ones."""
    head = text[:at]
    kept = head.rstrip("\\")
    return (kept + "\\" * ((len(head) - len(kept)) // 2)).rstrip()


def _numbers(tail: str) -> tuple[list[float], float]:
    """The numbers after a line's last colon, bare or in one pair of brackets, and the weight after
    ``*``; none if there is anything else."""
    tail = tail.strip()
    if len(tail) > _BOX_TAIL:
        return [], 1.0
    tail = (tail[:-1] if tail[-1:] in (",", ";") else tail).rstrip()
    weight = 1.0
    head, star, last = tail.rpartition("*")
    if star:
        if not _ONE.fullmatch(last.strip()):
            return [], 1.0
        tail, weight = head.strip(), float(last)
    if tail[:1] + tail[-1:] in ("[]", "()"):
        tail = tail[1:-1].strip()
    parts = re.split(r"\s*,\s*|\s+", tail)
    if not all(_ONE.fullmatch(part) for part in parts):
        return [], 1.0
    return [float(part) for part in parts], weight


def _tail(phrase: str, mark: re.Pattern[str]) -> re.Match[str] | None:
    """The mark at the phrase's end, if it is none of the phrase's own letters by a backslash."""
    found = mark.search(phrase, max(0, len(phrase) - _MARK_TAIL))
    return None if found is None or _escaped(phrase, found.start()) else found


def read_phrase(text: str, where: str, prompt: Wordings | None = None) -> BoxEntry:
    r"""``phrase[#occurrence][*weight][: x0 y0 x1 y1[*weight]]``, one line.

    What stands in ``prompt`` is a phrase, whatever it looks like; ``\#``, ``\*`` and ``\:`` are the
    signs themselves. Four numbers after the last colon are a box, any other number of them belongs
    to the phrase. ``where`` is the line's name. Raises RealCompoError for input 'phrases'.
    """
    holds = (prompt or Wordings()).hold
    text, where = text.strip(), f"{where} {shown(text.strip())}"
    if not _MARKS.search(text) or holds(text):
        return BoxEntry(where, text)
    phrase, values, weight, count = text, None, 1.0, 0
    colon = text.rfind(":")
    if colon >= 0 and not _escaped(text, colon):
        numbers, factor = _numbers(text[colon + 1 :])
        count = len(numbers)
        if count == 4:
            phrase, values, weight, count = _before(text, colon), tuple(numbers), factor, 0
    if not holds(phrase) and (mark := _tail(phrase, _WEIGHT)) is not None:
        phrase, weight = _before(phrase, mark.start()), weight * float(mark["weight"])
    occurrence = 0
    if not holds(phrase) and (mark := _tail(phrase, _OCCURRENCE)) is not None and mark.start():
        phrase, occurrence = _before(phrase, mark.start()), int(mark["occurrence"]) - 1
    if occurrence < 0:
        raise RealCompoError("phrases", f"{where} asks for #0", "Occurrences count from #1")
    if not holds(phrase):
        phrase = _unescaped(phrase)
    if not phrase.strip():
        raise RealCompoError("phrases", f"{where} has no phrase", _WRITE)
    return BoxEntry(where, phrase, values, False, occurrence, weight, count)


def _hashed(row: str, where: str, prompt: Wordings) -> BoxEntry | None:
    """A line that starts with '#': a comment (None) or a phrase such as '#python logo'."""
    comment = _COMMENT.match(row) is not None or not any(c.isalnum() for c in row)
    try:
        entry = read_phrase(row, where, prompt)
    except RealCompoError:
        if comment:
            return None
        raise
    if prompt.hold(entry.phrase):
        return entry
    if comment:
        return None
    if prompt.prompt.strip():
        raise RealCompoError(
            "phrases", f"{entry.where} starts with '#', and the prompt has no such wording",
            "Begin a comment with '# ' and a blank, or a phrase of its own with '\\#'",
        )  # fmt: skip
    return entry


def read_lines(text: str, prompt: str = "") -> list[BoxEntry]:
    r"""All lines of ``text`` as ``read_phrase`` reads them, against the ``prompt`` if it is known.

    Left out are blank lines and comments: '#' and a blank (or nothing but signs) at the start of a
    line that the prompt does not have. '#word' is no comment: it is a phrase, refused if there is
    a prompt without it. Raises RealCompoError for input 'phrases', also for more than
    ``MOST_BOXES`` lines.
    """
    rows = [(n, row.strip()) for n, row in enumerate(text.splitlines(), 1) if row.strip()]
    require_count(len(rows), "lines", "phrases")
    words = Wordings(prompt)
    entries = [
        (_hashed if row.startswith("#") else read_phrase)(row, f"line {n}", words)
        for n, row in rows
    ]
    return [entry for entry in entries if entry is not None]


def phrase_line(phrase: str, occurrence: int = 0, weight: float = 1.0) -> str:
    """The line that ``read_lines`` reads as this phrase, occurrence and weight."""
    mark = f"#{occurrence + 1}" if occurrence else ""
    mark += f"*{weight:g}" if weight != 1.0 else ""
    try:
        read = read_lines(phrase)
    except RealCompoError:
        read = []
    # a phrase that reads otherwise holds signs that look like marks, and so may its end be
    if phrase[-1:] == "\\" and mark or [one.phrase for one in read] != [phrase] or (
        read[0].occurrence or read[0].weight != 1.0
    ):
        phrase = _quoted(phrase, bool(mark))
    return phrase + mark


def _quoted(phrase: str, marked: bool) -> str:
    """``phrase`` with a backslash before every sign, and doubled ones before those."""
    phrase = _SIGN.sub(lambda found: found[1] * 2 + "\\" + found[2], phrase)
    ends = len(phrase) - len(phrase.rstrip("\\"))
    return phrase + "\\" * ends if marked else phrase


def phrases_alone(text: str, but: str, remedy: str, prompt: str = "") -> list[BoxEntry]:
    """The entries of ``text`` where places come from elsewhere.

    Raises RealCompoError for input 'phrases' if a line holds a box: ``but`` says where the place
    comes from, ``remedy`` what to do.
    """
    lines = read_lines(text, prompt)
    boxed = next((line for line in lines if line.values is not None), None)
    if boxed is not None:
        raise RealCompoError("phrases", f"{boxed.where} holds a box, but {but}", remedy)
    return lines
