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
STYLES = ("realistic", "plain", "sketch", "neon")
PREFIXES = ("a picture of", "a photo of")
NUMBERS = {2: "two", 3: "three", 4: "four"}
# 'triangles' is missing: CLIP's tokenizer splits it, and the demo's text encoder looks back one
# token only, so its last piece could not know the colour.
PLURALS = {"circle": "circles", "square": "squares", "star": "stars", "cross": "crosses"}
PLACES = ("left", "right", "above", "below")
OPPOSITE = {"left": "right", "right": "left", "above": "below", "below": "above"}
# Every word that a caption can hold; the text encoder keeps a vector of its own for each of them.
WORDS = (
    *("a", "an", "and", ",", "picture", "photo", "of", "to", "the"),
    *(*COLOURS, *SHAPES, *NUMBERS.values(), *PLURALS.values(), *PLACES),
)
MARGIN = 0.03
LARGEST_SIDE = {1: 0.50, 2: 0.46, 3: 0.40, 4: 0.36}
SMALLEST_SIDE = 0.24
# What a scene with several objects tests, and how often: two of one shape in two colours, two of
# one colour in two shapes, several of a kind, a spatial relation, or nothing in particular.
KINDS = {"free": 0.40, "same shape": 0.15, "same colour": 0.15, "count": 0.15, "relation": 0.15}
# A relation must be plain to see: the offset along its axis against the one across it.
PLAIN_OFFSET = 1.3

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
class Relation:
    """Object ``first`` lies ``place`` ('left', 'right', 'above', 'below') of object ``second``."""

    first: int
    place: str
    second: int


@dataclass(frozen=True)
class Scene:
    """One to four objects whose boxes do not overlap.

    Objects of one colour and shape are one *group* and share a phrase ('three blue stars').
    ``kind`` is a key of ``KINDS``; ``relation`` is what a spatial caption says, else None.
    """

    objects: tuple[ShapeObject, ...]
    kind: str = "free"
    relation: Relation | None = None

    @property
    def groups(self) -> tuple[int, ...]:
        """For every object the index of the first object of its colour and shape."""
        pairs = [(o.colour, o.shape) for o in self.objects]
        return tuple(pairs.index(pair) for pair in pairs)

    @property
    def phrases(self) -> tuple[str, ...]:
        """For every object the words a caption uses for it or its group."""
        return tuple(" ".join(self.words_of(group)) for group in self.groups)

    def words_of(self, group: int) -> list[str]:
        """Words of a group: 'a', 'red', 'circle', or 'three', 'blue', 'stars'."""
        number, thing = self.groups.count(group), self.objects[group]
        if number == 1:
            return thing.phrase.split()
        return [NUMBERS[number], thing.colour, PLURALS[thing.shape]]


@dataclass(frozen=True)
class Caption:
    """A caption as words, with the group of objects that each word speaks of (-1: none).

    ``grounded[i]`` is an entry of ``Scene.groups`` for colour words and nouns only: those are the
    words whose cross-attention can be expected to have a place.
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


def random_boxes(rng: random.Random, count: int) -> list[Box]:
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


def _pairs(rng: random.Random, count: int, kind: str) -> list[tuple[str, str]]:
    """(colour, shape) of every object; distinct unless the kind is 'count'.

    Shared words make the hard captions ('a red circle and a blue circle') where binding fails.
    """
    everything = [(colour, shape) for colour in COLOURS for shape in SHAPES]
    if kind == "count":
        many = rng.randint(2, count)
        first = rng.choice([pair for pair in everything if pair[1] in PLURALS])
        others = rng.sample([pair for pair in everything if pair != first], count - many)
        pairs = [first] * many + others
        rng.shuffle(pairs)
        return pairs
    pairs = rng.sample(everything, count)
    if kind in ("same colour", "same shape"):
        shared = int(kind == "same shape")
        mates = [p for p in everything if p[shared] == pairs[0][shared] and p not in pairs]
        pairs[1] = rng.choice(mates)
    return pairs


def place_of(a: Box, b: Box) -> str | None:
    """Where box ``a`` lies as seen from box ``b``: 'left', 'right', 'above', 'below' or None.

    None where the offset of the centres is too diagonal to be called either.
    """
    across, down = (a[0] + a[2] - b[0] - b[2]) / 2, (a[1] + a[3] - b[1] - b[3]) / 2
    if abs(across) >= PLAIN_OFFSET * abs(down):
        return "left" if across < 0 else "right"
    if abs(down) >= PLAIN_OFFSET * abs(across):
        return "above" if down < 0 else "below"
    return None


def _scene(rng: random.Random, number: int) -> Scene:
    kind = rng.choices(list(KINDS), list(KINDS.values()))[0] if number > 1 else "free"
    pairs, boxes = _pairs(rng, number, kind), random_boxes(rng, number)
    relation = None
    if kind == "relation":
        while (place := place_of(boxes[0], boxes[1])) is None:
            boxes = random_boxes(rng, number)
        relation = Relation(0, place, 1)
    objects = (ShapeObject(c, s, b) for (c, s), b in zip(pairs, boxes, strict=True))
    return Scene(tuple(objects), kind, relation)


def _usual_number(rng: random.Random) -> int:
    """How many objects a scene has where nobody says."""
    return rng.choices((1, 2, 3, 4), (0.2, 0.4, 0.25, 0.15))[0]


def make_scenes(
    count: int, generator: torch.Generator, objects: Sequence[int] | None = None
) -> list[Scene]:
    """Draw ``count`` scenes; ``objects`` restricts the number of objects (default 1 to 4).

    Raises ``ValueError`` for a number outside 1..4.
    """
    if objects is not None and any(n not in LARGEST_SIDE for n in objects):
        raise ValueError(f"A scene holds 1 to 4 objects, not {list(objects)}.")
    rng = _random(generator)
    scenes = []
    for _ in range(count):
        number = _usual_number(rng) if objects is None else rng.choice(list(objects))
        scenes.append(_scene(rng, number))
    return scenes


def _relation_words(relation: Relation, rng: random.Random | None) -> tuple[int, list[str], int]:
    """Object that is spoken of first, the words between, the other object."""
    first, place, second = relation.first, relation.place, relation.second
    if rng is not None and rng.random() < 0.5:
        first, place, second = second, OPPOSITE[place], first
    words = [place] if place in ("above", "below") else [place, "of"]
    if len(words) == 2 and (rng is None or rng.random() < 0.5):
        words = ["to", "the", *words]
    return first, words, second


def make_caption(scene: Scene, rng: random.Random | None = None) -> Caption:
    """Caption of a scene; with ``rng`` in random order, joining form and prefix.

    Without it: groups in their order, joined by 'and'. A scene with a relation says it first.
    """
    order = sorted(set(scene.groups))
    form = 0
    words: list[str] = []
    if rng is not None:
        rng.shuffle(order)
        form = rng.choices((0, 1, 2), (0.5, 0.3, 0.2))[0]
        words += rng.choice(PREFIXES).split() if rng.random() < 0.15 else []
    grounded = [-1] * len(words)
    joints: dict[int, list[str]] = {}
    if scene.relation is not None:
        first, between, second = _relation_words(scene.relation, rng)
        order = [first, second, *(g for g in order if g not in (first, second))]
        joints[1] = between
    for number, group in enumerate(order):
        if number:
            # 0: 'x and y and z', 1: 'x, y and z', 2: 'x, y, z'
            last = number == len(order) - 1
            joint = joints.get(number, ["and" if form == 0 or (form == 1 and last) else ","])
            words += joint
            grounded += [-1] * len(joint)
        words += scene.words_of(group)
        grounded += [-1, group, group]
    return Caption(tuple(words), tuple(grounded))
