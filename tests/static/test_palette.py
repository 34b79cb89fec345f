"""A colour means the same in the server's pictures and on the page."""

from __future__ import annotations

import re

from realcompo.balancer.pictures.palette import PALETTE, REALISM, SPATIAL, hex_of

from .sources import ROOT

PAGE = (ROOT / "js" / "palette.js").read_text(encoding="utf-8")
HEX = re.compile("#[0-9a-f]{6}")
# Pages' dark menu grey, and paper.
GROUNDS = ((0x35, 0x35, 0x35), (255, 255, 255))


def _luminance(colour: tuple[int, int, int]) -> float:
    linear = [(channel / 255) ** 2.2 for channel in colour]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_the_page_has_the_same_colours() -> None:
    regions, models = (line for line in PAGE.splitlines() if HEX.search(line))
    assert HEX.findall(regions) == [hex_of(colour) for colour in PALETTE]
    named = dict(re.findall(r'(\w+): "(#[0-9a-f]{6})"', models))
    assert named == {"realism": hex_of(REALISM), "spatial": hex_of(SPATIAL)}


def test_no_other_file_has_a_palette_of_its_own() -> None:
    known = {hex_of(colour) for colour in (*PALETTE, REALISM, SPATIAL)}
    own = {ROOT / "balancer" / "palette.py", ROOT / "js" / "palette.js"}
    files = [p for folder in ("balancer", "nodes", "bench") for p in (ROOT / folder).rglob("*.py")]
    files += (ROOT / "js").rglob("*.js")
    assert len(files) > 100
    copies = {
        path.relative_to(ROOT).as_posix()
        for path in files
        if path not in own
        and known & set(HEX.findall(path.read_text(encoding="utf-8").lower()))
    }
    assert not copies


def test_the_models_are_told_apart_on_every_ground() -> None:
    # yellow and blue, as the two ends of the mix map
    assert REALISM[0] > REALISM[2] and SPATIAL[2] > SPATIAL[0]
    for colour in (REALISM, SPATIAL):
        for ground in GROUNDS:
            low, high = sorted((_luminance(colour), _luminance(ground)))
            assert (high + 0.05) / (low + 0.05) > 3.0  # WCAG 2 for graphics
