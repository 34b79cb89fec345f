"""What Dense Attention costs: ``python dev.py bench dense_cost``.

One self-attention call of SD1.5's finest level (64x64 positions, 8 heads of 40, float32, one
prompt and one negative) against the equation as it is printed, side by side on this machine with
one thread; and a whole run of 50 steps against the same run without the node.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import comfy.ldm.modules.attention as host_attention
import comfy.model_base
import comfy.sample
import comfy.supported_models
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from ...balancer.attention.regions import LayoutBatch
from ...balancer.comfy.dense.apply import apply_dense
from ...balancer.comfy.dense.entries import modulation_at
from ...balancer.comfy.dense.patch import DensePatch, Modulation, Rows, modulated_options
from ...balancer.dense.modulation import DenseSettings
from ...balancer.dense.plan import DensePlan, View
from ...balancer.layouts.grid import region_grid
from ...balancer.layouts.layout import Layout, Region
from ...shapes.host_models import load_demo
from .. import ROOT
from ..arguments import table_parser
from ..report import Claim, commit, print_claims, write_document
from ..statistics import Estimate

SIDE, HEADS, DIM = 64, 8, 40
STEPS, AMOUNT = 50, 0.3 * 0.9
REPEATS = 7
LAYOUT = Layout(
    (
        Region("a red star", (0.06, 0.12, 0.46, 0.52), tokens=(2, 3)),
        Region("a blue circle", (0.55, 0.08, 0.92, 0.45), tokens=(5, 6)),
        Region("a green square", (0.32, 0.58, 0.7, 0.95), tokens=(8, 9)),
    )
)
SD15 = {
    "image_size": 32, "in_channels": 4, "out_channels": 4, "model_channels": 320,
    "num_res_blocks": [2, 2, 2, 2], "channel_mult": [1, 2, 4, 4],
    "transformer_depth": [1, 1, 1, 1, 1, 1, 0, 0],
    "transformer_depth_output": [1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0],
    "transformer_depth_middle": 1, "context_dim": 768, "use_spatial_transformer": True,
    "use_linear_in_transformer": False, "legacy": False, "adm_in_channels": None,
    "use_temporal_attention": False, "use_temporal_resblock": False, "dtype": torch.float32,
}  # fmt: skip


def _plan(settings: DenseSettings) -> DensePlan:
    tokens = tuple(region.tokens or () for region in LAYOUT.regions)
    return DensePlan(LayoutBatch.of(LAYOUT, tokens), 77, settings)


def _inputs() -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    shape = (2, SIDE * SIDE, HEADS * DIM)
    q, k, v = (torch.randn(shape, generator=generator) for _ in range(3))
    return 2 * q, k, v


def printed() -> Callable[[], Tensor]:
    """The equation with whole matrices, of negative and prompt alike, as the released code goes
    about it: all scores, the prompt's half moved in place, softmax, values."""
    q, k, v = (
        t.view(2, -1, HEADS, DIM).transpose(1, 2).reshape(2 * HEADS, -1, DIM) for t in _inputs()
    )
    masks = region_grid(LAYOUT, SIDE, SIDE).flatten(1)
    related = (masks.T @ masks) > 0
    spared = AMOUNT * (1.0 - (masks * masks.mean(1, keepdim=True)).sum(0)).unsqueeze(1)

    def call() -> Tensor:
        scores = q @ k.transpose(-1, -2) * DIM**-0.5
        half = scores[HEADS:]
        low, high = half.amin(-1, keepdim=True), half.amax(-1, keepdim=True)
        half += related * spared * (high - half)
        half -= ~related * spared * (half - low)
        out = scores.softmax(-1) @ v
        return out.view(2, HEADS, -1, DIM).transpose(1, 2).reshape(2, -1, HEADS * DIM)

    return call


def rewritten() -> Callable[[], Tensor]:
    """The node's own attention patch, with torch's fused attention as the host's."""
    host_attention.optimized_attention = host_attention.attention_pytorch
    q, k, v = _inputs()
    modulation = Modulation(_plan(DenseSettings()), View((SIDE, SIDE)), 0.0, AMOUNT)
    rows = Rows.of([None, modulation], 1, torch.empty(2, 4, SIDE, SIDE))
    patch = DensePatch("attn1", 1, rows, None)
    extra = {"n_heads": HEADS, "activations_shape": [2, 1, SIDE, SIDE], "attn_precision": None}
    return lambda: patch(q, k, v, extra)


def plain() -> Callable[[], Tensor]:
    """The same call without the node."""
    q, k, v = _inputs()
    return lambda: host_attention.attention_pytorch(q, k, v, HEADS)


FORMS = {"printed": printed, "rewritten": rewritten, "plain": plain}


def _peak(form: str) -> float:
    """MiB that one call adds to a process of its own."""
    # what the allocator would keep for reuse goes back to the system, and so is seen
    allocator = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "0"}
    done = subprocess.run(
        [sys.executable, str(ROOT / "tools" / "run.py"), "bench.dense_cost", "--child", form],
        capture_output=True, text=True, check=True, env={**os.environ, **allocator},
    )  # fmt: skip
    return float(done.stdout.splitlines()[-1])


def high_water() -> float:
    """MiB of the most memory that this process has held since ``forget_peak``."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024


def forget_peak() -> None:
    """Set the high-water mark to what is held now (Linux)."""
    Path("/proc/self/clear_refs").write_text("5")


def child(form: str) -> float:
    """MiB that one call holds at most beside its inputs; to be run in a fresh process, on Linux."""
    call = FORMS[form]()
    with torch.inference_mode():
        small = torch.randn(1, 2, 64, DIM)
        torch.nn.functional.scaled_dot_product_attention(small, small, small)
        forget_peak()
        before = high_water()
        call()
    return high_water() - before


def _seconds(call: Callable[[], Any]) -> float:
    started = time.process_time()
    call()
    return time.process_time() - started


@torch.inference_mode()
def attention_costs(repeats: int) -> dict[str, dict[str, Any]]:
    """CPU seconds and MiB of one call, by form; forms take turns."""
    calls = {name: make() for name, make in FORMS.items()}
    difference = (calls["printed"]() - calls["rewritten"]()).abs().max()
    if float(difference) > 1e-4:
        raise RuntimeError(f"the forms differ by {float(difference)}")
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(repeats):
        for name, call in calls.items():
            times[name].append(_seconds(call))
    del calls
    return {
        name: {
            "seconds": [round(value, 4) for value in values],
            "median": round(statistics.median(values), 4),
            "mib": [round(_peak(name), 1) for _ in range(3)],
        }
        for name, values in times.items()
    }


def run_flops() -> dict[str, float]:
    """FLOP of a 50-step run of SD1.5 at 512x512 with guidance, with and without the node."""
    config = type("Meta", (comfy.supported_models.SD15,), {"unet_config": {}})(dict(SD15))
    config.unet_extra_config = {"num_heads": 8, "num_head_channels": -1}
    config.unet_config.update(config.unet_extra_config)
    if hasattr(config, "set_inference_dtype"):
        config.set_inference_dtype(torch.float32, None)
    model = comfy.model_base.BaseModel(config, device=torch.device("meta"))
    for name in ("optimized_attention", "optimized_attention_masked"):
        setattr(host_attention, name, host_attention.attention_pytorch)
    network, sampling = model.diffusion_model, model.model_sampling
    latent = torch.empty(2, 4, SIDE, SIDE, device="meta")
    text = torch.empty(2, 77, 768, device="meta")
    plan, total = _plan(DenseSettings()), {"plain": 0.0, "dense": 0.0}
    levels = [float(sampling.sigma(torch.tensor(float(t)))) for t in range(981, 0, -1000 // STEPS)]
    known: dict[bool, float] = {}
    for sigma in levels:
        modulation = modulation_at(plan, sampling, sigma, (SIDE, SIDE), None)
        for name, chosen in (("plain", None), ("dense", modulation)):
            if (chosen is not None) not in known:
                options: dict[str, Any] = {}
                if chosen is not None:
                    rows = Rows.of([None, chosen], 1, latent)
                    options = modulated_options(network, options, rows)
                with FlopCounterMode(display=False) as counter, torch.no_grad():
                    time_ = torch.zeros(2, device="meta")
                    network(latent, time_, context=text, transformer_options=options)
                known[chosen is not None] = float(counter.get_total_flops())
            total[name] += known[chosen is not None]
    return total


@torch.inference_mode()
def run_seconds(repeats: int) -> dict[str, list[float]]:
    """CPU seconds of a 50-step run of the shapes demo's realism model, with and without the node,
    in turn: eight pictures at a time, in guidance."""
    model, clip, _, _ = load_demo("realistic", "realism")
    prompt = "a red star and a blue circle and a green square"
    layout = Layout(tuple(Region(r.phrase, r.box) for r in LAYOUT.regions), prompt)
    encoded = [[[clip.encode_from_tokens(clip.tokenize(text)), {}]] for text in (prompt, "")]
    dense, marked = apply_dense(model, clip, encoded[0], layout, DenseSettings())
    empty = torch.zeros(8, 16, 16, 16)
    noise = comfy.sample.prepare_noise(empty, 7)

    def run(patcher: Any, positive: Any) -> Tensor:
        return comfy.sample.sample(
            patcher, noise, STEPS, 3.0, "euler", "normal", positive, encoded[1], empty,
            disable_pbar=True, seed=7,
        )  # fmt: skip

    found: dict[str, list[float]] = {"plain": [], "dense": []}
    for index in range(repeats + 1):
        for name, inputs in (("plain", (model, encoded[0])), ("dense", (dense, marked))):
            spent = _seconds(lambda inputs=inputs: run(*inputs))
            if index:
                found[name].append(round(spent, 3))
    return found


def _ratio(above: list[float], below: list[float]) -> Estimate:
    """Ratio of the medians; its range over pairs that ran one after the other."""
    each = [a / b for a, b in zip(above, below, strict=True)]
    middle = statistics.median(above) / statistics.median(below)
    return Estimate(middle, min(each), max(each))


def main(argv: list[str]) -> int:
    """Measure and write ``dense_cost.json``; 0 when it is written."""
    parser = table_parser("dense_cost", __doc__)
    parser.add_argument("--repeats", type=int, default=REPEATS)
    parser.add_argument("--child", choices=list(FORMS), help=argparse.SUPPRESS)
    choice = parser.parse_args(argv)
    torch.set_num_threads(1)
    if choice.child:
        print(child(choice.child))
        return 0
    calls = attention_costs(choice.repeats)
    runs = run_seconds(max(3, choice.repeats // 2))
    flops = run_flops()
    share = flops["dense"] / flops["plain"]
    decided = [
        Claim.judged(
            "dense_attention_speedup",
            _ratio(calls["printed"]["seconds"], calls["rewritten"]["seconds"]), 4.0, ">=", "point",
        ),
        Claim.judged(
            "dense_attention_memory", _ratio(calls["printed"]["mib"], calls["rewritten"]["mib"]),
            15.0, ">=", "point",
        ),
        Claim.judged("dense_run_flops", Estimate(share, share, share), 1.15, "<=", "point"),
        Claim.judged("dense_run_seconds", _ratio(runs["dense"], runs["plain"]), 1.15, "<=",
                     "point"),
    ]  # fmt: skip
    document = {
        "command": "python dev.py bench dense_cost",
        "commit": commit(),
        "torch": torch.__version__.split("+")[0],
        "attention": {"positions": SIDE * SIDE, "heads": HEADS, "dim": DIM, "dtype": "float32",
                      "batch": "one prompt, one negative", "threads": 1, "calls": calls},
        "run": {"steps": STEPS, "flops_sd15_512": flops, "seconds_shapes": runs},
        "claims": [claim.as_dict() for claim in decided],
    }  # fmt: skip
    write_document(choice.out / "dense_cost.json", document)
    print_claims(decided)
    return 0
