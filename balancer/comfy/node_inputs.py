"""A node's inputs against what its INPUT_TYPES says of them.

What knows the host is imported by the types of wires that need it: layout nodes have none of them
and run in a script without ComfyUI.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from importlib import import_module
from typing import Any

from ..errors import RealCompoError
from ..layouts.layout import require_layout
from ..values import checked
from ..values.foreign_json import LONGEST

LARGEST_INT = (1 << 64) - 1
"""Where an input names no end: the host's seeds go up to here."""
LAST_BATCH_INDEX = 1 << 16
"""Largest index in an older batch that a latent's batch_index names."""


def require_vae(value: Any, where: str) -> Any:
    """``value`` if it is a VAE of the host; RealCompoError otherwise."""
    if not callable(getattr(value, "decode", None)) or not hasattr(value, "first_stage_model"):
        raise RealCompoError(
            where, f"got {checked.kind(value)}, not a VAE", "Connect a VAE or checkpoint loader"
        )
    return value


def _conditioning(value: Any, where: str) -> Any:
    """CONDITIONING whose texts are vectors of tokens (B, T, D)."""
    from .inputs.types import require_conditioning

    for entry in require_conditioning(value, where):
        remedy = "Connect an encoded prompt"
        text = checked.plain_tensor(entry[0], where, "an encoded prompt", remedy)
        if text.ndim != 3:
            raise RealCompoError(where, f"its text has the shape {tuple(text.shape)}", remedy)
    return value


def _latent(value: Any, where: str) -> Any:
    """LATENT of numbers, with its pictures' indices in an older batch, if it has them."""
    from .inputs.types import require_latent

    remedy = "Connect a latent of pictures (batch, channels, height, width)"
    samples = checked.plain_tensor(
        require_latent(value, where)["samples"], where, "latents", remedy
    )
    if not 3 <= samples.ndim <= 5:
        raise RealCompoError(where, f"it has the shape {tuple(samples.shape)}", remedy)
    indices = value.get("batch_index")
    if indices is not None:
        # the host draws noise for every index up to the last one
        listed = checked.flat(list(indices) if isinstance(indices, range) else indices, where)
        if len(listed) != len(samples):
            raise RealCompoError(
                where, f"it has {len(samples)} pictures and a batch_index of {len(listed)}",
                "Take out the node that set batch_index",
            )  # fmt: skip
        for index in listed:
            checked.whole(index, where, 0, LAST_BATCH_INDEX)
    return value


def _layout(value: Any, where: str) -> Any:
    """Layout whose texts every tokenizer and file takes."""
    try:
        layout = require_layout(value)
        checked.text(layout.prompt, where, LONGEST)
        for region in layout.regions:
            checked.text(region.phrase, where, LONGEST)
    except RealCompoError as error:
        raise error.at("", where) from None
    return value


def _of_host(module: str, name: str) -> Callable[[Any, str], Any]:
    """The checker ``name`` of a module below this one, imported when it is first asked."""

    def check(value: Any, where: str) -> Any:
        return getattr(import_module(f".{module}", __package__), name)(value, where)

    return check


# The pack's other types are looked at by the engine, which is given them as they are.
_WIRES: Mapping[str, Callable[[Any, str], Any]] = {
    "BOOLEAN": checked.flag,
    "CLIP": _of_host("inputs.types", "require_clip"),
    "CONDITIONING": _conditioning,
    "IMAGE": checked.picture,
    "LATENT": _latent,
    "LORA_MODEL": _of_host("finetune.lora_file", "require_lora"),
    "LOSS_MAP": _of_host("finetune.lora_file", "require_losses"),
    "MASK": checked.mask,
    "MODEL": _of_host("inputs.types", "require_model"),
    "REALCOMPO_LAYOUT": _layout,
    "VAE": require_vae,
}


def _one(value: Any, where: str, declared: Any, options: Mapping[str, Any], long: bool) -> Any:
    if not isinstance(declared, str):
        return checked.choice(value, where, list(declared))
    if declared == "INT":
        return checked.whole(
            value, where, options.get("min", -LARGEST_INT), options.get("max", LARGEST_INT)
        )
    if declared == "FLOAT":
        return checked.number(value, where, options.get("min", -1e300), options.get("max", 1e300))
    if declared == "STRING":
        return checked.text(value, where, LONGEST if long else checked.LONGEST_PROMPT)
    check = _WIRES.get(str(declared))
    return value if check is None else check(value, where)


def _declared(
    value: Any, where: str, spec: Any, own: bool, long: bool, must: bool, lists: bool
) -> dict[str, Any]:
    """One input of ``INPUT_TYPES`` in its plain type, by its name; none if its entries are open."""
    if lists and not isinstance(value, list):
        value = [value]
    if lists and must and not value:
        raise RealCompoError(where, "the list is empty", "Connect what gives at least one")
    wire, options = spec[0], (spec[1:] or ({},))[0]
    if own and isinstance(wire, str):
        if wire == "STRING":  # lists in lists, as captioners of other packs give them
            for entry in checked.flat(value, where):
                if isinstance(entry, str):
                    checked.text(entry, where, LONGEST)
        return {where: value}
    if own:  # a list of files, which may be others by now
        wire = "STRING"
    if not lists:
        return {where: _one(value, where, wire, options, long)}
    given = [entry for entry in value if entry is not None or must]
    read = [_one(entry, where, wire, options, long) for entry in given]
    return {where: read} if read or not value else {}


def checked_inputs(
    node: Any, inputs: Mapping[str, Any], own: Collection[str], data: Collection[str]
) -> dict[str, Any]:
    """``inputs`` of a node class by name, in plain types; open ones are left out.

    ``own`` and ``data`` as in ``nodes.checked``. For a node that takes lists, every entry is
    looked at; those of None are left out of an optional input. Raises RealCompoError for the first
    input that is not what the node's ``INPUT_TYPES`` says.
    """
    types = node.INPUT_TYPES()
    required = types.get("required", {})
    declared = {**required, **types.get("optional", {})}
    lists = bool(getattr(node, "INPUT_IS_LIST", False))
    found: dict[str, Any] = {}
    for name, value in inputs.items():
        if name not in declared:
            found[name] = value
        elif value is not None or name in required:
            found |= _declared(
                value, name, declared[name], name in own, name in data, name in required, lists
            )
    return found
