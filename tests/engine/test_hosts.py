"""No spelling of a host brings a key to anybody but its own provider, this network or who is named.

The judge reads the address that is posted to as the operating system does (``inet_aton``,
``getaddrinfo``) and knows its own list of networks; it shares no code with what it judges.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Callable

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from realcompo.balancer.errors import RealCompoError
from realcompo.balancer.llm.endpoint import KEY_HOSTS, read_endpoint, read_key
from realcompo.balancer.llm.hosts import is_local_address, is_local_name, one_spelling
from yarl import URL

SECRET = "sk-not-for-strangers"
NAME = "OPENAI_API_KEY"


def address_of(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """The address that the system makes of ``host`` without asking anybody, None for a name."""
    try:
        return ipaddress.IPv4Address(socket.inet_aton(host))
    except (OSError, UnicodeError):
        pass
    try:
        found = socket.getaddrinfo(host, 80, flags=socket.AI_NUMERICHOST, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return None
    return ipaddress.ip_address(str(found[0][4][0]).partition("%")[0])


def is_near(host: str) -> bool:
    """Is ``host`` this machine or its own network, by bits and ends?"""
    address = address_of(host)
    if address is None:
        name = host.rstrip(".").lower()
        ends = (".localhost", ".local", ".lan", ".internal", ".home.arpa")
        return name == "localhost" or name.endswith(ends)
    raw = address.packed
    if len(raw) == 16 and raw[:12] == b"\0" * 10 + b"\xff\xff":
        raw = raw[12:]
    if len(raw) == 4:
        return (
            raw[0] in (10, 127) or raw[:2] == b"\xc0\xa8" or (raw[0] == 172 and 16 <= raw[1] <= 31)
        )
    return raw == b"\0" * 15 + b"\1" or raw[0] in (0xFC, 0xFD)


def key_for(address: str, environment: dict[str, str]) -> tuple[str, str] | None:
    """The host that is contacted and the key that it gets; None if the address is refused."""
    try:
        endpoint = read_endpoint(address)
        key = read_key(NAME, endpoint, environment)
    except RealCompoError as error:
        assert SECRET not in str(error)
        return None
    return URL(endpoint.url).raw_host or "", key


def numbers(base: int, join: bool) -> Callable[[str], str]:
    """Writes an IPv4 address in other numbers: each part, or all in one."""

    def write(host: str) -> str:
        try:
            address = ipaddress.IPv4Address(host)
        except ValueError:
            return host
        form = {8: "0{:o}", 10: "{}", 16: "0x{:x}"}[base]
        parts = [int(address)] if join else list(address.packed)
        return ".".join(map(form.format, parts))

    return write


def short(host: str) -> str:
    """127.0.0.1 as 127.1."""
    return f"{host.partition('.')[0]}.{host.rpartition('.')[2]}"


def mapped(host: str) -> str:
    """An IPv4 address in one of version 6."""
    return f"[::ffff:{host}]"


WAYS: list[Callable[[str], str]] = [
    str.upper, str.title, short, mapped, lambda host: mapped(host).replace("[::ffff:", "[::"),
    *(numbers(base, join) for base in (8, 10, 16) for join in (False, True)),
    lambda host: host.replace(".", "\u3002"), lambda host: host.replace(".", "\uff0e"),
    lambda host: host.replace(".", "\uff61"), lambda host: host.replace(".", "\u2024"),
    lambda host: host.replace(".", "%2e"), lambda host: host.replace(".", "\u3002", 1),
    lambda host: host.replace(".", ".."), lambda host: f"{host}.", lambda host: f"{host}..",
    lambda host: f"{host}\u3002", lambda host: f".{host}", lambda host: f"{host}%2e",
    lambda host: "".join(chr(ord(c) + 0xFEE0) if "!" <= c <= "~" else c for c in host),
    lambda host: "".join(chr(ord(c) + 0xFEE0) if c.isalnum() and c.isascii() else c for c in host),
    lambda host: "".join(f"%{ord(c) & 255:02x}" for c in host),
    lambda host: host.replace("o", "\u03bf"), lambda host: host.replace("a", "\u0430"),
    lambda host: host.replace("s", "\u017f"), lambda host: host.replace("l", "\u2113"),
    lambda host: host.replace("1", "\u2460"), lambda host: host.replace("0", "\u0660"),
    lambda host: f"api.openai.com@{host}", lambda host: f"{host}@api.openai.com",
    lambda host: f"api.openai.com\\@{host}", lambda host: f"api.openai.com%40{host}",
    lambda host: f"{host}\\api.openai.com", lambda host: f"{host}#api.openai.com",
    lambda host: f"{host}?.api.openai.com", lambda host: f"{host}%00.local",
    lambda host: f"{host}/.local", lambda host: f"{host}\uff0f.local",
    lambda host: f"{host}\uff20localhost", lambda host: f"{host}\uff1a80.local",
    lambda host: f"{host}\t", lambda host: host.replace(".", "\t."), lambda host: f" {host}",
    lambda host: f"{host}\u200b", lambda host: f"\u00ad{host}", lambda host: f"{host}\u202e",
    lambda host: host.replace("]", "%25eth0]"), lambda host: host.replace("]", "%eth0]"),
    lambda host: f"[{host}]", lambda host: host.strip("[]"), lambda host: f"xn--{host}",
    lambda host: f"{host}.local.evil.com", lambda host: f"localhost.{host}",
    lambda host: f"{host}:80", lambda host: f"{host}:", lambda host: f"{host}:80:80",
    lambda host: f"{host}:99999", lambda host: f"{host}:\uff18\uff10",
]  # fmt: skip

HOSTS = [
    "evil.com", "api.openai.com", "api.openai.com.evil.com", "evilapi.openai.com", "localhost",
    "localhost.evil.com", "evil-local", "evillocal", "ai", "gpu-box", "local", "lan", "pc.local",
    "pc.localdomain", "b\u00fccher.example", "xn--bcher-kva.example", "dead.beef", "0xevil.com",
    "8.8.8.8", "127.0.0.1", "192.168.1.2", "10.0.0.1", "172.16.0.1", "172.32.0.1", "192.169.0.1",
    "0.0.0.0", "0.0.0.1", "169.254.169.254", "100.64.0.1", "198.18.0.1", "240.0.0.1",
    "255.255.255.255", "224.0.0.1", "192.0.0.1", "[::1]", "[::]", "[fe80::1]", "[fd00::1]",
    "[fec0::1]", "[ff02::1]", "[2001:0:808:808::1]", "[2002:808:808::1]", "[64:ff9b::808:808]",
    "[64:ff9b:1::a00:1]", "[2001:db8::1]", "[2606:4700::1111]", "[::ffff:8.8.8.8]",
    "[::ffff:10.0.0.1]", "[::8.8.8.8]", "[::127.0.0.1]", "[::ffff:0:127.0.0.1]",
]  # fmt: skip


def written(host: str, ways: list[Callable[[str], str]]) -> str:
    for way in ways:
        host = way(host)
    return host


spelled = st.builds(written, st.sampled_from(HOSTS), st.lists(st.sampled_from(WAYS), max_size=3))
any_text = st.text(st.characters() | st.sampled_from(".:%@[]\\/0xai\u3002\uff0e"), max_size=20)


def assert_safe(scheme: str, host: str, named: str) -> None:
    environment = {NAME: SECRET} | ({f"{NAME}_HOST": named} if named else {})
    found = key_for(f"{scheme}://{host}/v1", environment)
    if found is None:
        return
    contacted, key = found
    assert key == SECRET
    # What is judged is what the system contacts: no other way to read it is left.
    assert contacted.isascii() and "%" not in contacted
    address = address_of(contacted)
    assert address is None or str(address) == contacted
    own = contacted == (named.lower() or KEY_HOSTS[NAME])
    assert is_near(contacted) or (own and (scheme == "https" or "." not in contacted))


@given(
    st.sampled_from(["http", "https"]),
    spelled | any_text,
    st.sampled_from(["", "gpu-box", "llm.example.com"]),
)
@settings(max_examples=max(500, settings().max_examples))
@example("http", "evil\u3002com", "")
@example("https", "gpu-box", "gpu-box")
def test_no_key_leaves_for_a_stranger(scheme: str, host: str, named: str) -> None:
    assert_safe(scheme, host, named)


@pytest.mark.parametrize("host", HOSTS)
def test_nor_by_any_one_way_to_write_a_host(host: str) -> None:
    for scheme in ("http", "https"):
        assert_safe(scheme, host, "")
        for way in WAYS:
            assert_safe(scheme, way(host), "")


@given(spelled | any_text)
def test_one_spelling_is_the_same_again(host: str) -> None:
    try:
        name = one_spelling(host)
    except ValueError as error:
        assert str(error).startswith("its host") or "no host" in str(error)
        return
    again = f"[{name}]" if ":" in name else name
    assert one_spelling(again) == name == (URL(f"http://{again}").raw_host or "")
    assert is_local_address(name) == (address_of(name) is not None and is_near(name))
    assert (is_local_address(name) or is_local_name(name)) == is_near(name)


REFUSED = [
    "evil\u3002com", "evil\uff0ecom", "evil\uff61com", "evil\u2024com", "evil%2ecom", "evil.com%2e",
    "0x08080808", "0x7f.1", "127.1", "2130706433", "010.0.0.1", "0177.0.0.1", "1.2.3", "256.1.1.1",
    "1.2.3.4.5", "0x", "a..b", ".a", "a..", "", ".", "a_b c", "-a.com", "a-.com", "a" * 64 + ".com",
    "a." * 127 + "com", "[::1%eth0]", "[fe80::1%25eth0]", "[::1", "::1", "[1.2.3.4]", "[v1.a]",
    "me@evil.com", "evil.com\\@a", "evil.com\t", "a\u200bb.com", "a\u202eb.com", "\uff11\u3002com",
    "\u2488com", "\u2100.com", "a:80:80", "\u00ad",
]  # fmt: skip


@pytest.mark.parametrize("host", REFUSED)
def test_what_programs_read_in_different_ways_is_refused(host: str) -> None:
    with pytest.raises(ValueError):
        one_spelling(host)
    with pytest.raises(RealCompoError) as caught:
        read_endpoint(f"http://{host}/v1")
    assert caught.value.where == "endpoint"


@pytest.mark.parametrize(
    ("host", "name"),
    [
        ("API.OpenAI.com", "api.openai.com"),
        ("api.openai.com.", "api.openai.com"),
        ("b\u00fccher.example", "xn--bcher-kva.example"),
        ("127.0.0.1", "127.0.0.1"),
        ("\uff45vil.com", "evil.com"),
        ("[0:0:0:0:0:0:0:1]", "::1"),
        ("gpu-box", "gpu-box"),
        ("my_box.local", "my_box.local"),
        ("[FD00::0A]", "fd00::a"),
    ],
)
def test_what_a_host_is_written_like(host: str, name: str) -> None:
    assert one_spelling(host) == name


@pytest.mark.parametrize(
    ("address", "named", "contacted"),
    [
        ("http://127.0.0.1:11434/v1", "", "127.0.0.1"), ("http://localhost/", "", "localhost"),
        ("http://[::1]:8000", "", "::1"), ("http://[::ffff:10.0.0.1]/", "", "::ffff:a00:1"),
        ("http://172.31.255.255/", "", "172.31.255.255"), ("http://[fd12::1]/", "", "fd12::1"),
        ("http://pc.local./", "", "pc.local"), ("http://llm.home.arpa/", "", "llm.home.arpa"),
        ("https://API.openai.com./v1", "", "api.openai.com"),
        ("https://\uff41pi.openai.com/v1", "", "api.openai.com"),
        ("https://proxy.example/", "Proxy.Example.", "proxy.example"),
        ("http://gpu-box:8000/", "gpu-box", "gpu-box"), ("https://gpu-box/", "GPU-box", "gpu-box"),
        ("https://b\u00fccher.example/", "xn--bcher-kva.example", "xn--bcher-kva.example"),
        ("https://xn--bcher-kva.example/", "b\u00fccher.example", "xn--bcher-kva.example"),
        ("https://8.8.8.8/", "8.8.8.8", "8.8.8.8"),
        ("https://[2001:db8::1]/", "2001:db8::1", "2001:db8::1"),
    ],
)  # fmt: skip
def test_keys_do_reach_their_own_host(address: str, named: str, contacted: str) -> None:
    environment = {NAME: SECRET} | ({f"{NAME}_HOST": named} if named else {})
    found = key_for(address, environment)
    assert found is not None and found[1] == SECRET
    assert found[0] in (contacted, contacted.replace("::ffff:a00:1", "::ffff:10.0.0.1"))


STRANGERS = [
    "ai", "ai.", "gpu-box", "169.254.169.254", "[fe80::1]", "198.18.0.1", "240.0.0.1", "0.0.0.0",
    "100.64.0.1", "[2001:0:808:808::1]", "[2002:a00:1::1]", "[64:ff9b::a00:1]", "[::ffff:8.8.8.8]",
    "[::]", "local", "lan", "pc.localdomain", "api.openai.com", "localhost.evil.com",
]  # fmt: skip


@pytest.mark.parametrize("host", STRANGERS)
def test_hosts_that_are_no_neighbours(host: str) -> None:
    assert key_for(f"http://{host}/v1", {NAME: SECRET}) is None
    assert not read_endpoint(f"http://{host}/v1").is_local


@pytest.mark.parametrize(
    "named", ["http://a.com", "a.com:80", "a b", "%61", "a\u3002com", "*", "@"]
)
def test_a_named_host_that_is_none_is_told(named: str) -> None:
    endpoint = read_endpoint("https://a.com/v1")
    with pytest.raises(RealCompoError) as caught:
        read_key(NAME, endpoint, {NAME: SECRET, f"{NAME}_HOST": named})
    assert caught.value.where == "api_key_env" and "_HOST" in caught.value.problem
