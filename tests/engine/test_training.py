"""Adapters and the loop around them: exact formulas, exact resuming, nothing lost."""

from __future__ import annotations

import pytest
import torch
from realcompo.balancer.errors import RealCompoError
from realcompo.balancer.finetune.adapters import Adapters
from realcompo.balancer.finetune.optimisation import Optimisation, TrainingSettings
from torch import Tensor

SHAPES = {"a.to_k": (6, 4), "b.to_k": (5, 3)}


def adapters(rank: int = 2, alpha: float = 2.0, seed: int = 0) -> Adapters:
    return Adapters(SHAPES, rank, alpha, torch.Generator().manual_seed(seed))


def wiggle(made: Adapters, seed: int = 1) -> None:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))


def merged(state: dict[str, Tensor], name: str) -> Tensor:
    """The difference matrix as LoRA loaders make it of a file."""
    if f"{name}.diff" in state:
        return state[f"{name}.diff"]
    up, down = state[f"{name}.lora_up.weight"], state[f"{name}.lora_down.weight"]
    return up @ down * (state[f"{name}.alpha"] / down.shape[0])


@pytest.mark.parametrize("rank", [0, 1, 2, 64])
def test_output_is_that_of_the_merged_matrix(rank: int) -> None:
    made = adapters(rank, alpha=3.0)
    x = torch.randn(2, 7, 4)
    assert torch.equal(made.modules["a.to_k"](x), torch.zeros(2, 7, 6))
    wiggle(made)
    expected = x @ merged(made.state(), "a.to_k").T
    torch.testing.assert_close(made.modules["a.to_k"](x), expected, atol=1e-5, rtol=1e-5)


def test_a_rank_that_does_not_fit_keeps_its_scale() -> None:
    made = adapters(rank=64, alpha=64.0)
    state = made.state()
    assert state["b.to_k.lora_down.weight"].shape == (3, 3)
    assert float(state["b.to_k.alpha"]) / 3 == 1.0


def test_off_is_off_and_comes_back() -> None:
    made = adapters()
    with pytest.raises(KeyError), made.off():
        assert not made.active
        raise KeyError
    assert made.active


def losses(made: Adapters, run: Optimisation) -> Tensor:
    """Something to learn that needs the run's own randomness."""
    total = torch.zeros(())
    for module, (_, inputs) in zip(made.modules.values(), SHAPES.values(), strict=True):
        x = torch.randn(3, inputs, generator=run.generator)
        total = total + (module(x) - x.sum(-1, keepdim=True)).square().mean()
    return total


def go(made: Adapters, run: Optimisation, steps: int) -> None:
    for _ in range(steps):
        loss = losses(made, run)
        loss.backward()
        run.step({"loss": loss.detach()})


@pytest.mark.parametrize("changes", [{}, {"ema": 0.9}, {"rank": 0}, {"clip": 0.1}])
def test_a_stopped_training_goes_on_to_the_bit(changes) -> None:
    settings = TrainingSettings(**{"steps": 9, "rank": 2, "learning_rate": 0.05, **changes})
    straight = adapters(settings.rank)
    run = Optimisation(straight, settings)
    go(straight, run, 9)

    first = adapters(settings.rank)
    stopped = Optimisation(first, settings)
    go(first, stopped, 4)
    tensors, about = stopped.save()
    second = adapters(settings.rank, seed=5)
    resumed = Optimisation(second, settings)
    resumed.load(tensors, about)
    go(second, resumed, 5)
    assert resumed.steps == 9 and resumed.losses == run.losses
    for key, value in run.learned().items():
        assert torch.equal(value, resumed.learned()[key]), key


def test_another_training_is_not_taken_up() -> None:
    tensors, about = Optimisation(adapters(), TrainingSettings(rank=2)).save()
    other = Optimisation(adapters(), TrainingSettings(rank=2, learning_rate=0.5))
    with pytest.raises(ValueError, match="other settings"):
        other.load(tensors, about)


def test_loss_falls_and_clipping_bounds_the_gradient() -> None:
    made = adapters(rank=0)
    run = Optimisation(made, TrainingSettings(rank=0, learning_rate=0.05, clip=0.5))
    go(made, run, 60)
    told = run.losses["loss"]
    assert sum(told[-10:]) < 0.5 * sum(told[:10])
    loss = losses(made, run)
    (1000 * loss).backward()
    seen: list[float] = []
    step = run._optimiser.step

    def look() -> None:
        grads = [p.grad for p in made.parameters() if p.grad is not None]
        seen.append(float(torch.stack([g.square().sum() for g in grads]).sum().sqrt()))
        step()

    run._optimiser.step = look  # type: ignore[method-assign]
    run.step({"loss": loss.detach()})
    assert seen[0] == pytest.approx(0.5, rel=1e-4)


def test_scaled_gradients_move_as_unscaled_ones() -> None:
    results = []
    for scale in (1.0, 4096.0):
        made = adapters()
        run = Optimisation(made, TrainingSettings(rank=2, learning_rate=0.1))
        loss = losses(made, run)
        (loss * scale).backward()
        run.step({"loss": loss.detach()}, scale)
        results.append(run.learned())
    for key, value in results[0].items():
        torch.testing.assert_close(value, results[1][key], atol=1e-6, rtol=1e-5)


def test_a_gradient_that_is_not_finite_moves_nothing() -> None:
    made = adapters()
    run = Optimisation(made, TrainingSettings(rank=2))
    wiggle(made)
    before = run.learned()
    with pytest.raises(RealCompoError, match="20 steps in a row"):
        for _ in range(25):
            for parameter in made.parameters():
                parameter.grad = torch.full_like(parameter, float("inf"))
            run.step({"loss": torch.tensor(1.0)})
    after = run.learned()
    assert all(torch.equal(before[key], after[key]) for key in before)


def test_a_loss_that_is_no_number_ends_the_training() -> None:
    made = adapters()
    run = Optimisation(made, TrainingSettings(rank=2))
    losses(made, run).backward()
    before = run.learned()
    with pytest.raises(RealCompoError, match="no number"):
        run.step({"loss": torch.tensor(float("nan"))})
    assert all(torch.equal(before[key], value) for key, value in run.learned().items())


def test_no_gradient_is_a_mistake_of_the_program() -> None:
    run = Optimisation(adapters(), TrainingSettings(rank=2))
    with pytest.raises(RuntimeError, match="no gradient"):
        run.step({"loss": torch.tensor(1.0)})


@pytest.mark.parametrize(
    "changes",
    [
        {"steps": 0}, {"batch_size": 0}, {"learning_rate": 0.0}, {"learning_rate": float("nan")},
        {"rank": -1}, {"ema": 1.0}, {"clip": -1.0}, {"weight_decay": 2.0}, {"alpha": 0.0},
        {"checkpointing": "maybe"},
    ],
)  # fmt: skip
def test_settings_that_make_no_sense_are_refused(changes) -> None:
    with pytest.raises(RealCompoError) as caught:
        TrainingSettings(**changes)
    name = next(iter(changes))
    assert caught.value.where == ("gradient_clip" if name == "clip" else name)


@pytest.mark.parametrize(
    "training",
    ["[" * 100_000, "[]", "{}", '{"settings": {}}', "9" * 5000, '{"a": NaN}', '{"a": "\\ud800"}'],
)
def test_a_stopped_training_that_says_nonsense_changes_nothing(training: str) -> None:
    from realcompo.balancer.finetune.adapters import Adapters
    from realcompo.balancer.finetune.optimisation import Optimisation, TrainingSettings

    def fresh() -> Optimisation:
        start = torch.Generator().manual_seed(1)
        adapters = Adapters({"a": (4, 3)}, 2, 2.0, start, torch.device("cpu"))
        return Optimisation(adapters, TrainingSettings(rank=2))

    run = fresh()
    tensors, about = run.save()
    before = {key: value.clone() for key, value in tensors.items()}
    fresh().load(tensors, about)
    name = next(key for key in tensors if key.startswith("adapter|"))
    odd = (
        (tensors, {"training": training}), (tensors, {}), ({}, about),
        ({**tensors, name: torch.zeros(1)}, about),
        ({**tensors, name: torch.full_like(tensors[name], float("nan"))}, about),
        ({**tensors, "generator": torch.zeros(3, dtype=torch.uint8)}, about),
        ({**tensors, "optimiser|99|step": torch.zeros(())}, about),
        ({**tensors, "optimiser|0|step": torch.zeros(())}, about),
    )  # fmt: skip
    for given, told in odd:
        with pytest.raises(ValueError) as caught:
            run.load(given, told)
        assert type(caught.value).__module__.startswith("realcompo") or any(
            part in str(caught.value) for part in ("its ", "it has", "other settings", "missing")
        )
    assert all(torch.equal(value, before[key]) for key, value in run.save()[0].items())
