"""Pictures of many scenes by one method: the pack's own guider, a batch of scenes at a time.

Every scene has its own prompt, boxes, layout and noise. The noise depends on the scene alone, so
that methods are compared on the same start.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import comfy.model_management
import comfy.sample
import comfy.samplers
import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor, nn

from ..balancer.comfy.gligen import apply_gligen
from ..balancer.comfy.inputs.types import resolve
from ..balancer.comfy.realcompo.guider import RealCompoGuider
from ..balancer.layouts.layout import Layout, Region
from ..balancer.layouts.mask import Mask
from ..balancer.realcompo.settings import BalancerSettings
from ..balancer.realcompo.trace import Trace
from ..shapes.control import draw_hints
from ..shapes.host_models import load_control, load_demo
from ..shapes.world import Scene, make_caption
from .tuned import lora_hooks, with_lora

TEST_SEED = 20_261_122
"""Seed of the tables' scenes and of their first noise; nothing is tuned on them."""
STEPS = 20
CFG = 3.0
SAMPLER, SCHEDULER = "euler", "normal"
SIDE = 16

MakeGuider = Callable[..., RealCompoGuider]


class BatchBoxes(nn.Module):
    """A GLIGEN model for a batch whose samples have different boxes.

    The host hands ``set_position`` one list of boxes for all samples; here that list is the number
    of a batch, and the hooks of its samples' own boxes act on their own rows.
    """

    def __init__(self, grounding: Any) -> None:
        super().__init__()
        self.grounding = grounding

    def set_position(self, latent_shape: Any, rows: list[list[Any]], device: Any) -> Any:
        """The hook for ``rows``: for every sample the boxes that ``apply_gligen`` gave it."""
        most = max(len(row) for row in rows)
        shape = latent_shape[-2:]
        width = rows[0][0][0].shape[-1]
        phrases = torch.zeros(len(rows), most, width, device=device)
        boxes = torch.zeros(len(rows), most, 4, device=device)
        for number, row in enumerate(rows):
            for index, (vector, height, width, y, x) in enumerate(row):
                phrases[number, index] = vector.reshape(-1)
                box = (x / shape[1], y / shape[0], (x + width) / shape[1], (y + height) / shape[0])
                boxes[number, index] = torch.tensor(box)
        known: dict[int, Any] = {}

        def hook(x: Tensor, extra: dict[str, Any]) -> Tensor:
            # the host runs the positive and the negative in one pass, one after the other
            times = len(x) // len(rows)
            if times not in known:
                parts = phrases.repeat(times, 1, 1), boxes.repeat(times, 1, 1)
                known[times] = self.grounding.hook(*parts, latent_shape)
            return known[times](x, extra)

        return hook


@dataclass(frozen=True)
class PromptedScene:
    """One scene as the nodes would be given it."""

    scene: Scene
    seed: int
    layout: Layout
    tokens: tuple[tuple[int, ...], ...]
    text: Tensor
    boxes: list[Any]


@dataclass
class Drawn:
    """Pictures (N, 3, 128, 128) in 0..1 with what they cost; ``traces`` one per batch."""

    pictures: Tensor
    forwards: float
    partial_forwards: float
    backwards: float
    seconds: float
    traces: list[Trace] = field(default_factory=list)


def layout_of(scene: Scene, regions: str = "boxes") -> Layout:
    """The scene's caption and boxes as a layout; things of one group share its phrase.

    With ``regions`` 'masks' every region is the object's true silhouette instead.
    """
    made = []
    for phrase, thing in zip(scene.phrases, scene.objects, strict=True):
        if regions == "masks":
            drawn = draw_hints([Scene((thing,))], "segmentation")[0].amax(dim=0)
            made.append(Region.from_mask(phrase, Mask.from_tensor(drawn > 0)))
        else:
            made.append(Region(phrase, thing.box))
    return Layout(tuple(made), make_caption(scene).text)


class Studio:
    """The demo pair of one style, ready to draw scenes by any settings.

    The spatial branch follows GLIGEN boxes, or a ControlNet of the kind ``control``, on the same
    base model; ``regions`` as ``layout_of`` has it. The realism model is finetuned by the file
    ``lora``, if one is given, in the first part ``until`` (0..1) of the noise schedule.
    """

    def __init__(
        self,
        style: str = "realistic",
        control: str | None = None,
        regions: str = "boxes",
        lora: Path | None = None,
        until: float = 1.0,
    ) -> None:
        self._kind, self._regions = control, regions
        self._control = None if control is None else load_control(control)
        self.realism, self.clip, self.vae, _ = load_demo(style, "realism")
        self._hooks: Any = None
        if lora is not None and until < 1.0:
            self._hooks = lora_hooks(self.realism, lora, until)
        elif lora is not None:
            self.realism = with_lora(self.realism, lora)
        self.spatial, self.spatial_clip, _, self.gligen = load_demo(style, "spatial")
        self._batch_boxes = ModelPatcher(
            BatchBoxes(self.gligen.model), self.gligen.load_device, self.gligen.offload_device
        )
        self._empty = self._encode("")

    def _encode(self, text: str) -> Tensor:
        return self.clip.encode_from_tokens(self.clip.tokenize(text))

    def ask(self, scenes: Sequence[Scene], first_seed: int) -> list[PromptedScene]:
        """Prompts, boxes and seeds (``first_seed`` + number) of scenes."""
        prompts = []
        for number, scene in enumerate(scenes):
            layout = layout_of(scene, self._regions)
            text = self._encode(layout.prompt)
            grounded = apply_gligen([[text, {}]], self.spatial_clip, self.gligen, layout)
            boxes = grounded[0][1]["gligen"][2]
            seed, tokens = first_seed + number, resolve(layout)
            prompts.append(PromptedScene(scene, seed, layout, tokens, text, boxes))
        return prompts

    def tuned(self, conditioning: Any) -> Any:
        """A conditioning of the realism model, with the hooks that finetune it for a part only."""
        if self._hooks is None:
            return conditioning
        import comfy.hooks

        return comfy.hooks.set_hooks_for_conditioning(conditioning, self._hooks)

    def noise(self, prompts: Sequence[PromptedScene]) -> Tensor:
        """(N, 16, 16, 16): what the host's sampler node would start from, scene by scene."""
        empty = torch.zeros(1, 16, SIDE, SIDE)
        return torch.cat([comfy.sample.prepare_noise(empty, a.seed) for a in prompts])

    def guider(
        self,
        prompts: Sequence[PromptedScene],
        settings: BalancerSettings,
        make: MakeGuider = RealCompoGuider,
        cfg: float = CFG,
        **more: Any,
    ) -> RealCompoGuider:
        """A guider over a batch of scenes."""
        positive = [[torch.cat([a.text for a in prompts]), {}]]
        negative = [[self._empty, {}]]
        if self._control is None or self._kind is None:
            boxes = ("position", self._batch_boxes, [a.boxes for a in prompts])
            placed: dict[str, Any] = {"gligen": boxes}
        else:
            hints = draw_hints([a.scene for a in prompts], self._kind)
            control = self._control.copy().set_cond_hint(hints, 1.0, (0.0, 1.0))
            placed = {"control": control, "control_apply_to_uncond": True}
        grounded = [[positive[0][0], placed]]
        return make(
            self.realism, self.spatial, self.tuned(positive), self.tuned(negative), grounded,
            negative, [a.layout for a in prompts], [a.tokens for a in prompts], cfg, settings,
            **more,
        )  # fmt: skip

    @torch.inference_mode()
    def draw(
        self,
        prompts: Sequence[PromptedScene],
        settings: BalancerSettings,
        make: MakeGuider = RealCompoGuider,
        batch: int = 32,
        steps: int = STEPS,
        **more: Any,
    ) -> Drawn:
        """One picture per scene; ``make`` may be another kind of guider, given ``more``."""
        sigmas = comfy.samplers.KSampler(
            self.realism, steps=steps, device=self.realism.load_device, sampler=SAMPLER,
            scheduler=SCHEDULER, denoise=1.0, model_options=self.realism.model_options,
        ).sigmas  # fmt: skip
        pictures, traces = [], []
        started = time.perf_counter()
        for start in range(0, len(prompts), batch):
            some = prompts[start : start + batch]
            guider = self.guider(some, settings, make, **more)
            noise = self.noise(some)
            latents = guider.sample(
                noise, torch.zeros_like(noise), comfy.samplers.sampler_object(SAMPLER), sigmas,
                disable_pbar=True, seed=some[0].seed,
            )  # fmt: skip
            traces.append(guider.trace)
            pictures.append(self.vae.decode(latents).permute(0, 3, 1, 2).clamp(0, 1).clone())
        count = len(prompts)

        def mean(name: str) -> float:
            return sum(getattr(trace, name) for trace in traces) / count

        return Drawn(
            torch.cat(pictures), mean("forwards"), mean("partial_forwards"), mean("backwards"),
            (time.perf_counter() - started) / count, traces,
        )  # fmt: skip
