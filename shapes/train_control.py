"""Training of the demo's ControlNets on the frozen spatial model, without its boxes.

With its boxes that model is also the teacher: it had each object's colour from GLIGEN's phrases and
never had to read it in the caption, so noise alone teaches a ControlNet colours very slowly.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

import torch
from comfy.cldm.cldm import ControlNet
from torch import Tensor, nn

from .codec import ShapesCodec
from .control import KINDS, draw_hints
from .host_models import build_control, build_model, read_weights
from .train_data import LatentSet, make_codec
from .train_diffusion import ATTENTION_WEIGHT, Trainee, initialise
from .train_grid import sheet
from .train_maps import ControlMaps, WordMaps, reading, stray_attention
from .train_noise import TIMESTEPS, add_noise, alphas_cumprod, noise_loss, sample
from .train_prompts import Batches, encode_scenes, load_text, phrase_vectors
from .train_run import Run
from .train_text import CaptionTokens, CompactText
from .world import Scene, make_scenes

# Attention maps of the encoder and the middle block are made before control comes in: only those
# after it, the decoder's, can be taught.
FIRST_TAUGHT_MAP = 2
GRID_SCENES = 12
# Pictures of a step, and how many noise levels of each: the hint is read once for all of them.
PICTURES, LEVELS = 8, 2
# Keeps the second moment of a unit normal through SiLU.
SILU_GAIN = 1.68
RATE = 1e-3
# Of the teacher's term, and the most that one noise level counts in it.
TEACHER_WEIGHT, TEACHER_LIMIT = 1.0, 100.0
KEPT_RANDOM = ("input_hint_block.0.", "input_hint_block.2.")


def start_control(control: nn.Module, unet: nn.Module) -> None:
    """ControlNet's start (Zhang et al. 2023, Sec. 3.2): the UNet's encoder, zero outputs.

    The hint's convolutions have no normalisation between them; He's variance keeps the signal's
    size through all eight, where torch's default would lose it and the first minutes with it. The
    first two keep this random start: they are a third of the work of a step, and flat colours need
    no learned filters to differ.
    """
    initialise(control)
    known = control.state_dict()
    copied = {k: v for k, v in unet.state_dict().items() if k in known}
    missing, unexpected = control.load_state_dict(copied, strict=False)
    fresh = ("zero_convs.", "input_hint_block.", "middle_block_out.")
    if unexpected or any(not key.startswith(fresh) for key in missing):
        raise ValueError("The ControlNet's encoder is not the UNet's.")
    control.requires_grad_(True)
    for name, parameter in control.named_parameters():
        parameter.requires_grad_(not name.startswith(KEPT_RANDOM))
        if name.startswith(("zero_convs.", "middle_block_out.")):
            nn.init.zeros_(parameter)
        elif name.startswith("input_hint_block."):
            if parameter.ndim > 1:
                nn.init.normal_(parameter, std=SILU_GAIN * parameter[0].numel() ** -0.5)
            else:
                nn.init.zeros_(parameter)


class Controlled(nn.Module):
    """The frozen UNet with a ControlNet beside it; ``sample`` can draw with it.

    ``hint`` (N, 3, 8h, 8w) belongs to the batch: set it before a forward. A batch of a multiple of
    N latents uses the hints again in their order: the halves of a guided batch, since as in ComfyUI
    the empty prompt keeps the hint, or several noises of the same pictures in training.
    """

    has_boxes = False

    def __init__(self, unet: nn.Module, control: ControlNet) -> None:
        super().__init__()
        self.unet, self.control = unet.eval().requires_grad_(False), control
        self.hint: Tensor | None = None
        # The hint's features, most of a ControlNet's work here, are made once for all its uses.
        control.input_hint_block.register_forward_hook(
            lambda module, args, out: out.repeat(len(args[1]) // len(out), 1, 1, 1)
        )

    def forward(
        self,
        x: Tensor,
        t: Tensor,
        context: Tensor,
        phrases: Tensor | None = None,
        boxes: Tensor | None = None,
        maps: WordMaps | None = None,
    ) -> Tensor:
        """Predicted noise (B, 16, h, w) for noisy latents at integer timesteps ``t`` (B,)."""
        if self.hint is None or phrases is not None or boxes is not None:
            raise ValueError("Set a hint, and give no boxes.")
        made = self.control(x=x, hint=self.hint, timesteps=t.float(), context=context)
        # What the host's merge gives for one ControlNet at strength 1.
        made = {"input": [], **made}
        options = reading(self.unet, maps)
        return self.unet(x, t.float(), context=context, control=made, transformer_options=options)


def load_controlled(folder: Path) -> tuple[Controlled, Trainee]:
    """The spatial checkpoint's UNet with a ControlNet that starts from it; its frozen teacher."""
    teacher = Trainee(spatial=True)
    teacher.load_state_dict(torch.load(folder / "spatial.pt")["averaged_model"])
    teacher.eval().requires_grad_(False)
    control: ControlNet = build_control()
    start_control(control, teacher.unet)
    return Controlled(teacher.unet, control.train()), teacher


def load_exported(kind: str) -> Controlled:
    """The weights files of the spatial model and of a ControlNet, in single precision."""
    unet, control = build_model().diffusion_model, build_control()
    for module, name in ((unet, "spatial"), (control, kind)):
        state, _ = read_weights(f"{name}.safetensors")
        module.load_state_dict({key: value.float() for key, value in state.items()})
    return Controlled(unet, control.requires_grad_(False)).eval()


@torch.no_grad()
def draw_controlled(
    model: Controlled,
    text: CompactText,
    codec: ShapesCodec,
    scenes: Sequence[Scene],
    kind: str,
    seed: int,
) -> tuple[Tensor, Tensor]:
    """Pictures (N, 3, 128, 128) of random captions by DDIM, and the hints they followed."""
    prompts = encode_scenes(CaptionTokens(), scenes, random.Random(seed))
    model.hint = draw_hints(scenes, kind)
    return codec.pictures(sample(model, text, prompts, seed)), model.hint


def train_control(
    kind: str,
    folder: Path,
    minutes: float,
    steps: int | None,
    resume: bool,
    grid_every: int,
    start: Path | None = None,
) -> None:
    """Train the ControlNet of ``kind`` (``control.KINDS``); needs text and spatial checkpoints.

    ``start``: a checkpoint of either kind whose weights training goes out from.
    """
    seed = KINDS.index(kind)
    torch.manual_seed(61 + seed)
    text = load_text(folder)
    data = LatentSet(folder, "plain", 2048)
    model, teacher = load_controlled(folder)
    own = ControlMaps(model.control)
    if start is not None:
        model.control.load_state_dict(torch.load(start)["averaged_model"])
    batch = PICTURES * LEVELS
    run = Run(kind, folder, model.control, RATE, 71 + seed, minutes, steps, resume, batch)
    batches = Batches(data, run.generator)
    codec = make_codec(folder)
    alphas = alphas_cumprod()
    for step in data.refreshed(run.steps()):
        latents, prompts, scenes = batches.draw(PICTURES)
        latents, prompts = latents.repeat(LEVELS, 1, 1, 1), prompts.repeat(LEVELS)
        dropped, tokens, owners = prompts.dropped(run.generator)
        t = torch.randint(TIMESTEPS, (batch,), generator=run.generator)
        # Every picture once at any noise level and once in the noisier half, where colours and
        # places are decided.
        t[PICTURES:] = (t[PICTURES:] + TIMESTEPS) // 2
        # As the spatial model was trained.
        noisy, noise = add_noise(latents, alphas[t], run.generator, offset=True)
        with torch.no_grad():
            context, _ = text(tokens)
            phrases = phrase_vectors(text(prompts.tokens)[1], prompts)
        model.hint = draw_hints(scenes, kind)
        maps = WordMaps()
        # Half of the time of single precision where the processor knows bfloat16; the rounding is
        # far below the error that is left. Loss, weights and optimiser stay in single precision.
        with torch.autocast("cpu", torch.bfloat16):
            guess = model(noisy, t, context, maps=maps).float()
            with torch.no_grad():
                taught = teacher(noisy, t, context, phrases, prompts.boxes).float()
        snr = alphas[t] / (1 - alphas[t])
        loss, error = noise_loss(guess, noise, snr)
        # In terms of the picture, not of the noise: what an object is decides itself where the
        # noise hides nearly all. Without a caption nobody knows colours: nothing to learn there.
        distance = (guess - taught).square().mean((1, 2, 3)) * ~dropped
        distance = (distance * (1 / snr).clamp(max=TEACHER_LIMIT)).mean()
        words = [each.float() for each in maps.each[FIRST_TAUGHT_MAP:]] + own.maps()
        stray, share = stray_attention(words, prompts.boxes, owners, prompts.groups)
        run.update(
            loss + TEACHER_WEIGHT * distance + ATTENTION_WEIGHT * stray,
            {"mse": error, "distance": distance, "stray": stray, "share": share},
        )
        if grid_every and (step + 1) % grid_every == 0:
            shown = make_scenes(GRID_SCENES, torch.Generator().manual_seed(505))
            with run.averaged():
                pictures, hints = draw_controlled(model, text, codec, shown, kind, seed=9)
            path = folder / "grids" / f"{kind}_{step + 1:06d}.png"
            path.parent.mkdir(exist_ok=True)
            # Hints in the upper row, what was drawn after them below.
            sheet(torch.cat((hints, pictures)), GRID_SCENES).save(path)
