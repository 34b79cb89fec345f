"""Train the demo's models: ``python tools/run.py shapes.train STAGE --out DIR [--minutes N]``.

Stages in order: ``data`` (draws the scenes), ``text``, then ``codec``, ``realism``, ``sketch``,
``neon`` and ``spatial`` in any order or at the same time, ``style`` (the judge of styles) and
``captioner`` after ``codec``, ``segmentation`` and ``keypoints`` (ControlNets) after ``spatial``,
then ``export`` into ``shapes/weights``, ``evaluate`` and ``card``. ``refl`` finetunes the exported
``realism`` by the exported captioner; ``export`` again keeps its LoRA. Every stage is seeded and,
with ``--resume``, goes on from its last checkpoint (``refl`` by itself). ``COMFYUI_PATH`` names the
host.
"""

from __future__ import annotations

import argparse
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path

import torch

SCENES = {"realistic": 20480, "plain": 12288, "sketch": 12288, "neon": 12288}


def _data(choice: Namespace) -> None:
    from .train_data import encoder_state, write_chunks

    encoder_state(choice.out)
    for style in (choice.style,) if choice.style else SCENES:
        write_chunks(choice.out, style, SCENES[style])


def _text(choice: Namespace) -> None:
    from .train_text import train_text

    train_text(choice.out, *_budget(choice), choice.start)


def _codec(choice: Namespace) -> None:
    from .train_codec import train_codec

    train_codec(choice.out, *_budget(choice), choice.start)


def _style(choice: Namespace) -> None:
    from .train_style import train_style

    train_style(choice.out, *_budget(choice))


def _captioner(choice: Namespace) -> None:
    from .train_captioner import train_captioner

    train_captioner(choice.out, *_budget(choice))


def _diffusion(choice: Namespace) -> None:
    from .train_diffusion import train_diffusion

    budget = _budget(choice)
    train_diffusion(choice.stage, choice.out, *budget, choice.grid_every, choice.start)


def _control(choice: Namespace) -> None:
    from .train_control import train_control

    train_control(choice.stage, choice.out, *_budget(choice), choice.grid_every, choice.start)


def _sepen(choice: Namespace) -> None:
    from .train_sepen import train_sepen

    train_sepen(choice.out, choice.parts, choice.steps)


def _refl(choice: Namespace) -> None:
    from .train_refl import train_refl

    print(train_refl(choice.out, choice.steps))


def _export(choice: Namespace) -> None:
    from .train_export import export

    export(choice.out)


def _evaluate(choice: Namespace) -> None:
    from .train_evaluate import evaluate

    evaluate(choice.out, choice.scenes, choice.parts)


def _card(choice: Namespace) -> None:
    from .train_card import write_card

    write_card(choice.out)


def _budget(choice: Namespace) -> tuple[float, int | None, bool]:
    return choice.minutes, choice.steps, choice.resume


# What each stage runs; it imports what it needs, as some need the host and some do not.
STAGES: dict[str, Callable[[Namespace], None]] = {
    "data": _data, "text": _text, "codec": _codec, "style": _style, "captioner": _captioner,
    "realism": _diffusion, "sketch": _diffusion, "neon": _diffusion, "spatial": _diffusion,
    "segmentation": _control, "keypoints": _control, "sepen": _sepen, "refl": _refl,
    "export": _export, "evaluate": _evaluate, "card": _card,
}  # fmt: skip


def main(argv: list[str]) -> int:
    """Run one stage."""
    parser = argparse.ArgumentParser(prog="shapes.train", description=__doc__)
    parser.add_argument("stage", choices=STAGES)
    parser.add_argument("--out", type=Path, required=True, help="folder for data and checkpoints")
    parser.add_argument("--minutes", type=float, default=60.0, help="training time of the stage")
    parser.add_argument("--steps", type=int, help="budget in steps instead: repeatable to the bit")
    parser.add_argument("--resume", action="store_true", help="go on from the last checkpoint")
    parser.add_argument("--start", type=Path, help="checkpoint to go out from (a new training)")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--grid-every", type=int, default=1500, help="steps between sample grids")
    parser.add_argument("--style", choices=tuple(SCENES), help="data: this style only")
    parser.add_argument("--scenes", type=int, default=128, help="evaluate: number of scenes")
    parser.add_argument(
        "--parts",
        nargs="+",
        default=(),
        help="evaluate: these figures only; sepen: these files only",
    )
    choice = parser.parse_args(argv)
    torch.set_num_threads(choice.threads)
    choice.out.mkdir(parents=True, exist_ok=True)
    if STAGES[choice.stage] in (_diffusion, _control):
        from ..balancer.comfy.host.compat import adds_in_place

        if adds_in_place():
            parser.error("this ComfyUI cannot be trained through; use one from June 2025 on")
    STAGES[choice.stage](choice)
    return 0
