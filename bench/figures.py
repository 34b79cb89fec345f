"""Pictures of the quality table: the same scenes by every method, and composition against realism.

matplotlib and Pillow are imported by the functions that draw, never with the module.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ..balancer.layout import Layout
from ..balancer.preview import PALETTE
from .rows import ABLATION, ALONE, CONTROL, OURS, SWAP
from .statistics import DISTANCE, Estimate, Summary, curve_of, parameter_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from PIL.ImageFont import FreeTypeFont

GAP, INK, GREY = 6, (25, 25, 25), (110, 110, 110)
LABEL_WIDTH = 132


def _font(size: int, bold: bool = False) -> FreeTypeFont:
    """DejaVu Sans as matplotlib carries it: there on every machine, so figures look the same."""
    from matplotlib import get_data_path
    from PIL import ImageFont

    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(str(Path(get_data_path()) / "fonts" / "ttf" / name), size)


def _wrapped(text: str, font: FreeTypeFont, room: int) -> str:
    """``text`` broken at spaces, and within words after hyphens, into lines of ``room`` pixels."""
    lines = [""]
    for word in text.replace("-", "-\0").replace(" ", " \0").split("\0"):
        if lines[-1] and font.getlength((lines[-1] + word).rstrip()) > room:
            lines.append("")
        lines[-1] += word
    return "\n".join(line.rstrip() for line in lines)


def contact_sheet(
    rows: Sequence[tuple[str, Tensor]],
    captions: Sequence[str],
    layouts: Sequence[Layout] | None,
    path: Path,
) -> None:
    """Write a picture with a row per method and a column per scene, layouts in the first row.

    ``rows``: label and pictures (K, 3, H, W) in 0..1 of the same K scenes and one size.
    ``captions`` (K) stand above the columns; ``layouts`` (K) are drawn as boxes in their colours,
    None where the methods get no boxes. Raises ValueError if a row has another number or size of
    pictures.
    """
    from PIL import Image, ImageDraw

    count, high, wide = len(captions), rows[0][1].shape[-2], rows[0][1].shape[-1]
    for label, pictures in rows:
        if pictures.shape != (count, 3, high, wide):
            raise ValueError(
                f"row '{label}' is {tuple(pictures.shape)}, not {(count, 3, high, wide)}"
            )
    if layouts is not None and len(layouts) != count:
        raise ValueError(f"{len(layouts)} layouts for {count} captions")
    small, strong = _font(11), _font(13, bold=True)
    texts = [_wrapped(caption, small, wide) for caption in captions]
    line = 14
    top = line * (1 + max(text.count("\n") for text in texts)) + GAP
    labels = ["layout"] * (layouts is not None) + [label for label, _ in rows]
    size = (LABEL_WIDTH + count * (wide + GAP), top + len(labels) * (high + GAP))
    sheet = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(sheet)
    for column, text in enumerate(texts):
        left = LABEL_WIDTH + column * (wide + GAP)
        # Captions of different length end at one height, right above their pictures.
        draw.multiline_text((left, top - GAP), text, fill=INK, font=small, spacing=1, anchor="ld")
        if layouts is not None:
            sheet.paste(_boxes(layouts[column], wide, high), (left, top))
    for number, label in enumerate(labels):
        y = top + number * (high + GAP)
        text = _wrapped(label, strong, LABEL_WIDTH - 2 * GAP)
        place = (GAP, y + high // 2)
        draw.multiline_text(place, text, fill=INK, font=strong, spacing=3, anchor="lm")
    for number, (_, pictures) in enumerate(rows, len(labels) - len(rows)):
        pixels = pictures.detach().float().cpu().clamp(0, 1).movedim(1, -1)
        for column, tile in enumerate((pixels * 255).round().to(torch.uint8).numpy()):
            place = (LABEL_WIDTH + column * (wide + GAP), top + number * (high + GAP))
            sheet.paste(Image.fromarray(tile), place)
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path)


def _boxes(layout: Layout, wide: int, high: int) -> Any:
    """A white tile with the regions' boxes and phrases, thin enough for a small picture.

    Articles are left out: a narrow box has no room for them.
    """
    from PIL import Image, ImageDraw

    tile = Image.new("RGB", (wide, high), (250, 250, 250))
    draw = ImageDraw.Draw(tile)
    draw.rectangle((0, 0, wide - 1, high - 1), outline=(205, 205, 205))
    font = _font(9)
    for number, region in enumerate(layout.regions):
        colour = PALETTE[number % len(PALETTE)]
        x0, y0, x1, y1 = (v * side for v, side in zip(region.box, (wide, high) * 2, strict=True))
        pale = tuple(255 - (255 - c) // 4 for c in colour)
        box = (x0, y0, max(x0 + 1, x1 - 1), max(y0 + 1, y1 - 1))
        draw.rectangle(box, outline=colour, fill=pale)
        phrase = region.phrase.removeprefix("a ").removeprefix("an ")
        text = _wrapped(phrase, font, max(24, round(x1 - x0) - 2))
        middle = ((x0 + x1) / 2, (y0 + y1) / 2)
        draw.multiline_text(middle, text, fill=INK, font=font, spacing=1, anchor="mm",
                            align="center")  # fmt: skip
    return tile


CURVES = {
    "fixed": ("#0072B2", "s", "-", "fixed mix (label: realism share)"),
    "switch": ("#E69F00", "o", "-", "switch (label: spatial share of steps)"),
    "mask-switch": ("#8C8C8C", "h", ":", "switch inside the regions only"),
}
ENDS = {"realism": ("#000000", "^", "realism model alone"),
        "spatial": ("#000000", "v", "spatial model alone")}  # fmt: skip
OUR_COLOUR, COLOURS = "#D55E00", ("#009E73", "#CC79A7", "#56B4E9", "#F0E442")
MARKERS = ("*", "D", "P", "X", "p", "<", ">")
"""Of points: Okabe and Ito's colours, told apart with every kind of colour vision, and markers
besides. There are 4 colours and 7 markers, so that they repeat together after 28 rows only."""


def trade_off(rows: Sequence[Summary], path: Path) -> None:
    """Write composition against realism: ``right`` against ``style`` and the Frechet distance.

    The baselines are drawn as curves from the realism model to the spatial one, every other row as
    a point, RealCompo's large and filled; bars are the 95 % intervals. The distance axis is turned
    over, so that up and right is better in both panels. Left out are rows held against another
    style (``style-``, ``realism-``), whose scales differ, ablations, which the table tells better,
    and rows that lack a metric.
    """
    # the object-oriented interface: pyplot would keep global state and look for a display
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    shown = [row for row in rows if not row.method.startswith((SWAP, ALONE, ABLATION))]
    figure = Figure(figsize=(12, 5.6), dpi=120, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, 2)
    for axis, metric, title in (
        (panels[0], "style", "Style score (higher is better)"),
        (panels[1], DISTANCE, "Frechet distance to real pictures (lower is better)"),
    ):
        drawn = [row for row in shown if "right" in row.metrics and metric in row.metrics]
        _draw_panel(axis, drawn, metric)
        axis.set_xlabel("objects of the right colour and shape in their box")
        axis.set_ylabel(title)
        axis.grid(color="#e6e6e6", linewidth=0.8)
        axis.set_axisbelow(True)
        axis.spines[["top", "right"]].set_visible(False)
    panels[1].invert_yaxis()
    handles, labels = [], []
    for axis in panels:
        for handle, label in zip(*axis.get_legend_handles_labels(), strict=True):
            if label not in labels:
                handles.append(handle)
                labels.append(label)
    if handles:
        figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False,
                      fontsize=9)  # fmt: skip
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)


def _bars(x: Estimate, y: Estimate) -> dict[str, Any]:
    """Lengths of the error bars; an interval that misses its figure has none on that side."""

    def sides(e: Estimate) -> np.ndarray:
        return np.array([[e.mean - e.low], [e.high - e.mean]]).clip(0)

    return {"xerr": sides(x), "yerr": sides(y)}


def _draw_panel(axis: Axes, rows: Sequence[Summary], metric: str) -> None:
    named = {row.method: row for row in rows}

    def at(row: Summary) -> tuple[Estimate, Estimate]:
        return row.metrics["right"], row.metrics[metric]

    on_curves: set[str] = set()
    for family, (colour, marker, dash, label) in CURVES.items():
        points = curve_of(rows, family)
        on_curves.update(row.method for row in points)
        told = [row for row in points if row.method not in ENDS]
        line = [at(row) for row in points]
        axis.plot([x.mean for x, _ in line], [y.mean for _, y in line], dash, color=colour,
                  linewidth=1.3, zorder=2)  # fmt: skip
        for number, row in enumerate(told):
            x, y = at(row)
            axis.errorbar(
                x.mean, y.mean, **_bars(x, y), color=colour, marker=marker, markersize=5,
                linestyle=dash, elinewidth=0.7, alpha=0.9, zorder=3,
                label=None if number else label,
            )  # fmt: skip
            value = (parameter_of(row.method) or ("", 0.0))[1]
            axis.annotate(f"{value:g}", (x.mean, y.mean), (-4, -11), textcoords="offset points",
                          fontsize=8, color=colour, ha="right")  # fmt: skip
    for name, (colour, marker, label) in ENDS.items():
        if name in named:
            x, y = at(named[name])
            axis.errorbar(x.mean, y.mean, **_bars(x, y), color=colour, marker=marker,
                          markersize=8, elinewidth=0.8, zorder=4, linestyle="none",
                          label=label)  # fmt: skip
    rest = [row for row in rows if row.method not in {*ENDS, *on_curves}]
    # Ours first: it then has the same marker in every edition of the figure.
    rest.sort(key=lambda row: (row.method != OURS, not row.method.startswith(OURS)))
    for number, row in enumerate(rest):
        main = row.method.startswith("realcompo")
        colour = OUR_COLOUR if row.method.startswith(OURS) else COLOURS[number % len(COLOURS)]
        marker = MARKERS[number % len(MARKERS)]
        x, y = at(row)
        axis.errorbar(
            x.mean, y.mean, **_bars(x, y), color=colour, marker=marker, linestyle="none",
            markersize=(13 if marker == "*" else 9) if main else 7, elinewidth=1.0, zorder=5,
            markerfacecolor=colour if main else "white", markeredgewidth=0.7 if main else 1.3,
            markeredgecolor="black" if main else colour,
            label="control: our mean shares, no gradient" if row.method == CONTROL else row.method,
        )  # fmt: skip
