"""Prompts in many scripts and notations, and what must hold for every tokenizer that reads them."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Callable
from typing import Any

from hypothesis import strategies as st
from realcompo.balancer.attention.prompt_words import describe_match
from realcompo.balancer.attention.tokens import EncodedPrompt, match_regions, suggest
from realcompo.balancer.errors import RealCompoError
from realcompo.balancer.layouts.layout import Layout, Region
from realcompo.balancer.planner.answer import read_answer
from realcompo.balancer.planner.rules import plan_by_rules
from realcompo.balancer.text.nearest import nearest_wording
from realcompo.balancer.text.weights import plain_text
from realcompo.balancer.text.words import find_phrase, words_of

BOX = (0.1, 0.1, 0.5, 0.5)
MISSING = "embedding:nobody"
Encode = Callable[[str], EncodedPrompt]

PARTS = (
    "a red car", "the woman's red-haired doll", "a woman", "1girl", "12 cats", "2 cats",
    "a caf\u00e9 table", "a cafe\u0301 table", "der gro\u00dfe B\u00e4r", "\u0130stanbul",
    "\u03bf \u03ba\u03cc\u03ba\u03ba\u03b9\u03bd\u03bf\u03c2 \u03a3\u039a\u038e\u039b\u039f\u03a3",
    "\u043a\u0440\u0430\u0441\u043d\u044b\u0439 \u0448\u0430\u0440", "\u0439\u043e\u0436",
    "\u0642\u0637\u0629 \u062d\u064e\u0645\u0652\u0631\u0627\u0621",
    "\u05d7\u05ea\u05d5\u05dc \u05d0\u05b8\u05d3\u05d5\u05b9\u05dd",
    "\u0932\u093e\u0932 \u092c\u093f\u0932\u094d\u0932\u0940",
    "\u0928\u092e\u0938\u094d\u0924\u0947 \u0926\u0941\u0928\u093f\u092f\u093e",
    "\u0e25\u0e39\u0e01\u0e41\u0e21\u0e27\u0e2a\u0e35\u0e41\u0e14\u0e07\u0e19\u0e49\u0e33",
    "\u1786\u17d2\u1798\u17b6\u1780\u17d2\u179a\u17a0\u1798",
    "\u4e00\u53ea\u7ea2\u8272\u7684\u732b\u548c\u4e00\u4e2a\u84dd\u8272\u7684\u7403",
    "\u8d64\u3044\u732b\u3068cat\u30dc\u30fc\u30eb", "\uff76\uff9e\uff70\uff84\uff9e",
    "\ube68\uac04 \uace0\uc591\uc774", "\u1107\u1161\u11af\u1100\u1161\u11ab \u1100\u1169\u11bc",
    "a \U0001f436", "\U0001f469\u200d\U0001f680", "\U0001f1e9\U0001f1ea flag",
    "a \U0001f44d\U0001f3fd thumb", "\u2764\ufe0f", "a \U0001f436\U0001f431 pair",
    "a 1\ufe0f\u20e3",
    "a dog\u2019s bowl", "a dog's bowl", "\u201ca big tree\u201d", "rock \u2013 paper",
    "hatsune_miku", "red_ball", "a saber \\(fate\\) doll", "a lamp \\(old:1.2\\)",
    "(a red car:1.3)", "((a tiny:0.5) dog:1.2)", "a (blue:1.1) ball", "a (lone bracket",
    "embedding:charA", "a embedding:charA girl", "(embedding:charA:1.1)", MISSING,
    "a {red|blue} ball", "__animal__", "a __colour__ hat", "\uff21\uff22\uff23 1\u00bd",
    "a red, shiny car", "a red shiny car", "la\u00adzy dog", "zero\u200bwidth", "<b>a</b> &amp;",
)  # fmt: skip
BETWEEN = (", ", " and ", " next to ", " ", ". ", " on the left, ", "\n", "\u548c", " with ", "; ",
           "\u3001", " (", ") ")  # fmt: skip

parts = st.one_of(st.sampled_from(PARTS), st.text(max_size=6).filter(str.isprintable))
prompts = st.lists(st.tuples(parts, st.sampled_from(BETWEEN)), min_size=1, max_size=6).map(
    lambda row: "".join(part + between for part, between in row)
)
spoilt = st.sampled_from((
    lambda text: text, str.upper, lambda text: "a " + text, lambda text: text[:-1],
    lambda text: text[:1] + text[2:], lambda text: text + "s", lambda text: text.replace(" ", "_"),
    lambda text: unicodedata.normalize("NFD", text), lambda text: text.replace("'", "\u2019"),
    lambda text: f"({text}:1.2)", lambda text: text.replace(" ", ", "),
))  # fmt: skip


@st.composite
def wordings(draw: st.DrawFn) -> tuple[str, str, str]:
    """A prompt, some of its words as they stand there, and the same, perhaps spoilt."""
    prompt = draw(prompts)
    plain = plain_text(prompt)
    words = words_of(plain)
    if not words:
        return prompt, "", ""
    first = draw(st.integers(0, len(words) - 1))
    last = draw(st.integers(first, min(first + 4, len(words) - 1)))
    own = plain[words[first].start : words[last].end]
    before = plain[: words[first].start][-1:]
    if own.startswith("embedding:") and before and not before.isspace():
        own = ""  # read as text where it stands, but as an embedding alone
    return prompt, own, draw(spoilt)(own)


def found(prompt: str, encode: Encode, *phrases: str, occurrence: int = 0) -> list[tuple[int, ...]]:
    regions = tuple(Region(phrase, BOX, occurrence=occurrence) for phrase in phrases)
    matches = match_regions(Layout(regions, prompt), encode(prompt), encode)
    return [match.positions for match in matches]


def holds_together(prompt: str, own: str, phrase: str, encode: Encode) -> None:
    """What planner, rules, captions and suggestions give, the sampler finds."""
    encoded, plain = encode(prompt), plain_text(prompt)
    try:
        plan = plan_by_rules(prompt)
    except RealCompoError:
        pass  # names no thing
    else:
        matches = match_regions(Layout(plan.regions, prompt), encoded, encode)
        for region, match in zip(plan.regions, matches, strict=True):
            assert match.positions, (prompt, region)
            assert "embedding" not in region.phrase.split(), region
    given = [plain[slice(*place)] for place in find_phrase(plain, phrase)]
    near = nearest_wording(plain, phrase)
    given += [near] if near else []
    if own.strip():
        assert find_phrase(plain, own), (prompt, own)
        given.append(own)
        text = json.dumps({"regions": [{"phrase": phrase, "box": list(BOX)}]})
        given += [region.phrase for region in read_answer(text, prompt).regions]
    answer: dict[str, Any] = {"things": []}
    if phrase.strip():
        answer = describe_match(Layout((Region(phrase, BOX),), prompt), encoded, encode)
        (entry,) = answer["regions"]
        given += [entry["suggestion"]] if entry["suggestion"] else []
        proposed = suggest(encoded, phrase, encode)
        given += [proposed] if proposed else []
    given += answer["things"]
    wanted = [text for text in dict.fromkeys(given) if not encode(text).missing]
    for text, positions in zip(wanted, found(prompt, encode, *wanted), strict=True):
        assert positions, (prompt, text)
