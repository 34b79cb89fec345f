"""Nodes with odd inputs: a valid result, or one sentence that names the node and the input.

A few calls of each node by default, the same ones every time. ``REALCOMPO_FUZZ_CASES=200`` makes
so many of each, ``REALCOMPO_FUZZ_SEED`` others, and ``REALCOMPO_FUZZ_NODES=Layout`` those of nodes
whose id holds that.
"""

from __future__ import annotations

import json
import math
import os
import random
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hostpack
import pytest
import torch
from realcompo.balancer.errors import RealCompoError
from realcompo.balancer.layouts.layout import Layout, Region
from realcompo.balancer.realcompo.settings import preset

from . import fuzz_values as odd
from . import pair, tiny

CASES = int(os.environ.get("REALCOMPO_FUZZ_CASES", "3"))
SEED = os.environ.get("REALCOMPO_FUZZ_SEED", "1")
ONLY = os.environ.get("REALCOMPO_FUZZ_NODES", "")
SLOWEST = 15.0
"""Seconds that a call may take, on a machine that does other things meanwhile."""
LONGEST_MESSAGE = 2000
LAYOUT = Layout(
    (Region("a red circle", (0.1, 0.1, 0.5, 0.5)), Region("a blue square", (0.5, 0.5, 0.9, 0.9))),
    odd.PROMPT, 128, 128,
)  # fmt: skip
LINES = f"{odd.PROMPT} | a red circle | a blue square"
# inputs of the sampler and its guider that other tests fuzz
NOT_HERE = {
    "realism_model", "spatial_model", "positive", "negative", "layout", "latent_image",
    "spatial_positive", "spatial_negative", "balancer",
}  # fmt: skip
# names of files are the tests' of the save nodes
NOT_FUZZED = {"RealCompoSaveLoRA": {"filename_prefix"}}
SAMPLING = ("RealCompoDualSampler", "RealCompoGuider")
# rewards may be anything: what is no number comes last
MAY_BE_NAN = {"RealCompoPickBest"}


class World:
    """Good inputs of every type, built once, and every node's call that works."""

    def __init__(self) -> None:
        pack: Any = hostpack.load_pack()
        self.nodes = pack.NODE_CLASS_MAPPINGS
        with torch.inference_mode():
            make = self.nodes["RealCompoShapesLoader"]()
            self.demo = make.load("realistic", "realism")
            self.captioner = self.nodes["RealCompoShapesCaptioner"]().load()[0]
            model, clip, vae, _ = self.demo
            text, pooled = clip.encode_from_tokens(clip.tokenize(odd.PROMPT), return_pooled=True)
            self.others = odd.other_models(self.demo)
            pair_models = tiny.tiny_unet(1), tiny.tiny_unet(2)
            guider = pair.guider(*pair_models, preset("paper", spatial_only=0.0))
        pair.run(guider, tiny.latent_noise(5, batch=2), steps=3)
        self.watched = [model, clip.patcher, self.others[0], *pair_models]
        positive = [[text, {} if pooled is None else {"pooled_output": pooled}]]
        samples = torch.randn(1, 16, 16, 16, generator=torch.Generator().manual_seed(1))
        image = torch.rand(1, 64, 64, 3, generator=torch.Generator().manual_seed(2))
        latent = {"samples": samples}
        mask = torch.zeros(1, 32, 32)
        mask[:, 4:20, 6:24] = 1.0
        lora = {
            "diffusion_model.a.lora_up.weight": torch.rand(4, 2),
            "diffusion_model.a.lora_down.weight": torch.rand(2, 4),
        }
        train = {"steps": 1, "batch_size": 1, "learning_rate": 1e-3, "rank": 2, "seed": 1}
        pose = self.nodes["RealCompoPose"].INPUT_TYPES()["required"]["pose_json"][1]["default"]
        sampling: dict[str, Any] = {
            "realism_model": pair_models[0], "spatial_model": pair_models[1],
            "positive": tiny.conditioning(3), "negative": tiny.conditioning(4),
            "layout": pair.LAYOUT, "cfg": 3.0,
        }  # fmt: skip
        attention = {"model": model, "clip": clip, "positive": positive, "layout": LAYOUT}
        separate = {"model": model, "clip": clip, "prompts": LINES, "layout": LAYOUT,
                    "latents": latent, "seed": 1, "width": 64, "height": 64}  # fmt: skip
        side = {"width": 64, "height": 64}
        self.good: dict[str, dict[str, Any]] = {
            "RealCompoSeparateEnhance": {
                **separate, **train, "separate": 1.0, "enhance": 0.5, "norm": 0.0, "pairs": 3,
                "sampling_steps": 2,
            },
            "RealCompoSeparationReport": {
                **separate, "noise_levels": "0.5", "map_level": "auto",
            },
            "RealCompoSaveLoRA": {
                "lora": lora, "filename_prefix": "loras/x", "loss": {"loss": [1.0, 0.5]},
            },
            "RealCompoPromptList": {"prompts": odd.PROMPT},
            "RealCompoPickBest": {
                "rewards": [0.5], "keep": [1], "among": ["all"], "images": [image],
                "latents": [latent],
            },
            "RealCompoRewardRankedSet": {
                "latents": [latent], "positive": [positive], "rewards": [0.1], "top_share": [1.0],
            },
            "RealCompoReFLTrain": {
                "model": model, "clip": clip, "vae": vae, "captioner": self.captioner,
                "prompts": odd.PROMPT, **side, **train, "sampling_steps": 2, "cfg": 1.0,
            },
            "RealCompoCaption": {
                "captioner": self.captioner, "images": image, "max_tokens": 3, "prefix": "",
            },
            "RealCompoCaptionReward": {
                "prompt": [odd.PROMPT], "captions": [odd.PROMPT], "clip": [clip],
                "encoder": ["none"],
            },
            "RealCompoLikelihoodReward": {
                "prompt": [odd.PROMPT], "captioner": [self.captioner], "images": [image],
                "prefix": [""],
            },
            "RealCompoLoadCaptioner": {"folder": "none"},
            "RealCompoReweightedAttention": {
                **attention, "mode": "modulate", "fraction": 0.3, "self_weight": 0.3,
                "replace_phrases": True,
            },
            "RealCompoDenseAttention": {
                **attention, "cross_strength": 1.0, "self_strength": 0.3, "end_fraction": 0.3,
                "replace_phrases": True,
            },
            "RealCompoDenseCaptions": {
                "prompt": [odd.PROMPT], "method": ["rules"], "missing": ["place"],
                "min_area": [0.001], "masks": [mask], "tags": ["a circle"], "image": [image],
                "fallback": [LAYOUT], "llm_output": [""], "extend_prompt": [True],
            },
            "RealCompoPromptPhrases": {"prompt": [odd.PROMPT], "tags": ["a circle"]},
            "RealCompoShapesLoader": {
                "style": "realistic", "part": "realism", "finetuned": "none",
            },
            "RealCompoShapesControlNet": {"kind": "segmentation"},
            "RealCompoShapesHint": {"layout": LAYOUT, "kind": "segmentation", **side},
            "RealCompoShapesDetector": {
                "image": image, "batch_index": 0, "only": "", "names": "shape",
            },
            "RealCompoAttentionMaps": {
                "model": model, "positive": positive, "latent_image": latent, "layout": LAYOUT,
                "seed": 1, "noise_levels": "0.5", "map_level": "auto", "sites": "mean",
                "image": image,
            },
            "RealCompoTracePlot": {
                "trace": guider.trace, "latent": latent, "sample": 0, "width": 512, "height": 384,
            },
            "RealCompoMixPreview": {
                "trace": guider.trace, "step": 0, "maps": 2, "columns": 2, "side": 64,
                "image": image, "layout": LAYOUT, "sample": 0,
            },
            "RealCompoLayoutPreview": {"layout": LAYOUT, "image": image, **side},
            "RealCompoLayoutToMasks": {"layout": LAYOUT, **side, "soft": True},
            "RealCompoLayoutMerge": {
                "layout_1": LAYOUT, "layout_2": LAYOUT, "layout_3": LAYOUT, "prompt": "",
            },
            "RealCompoLayoutTransform": {
                "layout": LAYOUT, "flip": "none", "crop_left": 0.0, "crop_right": 1.0,
                "crop_top": 0.0, "crop_bottom": 1.0, "scale": 1.0, "shift_x": 0.0, "shift_y": 0.0,
                "min_visible": 0.05,
            },
            "RealCompoPose": {
                "pose_json": pose, **side, "confidence": 0.1, "frame": 0,
            },
            "RealCompoBalancer": {
                "preset": "custom", "mode": "dynamic", "rate": 16.0, "rate_end": 16.0,
                "normalize_rate": True, "memory": 0.0, "smoothing": 3, "initial_mix": 0.9,
                "region_prior": 20.0, "prior_until": 0.5, "spatial_only": 0.0, "start": 0.0,
                "end": 0.6, "every": 2, "map_level": "auto", "probe_timestep": "current",
            },
            "RealCompoLayout": {
                "prompt": odd.PROMPT, "layout_json": LAYOUT.to_json(), **side, "layout": LAYOUT,
            },
            "RealCompoLayoutFromBoxes": {
                "phrases": "a red circle: 0.1 0.2 0.4 0.7", "prompt": odd.PROMPT, **side,
                "layout": LAYOUT,
            },
            "RealCompoLayoutFromMasks": {
                "masks": [mask], "phrases": ["a red circle"], "prompt": [odd.PROMPT],
                "keep": ["mask"], "layout": [LAYOUT],
            },
            "RealCompoLayoutFromPose": {
                "pose": json.loads(pose), "phrases": "a man\na woman", "prompt": "a man, a woman",
                "shape": "limbs",
            },
            "RealCompoLayoutFromSegmentation": {
                "image": torch.tensor([1.0, 0.0, 0.0]).expand(1, 32, 32, 3).contiguous(),
                "phrases": "#ff0000: a red circle", "prompt": odd.PROMPT,
            },
            "RealCompoLayoutFromText": {
                "prompt": odd.PROMPT, "method": "rules", "endpoint": "", "model": "", "seed": 1,
            },
            "RealCompoPlannerRequest": {"prompt": odd.PROMPT, **side},
            "RealCompoApplyGLIGEN": {
                "positive": positive, "clip": clip, "gligen_textbox_model": self.demo[3],
                "layout": LAYOUT, "start": 0.0, "end": 1.0,
            },
            "RealCompoGuider": sampling,
            "RealCompoDualSampler": {
                **sampling, "latent_image": {"samples": torch.zeros(1, 4, 8, 8)}, "seed": 1,
                "steps": 1, "sampler_name": "euler", "scheduler": "normal", "denoise": 1.0,
            },
        }  # fmt: skip

    def types(self, node: str) -> dict[str, Any]:
        """Declared type and options of every input of a node."""
        found = self.nodes[node].INPUT_TYPES()
        return {**found.get("required", {}), **found.get("optional", {})}

    def inputs(self, node: str) -> dict[str, Any]:
        """A call that works."""
        given = self.good[node]
        # a list that the executor makes anew for every call
        return {k: list(v) if isinstance(v, list) else v for k, v in given.items()}

    def spoilt(self, rng: random.Random, node: str) -> dict[str, Any]:
        """A node's inputs with one of them changed, or two."""
        inputs, types = self.inputs(node), self.types(node)
        left_out = NOT_HERE if node in SAMPLING else NOT_FUZZED.get(node, set())
        names = [name for name in types if name not in left_out]
        for name in rng.sample(names, min(len(names), rng.choice((1, 1, 1, 2)))):
            wire, options = types[name][0], (types[name][1:] or ({},))[0]
            good = inputs.get(name, options.get("default"))
            if not getattr(self.nodes[node], "INPUT_IS_LIST", False):
                inputs[name] = self._odd(rng, name, wire, options, good)
                continue
            entry = good[0] if isinstance(good, list) and good else good
            spoilt = self._odd(rng, name, wire, options, entry)
            inputs[name] = rng.choice(
                [[spoilt], [spoilt], [spoilt], spoilt, [], [entry, spoilt], [entry] * 3, None]
            )
        return inputs

    def _odd(
        self, rng: random.Random, name: str, wire: Any, options: dict[str, Any], good: Any
    ) -> Any:
        if rng.random() < 0.2:
            return odd.anything(rng)
        if not isinstance(wire, str):
            return rng.choice([*wire[:6], "?", "x" * (1 << 20), "\ud800", str(wire[0]).upper(), 1])
        if wire in ("INT", "FLOAT"):
            return odd.number(rng, name, options, wire == "INT")
        if wire == "BOOLEAN":
            return rng.choice([True, False, 0, 1, 2, "false", None, torch.tensor(True)])
        makers = {
            "STRING": lambda: odd.text(rng, good if isinstance(good, str) else odd.PROMPT),
            "LATENT": lambda: odd.latent(rng, good or self.good["RealCompoPickBest"]["latents"][0]),
            "CONDITIONING": lambda: odd.conditioning(rng, good),
            "REALCOMPO_LAYOUT": lambda: odd.layout(rng, LAYOUT),
            "REALCOMPO_TRACE": lambda: odd.trace(rng, good),
            "LORA_MODEL": lambda: odd.lora(rng, good),
            "LOSS_MAP": lambda: odd.losses(rng),
            "MODEL": lambda: rng.choice([*self.others, None]),
            "CLIP": lambda: rng.choice(
                [None, self.others[1], odd.BadClip(None), odd.BadClip(torch.zeros(1, 77, 5)),
                 odd.BadClip(torch.full((1, 77, 64), float("nan"))), odd.BadClip(torch.zeros(77))]
            ),
        }  # fmt: skip
        if wire in ("IMAGE", "MASK"):
            some = self.good["RealCompoPickBest"]["images"][0]
            some = some if wire == "IMAGE" else some[..., 0]
            return odd.tensor(rng, good if isinstance(good, torch.Tensor) else some)
        return makers[wire]() if wire in makers else odd.anything(rng)


@pytest.fixture(scope="module")
def world() -> World:
    return World()


@pytest.fixture(autouse=True)
def _folders(tmp_path: Path) -> Iterator[None]:
    import folder_paths
    import headless

    before = folder_paths.get_output_directory, folder_paths.get_input_directory
    paths = before[0](), before[1]()
    naming = folder_paths.get_save_image_path
    headless.give_folders(folder_paths, tmp_path)
    yield
    folder_paths.get_save_image_path = naming
    for name, path, old in zip(("output", "input"), paths, before, strict=True):
        setter = getattr(folder_paths, f"set_{name}_directory", None)
        if setter is not None:
            setter(path)
        else:
            setattr(folder_paths, f"get_{name}_directory", old)


def check_result(value: Any, may_be_nan: bool) -> None:
    """No NaN anywhere in what a node gives."""
    if isinstance(value, torch.Tensor):
        assert may_be_nan or torch.isfinite(value.float()).all(), "NaN in a tensor"
    elif isinstance(value, float):
        assert may_be_nan or math.isfinite(value), "NaN in a number"
    elif isinstance(value, str):
        value.encode("utf-8")
    elif isinstance(value, dict):
        for inner in value.values():
            check_result(inner, may_be_nan)
    elif isinstance(value, (list, tuple)):
        for inner in value:
            check_result(inner, may_be_nan)


def complaint(world: World, node: str, inputs: dict[str, Any]) -> str | None:
    """What is wrong with a node's answer to ``inputs``; None if nothing is."""
    kind = world.nodes[node]
    start = time.perf_counter()
    try:
        with torch.inference_mode():
            out = getattr(kind(), kind.FUNCTION)(**inputs)
        result = out["result"] if isinstance(out, dict) else out
        assert len(result) == len(kind.RETURN_TYPES)
        check_result(result, node in MAY_BE_NAN)
    except RealCompoError as error:
        message = str(error)
        if error.node != kind.SHOWN_AS or not message.startswith(f"{kind.SHOWN_AS}, input '"):
            return f"not the node's own name: {message[:200]}"
        if error.where not in world.types(node):
            return f"no input of this node is named: {message[:200]}"
        if len(message) > LONGEST_MESSAGE or "\n" in message or not error.remedy:
            return f"no one sentence: {message[:200]!r} ({len(message)} characters)"
        try:
            message.encode("utf-8")
        except UnicodeEncodeError:
            return "a message that no log can write"
    except Exception:  # whatever else comes is the finding
        return "".join(traceback.format_exc(limit=-4).splitlines(keepends=True)[-9:])
    seconds = time.perf_counter() - start
    return f"took {seconds:.1f} s" if seconds > SLOWEST else None


def described(inputs: dict[str, Any], good: dict[str, Any]) -> str:
    """Those inputs that were changed, in short."""
    changed = {k: v for k, v in inputs.items() if k not in good or v is not good[k]}
    parts = []
    for name, value in changed.items():
        if isinstance(value, torch.Tensor):
            shown = f"{value.dtype} {tuple(value.shape) if not value.is_nested else 'nested'}"
        else:
            try:
                shown = ascii(value)[:160]
            except Exception as error:  # values that cannot even be spelt
                shown = f"{type(value).__name__} ({type(error).__name__})"
        parts.append(f"{name}={shown}")
    return ", ".join(parts)


def test_every_call_that_is_spoilt_here_works_unspoilt(world: World) -> None:
    for node in world.good:
        if node == "RealCompoLoadCaptioner":  # there is no folder of models
            continue
        kind = world.nodes[node]
        with torch.inference_mode():
            getattr(kind(), kind.FUNCTION)(**world.inputs(node))


def test_odd_inputs_give_a_result_or_one_sentence(world: World) -> None:
    before = odd.fingerprint(world.watched)
    found: dict[str, str] = {}
    for node in (name for name in world.good if ONLY in name):
        for number in range(CASES):
            inputs = world.spoilt(random.Random(f"{SEED} {node} {number}"), node)
            told = described(inputs, world.good[node])
            problem = complaint(world, node, inputs)
            if problem is None and odd.fingerprint(world.watched) != before:
                problem = "a model was changed"
                before = odd.fingerprint(world.watched)
            if problem is not None:
                # one of each kind is enough to be told
                found.setdefault(f"{node}: {problem}", f"{node} {number}: {told}\n{problem}")
    assert not found, "\n\n".join(found.values())
