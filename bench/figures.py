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

from ..balancer.layouts.layout import Layout
from ..balancer.pictures import palette
from .rows import ABLATION, ALONE, CONTROL, OURS, SWAP
from .statistics import DISTANCE, Estimate, Summary, curve_of, parameter_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from PIL.ImageFont import FreeTypeFont

GAP, INK = 6, (25, 25, 25)
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

    count, height, width = len(captions), rows[0][1].shape[-2], rows[0][1].shape[-1]
    for label, pictures in rows:
        if pictures.shape != (count, 3, height, width):
            raise ValueError(
                f"row '{label}' is {tuple(pictures.shape)}, not {(count, 3, height, width)}"
            )
    if layouts is not None and len(layouts) != count:
        raise ValueError(f"{len(layouts)} layouts for {count} captions")
    small, strong = _font(11), _font(13, bold=True)
    texts = [_wrapped(caption, small, width) for caption in captions]
    line = 14
    top = line * (1 + max(text.count("\n") for text in texts)) + GAP
    labels = ["layout"] * (layouts is not None) + [label for label, _ in rows]
    size = (LABEL_WIDTH + count * (width + GAP), top + len(labels) * (height + GAP))
    sheet = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(sheet)
    for column, text in enumerate(texts):
        left = LABEL_WIDTH + column * (width + GAP)
        # Captions of different length end at one height, right above their pictures.
        draw.multiline_text((left, top - GAP), text, fill=INK, font=small, spacing=1, anchor="ld")
        if layouts is not None:
            sheet.paste(_boxes(layouts[column], width, height), (left, top))
    for number, label in enumerate(labels):
        y = top + number * (height + GAP)
        text = _wrapped(label, strong, LABEL_WIDTH - 2 * GAP)
        corner = (GAP, y + height // 2)
        draw.multiline_text(corner, text, fill=INK, font=strong, spacing=3, anchor="lm")
    for number, (_, pictures) in enumerate(rows, len(labels) - len(rows)):
        pixels = pictures.detach().float().cpu().clamp(0, 1).movedim(1, -1)
        for column, tile in enumerate((pixels * 255).round().to(torch.uint8).numpy()):
            corner = (LABEL_WIDTH + column * (width + GAP), top + number * (height + GAP))
            sheet.paste(Image.fromarray(tile), corner)
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path)


def _boxes(layout: Layout, width: int, height: int) -> Any:
    """A white tile with the regions' boxes and phrases, thin enough for a small picture.

    Articles are left out: a narrow box has no room for them.
    """
    from PIL import Image, ImageDraw

    tile = Image.new("RGB", (width, height), (250, 250, 250))
    draw = ImageDraw.Draw(tile)
    draw.rectangle((0, 0, width - 1, height - 1), outline=(205, 205, 205))
    font = _font(9)
    for number, region in enumerate(layout.regions):
        colour = palette.region_colour(number)
        x0, y0, x1, y1 = (v * side for v, side in zip(region.box, (width, height) * 2, strict=True))
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
    "fixed": (palette.hex_of(palette.BLUE), "s", "-", "fixed mix (label: realism share)"),
    "switch": (palette.hex_of(palette.ORANGE), "o", "-", "switch (label: spatial share of steps)"),
    "mask-switch": ("#8C8C8C", "h", ":", "switch inside the regions only"),
}
ENDS = {"realism": ("#000000", "^", "realism model alone"),
        "spatial": ("#000000", "v", "spatial model alone")}  # fmt: skip
OUR_COLOUR = palette.hex_of(palette.VERMILLION)
COLOURS = [
    palette.hex_of(c) for c in (palette.GREEN, palette.PURPLE, palette.SKY, palette.YELLOW)
]
MARKERS = ("*", "D", "P", "X", "p", "<", ">")
"""Of points. There are 4 colours and 7 markers, so that they repeat together after 28 rows."""


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


def _draw_point(axis: Axes, row: Summary, metric: str, **style: Any) -> None:
    """A row at its two means, with the bars of its intervals."""
    x, y = row.metrics["right"], row.metrics[metric]
    axis.errorbar(x.mean, y.mean, **_bars(x, y), **style)


def _draw_curve(axis: Axes, rows: Sequence[Summary], metric: str, family: str) -> None:
    """A family of baselines from one model to the other; every point is labelled by its number."""
    colour, marker, dash, label = CURVES[family]
    means = [(row.metrics["right"].mean, row.metrics[metric].mean) for row in rows]
    axis.plot([x for x, _ in means], [y for _, y in means], dash, color=colour, linewidth=1.3,
              zorder=2)  # fmt: skip
    between = [(row, mean) for row, mean in zip(rows, means, strict=True) if row.method not in ENDS]
    for number, (row, mean) in enumerate(between):
        _draw_point(
            axis, row, metric, color=colour, marker=marker, markersize=5, linestyle=dash,
            elinewidth=0.7, alpha=0.9, zorder=3, label=None if number else label,
        )  # fmt: skip
        value = (parameter_of(row.method) or ("", 0.0))[1]
        axis.annotate(f"{value:g}", mean, (-4, -11), textcoords="offset points", fontsize=8,
                      color=colour, ha="right")  # fmt: skip


def _draw_method(axis: Axes, row: Summary, metric: str, number: int) -> None:
    """A row that is on no curve, by its number among them; RealCompo's is large and filled."""
    main = row.method.startswith("realcompo")
    colour = OUR_COLOUR if row.method.startswith(OURS) else COLOURS[number % len(COLOURS)]
    marker = MARKERS[number % len(MARKERS)]
    _draw_point(
        axis, row, metric, color=colour, marker=marker, linestyle="none",
        markersize=(13 if marker == "*" else 9) if main else 7, elinewidth=1.0, zorder=5,
        markerfacecolor=colour if main else "white", markeredgewidth=0.7 if main else 1.3,
        markeredgecolor="black" if main else colour,
        label="control: our mean shares, no gradient" if row.method == CONTROL else row.method,
    )  # fmt: skip


def _draw_panel(axis: Axes, rows: Sequence[Summary], metric: str) -> None:
    named = {row.method: row for row in rows}
    drawn = set(ENDS)
    for family in CURVES:
        points = curve_of(rows, family)
        drawn.update(row.method for row in points)
        _draw_curve(axis, points, metric, family)
    for name, (colour, marker, label) in ENDS.items():
        if name in named:
            _draw_point(axis, named[name], metric, color=colour, marker=marker, markersize=8,
                        elinewidth=0.8, zorder=4, linestyle="none", label=label)  # fmt: skip
    rest = [row for row in rows if row.method not in drawn]
    # Ours first: it then has the same marker in every edition of the figure.
    rest.sort(key=lambda row: (row.method != OURS, not row.method.startswith(OURS)))
    for number, row in enumerate(rest):
        _draw_method(axis, row, metric, number)
