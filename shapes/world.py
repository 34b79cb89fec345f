"""Scenes of coloured shapes with boxes and captions: the truth that everything is measured on.

Boxes are ``(x0, y0, x1, y1)`` in 0..1 of the picture, x to the right, y down. All randomness comes
from a seeded ``torch.Generator`` on the CPU, so the same seed gives the same scenes everywhere.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

import torch

SHAPES = ("circle", "square", "triangle", "star", "cross")
COLOURS = ("red", "orange", "yellow", "green", "blue", "purple")
# Hues (0..1) far enough apart for a threshold-free nearest-hue reading after a lossy codec.
HUES = {"red": 0.0, "orange": 0.075, "yellow": 0.155, "green": 0.36, "blue": 0.60, "purple": 0.80}
STYLES = ("realistic", "plain", "sketch")
PREFIXES = ("a picture of", "a photo of")
# Every word that a caption can hold; the text encoder keeps a vector of its own for each of them.
WORDS = ("a", "an", "and", ",", "picture", "photo", "of", *COLOURS, *SHAPES)
MARGIN = 0.03
LARGEST_SIDE = {1: 0.46, 2: 0.46, 3: 0.40, 4: 0.36}
SMALLEST_SIDE = 0.26

Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class ShapeObject:
    """One coloured shape that fills its box (0..1)."""

    colour: str
    shape: str
    box: Box

    @property
    def phrase(self) -> str:
        """The noun phrase a caption uses: 'a red circle', 'an orange star'."""
        return f"{'an' if self.colour == 'orange' else 'a'} {self.colour} {self.shape}"


@dataclass(frozen=True)
class Scene:
    """One to four objects whose boxes do not overlap and whose (colour, shape) pairs differ."""

    objects: tuple[ShapeObject, ...]


@dataclass(frozen=True)
class Caption:
    """A caption as words, with the object that each word speaks of (-1: none of them).

    ``grounded[i]`` is the index into ``Scene.objects`` for colour words and nouns only: those are
    the words whose cross-attention can be expected to have a place.
    """

    words: tuple[str, ...]
    grounded: tuple[int, ...]

    @property
    def text(self) -> str:
        """The caption as a user would type it: no space before a comma."""
        return " ".join(self.words).replace(" ,", ",")


def _random(generator: torch.Generator) -> random.Random:
    """Python's generator, seeded from torch's: scalar draws from torch are far slower."""
    return random.Random(int(torch.randint(2**62, (1,), generator=generator)))


def _boxes(rng: random.Random, count: int) -> list[Box]:
    """Non-overlapping boxes by rejection; starts again when the picture is too full."""
    while True:
        boxes: list[Box] = []
        for _ in range(40 * count):
            side = rng.uniform(SMALLEST_SIDE, LARGEST_SIDE[count])
            aspect = rng.uniform(0.9, 1.12)
            width, height = side * aspect, side / aspect
            x = rng.uniform(MARGIN, 1 - MARGIN - width)
            y = rng.uniform(MARGIN, 1 - MARGIN - height)
            box = (x, y, x + width, y + height)
            if all(
                box[0] > b[2] + MARGIN
                or b[0] > box[2] + MARGIN
                or box[1] > b[3] + MARGIN
                or b[1] > box[3] + MARGIN
                for b in boxes
            ):
                boxes.append(box)
            if len(boxes) == count:
                return boxes


def _pairs(rng: random.Random, count: int) -> list[tuple[str, str]]:
    """Distinct (colour, shape) pairs; in a quarter of the scenes two objects share one of the two.

    Shared words make the hard captions ('a red circle and a blue circle') where binding fails.
    """
    everything = [(colour, shape) for colour in COLOURS for shape in SHAPES]
    pairs = rng.sample(everything, count)
    if count > 1 and rng.random() < 0.25:
        kind = rng.randrange(2)
        mates = [p for p in everything if p[kind] == pairs[0][kind] and p not in pairs]
        pairs[1] = rng.choice(mates)
    return pairs


def make_scenes(
    count: int, generator: torch.Generator, objects: Sequence[int] | None = None
) -> list[Scene]:
    """Draw ``count`` scenes; ``objects`` restricts the number of objects (default 1 to 4).

    Raises ``ValueError`` if a number outside 1..4 is asked for.
    """
    if objects is not None and any(n not in LARGEST_SIDE for n in objects):
        raise ValueError(f"A scene holds 1 to 4 objects, not {list(objects)}.")
    rng = _random(generator)
    scenes = []
    for _ in range(count):
        if objects is None:
            number = rng.choices((1, 2, 3, 4), (0.2, 0.4, 0.25, 0.15))[0]
        else:
            number = rng.choice(list(objects))
        pairs, boxes = _pairs(rng, number), _boxes(rng, number)
        scenes.append(
            Scene(tuple(ShapeObject(c, s, b) for (c, s), b in zip(pairs, boxes, strict=True)))
        )
    return scenes


def make_caption(scene: Scene, rng: random.Random | None = None) -> Caption:
    """Caption of a scene; with ``rng`` in random object order, joining form and prefix.

    Without it: objects in their order, joined by 'and'.
    """
    order = list(range(len(scene.objects)))
    form = 0
    words: list[str] = []
    if rng is not None:
        rng.shuffle(order)
        form = rng.choices((0, 1, 2), (0.5, 0.3, 0.2))[0]
        words += rng.choice(PREFIXES).split() if rng.random() < 0.15 else []
    grounded = [-1] * len(words)
    for place, index in enumerate(order):
        if place:
            # 0: 'x and y and z', 1: 'x, y and z', 2: 'x, y, z'
            last = place == len(order) - 1
            words.append("and" if form == 0 or (form == 1 and last) else ",")
            grounded.append(-1)
        words += scene.objects[index].phrase.split()
        grounded += [-1, index, index]
    return Caption(tuple(words), tuple(grounded))
