"""The one loader of JSON from outside: everything bad is one kind of error."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from realcompo.balancer.errors import RealCompoError
from realcompo.balancer.values.foreign_json import LARGEST, parse_json, read_json, read_json_file

BAD = {
    "[" * 100_000: "levels deep",
    "[" * 65 + "]" * 65: "more than 64 levels",
    '{"a":' * 70 + "1" + "}" * 70: "more than 64 levels",
    "9" * 5000: "too large",
    str(LARGEST + 1): "too large",
    "1" + "0" * 309: "too large",
    "1e309": "too large",
    "[-1e999]": "too large",
    "NaN": "NaN",
    "[Infinity]": "Infinity",
    '{"a": 1, "b": 2, "a": 3}': "key 'a' twice",
    r'"\ud800"': "lone surrogate",
    r'{"\udfff": 1}': "lone surrogate",
    '"\ud800"': "lone surrogate",
    "": "empty",
    " \n": "empty",
    '{"a": [1, 2': "ends too early (line 1, column 12)",
    '{"a": 1,}': "no JSON",
    "{'a': 1}": "no JSON",
}


@pytest.mark.parametrize("text", BAD, ids=range(len(BAD)))
def test_bad_text_is_one_sentence(text: str) -> None:
    with pytest.raises(RealCompoError) as caught:
        read_json(text, "layout_json", "the layout")
    said = str(caught.value)
    assert BAD[text] in said and said.startswith("Input 'layout_json': the layout cannot be read: ")
    assert len(said) < 300 and "\n" not in said and said.isprintable()


@pytest.mark.parametrize(
    ("given_bytes", "said"),
    [(b"\xff\xfe\x00", "no UTF-8"), (b'"\xe9"', "no UTF-8"), (b"[1]" * 30, "bytes"), (7, "a int"),
     (None, "a NoneType"), (["x"], "a list")],
)  # fmt: skip
def test_other_things_than_text(given_bytes: object, said: str) -> None:
    with pytest.raises(RealCompoError, match=said):
        read_json(given_bytes, "x", "the text", longest=40)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32"])
def test_encodings_that_editors_write(encoding: str) -> None:
    value = {"phrase": "ein K\u00e4fer \u732b \U0001f436"}
    text = json.dumps(value, ensure_ascii=False)
    assert read_json(text.encode(encoding), "x", "the text") == value


def test_seeds_of_the_host_are_exact() -> None:
    for seed in (0, 2**53 + 1, 2**63, 2**64 - 1, -(2**63)):
        assert read_json(str(seed), "x", "the text") == seed


def test_what_servers_write_can_be_taken() -> None:
    assert parse_json("[Infinity]", finite=False) == [float("inf")]


def test_kinds() -> None:
    with pytest.raises(RealCompoError, match="the settings is not an object"):
        read_json("[1]", "x", "the settings", kinds=(dict,))
    assert read_json("[1]", "x", "the settings", kinds=(dict, list)) == [1]


def test_files(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    with pytest.raises(RealCompoError, match="cannot be read: No such file"):
        read_json_file(path, "x", "the file")
    path.write_bytes(b"[1, 2, 3]")
    assert read_json_file(path, "x", "the file") == [1, 2, 3]
    with pytest.raises(RealCompoError, match="the file has 9 bytes, and up to 8 are read"):
        read_json_file(path, "x", "the file", longest=8)
    with pytest.raises(RealCompoError, match="none that a file can have"):
        read_json_file(Path("a\0b"), "x", "the file")


def test_a_megabyte_of_anything_within_a_second() -> None:
    size = 1 << 20
    pieces = ("[", "{", '{"a":', '"', "9", "[1,", '"\\ud800",', " ", "[[],", '{"a":1},', "/*", "\\")
    for piece in pieces:
        start = time.perf_counter()
        with pytest.raises(RealCompoError):
            read_json(piece * (size // len(piece)), "x", "the text")
        assert time.perf_counter() - start < 1.0, piece


_values = st.recursive(
    st.none() | st.booleans() | st.integers(-LARGEST, LARGEST) | st.text(
        st.characters(exclude_categories=["Cs"])
    ) | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(
        st.text(st.characters(exclude_categories=["Cs"])), inner, max_size=4
    ),
    max_leaves=12,
)  # fmt: skip


@given(_values, st.booleans())
def test_good_json_comes_back(value: object, ascii_only: bool) -> None:
    assert parse_json(json.dumps(value, ensure_ascii=ascii_only)) == value


@given(st.text() | st.binary())
def test_any_text_gives_a_value_or_the_one_error(text: object) -> None:
    try:
        read_json(text, "x", "the text")
    except RealCompoError as error:
        assert str(error).isprintable()
