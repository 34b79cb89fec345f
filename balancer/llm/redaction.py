"""A key taken out of what others wrote, however they spelled it.

Servers quote what they refuse, and they quote it as JSON, in an address, in a web page. Whatever
reads such a text later decodes it, so a key must be gone in every spelling, not as it stands only.
"""

from __future__ import annotations

import base64
import html.entities
import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator
from functools import lru_cache
from itertools import product

SHORTEST = 5
"""Characters of a key; shorter ones ('none', 'x') keep no secret and stand in many words."""
HIDDEN = "***"
LAYERS = 5
"""How often a text may have been escaped over and over."""

# What may stand between two characters of a key that was broken over lines or written with spaces.
_BETWEEN = r"\s\u00ad\u200b-\u200f\u2060\ufeff"
_GAP = re.compile(f"[{_BETWEEN}]")
# One way to write a character each, by the sign that it begins with.
_WAYS = {
    "\\": r"\\(?:u\{0*(?P<braced>[0-9A-Fa-f]{1,6})\}|(?:u|x(?=[0-9A-Fa-f]{2}))"
          r"(?P<hex>(?<=u)[0-9A-Fa-f]{4}|(?<=x)[0-9A-Fa-f]{2})|(?P<octal>[0-7]{2,3})"
          r"|(?P<gap>[nrtbfva0])|(?P<sign>[^0-9A-Za-z]))",
    "%": r"%(?P<percent>[0-9A-Fa-f]{2})",
    "=": r"=(?:(?P<quoted>[0-9A-F]{2})|\r?\n)",
    "&": r"&(?:#0*(?P<decimal>[0-9]{1,7});?|#[xX]0*(?P<hexadecimal>[0-9A-Fa-f]{1,6});?"
         r"|(?P<old>amp|lt|gt|quot);?|(?P<name>[A-Za-z]{2,24});)",
    "<": r"<br\s?/?>",
}  # fmt: skip
_BASES = {"octal": 8, "decimal": 10}  # all others count in sixteens
_NAMED = {
    name.rstrip(";"): value
    for name, value in html.entities.html5.items()
    if len(value) == 1 and value.isascii()
}
_PATTERNS: dict[str, re.Pattern[str]] = {}

Span = tuple[int, int]
Breaks = tuple[list[int], list[int]]
"""Places in a decoded text, rising, and where they were in the text that was decoded."""


def _decoder(signs: str) -> re.Pattern[str]:
    if signs not in _PATTERNS:
        ways = [rf"[{_BETWEEN}]+", "(?P<wide>[\uff01-\uff5e])", *(_WAYS[sign] for sign in signs)]
        _PATTERNS[signs] = re.compile("|".join(ways))
    return _PATTERNS[signs]


def _meant(found: re.Match[str]) -> str | None:
    """The character that an escape stands for, '' for a gap, None if it stands for itself."""
    kind = found.lastgroup
    if kind is None or kind == "gap":
        return ""
    text = found[kind]
    if kind == "sign":
        return "" if _GAP.match(text) else text
    if kind in ("name", "old"):
        value = _NAMED.get(text)
        return "" if value is not None and _GAP.match(value) else value
    code = ord(text) - 0xFEE0 if kind == "wide" else int(text, _BASES.get(kind, 16))
    if code < 0x21 or (code < 0x10000 and _GAP.match(chr(code))):
        return ""
    return chr(code) if code < 0x7F or 0xFF00 < code < 0xFF5F else None


def _decoded(text: str, signs: str) -> tuple[str, Breaks]:
    """``text`` with each escape that begins with one of ``signs`` decoded once, without gaps."""
    pieces: list[str] = []
    after, before = [0], [0]
    done = length = 0
    for found in _decoder(signs).finditer(text):
        meant = _meant(found)
        if meant is None:
            continue
        start = found.start()
        if start > done:
            pieces.append(text[done:start])
            length += start - done
        after.append(length)
        before.append(start)
        pieces.append(meant)
        length += len(meant)
        done = found.end()
        after.append(length)
        before.append(done)
    pieces.append(text[done:])
    return "".join(pieces), (after, before)


def _back(span: Span, breaks: Breaks) -> Span:
    """Where a part of the decoded text was before."""
    after, before = breaks
    start, end = span
    at = bisect_right(after, start) - 1
    first = before[at] + start - after[at]
    at = bisect_left(after, end)
    if at == len(after) or after[at] != end:
        at -= 1
    return first, before[at] + end - after[at]


@lru_cache(maxsize=8)
def _needles(key: str) -> frozenset[str]:
    """The key as it stands, and as base64 and hexadecimal digits wherever in a text it begins."""
    raw = key.encode()
    found = {key, raw.hex(), raw.hex().upper()}
    for lead in range(3):
        for encode in (base64.b64encode, base64.urlsafe_b64encode):
            packed = encode(bytes(lead) + raw).decode().rstrip("=")
            # The first and the last characters hold bits of the neighbours, too.
            first = (lead * 8 + 5) // 6
            last = len(packed) if (lead + len(raw)) % 3 == 0 else len(packed) - 1
            found.add(packed[first:last])
    return frozenset(text for text in found if len(text) >= SHORTEST)


def _found(text: str, needles: Iterable[str]) -> Iterator[Span]:
    for needle in needles:
        at = text.find(needle)
        while at >= 0:
            yield at, at + len(needle)
            at = text.find(needle, at + len(needle))


def without_key(text: str, key: str) -> str:
    """``text`` with ``HIDDEN`` in the place of ``key`` (ASCII, no spaces; '' = nothing to hide).

    Found are the key as it stands and as escaped for JSON, Python, addresses, mail and web pages,
    up to ``LAYERS`` times over, its base64 and hexadecimal digits, and the key broken over lines.
    So what is left holds no key after decoding either. Keys below ``SHORTEST`` are left alone.
    The time grows with the text's length, whatever it and the key hold.
    """
    if len(key) < SHORTEST:
        return text
    needles = _needles(key)
    spans = set(_found(text, needles))
    # A sign that the key itself holds may be meant as it stands where others are escapes.
    for held in product(*((sign, "") for sign in _WAYS if sign in key)):
        signs = "".join(sign for sign in _WAYS if sign not in key or sign in held)
        now, layers = text, []
        for _ in range(LAYERS):
            now, breaks = _decoded(now, signs)
            if len(breaks[0]) == 1:
                break
            layers.append(breaks)
            for span in _found(now, needles):
                for one in reversed(layers):
                    span = _back(span, one)
                spans.add(span)
    pieces, done = [], 0
    for start, end in sorted(spans):
        if start >= done:
            pieces += [text[done:start], HIDDEN]
        done = max(done, end)
    return "".join([*pieces, text[done:]])
