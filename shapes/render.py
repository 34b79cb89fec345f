"""Pictures of scenes, drawn from signed distances, in the styles realistic, plain, sketch and neon.

Each shape's signed distance is tabulated once and sampled per object in a crop around its box at
twice the resolution, so that edges are anti-aliased and thousands of pictures take a minute.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from .world import HUES, SHAPES, STYLES, Scene

TABLE_EXTENT = 1.8
TABLE_SIZE = 256
SUPERSAMPLE = 2
# Crop around an object in fractions of the picture: the largest box plus room for its shadow.
CROP = 0.68


def _polygon(shape: str) -> list[tuple[float, float]]:
    """Corners of a shape that spans [-1, 1] x [-1, 1] (y down)."""
    if shape == "square":
        return [(-1, -1), (1, -1), (1, 1), (-1, 1)]
    if shape == "triangle":
        return [(0, -1), (1, 1), (-1, 1)]
    if shape == "cross":
        a = 0.36
        quarter = [(-a, -1), (a, -1), (a, -a)]
        return [
            (x * c - y * s, x * s + y * c)
            for c, s in ((1, 0), (0, 1), (-1, 0), (0, -1))
            for x, y in quarter
        ]
    points = []
    for corner in range(10):
        radius = 1.0 if corner % 2 == 0 else 0.46
        angle = math.pi * corner / 5
        points.append((radius * math.sin(angle), -radius * math.cos(angle)))
    xs, ys = [p[0] for p in points], [p[1] for p in points]
    return [
        (2 * (x - min(xs)) / (max(xs) - min(xs)) - 1, 2 * (y - min(ys)) / (max(ys) - min(ys)) - 1)
        for x, y in points
    ]


def signed_distance(shape: str, x: Tensor, y: Tensor) -> Tensor:
    """Signed distance to a shape that spans [-1, 1]^2, negative inside; any tensor shape."""
    if shape == "circle":
        return torch.sqrt(x * x + y * y) - 1
    corners = _polygon(shape)
    # Corners are pulled in and the distance is offset back: rounded corners, same extent.
    rounding = 0.06
    corners = [(px * (1 - rounding), py * (1 - rounding)) for px, py in corners]
    distance = torch.full_like(x, 1e9)
    inside = torch.zeros_like(x, dtype=torch.bool)
    for (ax, ay), (bx, by) in zip(corners, corners[1:] + corners[:1], strict=True):
        ex, ey, wx, wy = bx - ax, by - ay, x - ax, y - ay
        along = ((wx * ex + wy * ey) / (ex * ex + ey * ey)).clamp(0, 1)
        distance = torch.minimum(distance, (wx - ex * along) ** 2 + (wy - ey * along) ** 2)
        crosses = (ay > y) != (by > y)
        inside ^= crosses & (wx < ex * wy / (ey if ey else 1e-9))
    return torch.where(inside, -distance.sqrt(), distance.sqrt()) - rounding


@lru_cache(maxsize=1)
def _tables() -> Tensor:
    """(5, 3, T, T): signed distance and its gradient (x, y) for each shape."""
    # The cached tables outlive the call: a first use inside inference mode must not make them
    # inference tensors, which later training could not use.
    with torch.inference_mode(False), torch.no_grad():
        axis = torch.linspace(-TABLE_EXTENT, TABLE_EXTENT, TABLE_SIZE)
        y, x = torch.meshgrid(axis, axis, indexing="ij")
        tables = []
        for shape in SHAPES:
            sd = signed_distance(shape, x, y)
            soft = F.avg_pool2d(F.pad(sd[None, None], (4, 4, 4, 4), mode="replicate"), 9, 1)[0, 0]
            gy, gx = torch.gradient(soft, spacing=float(axis[1] - axis[0]))
            tables.append(torch.stack((sd, gx, gy)))
        return torch.stack(tables)


def hsv_to_rgb(hue: Tensor, saturation: Tensor, value: Tensor) -> Tensor:
    """Colours (..., 3) in 0..1 from hue, saturation, value in 0..1 (standard hexcone model)."""
    offsets = torch.tensor([5.0, 3.0, 1.0])
    k = (offsets + hue[..., None] * 6) % 6
    return value[..., None] * (1 - saturation[..., None] * torch.minimum(k, 4 - k).clamp(0, 1))


def _uniform(generator: torch.Generator, shape: Sequence[int], low: float, high: float) -> Tensor:
    return torch.rand(tuple(shape), generator=generator) * (high - low) + low


def _value_noise(
    generator: torch.Generator, count: int, size: int, cells: Sequence[tuple[int, int]]
) -> Tensor:
    """(N, 1, S, S) sum of smoothly interpolated random lattices, halving in strength, about +-1."""
    total = torch.zeros(count, 1, size, size)
    for octave, cell in enumerate(cells):
        lattice = torch.rand((count, 1, *cell), generator=generator) * 2 - 1
        total += F.interpolate(lattice, size, mode="bicubic", align_corners=False) / 2**octave
    return total


def _smooth(x: Tensor) -> Tensor:
    x = x.clamp(0, 1)
    return x * x * (3 - 2 * x)


def _background(style: str, count: int, size: int, generator: torch.Generator) -> Tensor:
    """(N, 3, S, S) empty scene of a style; saturation stays below what the oracle calls colour."""
    axis = (torch.arange(size) + 0.5) / size
    y, x = axis.view(1, 1, size, 1), axis.view(1, 1, 1, size)

    def draw(low: float, high: float) -> Tensor:
        return _uniform(generator, (count,), low, high)

    def column(low: float, high: float) -> Tensor:
        return draw(low, high).view(-1, 1, 1, 1)

    if style == "plain":
        return column(0.955, 0.985).expand(count, 3, size, size).clone()
    if style == "sketch":
        paper = hsv_to_rgb(draw(0.09, 0.13), draw(0.10, 0.18), draw(0.88, 0.95))
        fibre = _value_noise(generator, count, size, ((8, 8), (size // 4, size // 4)))
        return (paper.view(count, 3, 1, 1) + 0.012 * fibre).clamp(0, 1)
    if style == "neon":
        wall = hsv_to_rgb(draw(0.55, 0.8), draw(0.15, 0.4), draw(0.07, 0.14))
        plaster = _value_noise(generator, count, size, ((5, 5), (12, 12)))
        spot = (x - column(0.3, 0.7)) ** 2 + (y - column(0.2, 0.6)) ** 2
        light = 0.75 + 0.6 * torch.exp(-spot / 0.2)
        return (wall.view(count, 3, 1, 1) * light + 0.008 * plaster).clamp(0, 1)
    wall = hsv_to_rgb(draw(0, 1), draw(0.04, 0.2), draw(0.66, 0.86)).view(count, 3, 1, 1)
    floor = hsv_to_rgb(draw(0.02, 0.14), draw(0.08, 0.26), draw(0.42, 0.66)).view(count, 3, 1, 1)
    horizon, softness = column(0.5, 0.78), column(0.012, 0.03)
    below = _smooth((y - horizon) / softness + 0.5)
    depth = ((y - horizon) / (1 - horizon)).clamp(0, 1)
    plaster = _value_noise(generator, count, size, ((6, 6), (16, 16), (48, 48)))
    planks = _value_noise(generator, count, size, ((16, 3), (40, 6), (80, 12)))
    light = column(0.1, 0.2) * torch.exp(-((x - column(0.1, 0.5)) ** 2 + (y - 0.2) ** 2) / 0.18)
    wall = wall * (0.94 + light) + 0.022 * plaster
    floor = floor * (0.86 + 0.28 * depth) + 0.035 * planks
    # A dark seam where wall and floor meet reads as a skirting shadow and gives the room depth.
    seam = 1 - 0.22 * torch.exp(-(((y - horizon) / 0.025) ** 2))
    picture = (wall * (1 - below) + floor * below) * seam
    vignette = 1 - column(0.15, 0.35) * ((x - 0.5) ** 2 + (y - 0.5) ** 2) * 1.6
    grain = torch.randn((count, 1, size, size), generator=generator) * 0.006
    return (picture * vignette + grain).clamp(0, 1)


def _sample(
    tables: Tensor,
    kinds: Tensor,
    centre: Tensor,
    half: Tensor,
    origin: Tensor,
    side: int,
    scale: int,
) -> Tensor:
    """Tables (n, C, side*scale, side*scale) seen from crops at integer pixel ``origin`` (n, 2).

    ``centre`` and ``half`` (n, 2) are in pixels, order x, y.
    """
    steps = (torch.arange(side * scale) + 0.5) / scale
    position = origin[:, :, None] + steps
    unit = (position - centre[:, :, None]) / half[:, :, None] / TABLE_EXTENT
    number = side * scale
    grid = torch.stack(
        (unit[:, 0, None, :].expand(-1, number, -1), unit[:, 1, :, None].expand(-1, -1, number)),
        -1,
    )
    return F.grid_sample(tables[kinds], grid, padding_mode="border", align_corners=True)


def _paint(
    style: str, field: Tensor, base: Tensor, pixels: Tensor, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Colour (n, 3, s, s) and opacity (n, 1, s, s) of objects at the supersampled resolution.

    ``field`` is (n, 3, s, s): signed distance in half box sides and its gradient; ``pixels`` (n,)
    how many supersampled pixels one half box side is.
    """
    sd, gx, gy = field[:, :1], field[:, 1:2], field[:, 2:3]
    pixels = pixels.view(-1, 1, 1, 1)
    opacity = (0.5 - sd * pixels).clamp(0, 1)
    count, _, size, _ = sd.shape
    colour = base.view(-1, 3, 1, 1)
    if style == "plain":
        return colour.expand(-1, -1, size, size), opacity
    if style == "sketch":
        ramp = torch.arange(size).float()
        pitch = _uniform(generator, (count, 1, 1, 1), 9.0, 12.0) * SUPERSAMPLE
        phase = (ramp.view(1, 1, -1, 1) + ramp.view(1, 1, 1, -1)) / pitch
        stroke = _smooth((torch.sin(phase * 2 * math.pi) + 0.6) * 1.2)
        inked = colour * (0.55 + 0.45 * stroke) + (1 - stroke) * 0.32
        # Ink lies mostly outside the edge, so that the colour keeps the shape's extent.
        line = (1.6 - (sd * pixels / SUPERSAMPLE - 0.6).abs()).clamp(0, 1)
        return inked * (1 - line) + 0.14 * line, (0.5 + 3.4 - sd * pixels).clamp(0, 1)
    if style == "neon":
        # A lit pane with a brighter rim. Never quite white: the colour must stay legible.
        depth = -sd * pixels / SUPERSAMPLE
        tube = torch.exp(-((depth - 2.5) ** 2) / 9)
        lit = colour * (0.62 + 0.38 * tube) + 0.28 * tube * (1 - colour)
        return lit, opacity
    inward = (-sd / 0.34).clamp(0, 1)
    slope = 1.25 * torch.cos(inward * math.pi / 2)
    norm = torch.rsqrt(1 + slope**2 * (gx**2 + gy**2))
    lx, ly, lz = -0.48, -0.60, 0.64
    diffuse = ((gx * slope * lx + gy * slope * ly + lz) * norm).clamp(min=0)
    hx, hy, hz = lx / 1.811, ly / 1.811, (lz + 1) / 1.811
    gloss = ((gx * slope * hx + gy * slope * hy + hz) * norm).clamp(min=0) ** 40
    shine = _uniform(generator, (count, 1, 1, 1), 0.25, 0.5)
    lit = colour * (0.34 + 0.84 * diffuse) + shine * gloss * 0.6
    return lit.clamp(0, 1), opacity


def render(
    scenes: Sequence[Scene], style: str, generator: torch.Generator, size: int = 128
) -> Tensor:
    """Draw scenes as (N, 3, size, size) pictures in 0..1.

    ``style`` is one of ``STYLES``. Colours, light, background and grain vary with ``generator``.
    Raises ``ValueError`` for an unknown style.
    """
    if style not in STYLES:
        raise ValueError(f"Unknown style '{style}': choose one of {', '.join(STYLES)}.")
    count = len(scenes)
    canvas = _background(style, count, size, generator)
    side = math.ceil(CROP * size)
    pad = side
    canvas = F.pad(canvas, (pad, pad, pad, pad), mode="replicate")
    tables = _tables()
    span = torch.arange(side)
    for number in range(max((len(s.objects) for s in scenes), default=0)):
        members = [i for i, s in enumerate(scenes) if len(s.objects) > number]
        chosen = [scenes[i].objects[number] for i in members]
        boxes = torch.tensor([o.box for o in chosen]) * size
        kinds = torch.tensor([SHAPES.index(o.shape) for o in chosen])
        hues = torch.tensor([HUES[o.colour] for o in chosen])
        count = len(chosen)
        # Realistic paint varies a little; the plain and drawn worlds use nearly one ink per colour.
        wobble = 0.012 if style == "realistic" else 0.004
        hues = (hues + _uniform(generator, (count,), -wobble, wobble)) % 1
        strength = (0.80, 0.95) if style == "realistic" else (0.86, 0.92)
        value = (0.86, 0.98) if style == "realistic" else (0.90, 0.94)
        base = hsv_to_rgb(
            hues, _uniform(generator, (count,), *strength), _uniform(generator, (count,), *value)
        )
        half = (boxes[:, 2:] - boxes[:, :2]) / 2
        centre = (boxes[:, 2:] + boxes[:, :2]) / 2
        # More room below right, where the shadow falls.
        origin = (centre - side * 0.46).floor()
        field = _sample(tables, kinds, centre, half, origin, side, SUPERSAMPLE)
        pixels = half.mean(1) * SUPERSAMPLE
        colour, opacity = _paint(style, field, base, pixels, generator)
        opaque = F.avg_pool2d(opacity, SUPERSAMPLE)
        paint = F.avg_pool2d(colour * opacity, SUPERSAMPLE)
        rows = (origin[:, 1].long() + pad)[:, None, None] + span[None, :, None]
        columns = (origin[:, 0].long() + pad)[:, None, None] + span[None, None, :]
        index = torch.tensor(members)[:, None, None]
        under = canvas[index, :, rows, columns].movedim(-1, 1)
        if style == "realistic":
            fall = half.mean(1, keepdim=True) * torch.tensor([[0.16, 0.22]])
            cast = _sample(tables[:, :1], kinds, centre + fall, half, origin, side, 1)
            under = under * (1 - 0.5 * _smooth(0.5 - cast / 0.5))
            contact = _sample(tables[:, :1], kinds, centre + fall * 0.3, half, origin, side, 1)
            under = under * (1 - 0.25 * _smooth(0.5 - contact / 0.16))
        if style == "neon":
            away = _sample(tables[:, :1], kinds, centre, half, origin, side, 1)
            away = (away * half.mean(1).view(-1, 1, 1, 1)).clamp(min=0)
            glow = 0.14 * torch.exp(-away / 2) + 0.08 * torch.exp(-away / 10)
            under = under + base.view(-1, 3, 1, 1) * glow
        canvas[index, :, rows, columns] = (under * (1 - opaque) + paint).movedim(1, -1)
    return canvas[:, :, pad : pad + size, pad : pad + size].clamp(0, 1).contiguous()
