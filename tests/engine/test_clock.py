"""Which outer step a call belongs to."""

from __future__ import annotations

from realcompo.balancer.comfy.realcompo.clock import StepClock

SIGMAS = [10.0, 5.0, 2.0, 0.0]


def ticks(*sigmas: float) -> list[tuple[int, bool]]:
    clock = StepClock(SIGMAS)
    return [clock.tick(sigma) for sigma in sigmas]


def test_one_call_a_step() -> None:
    assert ticks(10.0, 5.0, 2.0) == [(0, True), (1, True), (2, True)]


def test_looking_ahead_opens_the_next_step_once() -> None:
    """Heun: the second call of a step is at the next step's noise level."""
    assert ticks(10.0, 5.0, 5.0, 2.0, 2.0) == [
        (0, True), (1, True), (1, False), (2, True), (2, False),
    ]  # fmt: skip


def test_calls_between_two_levels_belong_to_the_step_before() -> None:
    assert ticks(10.0, 7.0, 5.0, 3.0, 2.0, 1.0) == [
        (0, True), (0, False), (1, True), (1, False), (2, True), (2, False),
    ]  # fmt: skip


def test_going_back_opens_nothing() -> None:
    assert ticks(10.0, 4.0, 8.0, 3.9, 1.0) == [
        (0, True), (1, True), (0, False), (1, False), (2, True),
    ]  # fmt: skip


def test_rounding_does_not_move_a_call() -> None:
    assert ticks(10.0002, 5.0002, 1.9999) == [(0, True), (1, True), (2, True)]


def test_steps_and_their_ends() -> None:
    clock = StepClock(SIGMAS)
    assert clock.steps == 3
    assert [clock.next_sigma(step) for step in range(3)] == [5.0, 2.0, 0.0]
    assert StepClock([]).steps == 0


def test_levels_go_on_where_an_unfinished_run_stops() -> None:
    whole, first = StepClock([8.0, 4.0, 2.0, 0.0]), StepClock([8.0, 4.0])
    calls = {8.0: 8.0, 5.0: 8.0, 4.0: 4.0, 4.0 * (1 + 1e-6): 4.0, 4.0 * (1 - 1e-6): 4.0}
    for sigma, level in calls.items():
        assert whole.level(sigma) == first.level(sigma) == level
    assert whole.level(1.0) == 2.0
    # a run that goes up again: every call is at its own level
    assert StepClock([2.0, 4.0, 8.0]).level(4.0) == 4.0
