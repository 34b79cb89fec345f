"""The pack's colours: a region, and a model, has one colour in every picture and on the page.

``js/palette.js`` has the same values for the page; a static test holds the two equal.
"""

from __future__ import annotations

Rgb = tuple[int, int, int]

# Okabe and Ito's colours ("Color Universal Design", 2008), told apart by colour-blind eyes too.
PALETTE: tuple[Rgb, ...] = (
    (230, 159, 0), (86, 180, 233), (0, 158, 115), (213, 94, 0),
    (204, 121, 167), (240, 228, 66), (0, 114, 178),
)  # fmt: skip
ORANGE, SKY, GREEN, VERMILLION, PURPLE, YELLOW, BLUE = PALETTE

MIX_COLOURS = "cividis"
"""matplotlib's map for the realism share 0..1: blue for the spatial model, yellow for the other."""
REALISM: Rgb = (178, 138, 0)
SPATIAL: Rgb = (74, 134, 200)
"""The two ends of that map for lines and bars, readable on white and on the page's dark grey."""


def region_colour(number: int) -> Rgb:
    """The colour of a layout's region, counted from 0."""
    return PALETTE[number % len(PALETTE)]


def hex_of(colour: Rgb) -> str:
    """``#rrggbb``, as matplotlib and the page write a colour."""
    return "#{:02x}{:02x}{:02x}".format(*colour)
