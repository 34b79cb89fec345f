"""What hosts before mid-2025 need beyond the ordinary path. One small file, nothing else."""

from __future__ import annotations

import copy
import inspect
from functools import lru_cache
from typing import Any

import comfy.ldm.modules.attention
import comfy.model_patcher
import comfy.samplers
import torch
from comfy.ldm.modules.attention import BasicTransformerBlock
from torch import Tensor


@lru_cache(maxsize=1)
def adds_in_place() -> bool:
    """Whether the host's transformer block adds in place to tensors that autograd saves.

    The block's own source decides, since the change came without a version to ask for; where it
    cannot be read, copies are made.
    """
    try:
        return "x += n" in inspect.getsource(BasicTransformerBlock.forward)
    except OSError:
        return True


def has_outer_sample() -> bool:
    """Whether the host splits sampling into ``sample`` and ``outer_sample`` (late 2024 on)."""
    return hasattr(comfy.samplers.CFGGuider, "outer_sample")


@lru_cache(maxsize=1)
def has_attention_override() -> bool:
    """Whether the host lets a pack take the place of its attention (mid-2025 on).

    Asked by using it, since the hook came without a version to ask for.
    """
    attention: Any = comfy.ldm.modules.attention.optimized_attention
    taken = object()
    options = {"optimized_attention_override": lambda *args, **kwargs: taken}
    one = torch.zeros(1, 1, 4)
    try:
        return attention(one, one, one, 1, transformer_options=options) is taken
    except Exception:  # kernels that know nothing of it complain, each in its own way
        return False


def has_wrappers() -> bool:
    """Whether the host lets functions be laid around its model calls (late 2024 on)."""
    return hasattr(comfy.model_patcher.ModelPatcher, "add_wrapper_with_key")


def attend(query: Tensor, key: Tensor, value: Tensor, extra: dict[str, Any]) -> Tensor:
    """The host's own attention, as its transformer block calls it; (B, N, heads * dim) each.

    Taken from the module at every call: the host, and tests, exchange it there.
    """
    function = comfy.ldm.modules.attention.optimized_attention
    options: dict[str, Any] = {"attn_precision": extra.get("attn_precision")}
    if _takes_options(function):
        options["transformer_options"] = extra
    return function(query, key, value, extra["n_heads"], **options)


@lru_cache(maxsize=8)
def _takes_options(function: Any) -> bool:
    """Whether an attention function takes ``transformer_options`` (mid-2025 on)."""
    return any(
        parameter.kind is parameter.VAR_KEYWORD or parameter.name == "transformer_options"
        for parameter in inspect.signature(function).parameters.values()
    )


def clone_model_options(options: dict[str, Any]) -> dict[str, Any]:
    """A copy of model options whose nested dictionaries and lists may be changed freely."""
    native = getattr(comfy.model_patcher, "create_model_options_clone", None)
    return native(options) if native is not None else _copy(options)


def _copy(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _copy(item) for key, item in value.items()}
    return copy.copy(value) if isinstance(value, list) else value
