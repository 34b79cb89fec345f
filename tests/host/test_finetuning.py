"""Finetuning in the host: what learns, what stays, and that files mean what was trained."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from realcompo.balancer.errors import RealCompoError
from realcompo.balancer.finetune.optimisation import TrainingSettings
from realcompo.balancer.finetune.prompts import TrainingPrompt, parse_lines
from torch import Tensor

from . import attention_reference, tiny

SIZE = (16, 16)
PROMPTS = "a red star and a blue circle | a red star | a blue circle\na cat and a dog"


class TinyClip:
    """A text encoder of the host's interface: a random vector per token, none learned."""

    def __init__(self, width: int = 64, pooled: int | None = None) -> None:
        self.width, self.pooled = width, pooled

    def tokenize(self, text: str) -> list[int]:
        from realcompo.balancer.comfy.text.tokenizer import encode_prompt

        return [identity or 0 for identity in encode_prompt(text).ids]

    def encode_from_tokens(self, tokens: list[int], return_pooled: bool = False) -> Any:
        rows = [0, *tokens, *[1] * (76 - len(tokens))][:77]
        text = torch.stack([self._vector(token) for token in rows])[None]
        pooled = (
            None if self.pooled is None else text[0, 1].repeat(self.pooled)[None, : self.pooled]
        )
        return (text, pooled) if return_pooled else text

    def _vector(self, token: int) -> Tensor:
        return torch.randn(self.width, generator=torch.Generator().manual_seed(token))


@pytest.fixture(scope="module")
def model():
    return tiny.tiny_unet(1, levels=3)


@pytest.fixture(autouse=True)
def _outputs(tmp_path, monkeypatch) -> None:
    import folder_paths
    import headless

    monkeypatch.setattr(folder_paths, "get_output_directory", lambda: str(tmp_path))
    if not hasattr(folder_paths, "set_output_directory"):  # a headless copy cannot name files
        monkeypatch.setattr(folder_paths, "get_save_image_path", headless.save_image_path)


def finetune(model, prompts=PROMPTS, clip=None, latents=None, where=None, **changes):
    """The engine's call behind the node, in inference mode as the executor has it."""
    from realcompo.balancer.comfy.finetune.separate_enhance import Where, separate_enhance
    from realcompo.balancer.comfy.finetune.separation import SeparationSettings

    names = TrainingSettings.__dataclass_fields__
    training = {"steps": 3, "rank": 4, "learning_rate": 0.01, "batch_size": 2}
    training |= {k: v for k, v in changes.items() if k in names}
    losses = {k: v for k, v in changes.items() if k not in names}
    chosen = parse_lines(prompts) if isinstance(prompts, str) else prompts
    with torch.inference_mode():
        return separate_enhance(
            model, clip or TinyClip(), chosen, SeparationSettings(**losses),
            TrainingSettings(**training), where or Where(SIZE), latents,
        )  # fmt: skip


def weights_of(model) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.model.diffusion_model.state_dict().items()}


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


@pytest.mark.parametrize("changes", [{}, {"rank": 0}, {"norm": 1.0}, {"checkpointing": "on"}])
def test_the_model_is_untouched_and_the_keys_alone_learn(model, changes) -> None:
    before, options = weights_of(model), repr(model.model_options)
    lora, losses, steps = finetune(model, **changes)
    assert same(before, weights_of(model)) and options == repr(model.model_options)
    assert not any(p.requires_grad for p in model.model.parameters())
    network = dict(model.model.diffusion_model.named_modules())
    keys = {n for n in network if n.endswith("attn2.to_k")}
    assert {
        key.removeprefix("diffusion_model.").split(".to_k")[0] + ".to_k" for key in lora
    } == keys
    assert not any("forward" in network[name].__dict__ for name in keys)
    assert steps == 3 and all(len(values) == 3 for values in losses.values())
    assert set(losses) == {"loss", "separate", "enhance"} | (
        {"norm"} if "norm" in changes else set()
    )
    weighed = [s + 0.5 * e for s, e in zip(losses["separate"], losses["enhance"], strict=True)]
    if "norm" not in changes:
        assert losses["loss"] == pytest.approx(weighed, abs=1e-6)


def test_layers_behind_the_last_map_get_no_gradient_without_the_norm_loss(model) -> None:
    """A LoRA's second matrix starts at zero and stays there where no gradient comes."""
    lora, _, _ = finetune(model)
    moved = {k.split(".attn2")[0] for k, v in lora.items() if "lora_up" in k and bool(v.any())}
    still = {k.split(".attn2")[0] for k, v in lora.items() if "lora_up" in k and not bool(v.any())}
    names = [n for n, _ in model.model.diffusion_model.named_modules() if n.endswith("attn2")]
    order = ["diffusion_model." + name.split(".attn2")[0] for name in names]
    from realcompo.balancer.comfy.attention.families import find_sites

    sites = find_sites(model.model.diffusion_model)
    last = max(n for n, site in enumerate(sites) if site.factor == 4)
    forward_order = sorted(order, key=lambda n: ["input", "middle", "output"].index(
        next(s for s in ("input", "middle", "output") if f".{s}_block" in n)))  # fmt: skip
    assert moved == set(forward_order[: last + 1])
    assert still == set(forward_order[last + 1 :])
    lora, _, _ = finetune(model, norm=1.0, steps=4)
    assert all(bool(v.any()) for k, v in lora.items() if "lora_up" in k)


@pytest.mark.parametrize("rank", [4, 0])
def test_a_lora_by_the_hosts_loader_is_the_model_that_was_trained(model, rank) -> None:
    import comfy.sd
    from realcompo.balancer.comfy.attention.families import find_sites
    from realcompo.balancer.comfy.finetune.separate_enhance import Where
    from realcompo.balancer.comfy.finetune.separation import (
        SeparateEnhance,
        SeparationSettings,
        prepare,
    )
    from realcompo.balancer.comfy.finetune.training import train

    predictions: list[Tensor] = []
    x, sigma = 3.0 * tiny.latent_noise(7, batch=2), torch.tensor([3.0, 1.0])
    with torch.inference_mode():
        prompts = prepare(TinyClip(), parse_lines(PROMPTS), singles=False)
    inner = SeparateEnhance(prompts, SeparationSettings(), 2, 4)

    def objective(session) -> None:
        # the state after the step before: the trained model as the loop itself has it
        with torch.no_grad():
            seen = session.predict(x, sigma, [prompts[0].encoded, prompts[1].encoded])
        predictions.append(seen)
        inner(session)

    settings = TrainingSettings(steps=6, batch_size=2, rank=rank, alpha=4.0, learning_rate=0.02)
    shorter = TrainingSettings(steps=5, batch_size=2, rank=rank, alpha=4.0, learning_rate=0.02)
    with torch.inference_mode():
        train(model, objective, settings, SIZE)
        got = train(model, inner, shorter, SIZE)
        loaded, _ = comfy.sd.load_lora_for_models(model, None, got.lora, 1.0, 0.0)
        assert len(loaded.patches) == len(find_sites(model.model.diffusion_model))

    seen: list[Tensor] = []

    def look(session) -> None:
        with torch.no_grad():
            seen.append(session.predict(x, sigma, [prompts[0].encoded, prompts[1].encoded]))

    from realcompo.balancer.comfy.finetune.session import in_session

    for patcher in (loaded, model):
        with torch.inference_mode(False):
            in_session(patcher, SIZE, 2, 0, look)
    moved = (predictions[5] - seen[1]).abs().max()
    assert moved > 1e-3
    assert (predictions[5] - seen[0]).abs().max() < 1e-3 * moved
    assert torch.equal(predictions[0], seen[1])
    assert Where(SIZE).targets == "to_k"


def test_the_losses_are_those_of_the_layers_own_projections(model) -> None:
    """The loop's numbers against maps taken by hooks, by the slow reference."""
    from realcompo.balancer.comfy.finetune.separation import prepare, read_heads
    from realcompo.balancer.comfy.finetune.session import in_session

    with torch.inference_mode():
        (prompt,) = prepare(TinyClip(), parse_lines(PROMPTS)[:1], singles=False)
    x, sigma = 2.0 * tiny.latent_noise(3), torch.tensor([2.0])
    heads: list[Tensor] = []

    def look(session) -> None:
        with torch.no_grad(), attention_reference.recording(model.model.diffusion_model) as seen:
            heads.append(read_heads(session, x, sigma, [prompt], 4))
        records.update({name: pairs[-1] for name, pairs in seen.items() if pairs})

    records: dict[str, tuple[Tensor, Tensor]] = {}
    with torch.inference_mode(False):
        in_session(model, SIZE, 1, 0, look)
    (got,) = heads
    expected = torch.zeros_like(got)
    count = 0
    for query, key in records.values():
        if query.shape[1] != 16:  # 16x16 latents have 4x4 maps at a quarter
            continue
        count += 1
        for h in range(2):
            width = query.shape[-1] // 2
            part = slice(h * width, (h + 1) * width)
            scores = query[0, :, part].double() @ key[0, :, part].double().T / width**0.5
            chances = scores.softmax(-1)
            for k, span in enumerate(prompt.regions.tokens[0]):
                expected[0, h, k] += chances[:, list(span)].mean(-1).view(4, 4).float()
    assert count > 1
    torch.testing.assert_close(got, expected / count, atol=1e-6, rtol=1e-4)


def test_same_seed_same_lora_another_seed_another(model) -> None:
    one, losses, _ = finetune(model, seed=3)
    torch.manual_seed(99)  # the host's global generator has no say
    two, again, _ = finetune(model, seed=3)
    other, _, _ = finetune(model, seed=4)
    assert same(one, two) and losses == again
    assert not same(one, other)


def directions(model, **weights) -> tuple[float, float]:
    """Changes of L_sep and L_en over a training, measured afterwards on fixed noise."""
    import comfy.sd
    from realcompo.balancer.comfy.finetune.separation import prepare
    from realcompo.balancer.comfy.finetune.separation_report import separation_reports

    lora, _, _ = finetune(model, PROMPTS.splitlines()[0], steps=25, batch_size=4, rank=0,
                          learning_rate=3e-3, **weights)  # fmt: skip
    with torch.inference_mode():
        tuned, _ = comfy.sd.load_lora_for_models(model, None, lora, 1.0, 0.0)
        prompts = prepare(TinyClip(), parse_lines(PROMPTS)[:1], singles=False)
        levels = (0.1, 0.4, 0.7)
        before, after = (
            separation_reports(m, prompts, levels, 4, SIZE, 5)[0] for m in (model, tuned)
        )
    separate = sum(after.separate) - sum(before.separate)
    return separate / 3, (sum(after.enhance) - sum(before.enhance)) / 3


def test_oracle_directions(model) -> None:
    """Separate alone lowers overlap; Enhance alone raises it with the peaks; both keep it lower."""
    separate, _ = directions(model, enhance=0.0)
    alone, peaks = directions(model, separate=0.0, enhance=1.0)
    both, firm = directions(model, separate=1.0, enhance=0.5)
    assert separate < 0
    assert alone > 0 and peaks < -0.05
    assert firm < -0.02 and both < alone


def test_three_objects(model) -> None:
    three = [TrainingPrompt("a cat, a dog and a cup", ("a cat", "a dog", "a cup"))]
    for form in ("pairwise", "product"):
        lora, losses, _ = finetune(model, three, form=form)
        assert all(torch.isfinite(value).all() for value in lora.values())
        assert all(value > 0 for value in losses["separate"])


def test_prompts_of_many_shapes_share_a_training(model) -> None:
    """Two and three objects, one and two chunks: batches are made of what fits together."""
    long = "a cat and a dog, " + ", ".join(["very detailed"] * 40)
    prompts = parse_lines(PROMPTS) + [
        TrainingPrompt("a cat, a dog and a cup", ("a cat", "a dog", "a cup")),
        TrainingPrompt(long, ("a cat", "a dog")),
    ]

    class Long(TinyClip):
        def encode_from_tokens(self, tokens: list[int], return_pooled: bool = False) -> Any:
            length = 77 * (1 + (len(tokens) - 1) // 75)
            rows = [0, *tokens, *[1] * length][:length]
            text = torch.stack([self._vector(token) for token in rows])[None]
            return (text, None) if return_pooled else text

    _, losses, steps = finetune(model, prompts, clip=Long(), steps=8, norm=0.5)
    assert steps == 8 and len(losses["norm"]) == 8


def test_checkpointed_blocks_give_the_same_training(model) -> None:
    plain, _, _ = finetune(model, norm=0.5, checkpointing="off")
    checkpointed, _, _ = finetune(model, norm=0.5, checkpointing="on")
    for key, value in plain.items():
        torch.testing.assert_close(value, checkpointed[key], atol=1e-5, rtol=1e-3)


def test_passes_per_step(model) -> None:
    """One forward that ends at the last map; with the norm loss two whole ones more."""
    from realcompo.balancer.comfy.finetune import training
    from realcompo.balancer.comfy.finetune.separation import (
        SeparateEnhance,
        SeparationSettings,
        prepare,
    )

    with torch.inference_mode():
        prompts = prepare(TinyClip(), parse_lines(PROMPTS), singles=True)
    settings = TrainingSettings(steps=1, batch_size=2, rank=2)
    for norm, forwards, backwards in ((0.0, 2, 1), (0.5, 6, 2)):
        inner = SeparateEnhance(prompts, SeparationSettings(norm=norm), 2, 4)
        counts: list[tuple[int, int]] = []

        def objective(session, inner=inner, counts=counts) -> None:
            inner(session)
            counts.append((session.forwards, session.backwards))

        with torch.inference_mode():
            training.train(model, objective, settings, SIZE)
        assert counts == [(forwards, backwards)]


class Stopping:
    """The host's cancel button, pressed at one step."""

    def __init__(self, monkeypatch, at: int) -> None:
        import comfy.model_management as management
        from realcompo.balancer.comfy.finetune.progress import Progress

        original = Progress.step
        self.steps = 0

        def step(progress, told, losses) -> None:
            self.steps += 1
            if self.steps == at:
                management.interrupt_current_processing()
            original(progress, told, losses)

        monkeypatch.setattr(Progress, "step", step)


def test_cancelled_and_taken_up_is_as_if_never_stopped(model, monkeypatch, tmp_path) -> None:
    import comfy.model_management as management

    whole, losses, _ = finetune(model, steps=6)
    before = weights_of(model)
    with monkeypatch.context() as patch:
        Stopping(patch, 3)
        with pytest.raises(management.InterruptProcessingException):
            finetune(model, steps=6)
    assert same(before, weights_of(model))
    (waiting,) = (tmp_path / "realcompo_training").glob("*.safetensors")
    resumed, told, steps = finetune(model, steps=6)
    assert steps == 6 and told == losses and same(whole, resumed)
    assert not waiting.exists()


def test_cancelled_and_finished_with_what_was_learned(model, monkeypatch, tmp_path) -> None:
    from realcompo.balancer.comfy.finetune.separate_enhance import Where

    wanted, _, _ = finetune(model, steps=3)
    Stopping(monkeypatch, 3)
    where = Where(SIZE, on_cancel="finish with what was learned")
    lora, losses, steps = finetune(model, steps=50, where=where)
    assert steps == 3 and len(losses["loss"]) == 3 and same(wanted, lora)
    assert lora.notes["finished"] is False
    assert not list((tmp_path / "realcompo_training").glob("*"))


def test_checkpoints_survive_a_crash(model, monkeypatch) -> None:
    from realcompo.balancer.comfy.finetune import progress
    from realcompo.balancer.comfy.finetune.separate_enhance import Where

    whole, _, _ = finetune(model, steps=6)
    original = progress.Progress.step

    def crash(self, told, losses) -> None:
        original(self, told, losses)
        if len(losses["loss"]) == 5:
            raise MemoryError("the machine gave up")

    with monkeypatch.context() as patch, pytest.raises(MemoryError):
        patch.setattr(progress.Progress, "step", crash)
        finetune(model, steps=6, where=Where(SIZE, save_every=2))
    seen: list[int] = []
    monkeypatch.setattr(
        progress.Progress, "step",
        lambda self, told, losses: seen.append(len(losses["loss"])),
    )  # fmt: skip
    again, _, _ = finetune(model, steps=6, where=Where(SIZE, save_every=2))
    assert seen == [5, 6] and same(whole, again)


def test_a_damaged_checkpoint_is_named(model, monkeypatch, tmp_path) -> None:
    import comfy.model_management as management

    with monkeypatch.context() as patch:
        Stopping(patch, 1)
        with pytest.raises(management.InterruptProcessingException):
            finetune(model)
    (waiting,) = (tmp_path / "realcompo_training").glob("*.safetensors")
    waiting.write_bytes(waiting.read_bytes()[:100])
    with pytest.raises(RealCompoError, match=waiting.name):
        finetune(model)


def test_a_training_that_diverges_keeps_what_it_had(model, monkeypatch, tmp_path) -> None:
    from realcompo.balancer.comfy.finetune import separation

    inner = separation.enhance_loss
    calls: list[int] = []

    def broken(maps: Tensor, peak: str) -> Tensor:
        calls.append(1)
        return inner(maps, peak) * (float("nan") if len(calls) > 2 else 1.0)

    monkeypatch.setattr(separation, "enhance_loss", broken)
    with pytest.raises(RealCompoError, match="learning_rate.*after 2 steps"):
        finetune(model)
    assert len(list((tmp_path / "realcompo_training").glob("*failed_at_2.safetensors"))) == 1


def test_loras_and_wrappers_of_others_stay_in_force(model) -> None:
    """The model that is trained is the one that was given, patches and all."""
    import comfy.sd

    other, _, _ = finetune(model, seed=8, learning_rate=0.3)
    with torch.inference_mode():
        patched, _ = comfy.sd.load_lora_for_models(model, None, other, 1.0, 0.0)
    seen: list[int] = []

    def wrapper(apply_model, args):
        seen.append(len(args["input"]))
        return apply_model(args["input"], args["timestep"], **args["c"])

    patched.set_model_unet_function_wrapper(wrapper)
    before = weights_of(model)
    one, losses, _ = finetune(patched, steps=2)
    _, plain, _ = finetune(model, steps=2)
    assert seen == [2, 2]
    assert losses["loss"][0] != plain["loss"][0]
    assert same(before, weights_of(model))
    assert all(torch.isfinite(value).all() for value in one.values())


@pytest.mark.parametrize("family", ["sdxl", "v"])
def test_other_families(family) -> None:
    if family == "sdxl":
        other, clip = tiny.tiny_sdxl(1), TinyClip(64, pooled=1280)
    else:
        other, clip = tiny.tiny_unet(1, model_type="v"), TinyClip()
    lora, losses, _ = finetune(other, clip=clip, norm=0.5)
    assert lora and all(value == value for value in losses["loss"])


def test_models_of_joint_attention_are_refused() -> None:
    with pytest.raises(RealCompoError, match=r"'model'.*joint"):
        finetune(tiny.tiny_flux(1))


def test_denoising_goes_with_latents(model) -> None:
    latents = torch.randn(2, 4, *SIZE)
    lora, losses, _ = finetune(model, latents=latents, norm=0.5, norm_form="denoising")
    assert len(losses["norm"]) == 3 and lora
    with pytest.raises(RealCompoError, match="2 prompts"):
        finetune(model, latents=latents[:1], norm=0.5, norm_form="denoising")


def test_one_object_cannot_be_separated(model) -> None:
    alone = [TrainingPrompt("a cat", ("a cat",))]
    with pytest.raises(RealCompoError, match="one object"):
        finetune(model, alone)
    _, losses, _ = finetune(model, alone, separate=0.0)
    assert losses["separate"] == [0.0, 0.0, 0.0]


def test_own_sampling_starts_from_what_the_host_would_draw(model) -> None:
    """The states are those of the host's Euler sampler with the prompt's own conditioning."""
    import comfy.samplers
    from realcompo.balancer.comfy.finetune.separation import (
        SeparateEnhance,
        SeparationSettings,
        prepare,
    )
    from realcompo.balancer.comfy.finetune.session import encode, in_session

    clip = TinyClip()
    with torch.inference_mode():
        prompts = prepare(clip, parse_lines(PROMPTS), singles=False)
        empty = encode(clip, "")
    settings = SeparationSettings(states="own sampling", sampling_steps=5, sampling_cfg=3.0)
    objective = SeparateEnhance(prompts, settings, 2, 4, None, empty, seed=11)
    drawn: list[tuple[Tensor, Tensor]] = []
    with torch.inference_mode(False):
        in_session(model, SIZE, 2, 0, lambda session: drawn.append(objective._draw(session)))
    levels, states = drawn[0]
    assert states.shape == (5, 2, 4, *SIZE)
    noise = torch.randn(2, 4, *SIZE, generator=torch.Generator().manual_seed(11))
    for n, prompt in enumerate(prompts):
        seen: list[Tensor] = []
        guider = comfy.samplers.CFGGuider(model)
        guider.set_conds([[prompt.encoded.text, {}]], [[empty.text, {}]])
        guider.set_cfg(3.0)
        with torch.inference_mode():
            guider.sample(
                noise[n : n + 1], torch.zeros(1, 4, *SIZE), comfy.samplers.sampler_object("euler"),
                torch.cat([levels, torch.zeros(1)]), disable_pbar=True,
                callback=lambda step, clean, x, total, seen=seen: seen.append(x.clone()),
            )  # fmt: skip
        torch.testing.assert_close(states[:, n], torch.cat(seen), atol=1e-4, rtol=1e-4)
    assert not torch.equal(states[1], states[0])


def test_own_sampling_is_repeatable_and_taken_up(model, monkeypatch) -> None:
    import comfy.model_management as management

    changes = {"states": "own sampling", "sampling_steps": 3, "steps": 5}
    whole, losses, _ = finetune(model, **changes)
    with monkeypatch.context() as patch:
        Stopping(patch, 2)
        with pytest.raises(management.InterruptProcessingException):
            finetune(model, **changes)
    resumed, told, _ = finetune(model, **changes)
    assert same(whole, resumed) and told == losses
    with pytest.raises(RealCompoError, match="none of the 3 steps"):
        finetune(model, **changes, start=0.01, end=0.02)


def test_latents_go_with_their_prompts(model) -> None:
    """As many latents as prompts: each prompt is looked at in its own picture."""
    from realcompo.balancer.comfy.finetune.separation import (
        SeparateEnhance,
        SeparationSettings,
        prepare,
    )
    from realcompo.balancer.comfy.finetune.session import in_session

    with torch.inference_mode():
        prompts = prepare(TinyClip(), parse_lines(PROMPTS), singles=False)
    latents = torch.stack([torch.full((4, *SIZE), 1.0), torch.full((4, *SIZE), 2.0)])
    own = SeparateEnhance(prompts, SeparationSettings(), 2, 4, latents)
    any_ = SeparateEnhance(prompts, SeparationSettings(), 2, 4, latents[1:])
    seen: list[list[float]] = []

    def look(session) -> None:
        seen.append([float(x.mean()) for x in own._clean(session, [1, 0, 1])])
        seen.append([float(x.mean()) for x in any_._clean(session, [1, 0])])

    with torch.inference_mode(False):
        in_session(model, SIZE, 2, 0, look)
    assert seen == [[2.0, 1.0, 2.0], [2.0, 2.0]]


def node_inputs(a_model, **changes) -> dict[str, Any]:
    """What a graph gives the training node."""
    inputs = {
        "model": a_model, "clip": TinyClip(), "prompts": PROMPTS, "steps": 2, "batch_size": 2,
        "learning_rate": 0.01, "separate": 1.0, "enhance": 0.5, "norm": 0.0, "seed": 0,
        "width": 128, "height": 128,
    }  # fmt: skip
    return {**inputs, **changes}


def test_the_node_saves_what_the_host_loads(model, tmp_path) -> None:
    import json

    import comfy.sd
    import comfy.utils
    import safetensors
    from realcompo.balancer.layouts.layout import Layout, Region
    from realcompo.nodes.finetuning import RealCompoSeparateEnhance
    from realcompo.nodes.finetuning_tools import RealCompoSaveLoRA, RealCompoSeparationReport

    layout = Layout((Region("a green cup", (0, 0, 1, 1)), Region("a hat", (0, 0, 1, 1))),
                    "a green cup under a hat")  # fmt: skip
    with torch.inference_mode():
        node = RealCompoSeparateEnhance()
        lora, losses, steps = node.train(**node_inputs(model, layout=layout))
        name = RealCompoSaveLoRA().save(lora, "loras/tiny", losses)["result"][0]
        again = RealCompoSaveLoRA().save(lora, "loras/tiny", losses)["result"][0]
    assert steps == 2 and name != again
    path = tmp_path / name
    with safetensors.safe_open(str(path), "pt") as file:
        notes = json.loads(file.metadata()["realcompo"])
    assert [p["text"] for p in notes["prompts"]][0] == "a green cup under a hat"
    assert notes["losses"] == losses and notes["base"] and notes["steps"] == 2
    state = comfy.utils.load_torch_file(str(path), safe_load=True)
    assert same(dict(lora), state)
    with torch.inference_mode():
        tuned, _ = comfy.sd.load_lora_for_models(model, None, state, 1.0, 0.0)
        report = RealCompoSeparationReport()
        found = [
            report.measure(m, TinyClip(), PROMPTS, "0.2, 0.6", 1, "auto", width=128, height=128)
            for m in (model, model, tuned)
        ]
    for image, separate, enhance, text in found:
        told = json.loads(text)
        assert image.shape[0] == 2 and image.shape[-1] == 3 and float(image.min()) >= 0
        assert 0 < separate <= 0.25 and 0 <= enhance < 1
        numbers = [v for p in told["prompts"] for v in p["separate"]]
        assert separate == pytest.approx(sum(numbers) / len(numbers), abs=1e-5)
    assert found[0][1:3] == found[1][1:3] != found[2][1:3]


@pytest.mark.parametrize(
    "changes, where",
    [
        ({"model": None}, "model"),
        ({"clip": None}, "clip"),
        ({"prompts": ""}, "prompts"),
        ({"prompts": "a cat"}, "prompts"),
        ({"prompts": "a cat", "lines": "concepts"}, "prompts"),
        ({"prompts": "a cat\na dog", "lines": "concepts", "template": "{a}"}, "template"),
        ({"separate": 0.0, "enhance": 0.0}, "separate"),
        ({"start": 0.5, "end": 0.4}, "start"),
        ({"latents": {"samples": torch.zeros(1, 16, 8, 8)}}, "latents"),
        ({"latents": 3}, "latents"),
        ({"map_level": "8"}, "map_level"),
        ({"norm": 1.0, "norm_form": "denoising"}, "latents"),
        ({"layout": 5}, "layout"),
        ({"states": "own sampling", "sampling_steps": 1}, "sampling_steps"),
    ],
)  # fmt: skip
def test_bad_input_is_told_before_anything_runs(model, monkeypatch, changes, where) -> None:
    import comfy.samplers
    from realcompo.nodes.finetuning import RealCompoSeparateEnhance

    def never(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("the model was run")

    monkeypatch.setattr(comfy.samplers, "calc_cond_batch", never)
    with torch.inference_mode(), pytest.raises(RealCompoError) as caught:
        RealCompoSeparateEnhance().train(**node_inputs(model, **changes))
    assert caught.value.where == where
    assert str(caught.value).startswith("Separate and Enhance Finetune, input ")


def test_files_stay_below_the_output_folder(model) -> None:
    from realcompo.nodes.finetuning_tools import RealCompoSaveLoRA

    for prefix in ("../escape", "/escape"):
        with pytest.raises(RealCompoError, match="filename_prefix"):
            RealCompoSaveLoRA().save({"a": torch.zeros(1)}, prefix)
    with pytest.raises(RealCompoError, match="holds nothing"):
        RealCompoSaveLoRA().save({}, "fine")
