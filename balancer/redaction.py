"""A key taken out of what others wrote, however they spelled it.

Servers quote what they refuse, and they quote it as JSON, in an address, in a web page. Whatever
reads such a text later decodes it, so a key must be gone in every spelling, not as it stands only.
"""

from __future__ import annotations

import base64
import html.entities
import re
from functools import lru_cache

SHORTEST = 5
"""Characters of a key; shorter ones ('none', 'x') keep no secret and stand in many words."""
HIDDEN = "***"

# What may stand between two characters of a key that was broken over lines or written with spaces.
_BETWEEN = r"(?:\s|\\{1,8}[nrtbf]|\\{1,8}u200[b-f]|[\u00ad\u200b-\u200f\u2060\ufeff]|<br\s?/?>)"
_ENTITIES: dict[str, list[str]] = {}
for _name, _value in html.entities.html5.items():
    _ENTITIES.setdefault(_value, []).append(_name.rstrip(";"))


def _spellings(character: str) -> str:
    """Pattern of one ASCII character: itself, as JSON, Python, URLs and web pages may write it."""
    code = ord(character)
    names = "|".join(sorted(map(re.escape, set(_ENTITIES.get(character, ()))), reverse=True))
    # Each may be wrapped again: a backslash doubled, '%' as '%25', '&' as '&amp;'. A letter behind
    # a backslash is not itself.
    ways = [
        re.escape(character) if character.isalnum() else rf"\\{{0,8}}{re.escape(character)}",
        rf"\\{{1,8}}(?:u00|x|u\{{0{{0,4}})(?i:{code:02x})\}}?",
        rf"\\{{1,8}}0{{0,2}}{code:o}",
        rf"(?:%|=)(?:25){{0,4}}(?i:{code:02x})",
        rf"&(?:amp;){{0,4}}(?:#0{{0,6}}{code}|#[xX]0{{0,6}}(?i:{code:02x})"
        + (f"|{names}" if names else "") + ");?",
        chr(code + 0xFEE0),  # the full-width form
    ]  # fmt: skip
    return f"(?:{'|'.join(ways)})"


@lru_cache(maxsize=16)
def _pattern(key: str) -> re.Pattern[str]:
    return re.compile(f"{_BETWEEN}{{0,4}}".join(map(_spellings, key)))


def _encodings(key: str) -> set[str]:
    """The key as base64 and hexadecimal digits, at each place that a longer text may give it."""
    raw = key.encode()
    found = {raw.hex(), raw.hex().upper()}
    for lead in range(3):
        for encode in (base64.b64encode, base64.urlsafe_b64encode):
            packed = encode(bytes(lead) + raw).decode().rstrip("=")
            # The first and the last characters hold bits of the neighbours, too.
            first = (lead * 8 + 5) // 6
            last = len(packed) if (lead + len(raw)) % 3 == 0 else len(packed) - 1
            found.add(packed[first:last])
    return {text for text in found if len(text) >= SHORTEST}


def without_key(text: str, key: str) -> str:
    """``text`` with ``HIDDEN`` in the place of ``key`` (ASCII, no spaces; '' = nothing to hide).

    Found are the key as it stands and as escaped for JSON, Python, addresses and web pages, once
    or several times over, its base64 and hexadecimal digits, and the key broken over lines. So
    what is left holds no key after decoding either. Keys below ``SHORTEST`` are left alone.
    """
    if len(key) < SHORTEST:
        return text
    text = text.replace(key, HIDDEN)
    for packed in _encodings(key):
        text = text.replace(packed, HIDDEN)
    return _pattern(key).sub(HIDDEN, text)
