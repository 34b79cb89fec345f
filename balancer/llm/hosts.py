"""Names of hosts: written in one way only, and which of them are this machine's own network."""

from __future__ import annotations

import ipaddress
import re
import unicodedata

from yarl import URL

LONGEST = 253
"""Characters of a host's name, as the name system has it."""
_LABEL = re.compile(r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?")
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")

# Named one by one: what Python calls private also holds networks that are no neighbours.
# - 169.254/16 and fe80::/10 are anybody on the cable, and the address that clouds keep for their
#   machines' own credentials;
# - 100.64/10 is the provider's network, shared with its other customers;
# - 198.18/15 is for measuring, 240/4 and 0/8 for nobody: a router may send them anywhere;
# - 2001::/32 (Teredo), 2002::/16 and 64:ff9b::/96 are ways to public addresses.
_LOCAL = tuple(
    ipaddress.ip_network(text)
    for text in (
        "127.0.0.0/8", "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16",
        "::1/128", "fc00::/7",
    )
)  # fmt: skip

# Names that no public server can have: .local is answered by the machines of this network (RFC
# 6762), .home.arpa (RFC 8375) and .internal (by ICANN's resolution) are never given to anybody,
# .lan is what many home routers call their machines. A key for one of them goes only to addresses
# of this network (``ChatClient``), so that a name which somebody answers from outside gets none.
_LOCAL_NAMES = (".localhost", ".local", ".lan", ".home.arpa", ".internal")


def _deceives(letter: str) -> bool:
    """Does a letter of another script become a dot, a slash or the like on its way?"""
    plain = unicodedata.normalize("NFKC", letter)
    signs = any(c.isascii() and not c.isalnum() and c != "-" for c in plain)
    return not letter.isascii() and (signs or "\u3002" in plain)


def one_spelling(written: str) -> str:
    """The host that a client contacts for the host ``written`` in an address, in its one spelling.

    Lower case, A-labels (``xn--``) for other scripts, no dot at the end, addresses as
    ``ipaddress`` writes them, those of version 6 without brackets. Raises ValueError, with a part
    of a sentence, for everything that programs read in different ways: '%', dots of other
    scripts, invisible characters, numbers that are an address to some only (``0x7f.1``,
    ``2130706433``, ``010.0.0.1``), empty labels, names or passwords, zones.
    """
    if not written or len(written) > 4 * LONGEST:
        raise ValueError("it has no host, or one that is too long")
    if not written.isprintable() or re.search(r"[\s\\%@/?#]", written):
        raise ValueError("its host holds characters that no host's name has")
    if not written.isascii() and any(map(_deceives, written)):
        raise ValueError("its host holds signs that only look like a plain host's")
    try:
        host = URL(f"http://{written}").raw_host or ""
    except ValueError:
        raise ValueError("its host is no name that can be looked up") from None
    if written.startswith("[") or ":" in written or ":" in host:
        if not (written.startswith("[") and written.endswith("]")):
            raise ValueError("its host is no address")
        try:
            return str(ipaddress.IPv6Address(host))
        except ValueError:
            raise ValueError("its host is no address of version 6") from None
    host = host.lower().removesuffix(".")
    labels = host.split(".")
    if len(host) > LONGEST or not all(map(_LABEL.fullmatch, labels)):
        raise ValueError("its host is no name that can be looked up")
    if _NUMBER.fullmatch(labels[-1]):
        try:
            return str(ipaddress.IPv4Address(host))
        except ValueError:
            raise ValueError("its host is a number, and no address of four numbers") from None
    return host


def is_local_address(text: str) -> bool:
    """Is ``text`` an address of this machine or of a private network? False for a name."""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return False
    inner = getattr(address, "ipv4_mapped", None)
    address = address if inner is None else inner
    return any(address in net for net in _LOCAL if net.version == address.version)


def is_local_name(host: str) -> bool:
    """Is ``host`` (of ``one_spelling``) a name that only this machine or its network answers?

    A name without a dot is none: whoever runs a top domain may answer to it ('ai').
    """
    return host == "localhost" or host.endswith(_LOCAL_NAMES)
