"""What every node does with its inputs and its errors, in one place."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Collection
from typing import Any, TypeVar

Node = TypeVar("Node", bound=type)


def checked(
    display_name: str, own: Collection[str] = (), data: Collection[str] = ()
) -> Callable[[Node], Node]:
    """Class decorator of every node: its inputs are looked at first, and its errors name it.

    ``display_name`` is the node's name. Inputs are held to what ``INPUT_TYPES`` says of them, as
    the host does with what is typed but not with what comes by wire; a value of None counts as left
    open. ``own`` are inputs that the node looks at itself (a choice among files is still held to be
    a text), ``data`` texts that hold more than a prompt (drawings, tables) and may be long. A
    ``RealCompoError`` leaves the node with its name in it; other exceptions are faults of ours and
    stay what they are.
    """

    def wrap(node: Node) -> Node:
        function = str(vars(node)["FUNCTION"])
        run = getattr(node, function)
        signature = inspect.signature(run)

        @functools.wraps(run)
        def call(self: Any, *args: Any, **kwargs: Any) -> Any:
            from ..balancer.comfy.node_inputs import checked_inputs
            from ..balancer.errors import RealCompoError

            inputs = signature.bind(self, *args, **kwargs).arguments
            inputs.pop("self")
            for name, parameter in signature.parameters.items():
                if parameter.kind is inspect.Parameter.VAR_KEYWORD:
                    inputs.update(inputs.pop(name, {}))
            try:
                return run(self, **checked_inputs(node, inputs, own, data))
            except RealCompoError as error:
                raise (error if error.node else error.at(display_name)) from None

        setattr(node, function, call)
        node.SHOWN_AS = display_name  # type: ignore[attr-defined]
        return node

    return wrap
