"""A model's options, lent to one call with keys of ours, and given back as others left them.

Guidance functions keep state there from step to step: a copy would lose what they write.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from .compat import has_wrappers

POST_CFG = "sampler_post_cfg_function"
DENOISE_MASK = "denoise_mask_function"
ASKS_BOTH = "disable_cfg1_optimization"
"""Also without guidance the unconditional prediction is wanted."""
# patches behind an attention's output, which see the rows of all prompts together
_OUTPUTS = ("attn1_output_patch", "attn2_output_patch")
# what may see several prompts' rows in one call
_IN_CALL = ("patches", "patches_replace", "optimized_attention_override")
_CALL_WRAPPERS = ("calc_cond_batch", "apply_model", "diffusion_model")
_NONE = object()


@contextmanager
def lent(options: dict[str, Any], wanted: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """``options`` itself, holding what ``wanted`` holds while this lasts.

    Afterwards the keys that were exchanged are as before, but for those that somebody else has
    written meanwhile: these stay, as all others do.
    """
    names = [k for k in {**options, **wanted} if options.get(k, _NONE) is not wanted.get(k, _NONE)]
    before = {name: options.get(name, _NONE) for name in names}
    _put(options, {name: wanted.get(name, _NONE) for name in names})
    try:
        yield options
    finally:
        untouched = (n for n in names if options.get(n, _NONE) is wanted.get(n, _NONE))
        _put(options, {name: before[name] for name in untouched})


def _put(options: dict[str, Any], values: dict[str, Any]) -> None:
    for name, value in values.items():
        if value is _NONE:
            options.pop(name, None)
        else:
            options[name] = value


def marks(options: dict[str, Any]) -> dict[str, Any]:
    """Plain values that other packs leave among a model's options for hooks of their own."""
    plain = (bool, int, float, str)
    return {k: v for k, v in options.items() if isinstance(v, plain) and k != ASKS_BOTH}


def joins_rows(options: dict[str, Any], entries: list[dict[str, Any]]) -> bool:
    """Whether a patch may need the positive and the negative prompt's rows in one pass.

    Patches behind an attention's output do: guidance inside the network (NAG) is made so, and
    attention couple. They are among the options, or come with hooks on the conditioning.
    """
    given = [options.get("transformer_options", {})]
    for entry in entries:
        hooks = getattr(entry.get("hooks"), "hooks", None) or ()
        given += [getattr(hook, "transformers_dict", None) or {} for hook in hooks]
    return any(one.get("patches", {}).get(kind) for one in given for kind in _OUTPUTS)


def sees_rows(options: dict[str, Any]) -> bool:
    """Whether anything of another pack stands in the model call, where all rows come by."""
    inside = options.get("transformer_options", {})
    wrappers = inside.get("wrappers", {})
    return (
        options.get("model_function_wrapper") is not None
        or any(inside.get(name) for name in _IN_CALL)
        or any(
            functions for kind in _CALL_WRAPPERS for functions in wrappers.get(kind, {}).values()
        )
    )


def within(kind: str, function: Any, owner: Any, options: dict[str, Any]) -> Any:
    """``function`` inside the wrappers of this kind among ``options``, as the host calls it.

    ``owner`` is what the function belongs to, as far as the wrappers know.
    """
    if not has_wrappers():
        return function
    from comfy.patcher_extension import WrapperExecutor, get_all_wrappers

    wrappers = get_all_wrappers(kind, options, is_model_options=True)
    return WrapperExecutor.new_class_executor(function, owner, wrappers).execute


def has_wrapper(kind: str, options: dict[str, Any]) -> bool:
    """Whether there is a wrapper of this kind among ``options``."""
    known = options.get("transformer_options", {}).get("wrappers", {})
    return any(known.get(kind, {}).values())


def inside_run(
    kind: str, function: Any, owner: Any, options: dict[str, Any], first: dict[str, Any]
) -> Any:
    """``function``, a part of the pair's run, inside the second model's wrappers of this kind.

    Wrappers that are among ``first``, the first model's options, as well have done to the one run
    what they do: here they act on their own model's options only, and neither what they hand on nor
    what they return counts.
    """
    if not has_wrapper(kind, options):
        return function
    from comfy.patcher_extension import get_all_wrappers

    known = get_all_wrappers(kind, first, is_model_options=True)
    for wrapper in reversed(get_all_wrappers(kind, options, is_model_options=True)):
        again = any(wrapper is one for one in known)
        function = partial(_around, wrapper, function, owner, again)
    return function


def _around(wrapper: Any, function: Any, owner: Any, again: bool, *args: Any, **kwargs: Any) -> Any:
    from comfy.patcher_extension import WrapperExecutor

    results: list[Any] = []

    def run(*theirs: Any, **named: Any) -> Any:
        results[:] = [function(*args, **kwargs) if again else function(*theirs, **named)]
        return results[0]

    out = WrapperExecutor.new_class_executor(run, owner, [wrapper]).execute(*args, **kwargs)
    return results[0] if again and results else out
