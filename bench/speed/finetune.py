"""What a step of finetuning costs: ``python dev.py bench finetune_cost``.

Separate-and-Enhance's step against that of the host's own LoRA trainer, on the same model, batch
and latents: seconds in CPU time of one thread, in turns; peak memory in a process of its own; and
for SD1.5 at 512 px the FLOPs, and the bytes that are held, counted without computing them
(see ``bench/hollow.py``). Needs Linux for the peaks, and about 4 GiB.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import Any

import torch
from torch.nn.modules.module import register_module_forward_pre_hook
from torch.optim import Optimizer

from .. import ROOT
from ..arguments import table_parser
from ..hollow import counted, kept_activations
from ..report import (
    Claim,
    commit,
    markdown_table_of_claims,
    print_claims,
    write_document,
    write_whole,
)
from ..statistics import Estimate
from .dense import forget_peak, high_water
from .finetune_runs import (
    FORMS,
    MAPS,
    STOCK,
    Subject,
    narrow_subject,
    run,
    shapes_subject,
    true_subject,
)

COMMAND = "python dev.py bench finetune_cost"
BATCHES = {"shapes": (1, 4), "narrow": (1,), "sd15_512": (1, 4)}
SUBJECTS: dict[str, Callable[[], Subject]] = {"shapes": shapes_subject, "narrow": narrow_subject}
# steps of a timed run, of which the first is not counted, and how often each is repeated
STEPS = {"shapes": 6, "narrow": 3}
REPEATS = {"shapes": 9, "narrow": 5}
PEAKS = 2
WHOLE = "whole"
CLAIMED = "shapes", 1
"""Subject and batch of the claims: with one latent a step both trainers see as many samples."""
ABOUT = (
    "`stock`: ComfyUI's TrainLoraNode (adapters on every layer; a batch of B latents goes through "
    "the model with each of the B prompts, B * B samples); `maps`: Separate-and-Enhance's losses "
    "on the maps, keys of cross-attention trained; `maps+norm`: with its loss on predictions; "
    "`whole`: our loop with a denoising loss, which cannot stop at the last map; `-checkpointed`: "
    "activations computed again in the backward. *seconds*: CPU time of a step, median; *of "
    "stock*: ratio, with its range over runs that took turns; *MiB*: what a training adds to its "
    "process at most, beside the loaded model. SD1.5 at 512 px in "
    "bfloat16: *samples* that enter the network and *TFLOP* of a step; *held*: GiB of all that the "
    "training made and holds as a backward begins (the checkpointed forms compute a block at a "
    "time on top of it); *state*: GiB of adapters, gradients and AdamW's moments. The model's own "
    "weights are 1.6 GiB more."
)


def timings(subject: Subject, batch: int, steps: int, repeats: int) -> dict[str, list[float]]:
    """CPU seconds per step of every form, one number per repetition; forms take turns."""
    found: dict[str, list[float]] = {form: [] for form in FORMS}
    for number in range(repeats):
        for form in FORMS if number % 2 == 0 else reversed(FORMS):
            marks: list[float] = []
            run(subject, form, batch, steps, lambda _, m=marks: m.append(time.process_time()))
            spans = [after - before for before, after in zip(marks, marks[1:], strict=False)]
            found[form].append(statistics.median(spans))
    return found


def peaks(name: str, batch: int) -> dict[str, list[float]]:
    """MiB that a training of every form adds to a process of its own."""
    # what the allocator would keep for reuse goes back to the system, and so is seen
    allocator = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "0"}
    done = subprocess.run(
        [sys.executable, str(ROOT / "tools" / "run.py"), "bench.finetune_cost", "--child", name,
         str(batch)],
        capture_output=True, text=True, check=True, env={**os.environ, **allocator},
    )  # fmt: skip
    return json.loads(done.stdout.splitlines()[-1])


def child(name: str, batch: int) -> dict[str, list[float]]:
    """The same, to be run in a fresh process, on Linux: it loads the model and forks for every
    measurement, so that none finds what another left behind."""
    subject = SUBJECTS[name]()
    found: dict[str, list[float]] = {form: [] for form in FORMS}
    for form in [form for form in FORMS for _ in range(PEAKS)]:
        context = get_context("fork")
        receiver, sender = context.Pipe(duplex=False)
        process = context.Process(target=_peak, args=(subject, form, batch, sender))
        process.start()
        sender.close()
        found[form].append(round(receiver.recv(), 1))
        process.join()
    return found


def _peak(subject: Subject, form: str, batch: int, sender: Connection) -> None:
    # what is loaded and built once in a process is no cost of training
    run(subject, form, batch, 1, lambda _: None)
    forget_peak()
    before = high_water()
    run(subject, form, batch, 2, lambda _: None)
    sender.send(high_water() - before)


def state_bytes(optimiser: Optimizer) -> int:
    """Bytes of trained tensors, their gradients and what the optimiser keeps of them."""
    held = [p for group in optimiser.param_groups for p in group["params"]]
    tensors = [*held, *(p.grad for p in held if p.grad is not None)]
    tensors += [t for state in optimiser.state.values() for t in state.values()
                if isinstance(t, torch.Tensor)]  # fmt: skip
    return sum(t.numel() * t.element_size() for t in tensors)


def counts(subject: Subject, form: str, batch: int) -> dict[str, Any]:
    """A step's FLOPs, the samples that enter the network (again, where a block that is computed
    again begins there), and the bytes that it holds."""
    flops, state, samples = [], [], []
    model = subject.model.model

    def entered(layer: Any, args: tuple[Any, ...]) -> None:
        # also of a copy that the host's trainer makes; no other layer takes so few channels
        if type(layer) is type(first) and layer.weight.shape == first.weight.shape:
            samples.append(len(args[0]))

    def note(optimiser: Optimizer) -> None:
        flops.append(count.get_total_flops())
        state.append(state_bytes(optimiser))

    first = model.diffusion_model.input_blocks[0][0]
    handle = register_module_forward_pre_hook(entered)
    try:
        with counted() as count, kept_activations([model]) as kept:
            run(subject, form, batch, 2, note)
    finally:
        handle.remove()
    return {
        "flops": flops[1] - flops[0],
        "samples": sum(samples) // 2,
        "held_bytes": max(kept.alive),
        "state_bytes": state[-1],
    }


def ratio(above: Sequence[float], below: Sequence[float]) -> Estimate:
    """Ratio of medians; its range over pairs that ran one after the other."""
    each = [a / b for a, b in zip(above, below, strict=True)]
    middle = statistics.median(above) / statistics.median(below)
    return Estimate(middle, min(*each, middle), max(*each, middle))


def claims(timed: dict[str, Any], sd15: dict[str, Any]) -> list[Claim]:
    """Our steps against the host's, and what ending the pass at the last map saves."""
    name, batch = CLAIMED
    here, counted_here = timed[name][str(batch)], sd15[str(batch)]
    made = []
    for form, label in ((MAPS, "sepen_step"), ("maps+norm", "sepen_norm_step")):
        for what, unit in (("seconds", "seconds"), ("mib", "memory")):
            found = ratio(here[form][what], here[STOCK][what])
            about = {"model": name, "batch": batch, "against": STOCK}
            made.append(Claim.judged(f"{label}_{unit}", found, 1.0, "<=", "point", **about))
    for other, label in ((STOCK, "sepen_step_flops"), (WHOLE, "sepen_stop_flops")):
        share = counted_here[MAPS]["flops"] / counted_here[other]["flops"]
        about = {"model": "SD1.5 at 512 px", "batch": batch, "against": other}
        exact = Estimate(share, share, share)
        made.append(Claim.judged(label, exact, 1.0, "<=", "point", **about))
    return made


def markdown(document: dict[str, Any], claims: Sequence[Claim]) -> str:
    """The tables in GitHub's Markdown."""
    lines = [f"# Cost of a finetuning step\n\nMade by `{COMMAND}`. {ABOUT}\n"]
    for name, batches in document["timed"].items():
        lines += [f"## {document['titles'][name]}\n", "| step | batch | seconds | of stock | MiB |",
                  "|---|---:|---:|---:|---:|"]  # fmt: skip
        for batch, forms in batches.items():
            for form, found in forms.items():
                r = ratio(found["seconds"], forms[STOCK]["seconds"])
                mib = statistics.median(found["mib"])
                lines.append(
                    f"| `{form}` | {batch} | {statistics.median(found['seconds']):.3f} | "
                    f"{r.mean:.2f} <sub>{r.low:.2f}-{r.high:.2f}</sub> | {mib:.0f} |"
                )
        lines.append("")
    lines += ["## SD1.5 at 512 px, counted\n",
              "| step | batch | samples | TFLOP | held | state |",
              "|---|---:|---:|---:|---:|---:|"]  # fmt: skip
    for batch, forms in document["sd15_512"].items():
        for form, found in forms.items():
            lines.append(
                f"| `{form}` | {batch} | {found['samples']} | {found['flops'] / 1e12:.2f} | "
                f"{found['held_bytes'] / 2**30:.2f} | {found['state_bytes'] / 2**30:.3f} |"
            )
    # few runs, so that the range of their ratios is given, not an interval
    table = markdown_table_of_claims(claims).replace("95 % interval", "range")
    return "\n".join(lines) + "\n\n" + table


def main(argv: list[str]) -> int:
    """Measure and write ``finetune_cost.json`` and ``.md``; 0 when they are written."""
    parser = table_parser("finetune_cost", __doc__)
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    choice = parser.parse_args(argv)
    torch.set_num_threads(1)
    logging.getLogger().setLevel(logging.WARNING)
    if choice.child:
        print(json.dumps(child(choice.child[0], int(choice.child[1]))))
        return 0
    timed: dict[str, Any] = {}
    titles = {"shapes": "The demo's realism model", "narrow": "SD1.5 with a tenth of the channels"}
    for name, make in SUBJECTS.items():
        subject, timed[name] = make(), {}
        for batch in BATCHES[name]:
            seconds = timings(subject, batch, STEPS[name], REPEATS[name])
            mib = peaks(name, batch)
            timed[name][str(batch)] = {
                form: {"seconds": [round(s, 5) for s in spent], "mib": mib[form]}
                for form, spent in seconds.items()
            }
            print(name, batch, timed[name][str(batch)], flush=True)
    half = true_subject(torch.bfloat16)
    sd15 = {str(batch): {form: counts(half, form, batch) for form in FORMS}
            for batch in BATCHES["sd15_512"]}  # fmt: skip
    decided = claims(timed, sd15)
    document = {
        "command": COMMAND, "commit": commit(), "torch": torch.__version__.split("+")[0],
        "threads": 1, "titles": titles, "timed": timed, "sd15_512": sd15,
        "claims": [claim.as_dict() for claim in decided],
    }  # fmt: skip
    write_document(choice.out / "finetune_cost.json", document)
    write_whole(choice.out / "finetune_cost.md", markdown(document, decided))
    print_claims(decided)
    return 0
