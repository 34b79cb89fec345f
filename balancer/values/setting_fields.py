"""Fields of settings: default, range, step and text of a number stand once, where it is declared.

A settings class is a frozen dataclass whose fields are made here. ``check`` holds its values to
them, ``widgets`` makes a node's inputs of them, ``from_inputs`` reads such inputs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import partial
from typing import Any, TypeVar

from . import checked

T = TypeVar("T")
_KEY = "setting"


@dataclass(frozen=True)
class Setting:
    """``kind`` and ``options`` as the host declares an input; ``read`` checks a value for it.

    ``name`` is the input's, where it differs from the field's.
    """

    kind: str | Sequence[str]
    options: dict[str, Any]
    read: Callable[[Any, str], Any]
    name: str

    @property
    def widget(self) -> tuple[Any, dict[str, Any]]:
        """The input as ``INPUT_TYPES`` has it; the caller's own to change."""
        return self.kind if isinstance(self.kind, str) else list(self.kind), dict(self.options)


def _field(
    kind: str | Sequence[str],
    read: Callable[[Any, str], Any],
    default: Any,
    tip: str,
    name: str = "",
    **options: Any,
) -> Any:
    setting = Setting(kind, {"default": default, **options, "tooltip": tip}, read, name)
    return field(default=default, metadata={_KEY: setting})


def number(
    default: float, low: float, high: float, step: float, tip: str, name: str = "", **options: Any
) -> Any:
    """A float in ``low`` to ``high``; ``options`` are further ones of its widget."""
    read = partial(checked.number, low=low, high=high)
    return _field("FLOAT", read, default, tip, name, min=low, max=high, step=step, **options)


def whole(default: int, low: int, high: int, tip: str) -> Any:
    """A whole number in ``low`` to ``high``."""
    read = partial(checked.whole, low=low, high=high)
    return _field("INT", read, default, tip, min=low, max=high)


def flag(default: bool, tip: str) -> Any:
    """Yes or no."""
    return _field("BOOLEAN", checked.flag, default, tip)


def choice(default: str, choices: Sequence[str], tip: str) -> Any:
    """One of ``choices``."""
    return _field(choices, partial(checked.choice, choices=choices), default, tip)


def settings_of(kind: Any) -> dict[str, tuple[str, Setting]]:
    """Input name -> field name and setting of every field of ``kind`` that was made here."""
    made = ((entry.name, entry.metadata.get(_KEY)) for entry in fields(kind))
    return {setting.name or name: (name, setting) for name, setting in made if setting is not None}


def check(settings: Any) -> None:
    """Hold a dataclass's values to its fields, in its ``__post_init__``, as their plain types.

    Raises RealCompoError that names the input.
    """
    for where, (name, setting) in settings_of(type(settings)).items():
        object.__setattr__(settings, name, setting.read(getattr(settings, name), where))


def widgets(kind: Any, *names: str) -> dict[str, tuple[Any, dict[str, Any]]]:
    """Declarations of the inputs ``names``, in that order."""
    known = settings_of(kind)
    return {name: known[name][1].widget for name in names}


def from_inputs(kind: Callable[..., T], values: Mapping[str, Any]) -> T:
    """A settings class ``kind`` of a node's inputs by name; other inputs are passed over.

    A workflow may lack inputs that are newer than it: they keep their defaults.
    """
    settings_class: Any = kind
    renamed = {own: name for name, (own, _) in settings_of(settings_class).items()}
    named = {renamed.get(entry.name, entry.name): entry.name for entry in fields(settings_class)}
    return kind(**{named[name]: value for name, value in values.items() if name in named})
