"""Addresses of servers, as users type them and as they may be shown."""

from __future__ import annotations

from .errors import RunnerError, shown


def without_password(url: str) -> str:
    """An address as it may be shown and kept: without the user and password in it."""
    from yarl import URL

    return str(URL(url).with_user(None)).rstrip("/")


def server_address(url: str) -> str:
    """``url`` with its scheme and without a closing slash. Raises ``RunnerError``."""
    from yarl import URL

    try:
        found = URL(url if "://" in url else f"http://{url}")
    except ValueError:
        found = URL("")
    bare = not found.query_string and not found.fragment
    if found.scheme not in ("http", "https") or not found.host or not bare:
        raise RunnerError(f"{shown(url, 120)} is no address of a server: write http://host:8188.")
    return str(found).rstrip("/")
