"""Addresses of language models, and where a key may go."""

from __future__ import annotations

import pytest
from realcompo.balancer.errors import RealCompoError
from realcompo.balancer.llm.endpoint import read_endpoint, read_key

SECRET = "sk-not-for-strangers"


@pytest.mark.parametrize(
    ("typed", "url"),
    [
        ("http://127.0.0.1:11434/v1", "http://127.0.0.1:11434/v1/chat/completions"),
        (" http://localhost:8000/ ", "http://localhost:8000/v1/chat/completions"),
        ("https://API.openai.com/v1/", "https://api.openai.com/v1/chat/completions"),
        ("https://a.b/x/chat/completions", "https://a.b/x/chat/completions"),
        ("https://a.b/openai?api-version=1", "https://a.b/openai/chat/completions?api-version=1"),
        ("http://[::1]:80/v1#x", "http://[::1]:80/v1/chat/completions"),
    ],
)
def test_what_a_user_types_becomes_the_full_address(typed: str, url: str) -> None:
    endpoint = read_endpoint(typed)
    assert endpoint.url == url
    assert "?" not in endpoint.without_query


@pytest.mark.parametrize(
    "typed",
    ["", "  ", "localhost:11434", "ftp://a.b/v1", "file:///etc/passwd", "http://", "http:///v1",
     "javascript:alert(1)", "http://a b/v1", "http://a.b:99999/", "http://[::1/", "http://a\\@b/"],
)  # fmt: skip
def test_what_is_no_web_address_is_refused(typed: str) -> None:
    with pytest.raises(RealCompoError) as caught:
        read_endpoint(typed)
    assert caught.value.where == "endpoint" and caught.value.remedy


def test_secrets_in_the_address_are_refused_unspoken() -> None:
    with pytest.raises(RealCompoError) as caught:
        read_endpoint(f"https://me:{SECRET}@host.example/v1")
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "local"),
    [
        ("http://127.0.0.1/", True), ("http://[::1]/", True), ("http://192.168.3.4:8000/", True),
        ("http://10.1.1.1/", True), ("http://gpu-box:8000/", False), ("http://pc.local/", True),
        ("http://llm.example.com/", False), ("http://8.8.8.8/", False), ("http://0.0.0.0/", False),
        ("http://127.0.0.1.evil.example/", False), ("http://localhost.evil.example/", False),
    ],
)  # fmt: skip
def test_what_counts_as_this_network(url: str, local: bool) -> None:
    assert read_endpoint(url).is_local is local


@pytest.mark.parametrize(
    ("url", "name", "environment"),
    [
        ("http://127.0.0.1:1/", "ANY", {"ANY": SECRET}),
        ("http://192.168.0.9/", "ANY", {"ANY": f" {SECRET}\n"}),
        ("https://api.openai.com/v1", "OPENAI_API_KEY", {"OPENAI_API_KEY": SECRET}),
        ("https://llm.example/v1", "MY_KEY", {"MY_KEY": SECRET, "MY_KEY_HOST": "LLM.example"}),
        ("https://proxy.example/", "OPENAI_API_KEY",
         {"OPENAI_API_KEY": SECRET, "OPENAI_API_KEY_HOST": "proxy.example"}),
    ],
)  # fmt: skip
def test_where_a_key_may_go(url: str, name: str, environment: dict[str, str]) -> None:
    assert read_key(name, read_endpoint(url), environment) == SECRET


@pytest.mark.parametrize(
    ("url", "name", "environment", "where"),
    [
        ("https://evil.example/v1", "OPENAI_API_KEY", {"OPENAI_API_KEY": SECRET}, "api_key_env"),
        ("https://evil.example/v1", "AWS_SECRET_ACCESS_KEY", {"AWS_SECRET_ACCESS_KEY": SECRET},
         "api_key_env"),
        ("http://api.openai.com/v1", "OPENAI_API_KEY", {"OPENAI_API_KEY": SECRET}, "endpoint"),
        ("https://api.openai.com.evil.example/", "OPENAI_API_KEY", {"OPENAI_API_KEY": SECRET},
         "api_key_env"),
        ("https://llm.example/", "K", {"K": SECRET, "K_HOST": "other.example"}, "api_key_env"),
        ("http://127.0.0.1/", "MISSING", {}, "api_key_env"),
        ("http://127.0.0.1/", "EMPTY", {"EMPTY": "  "}, "api_key_env"),
        ("http://127.0.0.1/", SECRET, {}, "api_key_env"),
        ("http://127.0.0.1/", "hf_abcSECRET", {}, "api_key_env"),
        ("http://127.0.0.1/", "BAD", {"BAD": f"{SECRET}\r\nX-Evil: 1"}, "api_key_env"),
        ("http://127.0.0.1/", "BAD", {"BAD": f"{SECRET} {SECRET}"}, "api_key_env"),
    ],
)  # fmt: skip
def test_where_it_may_not_go_and_messages_never_hold_it(
    url: str, name: str, environment: dict[str, str], where: str
) -> None:
    with pytest.raises(RealCompoError) as caught:
        read_key(name, read_endpoint(url), environment)
    assert caught.value.where == where
    assert SECRET not in str(caught.value) and "hf_abcSECRET" not in str(caught.value)


def test_no_variable_means_no_key() -> None:
    assert read_key("", read_endpoint("https://evil.example"), {"": SECRET}) == ""
