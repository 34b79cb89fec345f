"""Reward feedback learning by a captioner: the objective of one training step.

After RealignDiff's coarse stage and ReFL (Xu et al. 2023, arXiv 2304.05977). A latent is sampled
without gradients down to a random late step; the clean picture that is predicted there is decoded,
and the captioner says how likely it finds the prompt for it. That likelihood is raised through the
one prediction. RealignDiff's own loss is not public: the likelihood as the reward, its margin and
the distance kept from the untrained model are our choices.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import comfy.model_management
import comfy.samplers
import comfy.sd1_clip
import torch
from torch import Tensor

from ...errors import RealCompoError
from ...finetune.optimisation import OnCancel, TrainingSettings
from ...values import checked
from ...values.setting_fields import check, number, whole
from ..autograd.inference_weights import Aliases, without_inference_tensors
from ..captions.captioner import Captioner, require_captioner
from ..inputs.checks import require_ability
from ..inputs.encoded import check_width
from ..inputs.types import require_clip, require_model
from .lora_file import LoraModel
from .session import Encoded, Session, encode
from .training import train_lora
from .training_step import PromptGroups, distance_to_untrained
from .walk import noise_levels, walk, with_guidance


@dataclass(frozen=True)
class ReflSettings:
    """How rewards are taken.

    ``sampling_steps`` of Euler's method on ``scheduler``'s noise levels at guidance ``cfg``
    (1: none, as ReFL was released). The step with a gradient is uniform in the parts ``start`` to
    ``end`` of them. Loss: ``weight`` * mean(relu(``margin`` - reward)), the reward being the mean
    log-probability of the prompt's tokens: once it is above ``margin``, a picture teaches nothing
    more. ``keep`` weighs the mean square of what training changed in the predicted noise, at the
    step with a gradient and at another one before it.
    """

    sampling_steps: int = whole(
        20, 2, 1000, "Steps of the sampling (Euler) that training cuts short."
    )
    scheduler: str = "normal"
    cfg: float = number(
        1.0, 1.0, 30.0, 0.1,
        "Guidance of the sampling against the empty prompt. 1 = none, as ReFL was released; the"
        " value you draw with shows the pictures you will get, and doubles the time.",
    )  # fmt: skip
    start: float = number(
        0.75, 0.0, 1.0, 0.01,
        "The step with a gradient is drawn from here on, as a part of the sampling: 0.75 = its"
        " last quarter. Earlier steps decide more, but show it less clearly.", "stop_from",
    )  # fmt: skip
    end: float = number(1.0, 0.0, 1.0, 0.01, "And up to here.", "stop_to")
    margin: float = number(
        0.0, -100.0, 0.0, 0.01,
        "A picture with a reward (mean log-probability) above this teaches nothing more. Good"
        " value: what Likelihood Reward gives good pictures.",
    )  # fmt: skip
    weight: float = number(
        1.0, 1e-6, 1000.0, 1e-6, "Factor of the reward's loss.", "reward_weight"
    )
    keep: float = number(
        1.0, 0.0, 1000.0, 0.01,
        "Factor of the distance from the untrained model's predicted noise: higher keeps its look"
        " better and learns less. 0 = off, and faster.", "keep_weight",
    )  # fmt: skip
    prefix: str = ""

    def __post_init__(self) -> None:
        check(self)
        checked.choice(self.scheduler, "scheduler", comfy.samplers.KSampler.SCHEDULERS)
        checked.text(self.prefix, "prefix")
        if self.start >= self.end:
            raise RealCompoError(
                "stop_from", f"the part of the sampling is {self.start} to {self.end}",
                "Set stop_from below stop_to",
            )  # fmt: skip


def plain_text(prompt: str) -> str:
    """The prompt without the host's weights: '(red car:1.2)' is 'red car' to a captioner."""
    escaped = comfy.sd1_clip.escape_important(prompt)
    parts = comfy.sd1_clip.token_weights(escaped, 1.0)
    return "".join(comfy.sd1_clip.unescape_important(text) for text, _ in parts).strip()


class Picture:
    """Latents of the model to pictures in 0..1, with gradients, by the host's VAE."""

    def __init__(self, vae: Any) -> None:
        if not hasattr(vae, "first_stage_model") or not hasattr(vae, "patcher"):
            raise RealCompoError("vae", "it is not a VAE", "Connect a VAE or checkpoint loader")
        self.vae = vae

    @property
    def module(self) -> Any:
        """The decoder and its encoder."""
        return self.vae.first_stage_model

    def __call__(self, model: Any, clean: Tensor) -> Tensor:
        """(B, 3, H, W) in 0..1 of ``clean`` (B, C, h, w) in the model's own scale."""
        latent = model.process_latent_out(clean).to(self.vae.vae_dtype)
        decoded = self.module.decode(latent.to(self.vae.device)).float()
        # the host's own scaling of this kind of VAE works in place
        return self.vae.process_output(decoded.clone())[:, :3]


class CaptionReward:
    """One step: samples, one prediction with a gradient, its likelihood, and the distance kept."""

    def __init__(
        self,
        clip: Any,
        vae: Any,
        captioner: Captioner,
        prompts: Sequence[str],
        settings: ReflSettings,
        batch: int,
    ) -> None:
        """Encodes ``prompts``; RealCompoError for those that the captioner cannot read."""
        self._captioner, self._picture = captioner, Picture(vae)
        self._settings, self._batch = settings, batch
        self._texts = [plain_text(prompt) for prompt in prompts]
        self.encoded = [encode(clip, prompt) for prompt in prompts]
        self._empty = encode(clip, "") if settings.cfg > 1 else None
        self._groups = PromptGroups([encoded.text.shape[1] for encoded in self.encoded])
        try:
            captioner.check(self._texts, settings.prefix)
        except RealCompoError as error:
            raise error.at("", "prompts" if error.where == "prompt" else None) from None
        self._known: Aliases = {}
        self._ready = False

    def __call__(self, session: Session) -> None:
        """The losses of one step: ``reward`` is given as it is, the higher the better."""
        settings = self._settings
        chosen = self._groups.draw(self._batch, session.generator)
        prompts = [self.encoded[index] for index in chosen]
        x, sigma, before = self._sample(session, prompts)
        self._load(session)
        modules = (self._picture.module, self._captioner.module)
        with without_inference_tensors(modules, self._known):
            tuned = session.predict(x, sigma, prompts)
            clean = with_guidance(session, x, sigma, tuned, settings.cfg, self._empty)
            reward = self._captioner.likelihood(
                self._picture(session.model, clean),
                [self._texts[index] for index in chosen],
                settings.prefix,
            ).to(session.device)
            loss = settings.weight * torch.relu(settings.margin - reward).mean()
            losses = {"reward": reward.detach().mean()}
            if settings.keep:
                far = distance_to_untrained(session, x, sigma, prompts, tuned)
                loss = loss + settings.keep * far / 2
                losses["distance"] = far.detach()
            session.backward(loss, **losses)
        if settings.keep:
            # what late steps teach changes the early ones as well, which decide what is where
            far = distance_to_untrained(session, *before, prompts)
            session.backward(settings.keep * far / 2, distance=(losses["distance"] + far) / 2)

    @torch.no_grad()
    def _sample(
        self, session: Session, prompts: Sequence[Encoded]
    ) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor]]:
        """Latents and noise levels at a random late step, and at a random step before it."""
        settings = self._settings
        levels = noise_levels(session, settings.scheduler, settings.sampling_steps)
        count = len(levels) - 1
        first = min(int(settings.start * count), count - 1)
        last = max(first + 1, min(round(settings.end * count), count))
        stop = int(torch.randint(first, last, (1,), generator=session.generator))
        early = int(torch.randint(0, stop + 1, (1,), generator=session.generator))
        way = list(walk(session, prompts, levels, settings.cfg, self._empty, stop))
        # drawn onto the late step itself, the other one is the pure noise
        steps = stop, early if early < stop else 0
        late, before = ((way[n], levels[n].expand(len(prompts))) for n in steps)
        return *late, before

    def _load(self, session: Session) -> None:
        """All three models at once: the host may have sent two of them away for the first."""
        if not self._ready:
            patchers = [session.patcher, self._picture.vae.patcher, self._captioner.patcher]
            comfy.model_management.load_models_gpu(patchers)
            self._ready = True


def train_by_reward(
    model: Any,
    clip: Any,
    vae: Any,
    captioner: Any,
    prompts: Sequence[str],
    size: tuple[int, int],
    settings: TrainingSettings,
    rewards: ReflSettings,
    targets: str = "attention",
    on_cancel: OnCancel = "resume next time",
    save_every: int = 0,
) -> tuple[LoraModel, dict[str, list[float]], int]:
    """Finetune ``model`` by a captioner's reward on ``prompts``: a LoRA, its losses and steps.

    ``size``: width and height of the pictures in pixels. Among the losses is ``reward``, which is
    to rise. The models stay as they are. Raises RealCompoError for inputs that do not fit, else as
    ``train``.
    """
    patcher, reader = require_model(model, "model"), require_captioner(captioner)
    require_ability(patcher, "train")
    require_clip(clip, "clip")
    objective = CaptionReward(clip, vae, reader, prompts, rewards, settings.batch_size)
    check_width(patcher, [encoded.text for encoded in objective.encoded])
    scale = int(getattr(vae, "downscale_ratio", 8))
    latent = (max(size[1] // scale, 1), max(size[0] // scale, 1))
    channels = patcher.get_model_object("latent_format").latent_channels
    shape = (settings.batch_size, channels, *latent)
    # the backward keeps what the decoder made; the captioner's pictures are small beside it
    decoder = 2.0 * float(vae.memory_used_decode(shape, vae.vae_dtype))
    about = {"rewards": asdict(rewards), "prompts": list(prompts), "size": list(size)}
    return train_lora(
        patcher, objective, "refl", about, settings, latent, targets, on_cancel, save_every,
        extra_memory=decoder,
    )  # fmt: skip
