"""What the pack's page asks the host's server: do these phrases stand in this prompt?

The page must not guess: a word that it marks as found is one that the sampler finds, because the
answer comes from the same tokenizer and the same matcher.
"""

from __future__ import annotations

import asyncio
import sys
import threading
from typing import Any

from ..errors import RealCompoError

MATCH = "/realcompo/match"
LONGEST_PROMPT, MOST_REGIONS = 20_000, 512

# The host's tokenizer is made once, and making it twice at a time would cost seconds.
_one_at_a_time = threading.Lock()


def match(value: object) -> dict[str, Any]:
    """Answer to one question: a layout's JSON value with its prompt, in ``describe_match``'s form.

    Raises RealCompoError for anything that is no layout, or is larger than any that is meant.
    """
    # Here and not above: this module is imported when the pack is registered.
    from ..layout import Layout
    from ..prompt_words import describe_match

    layout = Layout.from_dict(value)
    if len(layout.prompt) > LONGEST_PROMPT or len(layout.regions) > MOST_REGIONS:
        raise RealCompoError(
            "layout",
            f"the prompt has {len(layout.prompt)} characters and the layout "
            f"{len(layout.regions)} regions",
            f"Up to {LONGEST_PROMPT} characters and {MOST_REGIONS} regions are looked at",
        )
    from .text import encode_prompt

    with _one_at_a_time:
        return describe_match(layout, encode_prompt(layout.prompt), encode_prompt)


def register() -> bool:
    """Add the route to the running server; False where there is none (a script, a test).

    The server module is never imported from here: only a host that serves has done so.
    """
    server = getattr(sys.modules.get("server"), "PromptServer", None)
    routes = getattr(getattr(server, "instance", None), "routes", None)
    if routes is None:
        return False
    from aiohttp import web

    @routes.post(MATCH)
    async def answer(request: Any) -> Any:
        try:
            value = await request.json()
            # Off the event loop: the first question loads the tokenizer.
            return web.json_response(await asyncio.to_thread(match, value))
        except RealCompoError as error:
            return web.json_response({"error": str(error)}, status=400)
        except ValueError:  # the body is no JSON
            return web.json_response({"error": "The request holds no JSON."}, status=400)

    return True
