"""Reward feedback learning: what it changes, and nothing else."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from realcompo.balancer.errors import RealCompoError
from realcompo.nodes.demo import RealCompoShapesLoader
from realcompo.nodes.demo_vision import RealCompoShapesCaptioner
from realcompo.nodes.realignment_train import RealCompoReFLTrain

PROMPTS = "a red circle and a blue square\n\n# not a prompt\na green star"


@pytest.fixture(scope="module")
def demo() -> tuple[Any, Any, Any, Any]:
    with torch.inference_mode():
        return RealCompoShapesLoader().load("realistic", "realism")


@pytest.fixture(scope="module")
def captioner() -> Any:
    with torch.inference_mode():
        return RealCompoShapesCaptioner().load()[0]


def train(demo: Any, judge: Any, **changed: Any) -> tuple[Any, Any, int]:
    model, clip, vae, _ = demo
    inputs = {
        "model": model, "clip": clip, "vae": vae, "captioner": judge, "prompts": PROMPTS,
        "width": 128, "height": 128, "steps": 2, "batch_size": 2, "learning_rate": 1e-3,
        "rank": 2, "seed": 4, "sampling_steps": 4, **changed,
    }  # fmt: skip
    with torch.inference_mode():
        return RealCompoReFLTrain().train(**inputs)


def all_tensors(demo: Any, captioner: Any) -> dict[str, torch.Tensor]:
    model, clip, vae, _ = demo
    parts = {
        "model": model.model, "clip": clip.cond_stage_model, "vae": vae.first_stage_model,
        "captioner": captioner.module,
    }  # fmt: skip
    return {
        f"{part}.{name}": tensor
        for part, module in parts.items()
        for name, tensor in (*module.named_parameters(), *module.named_buffers())
    }


def test_a_gradient_reaches_the_lora_and_nothing_else(demo: Any, captioner: Any) -> None:
    there = all_tensors(demo, captioner)
    before = {
        name: (tensor, tensor.clone(), tensor.requires_grad) for name, tensor in there.items()
    }
    lora, losses, steps = train(demo, captioner)
    assert steps == 2 and len(losses["loss"]) == 2
    ups = [tensor for name, tensor in lora.items() if name.endswith("lora_up.weight")]
    # every layer's matrix that starts at zero has moved
    assert len(ups) > 20 and all(float(up.abs().max()) > 0 for up in ups)
    after = all_tensors(demo, captioner)
    assert before.keys() == after.keys()
    for name, (tensor, value, asked) in before.items():
        # the very objects, unchanged, and none of them holds a gradient
        assert after[name] is tensor and torch.equal(tensor, value), name
        assert tensor.requires_grad == asked and tensor.grad is None, name


def test_the_keys_are_those_that_the_hosts_loader_knows(demo: Any, captioner: Any) -> None:
    import comfy.sd

    lora, _, _ = train(demo, captioner)
    with torch.inference_mode():
        tuned, _ = comfy.sd.load_lora_for_models(demo[0], None, lora, 1.0, 0.0)
    assert len(tuned.patches) == sum(name.endswith("lora_up.weight") for name in lora)


def test_one_seed_is_one_lora(demo: Any, captioner: Any) -> None:
    first, again = train(demo, captioner)[0], train(demo, captioner)[0]
    other = train(demo, captioner, seed=5)[0]
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


def objective(demo: Any, captioner: Any, **settings: Any) -> Any:
    from realcompo.balancer.captions.rewards import read_prompts
    from realcompo.balancer.comfy.finetune.refl import CaptionReward, ReflSettings

    _, clip, vae, _ = demo
    with torch.inference_mode():
        return CaptionReward(
            clip,
            vae,
            captioner,
            read_prompts(PROMPTS),
            ReflSettings(sampling_steps=4, **settings),
            2,
        )


def run(demo: Any, captioner: Any, steps: int, rate: float = 2e-3, **settings: Any) -> Any:
    from realcompo.balancer.comfy.finetune.training import train as loop
    from realcompo.balancer.finetune.optimisation import TrainingSettings

    how = TrainingSettings(steps=steps, batch_size=2, learning_rate=rate, rank=4, seed=1)
    with torch.inference_mode():
        return loop(demo[0], objective(demo, captioner, **settings), how, (16, 16), "attention")


def test_a_margin_below_every_reward_teaches_nothing(demo: Any, captioner: Any) -> None:
    trained = run(demo, captioner, 2, margin=-50.0, keep=0.0)
    assert trained.losses["loss"] == [0.0, 0.0]
    assert all(float(t.abs().max()) == 0 for n, t in trained.lora.items() if "lora_up" in n)


def test_keeping_holds_the_model_near_what_it_was(demo: Any, captioner: Any) -> None:
    free = run(demo, captioner, 4, 1e-2, keep=1e-9).losses["distance"]
    kept = run(demo, captioner, 4, 1e-2, keep=100.0).losses["distance"]
    # nothing is learned before the first step
    assert free[0] == kept[0] == 0.0
    assert sum(kept) < 0.5 * sum(free)


def test_guidance_takes_part(demo: Any, captioner: Any) -> None:
    plain = run(demo, captioner, 1, cfg=1.0).losses["reward"]
    guided = run(demo, captioner, 1, cfg=4.0).losses["reward"]
    assert plain != guided


def test_the_step_with_a_gradient_lies_where_asked(demo: Any, captioner: Any) -> None:
    from realcompo.balancer.comfy.finetune.session import in_session

    seen = []

    def work(session: Any) -> None:
        late = objective(demo, captioner, start=0.5, end=1.0)
        early = objective(demo, captioner, start=0.0, end=0.25)
        for asked in (late, early):
            for _ in range(6):
                chosen = asked._groups.draw(2, session.generator)
                prompts = [asked.encoded[index] for index in chosen]
                x, sigma, (first, level) = asked._sample(session, prompts)
                assert x.shape == first.shape == (2, 16, 16, 16)
                assert bool((level >= sigma).all()) and not x.requires_grad
                seen.append((asked is late, float(sigma[0])))

    with torch.inference_mode():
        in_session(demo[0], (16, 16), 2, 3, work)
    lowest_early = min(sigma for late, sigma in seen if not late)
    assert max(sigma for late, sigma in seen if late) < lowest_early
    assert len({sigma for late, sigma in seen if late}) == 2


def test_weights_in_prompts_are_no_words_to_the_captioner() -> None:
    from realcompo.balancer.captions.rewards import read_prompts
    from realcompo.balancer.comfy.finetune.refl import plain_text

    assert plain_text("(a red:1.3) circle, [blue] \\(star\\)") == "a red circle, [blue] (star)"
    assert read_prompts(PROMPTS) == ["a red circle and a blue square", "a green star"]
    with pytest.raises(RealCompoError, match="there is no prompt"):
        read_prompts("\n# nothing\n")


def test_what_does_not_fit_is_refused_by_name(demo: Any, captioner: Any) -> None:
    def refused(match: str, **changed: Any) -> None:
        with pytest.raises(RealCompoError, match=match) as told:
            train(demo, captioner, **changed)
        assert "ReFL Train" in str(told.value)

    refused("'vae'.*not a VAE", vae="none")
    refused("'captioner'.*not a REALCOMPO_CAPTIONER", captioner=3)
    refused("'model'.*not a MODEL", model=None)
    refused("tokens, the captioner reads up to", prompts="red " * 60)
    refused("there is no prompt", prompts=" ")
    refused("'stop_from'", stop_from=0.8, stop_to=0.2)
    refused("'cfg'", cfg=0.5)


def test_the_stop_button_leaves_everything_as_it_was(demo: Any, captioner: Any) -> None:
    import comfy.model_management as management

    def state() -> list[Any]:
        tensors = all_tensors(demo, captioner).values()
        modules = demo[0].model.diffusion_model.modules()
        return [[id(t) for t in tensors], [m for m in modules if "forward" in m.__dict__]]

    before = state()
    management.interrupt_current_processing()
    try:
        with pytest.raises(management.InterruptProcessingException):
            train(demo, captioner)
    finally:
        management.interrupt_current_processing(False)
    assert state() == before
