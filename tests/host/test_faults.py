"""Whatever fails in whatever run: nothing is left patched, and the next run is as if nothing had.

A few kinds of run with a fault or two each, the same in every run of the suite;
``REALCOMPO_FAULTS=50`` lets so many happen in every kind there is.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import torch
from realcompo.balancer.realcompo.settings import preset
from torch import Tensor

from . import pair, tiny, tiny_dit
from .dynamic_vram import available, dynamic_vram
from .faults import AROUND, CALLBACK, HOST, KINDS, Faults, State, errors, injected

ALL = "REALCOMPO_FAULTS" in os.environ
COUNT = int(os.environ.get("REALCOMPO_FAULTS", "2"))
STEPS = 2
PAPER = preset("paper", spatial_only=0.0, rate=1e4, rate_end=1e4)


@dataclass
class Run:
    """A kind of run: ``once`` does it, with the callback that a sampler is given.

    ``patchers`` and ``modules`` are what must be as before, ``pages`` those of dynamic VRAM, and
    ``around`` the modules that are no network.
    """

    once: Callable[[Any], list[Tensor]]
    patchers: list[Any]
    modules: list[torch.nn.Module] = field(default_factory=list)
    pages: str = ""
    around: list[torch.nn.Module] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.modules = self.modules or list({id(p.model): p.model for p in self.patchers}.values())


def balanced(*models: Any, settings: Any = PAPER, pages: str = "", **options: Any) -> Run:
    """The first guider fails and is used again; a second one is made anew."""
    noise = options.pop("noise", None)
    noise = tiny.latent_noise(5) if noise is None else noise
    also = options.pop("also", [])
    guider = pair.guider(*models, settings, **options)
    turn = [0]

    def once(callback: Any) -> list[Tensor]:
        turn[0] += 1
        one = guider if turn[0] % 2 else pair.guider(*models, settings, **options)
        return [pair.run(one, noise, STEPS, callback=callback)]

    modules = list({id(m.model): m.model for m in (*models, *also)}.values())
    return Run(once, [*models, *also], modules, pages)


def gligen() -> Run:
    first, second = tiny.tiny_unet(1), tiny.tiny_unet(2)
    boxes = tiny.tiny_gligen(second, 8)
    grounded = tiny.with_gligen(tiny.conditioning(3), boxes, [(tiny.pooled_phrase(2), 8, 8, 0, 0)])
    return balanced(first, second, spatial_positive=grounded, also=[boxes])


def control(mode: str = "dynamic", pages: str = "") -> Run:
    from .test_shared_work import steered

    model, net = tiny.tiny_unet(1), tiny.tiny_controlnet(6)
    run = balanced(
        model, model, settings=replace(PAPER, mode=mode), pages=pages, **steered(net)
    )  # fmt: skip
    run.modules.append(net.control_model)
    return run


def two_loras(pages: str = "") -> Run:
    from .test_one_checkpoint import lora

    model = tiny.tiny_unet(1)
    return balanced(model, lora(model), pages=pages)


def hooked() -> Run:
    model = tiny.tiny_unet(1)
    text = tiny.with_weight_hook(tiny.conditioning(3), tiny.difference(model))
    return balanced(model, tiny.tiny_unet(2), positive=text)


def dense(pages: str = "") -> Run:
    from .test_dense import dense as bend

    bent, prompt = bend(tiny.tiny_unet(2))
    return balanced(tiny.tiny_unet(1), bent, spatial_positive=prompt, pages=pages)


def joint(family: str) -> Run:
    models = tiny_dit.models_of(family)
    return balanced(
        *models, noise=tiny_dit.noise(family), positive=tiny_dit.conditioning(3),
        negative=tiny_dit.conditioning(4),
    )  # fmt: skip


def maps() -> Run:
    from .test_attention_look import read

    model = tiny.tiny_unet(1)

    def once(callback: Any) -> list[Tensor]:
        return [c.maps for level in read(model).columns for c in level]

    return Run(once, [model])


def finetuned(pages: str = "", **changes: Any) -> Run:
    from .test_finetuning import finetune

    model = tiny.tiny_unet(1, levels=3)

    def once(callback: Any) -> list[Tensor]:
        lora, _, _ = finetune(model, steps=1, **changes)
        return list(lora.values())

    return Run(once, [model], pages=pages)


def rewarded() -> Run:
    from realcompo.nodes.demo import RealCompoShapesLoader
    from realcompo.nodes.demo_vision import RealCompoShapesCaptioner

    from .test_refl import train

    with torch.inference_mode():
        demo = RealCompoShapesLoader().load("realistic", "realism")
        judge = RealCompoShapesCaptioner().load()[0]
    model, clip, vae, _ = demo

    def once(callback: Any) -> list[Tensor]:
        lora, _, _ = train(demo, judge, steps=1, batch_size=1, sampling_steps=2)
        return list(lora.values())

    parts = [model.model, clip.cond_stage_model, vae.first_stage_model, judge.module]
    return Run(once, [model, clip.patcher, vae.patcher], parts, around=parts[1:])


def drawn(pages: str = "") -> Run:
    """From a prompt to a picture and on from that, by nodes, with previews."""
    import latent_preview
    from comfy.cli_args import LatentPreviewMethod
    from realcompo.balancer.layouts.layout import Layout, Region
    from realcompo.nodes.demo import RealCompoShapesLoader
    from realcompo.nodes.sampling import RealCompoDualSampler

    import nodes

    load = RealCompoShapesLoader().load
    with torch.inference_mode():
        (model, clip, vae, _), (spatial, *_) = (
            load("realistic", part) for part in ("realism", "spatial")
        )
    things = Region("a red star", (0.0, 0.0, 0.5, 0.5)), Region("a blue circle", (0.5, 0.5, 1, 1))
    layout = Layout(things, "a red star and a blue circle")

    def once(callback: Any) -> list[Tensor]:
        with torch.inference_mode(), pytest.MonkeyPatch.context() as patch:
            patch.setattr(latent_preview.args, "preview_method", LatentPreviewMethod.Latent2RGB)
            encode = nodes.CLIPTextEncode().encode
            positive, negative = encode(clip, layout.prompt)[0], encode(clip, "")[0]

            def sampled(latent: dict[str, Tensor], denoise: float) -> dict[str, Tensor]:
                return RealCompoDualSampler().sample(
                    latent_image=latent, seed=1, steps=STEPS, sampler_name="euler",
                    scheduler="normal", denoise=denoise, realism_model=model,
                    spatial_model=spatial, positive=positive, negative=negative, layout=layout,
                    cfg=3.0, balancer=PAPER,
                )["result"][0]  # fmt: skip

            first = sampled({"samples": torch.zeros(1, 16, 16, 16)}, 1.0)
            pixels = vae.decode(first["samples"])
            again = sampled({"samples": vae.encode(pixels)}, 0.5)
            return [first["samples"], pixels, again["samples"]]

    around = [clip.cond_stage_model, vae.first_stage_model]
    patchers = [model, spatial, clip.patcher, vae.patcher]
    return Run(once, patchers, [model.model, spatial.model, *around], pages, around)


def both(**options: Any) -> Run:
    return balanced(tiny.tiny_unet(1), tiny.tiny_unet(2), **options)


RUNS: dict[str, Callable[[], Run]] = {
    "dynamic": both,
    "lagged": lambda: both(settings=replace(PAPER, mode="lagged")),
    "fixed": lambda: both(settings=replace(PAPER, mode="fixed")),
    "equilibrium": lambda: both(settings=preset("equilibrium")),
    "gligen": gligen,
    "one checkpoint, control": control,
    "one checkpoint, control, lagged": lambda: control("lagged"),
    "one checkpoint, lora": two_loras,
    "hooks": hooked,
    "dense": dense,
    "flux": lambda: joint("flux"),
    "sd3": lambda: joint("sd3"),
    "maps": maps,
    "finetune": finetuned,
    "finetune, checkpointed": lambda: finetuned(checkpointing="on"),
    "reward": rewarded,
    "drawn": drawn,
    "dynamic, paged": lambda: both(pages="changing"),
    "lagged, paged": lambda: both(settings=replace(PAPER, mode="lagged"), pages="evicted"),
    "one checkpoint, control, paged": lambda: control(pages="changing"),
    "one checkpoint, lora, paged": lambda: two_loras(pages="changing"),
    "dense, paged": lambda: dense(pages="resident"),
    "finetune, paged": lambda: finetuned(pages="changing"),
    "drawn, paged": lambda: drawn(pages="changing"),
}


SHORT = (
    "lagged", "one checkpoint, control", "maps", "finetune", "one checkpoint, lora, paged", "drawn",
)  # fmt: skip


@pytest.fixture(autouse=True)
def _outputs(tmp_path: Any, monkeypatch: Any) -> None:
    import folder_paths

    monkeypatch.setattr(folder_paths, "get_output_directory", lambda: str(tmp_path))


def require(name: str) -> None:
    """Skip a kind of run that this host does not have."""
    from realcompo.balancer.comfy.host.compat import has_attention_override

    if "paged" in name and not available():
        pytest.skip("this ComfyUI has no dynamic VRAM")
    if name == "hooks":
        pytest.importorskip("comfy.hooks")
    if name in ("flux", "sd3") and not has_attention_override():
        pytest.skip("this ComfyUI lets nobody read joint attention")


def chosen(name: str, quiet: Faults) -> Iterator[Faults]:
    """COUNT faults among the calls that a quiet run made: the same in every run of the suite."""
    chance = random.Random(name)  # noqa: S311
    kinds = [kind for kind in KINDS if quiet.seen[kind]]
    for number in range(COUNT):
        kind = kinds[number % len(kinds)] if len(kinds) <= COUNT else chance.choice(kinds)
        at, make = chance.randrange(quiet.seen[kind]), chance.choice(errors())
        yield Faults(kind, at, make())


def assert_comes_out(run: Run, faults: Faults) -> None:
    """The fault is told by the run that it happens in."""
    import comfy.model_management as management

    planned, came_out = faults.error, False
    assert planned is not None
    try:
        with injected(faults, run.around):
            run.once(faults.callback)
    except type(planned) as error:
        # a captioner's failure is told as one of its folder, with what it comes from
        assert planned in causes_of(error), error
        came_out = True
    # the host's VAE goes on in tiles when memory runs out
    in_tiles = faults.kind == AROUND and isinstance(planned, management.OOM_EXCEPTION)
    assert came_out == faults.raised or in_tiles, "swallowed"


def assert_spared(run: Run, faults: Faults, state: State, expected: list[Tensor]) -> None:
    """All is as before the fault, and so is the next run."""
    if faults.kind == HOST and run.pages:
        state.forgive_pages()
    if faults.in_cleaning:
        state.forgive_patcher()
    state.assert_same()
    same(run.once(None), expected)
    state.assert_same()


@pytest.mark.parametrize("name", RUNS if ALL else SHORT)
def test_nothing_is_left_of_a_fault(name: str, monkeypatch: Any) -> None:
    import comfy.model_management as management
    from realcompo.balancer.comfy.patchers import turns

    require(name)
    if "lora, paged" in name:  # on the CPU the host makes no patcher that says so itself
        monkeypatch.setattr(turns, "is_dynamic", lambda _: True)
    run = RUNS[name]()
    networks = [module for module in run.modules if module not in run.around]
    with dynamic_vram(*networks, pages=run.pages) if run.pages else nullcontext():
        expected = run.once(None)
        quiet = Faults()
        with injected(quiet, run.around):
            same(run.once(quiet.callback), expected)
        state = State(run.patchers, run.modules)
        raised = 0
        for faults in chosen(name, quiet):
            try:
                assert_comes_out(run, faults)
                assert_spared(run, faults, state, expected)
            except AssertionError as error:
                raise AssertionError(f"{name}: {faults}: {error}") from error
            raised += faults.raised  # a run that loads nothing anew has fewer calls
    assert raised >= max(1, COUNT // 2)
    assert not management.processing_interrupted()
    assert CALLBACK in quiet.seen or not name.startswith("lagged")


def causes_of(error: BaseException | None) -> Iterator[BaseException]:
    """The error and those while which it was raised."""
    while error is not None:
        yield error
        error = error.__context__


def same(found: list[Tensor], expected: list[Tensor]) -> None:
    assert len(found) == len(expected) > 0
    for one, other in zip(found, expected, strict=True):
        assert torch.isfinite(one).all()
        assert torch.equal(one, other), float((one - other).abs().max())
