"""Where a language model is asked, and which secret may go there.

A workflow is often somebody else's file, and it names both the address and the environment
variable of the key. So a key is bound to its host: otherwise opening a stranger's workflow would
be enough to send them any variable of this machine.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import SplitResult, urlsplit, urlunsplit

from .errors import RealCompoError

KEY_HOSTS = {
    "ANTHROPIC_API_KEY": "api.anthropic.com",
    "DEEPSEEK_API_KEY": "api.deepseek.com",
    "FIREWORKS_API_KEY": "api.fireworks.ai",
    "GEMINI_API_KEY": "generativelanguage.googleapis.com",
    "GROQ_API_KEY": "api.groq.com",
    "HF_TOKEN": "router.huggingface.co",
    "MISTRAL_API_KEY": "api.mistral.ai",
    "OLLAMA_API_KEY": "ollama.com",
    "OPENAI_API_KEY": "api.openai.com",
    "OPENROUTER_API_KEY": "openrouter.ai",
    "TOGETHER_API_KEY": "api.together.xyz",
    "XAI_API_KEY": "api.x.ai",
}
"""The providers' customary variables and the one host that each key is for."""

_LOCAL_NAMES = (".local", ".lan", ".home.arpa", ".internal", ".localhost")
_PATH = "/chat/completions"


@dataclass(frozen=True)
class Endpoint:
    """An address that speaks the chat completions protocol; ``url`` is what is posted to."""

    url: str

    @property
    def parts(self) -> SplitResult:
        """The address taken apart."""
        return urlsplit(self.url)

    @property
    def shown(self) -> str:
        """The address for messages: without its query, which may hold what is not for logs."""
        return urlunsplit((self.parts.scheme, self.parts.netloc, self.parts.path, "", ""))

    @property
    def host(self) -> str:
        """Host and port, as messages name the server."""
        return self.parts.netloc

    @property
    def is_local(self) -> bool:
        """True for this machine and private networks, by address or by name."""
        name = (self.parts.hostname or "").rstrip(".")
        try:
            address = ipaddress.ip_address(name)
        except ValueError:
            return "." not in name or name.endswith(_LOCAL_NAMES)
        return address.is_loopback or (address.is_private and not address.is_unspecified)

    def same_origin(self, other: str) -> bool:
        """Is ``other`` an address of the same scheme, host and port?"""
        mine, its = self.parts, urlsplit(other)
        return (mine.scheme, mine.netloc) == (its.scheme, its.netloc)


def read_endpoint(text: str) -> Endpoint:
    """The address to post to, from what a user typed: a server, its API's root, or the full path.

    Raises RealCompoError for other schemes than http and https, a name or password in the
    address, and text that is no address.
    """
    remedy = "Write it like http://127.0.0.1:11434/v1"
    typed = text.strip()
    if not typed:
        raise RealCompoError(
            "endpoint",
            "there is no address",
            "Give the address of an OpenAI-compatible server, paste an answer into 'llm_output',"
            " or set 'method' to 'rules'",
        )
    try:
        parts = urlsplit(typed)
        hostname, _ = parts.hostname, parts.port
    except ValueError:
        raise RealCompoError("endpoint", "the text is no address", remedy) from None
    if parts.scheme not in ("http", "https"):
        raise RealCompoError("endpoint", "the address is neither http nor https", remedy)
    if parts.username is not None or parts.password is not None:
        raise RealCompoError(
            "endpoint",
            "the address holds a name or a password, which would be saved in the workflow",
            "Take it out; a key belongs in the environment variable that 'api_key_env' names",
        )
    if not hostname or re.search(r"[\s\\]", typed):
        raise RealCompoError("endpoint", "the address has no proper host", remedy)
    path = parts.path.rstrip("/")
    if not path.endswith(_PATH):
        path = (path or "/v1") + _PATH
    netloc = parts.netloc.lower()
    return Endpoint(urlunsplit((parts.scheme, netloc, path, parts.query, "")))


def read_key(name: str, endpoint: Endpoint, environment: Mapping[str, str]) -> str:
    """The key in the environment variable ``name`` for ``endpoint``; '' if no variable is named.

    A key goes to this machine and private networks, over https to the provider that the variable
    is customarily for (``KEY_HOSTS``), and else over https to the host that the variable
    ``<name>_HOST`` names. Raises RealCompoError otherwise. Messages never hold the field's text:
    somebody may have typed the key itself there.
    """
    where, name = "api_key_env", name.strip()
    if not name:
        return ""
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
        raise RealCompoError(
            where,
            "the field holds no name of an environment variable",
            "Write a name such as OPENAI_API_KEY; a key itself must not be in a workflow",
        )
    key = environment.get(name, "").strip()
    if not key:
        raise RealCompoError(
            where,
            "the environment variable that the field names is not set where ComfyUI runs",
            "Set it and restart ComfyUI, or empty the field if the server wants no key",
        )
    if not key.isascii() or not key.isprintable() or " " in key:
        raise RealCompoError(
            where,
            "the environment variable's value is no key: it has spaces or unusual characters",
            "Set it to the key alone",
        )
    if endpoint.is_local:
        return key
    if endpoint.parts.scheme != "https":
        raise RealCompoError(
            "endpoint",
            "a key would travel unencrypted over http to a host outside this network",
            "Use the https address",
        )
    allowed = environment.get(f"{name}_HOST", "").strip().lower() or KEY_HOSTS.get(name)
    if endpoint.parts.hostname != allowed:
        bound = f"is for {allowed}" if allowed else "is not bound to any host"
        raise RealCompoError(
            where,
            f"the key in that variable {bound}, and the endpoint is {endpoint.parts.hostname}",
            "If you trust that host, set one more environment variable, named as the key's with"
            " _HOST at its end, to the host's name",
        )
    return key
