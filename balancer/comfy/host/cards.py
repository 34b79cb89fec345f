"""A model that the host spreads over several cards (2026 on), kept on its own one."""

from __future__ import annotations

from typing import Any


def on_one_card(options: dict[str, Any]) -> dict[str, Any]:
    """Model options by which a prediction runs on the model's own device (hosts of 2026).

    With several cards the host hands parts of a batch to copies of the model in other threads,
    where neither gradients nor readers of attention nor changes of the model would reach them.
    """
    return {name: value for name, value in options.items() if name != "multigpu_clones"}


def without_copies(patcher: Any) -> Any:
    """``patcher``, or a clone of it for which the host loads no copies on other cards."""
    copies = getattr(patcher, "get_additional_models_with_key", None)
    if copies is None or not copies("multigpu"):
        return patcher
    alone = patcher.clone()
    alone.remove_additional_models("multigpu")
    return alone
