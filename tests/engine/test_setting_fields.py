"""A setting's field: its check, its widget, and how a node's inputs become settings."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from realcompo.balancer.errors import RealCompoError
from realcompo.balancer.values.setting_fields import (
    check,
    choice,
    flag,
    from_inputs,
    number,
    whole,
    widgets,
)


@dataclass(frozen=True)
class Some:
    amount: float = number(0.5, 0.0, 2.0, 0.1, "How much.", "how_much", round=0.01)
    times: int = whole(3, 1, 9, "How often.")
    loud: bool = flag(True, "Or not.")
    colour: str = choice("red", ("red", "blue"), "Which.")
    note: str = ""

    def __post_init__(self) -> None:
        check(self)


def test_values_are_held_to_the_field_and_take_its_plain_type() -> None:
    made = Some(amount=1, times=2.0, loud=0)  # type: ignore[arg-type]
    assert repr(made) == "Some(amount=1.0, times=2, loud=False, colour='red', note='')"
    for changes, where in (
        ({"amount": 2.1}, "how_much"), ({"times": 0}, "times"), ({"times": 1.5}, "times"),
        ({"loud": "yes"}, "loud"), ({"colour": "green"}, "colour"),
    ):  # fmt: skip
        with pytest.raises(RealCompoError) as caught:
            Some(**changes)
        assert caught.value.where == where


def test_widgets_are_declared_as_the_host_wants_them() -> None:
    made = widgets(Some, "colour", "how_much", "loud", "times")
    assert list(made) == ["colour", "how_much", "loud", "times"]
    assert made["how_much"] == ("FLOAT", {
        "default": 0.5, "min": 0.0, "max": 2.0, "step": 0.1, "round": 0.01, "tooltip": "How much.",
    })  # fmt: skip
    assert made["times"] == ("INT", {"default": 3, "min": 1, "max": 9, "tooltip": "How often."})
    assert made["loud"] == ("BOOLEAN", {"default": True, "tooltip": "Or not."})
    assert made["colour"] == (["red", "blue"], {"default": "red", "tooltip": "Which."})
    made["colour"][0].append("green")
    made["times"][1]["max"] = 100
    assert widgets(Some, "colour", "times") != {n: made[n] for n in ("colour", "times")}
    with pytest.raises(RealCompoError):
        Some(times=10)


def test_inputs_by_name_with_others_among_them() -> None:
    inputs = {"how_much": 2.0, "note": "x", "model": None, "steps": 7}
    assert from_inputs(Some, inputs) == Some(amount=2.0, note="x")
    # the field's own name is no input's
    assert from_inputs(Some, {"amount": 2.0}) == Some()
