"""Where a language model is asked, and which secret may go there.

A workflow is often somebody else's file, and it names both the address and the environment
variable of the key. So a key is bound to its host: otherwise opening a stranger's workflow would
be enough to send them any variable of this machine.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import SplitResult, urlsplit, urlunsplit

from ..errors import RealCompoError
from .hosts import is_local_address, is_local_name, one_spelling

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

LONGEST = 2048
"""Characters of an address."""
_PATH = "/chat/completions"
_REMEDY = "Write it like http://127.0.0.1:11434/v1"


@dataclass(frozen=True)
class Endpoint:
    """An address that speaks the chat completions protocol; ``url`` is what is posted to.

    ``name`` is its host in one spelling (``hosts.one_spelling``), and the very text that stands in
    ``url``: what is judged is what is contacted.
    """

    url: str
    name: str

    @property
    def parts(self) -> SplitResult:
        """The address taken apart."""
        return urlsplit(self.url)

    @property
    def without_query(self) -> str:
        """The address for messages: without its query, which may hold what is not for logs."""
        return urlunsplit((self.parts.scheme, self.parts.netloc, self.parts.path, "", ""))

    @property
    def host(self) -> str:
        """Host and port, as messages name the server."""
        return self.parts.netloc

    @property
    def is_local(self) -> bool:
        """True for this machine and private networks, by address or by name."""
        return is_local_address(self.name) or is_local_name(self.name)

    @property
    def stays_local(self) -> bool:
        """Whether a key may only go to an address of this network, whatever the name resolves to:
        over plain http, and to names that nobody vouches for by a certificate."""
        return self.parts.scheme == "http" or self.is_local

    def same_origin(self, other: str) -> bool:
        """Is ``other`` an address of the same scheme, host and port?"""
        mine, its = self.parts, urlsplit(other)
        return (mine.scheme, mine.netloc) == (its.scheme, its.netloc)


def read_endpoint(text: str) -> Endpoint:
    """The address to post to, from what a user typed: a server, its API's root, or the full path.

    Raises RealCompoError for other schemes than http and https, a name or password in the
    address, a host that programs read in different ways, and text that is no address.
    """
    typed = text.strip()
    if not typed:
        raise RealCompoError(
            "endpoint",
            "there is no address",
            "Give the address of an OpenAI-compatible server, paste an answer into 'llm_output',"
            " or set 'method' to 'rules'",
        )
    if len(typed) > LONGEST:
        raise _refused(f"the address has {len(typed)} characters, and up to {LONGEST} are read")
    if re.search(r"[\s\\]", typed) or not typed.isprintable():
        raise _refused("the address holds spaces, backslashes or invisible characters")
    try:
        parts = urlsplit(typed)
    except ValueError:
        raise _refused("the text is no address") from None
    if parts.scheme not in ("http", "https"):
        raise _refused("the address is neither http nor https")
    if "@" in parts.netloc:
        raise RealCompoError(
            "endpoint",
            "the address holds a name or a password, which would be saved in the workflow",
            "Take it out; a key belongs in the environment variable that 'api_key_env' names",
        )
    written, port = re.fullmatch(r"(.*?)(?::([0-9]*))?", parts.netloc, re.ASCII).groups()  # type: ignore[union-attr]
    if port and not 0 < int(port[:6]) < 1 << 16:
        raise _refused("the address's port is none")
    try:
        name = one_spelling(written)
    except ValueError as error:
        raise _refused(f"the address cannot be used: {error}") from None
    path = parts.path.rstrip("/")
    if not path.endswith(_PATH):
        path = (path or "/v1") + _PATH
    netloc = f"[{name}]" if ":" in name else name
    if port:
        netloc += f":{int(port)}"
    return Endpoint(urlunsplit((parts.scheme, netloc, path, parts.query, "")), name)


def _refused(problem: str) -> RealCompoError:
    return RealCompoError("endpoint", problem, _REMEDY)


def read_key(name: str, endpoint: Endpoint, environment: Mapping[str, str]) -> str:
    """The key in the environment variable ``name`` for ``endpoint``; '' if no variable is named.

    A key goes to this machine and private networks, over https to the provider that the variable
    is customarily for (``KEY_HOSTS``), and else over https to the host that the variable
    ``<name>_HOST`` names; a name without a dot ('gpu-box') counts as one of this network if that
    variable names it. Raises RealCompoError otherwise. Messages never hold the field's text:
    somebody may have typed the key itself there. Whoever sends the key must heed
    ``Endpoint.stays_local``.
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
    named = environment.get(f"{name}_HOST", "").strip()
    allowed = _named_host(named) if named else KEY_HOSTS.get(name)
    neighbour = "." not in endpoint.name and endpoint.name == allowed
    if endpoint.parts.scheme != "https" and not neighbour:
        if "." not in endpoint.name and ":" not in endpoint.name:
            raise RealCompoError(
                where,
                f"'{endpoint.name}' may be a machine of this network or somebody else's server",
                "If you trust that host, set one more environment variable, named as the key's with"
                " _HOST at its end, to the host's name; or write its address, such as 192.168.0.2",
            )
        raise RealCompoError(
            "endpoint",
            "a key would travel unencrypted over http to a host outside this network",
            "Use the https address",
        )
    if endpoint.name != allowed:
        bound = f"is for {allowed}" if allowed else "is not bound to any host"
        raise RealCompoError(
            where,
            f"the key in that variable {bound}, and the endpoint is {endpoint.name}",
            "If you trust that host, set one more environment variable, named as the key's with"
            " _HOST at its end, to the host's name",
        )
    return key


def _named_host(text: str) -> str:
    """The host that a ``_HOST`` variable names, in the spelling that endpoints have."""
    try:
        return one_spelling(f"[{text}]" if text.count(":") > 1 and text[0] != "[" else text)
    except ValueError:
        raise RealCompoError(
            "api_key_env",
            "the variable with _HOST at its end holds no host's name",
            "Set it to the host alone, such as llm.example.com, without https:// and port",
        ) from None
