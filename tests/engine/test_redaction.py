"""No spelling of a key survives in a text that others wrote, and nothing else is lost."""

from __future__ import annotations

import base64
import html
import json
import quopri
import time
import urllib.parse
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from realcompo.balancer.llm.redaction import HIDDEN, SHORTEST, without_key

KEY = "sk-proj/AbC+d_41Ef=="
Spelling = Callable[[str], str]

WAYS: dict[str, Spelling] = {
    "as it stands": str,
    "json": lambda key: json.dumps(key)[1:-1],
    "json with escaped slashes": lambda key: json.dumps(key)[1:-1].replace("/", "\\/"),
    "json, every letter": lambda key: "".join(f"\\u{ord(c):04x}" for c in key),
    "JSON, every letter": lambda key: "".join(f"\\u{ord(c):04X}" for c in key),
    "json, only the slash": lambda key: key.replace("/", "\\u002f"),
    "json in json": lambda key: json.dumps(json.dumps(key))[3:-3].replace("/", "\\\\/"),
    "javascript": lambda key: "".join(f"\\u{{{ord(c):x}}}" for c in key),
    "python": lambda key: repr(key)[1:-1],
    "bytes": lambda key: "".join(f"\\x{ord(c):02x}" for c in key),
    "octal": lambda key: "".join(f"\\{ord(c):03o}" for c in key),
    "an address": lambda key: urllib.parse.quote(key, safe=""),
    "an address, every letter": lambda key: "".join(f"%{ord(c):02x}" for c in key),
    "an address in an address": lambda key: urllib.parse.quote(urllib.parse.quote(key, safe="")),
    "a web page": html.escape,
    "a web page, decimal": lambda key: "".join(f"&#{ord(c)};" for c in key),
    "a web page, hexadecimal": lambda key: "".join(f"&#x{ord(c):X};" for c in key),
    "a web page, by name": lambda key: key.replace("/", "&sol;").replace("+", "&plus;"),
    "a web page in a web page": lambda key: html.escape("".join(f"&#{ord(c)};" for c in key)),
    "a mail": lambda key: quopri.encodestring(key.encode()).decode(),
    "wide letters": lambda key: "".join(chr(ord(c) + 0xFEE0) for c in key),
    "with spaces": " ".join,
    "over lines": "\n".join,
    "over lines of JSON": lambda key: f"{key[:7]}\\n{key[7:]}",
    "over lines of a web page": lambda key: f"{key[:7]}<br />{key[7:]}",
    "with nothing between": "\u200b".join,
    "base64": lambda key: base64.b64encode(key.encode()).decode(),
    "base64 of Bearer": lambda key: base64.b64encode(f"Bearer {key}".encode()).decode(),
    "base64 of a name": lambda key: base64.b64encode(f":{key}\n".encode()).decode(),
    "base64 for addresses": lambda key: base64.urlsafe_b64encode(key.encode()).decode(),
    "hexadecimal": lambda key: key.encode().hex(),
}  # fmt: skip


@pytest.mark.parametrize("way", WAYS)
def test_a_key_is_hidden_however_it_is_written(way: str) -> None:
    written = WAYS[way](KEY)
    hidden = without_key(f"key <{written}> refused, {written}.", KEY)
    assert hidden.count(HIDDEN) == 2
    assert hidden.startswith("key <") and hidden.endswith(".") and "> refused, " in hidden
    if not way.startswith("base64 of"):  # there the neighbours are left
        assert len(hidden) <= len("key <> refused, .") + 2 * len(f"{HIDDEN}==")


# Letters of real keys; signs that begin an escape are drawn often.
keys = st.text(st.sampled_from("abAB09-_/+=.%&\\<u0nx;"), min_size=SHORTEST, max_size=40)


@given(key=keys, name=st.sampled_from(sorted(WAYS)), again=st.sampled_from(sorted(WAYS)))
def test_any_key_is_hidden(key: str, name: str, again: str) -> None:
    decoders: dict[str, Spelling] = {
        "json": lambda text: json.loads(f'"{text}"'),
        "an address": urllib.parse.unquote, "a web page": html.unescape,
    }  # fmt: skip
    for way, decode in decoders.items():
        hidden = without_key(f"say {WAYS[way](key)} again", key)
        assert key not in hidden and key not in decode(hidden)
    # Escaped as JSON around any one way that does not depend on the key's own escapes.
    wrapped = WAYS["json"](WAYS["json, every letter"](key))
    assert without_key(wrapped, key) == HIDDEN


@given(st.text(max_size=200), st.just(KEY) | keys)
def test_text_without_the_key_stays(text: str, key: str) -> None:
    plain = "".join(c for c in text if c not in key)
    assert without_key(plain, key) == plain


def test_short_keys_and_none_are_left_alone() -> None:
    assert without_key("none of it", "none") == "none of it"
    assert without_key("a b", "") == "a b"


@pytest.mark.parametrize(
    ("key", "piece"),
    [
        (KEY, "hello world "), (KEY, "\\"), (KEY, "s\\n"), (KEY, KEY[:-1]), (KEY, "%25"),
        (KEY, "&amp;"), ("a" * 50 + "b", "a"), ("a" * 50 + "b", "a \n\t "), ("/" * 30 + "x", "\\/"),
        ("abc\\" * 8, "abc\\"), ("&lt;" * 9, "&lt"),
    ],
)  # fmt: skip
def test_the_time_grows_with_the_text_only(key: str, piece: str) -> None:
    text = piece * ((1 << 17) // len(piece))
    start = time.process_time()
    without_key(text, key)
    assert time.process_time() - start < 1
