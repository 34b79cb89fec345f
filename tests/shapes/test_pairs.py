"""The split of object pairs: complete, disjoint, and the same everywhere."""

from __future__ import annotations

from collections import Counter

from realcompo.shapes.pairs import held_out_pairs, pair_scenes, training_pairs

EXPECTED = (
    (("yellow", "star"), ("purple", "cross")),
    (("red", "cross"), ("blue", "square")),
)


def test_split_is_disjoint_and_complete() -> None:
    training, held = set(training_pairs()), set(held_out_pairs())
    assert not training & held
    assert len(training) == 326 and len(held) == 109
    assert all(first != second for first, second in training | held)


def test_split_never_moves() -> None:
    # figures that were measured on held-out pairs mean nothing once the split changes
    assert held_out_pairs()[:2] == EXPECTED


def test_scenes_use_every_pair_evenly_and_repeat() -> None:
    pairs = held_out_pairs()
    scenes = pair_scenes(pairs, 250, 3)
    assert scenes == pair_scenes(pairs, 250, 3)
    assert scenes != pair_scenes(pairs, 250, 4)
    seen = Counter(frozenset((o.colour, o.shape) for o in scene.objects) for scene in scenes)
    assert set(seen) == {frozenset(pair) for pair in pairs}
    assert max(seen.values()) - min(seen.values()) <= 1
    first = [tuple((o.colour, o.shape) for o in scene.objects) for scene in scenes]
    assert any(pair in pairs for pair in first) and any(pair not in pairs for pair in first)
