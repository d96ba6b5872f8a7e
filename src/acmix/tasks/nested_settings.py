"""Settings made of dataclasses, from the plain mappings by which checkpoints hold them."""

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any, TypeVar, get_type_hints

__all__ = ["settings_of"]

S = TypeVar("S")


def settings_of(kind: type[S], settings: S | Mapping[str, Any]) -> S:
    """An instance of a dataclass whose fields may be dataclasses again.

    Args:
        kind: The dataclass.
        settings: An instance, which is returned as it is, or its fields by name, as `dataclasses.asdict` gives them.
    """
    if isinstance(settings, kind):
        return settings
    assert isinstance(settings, Mapping)
    assert is_dataclass(kind)
    hints = get_type_hints(kind)
    inner = {each.name for each in fields(kind) if is_dataclass(hints[each.name])}
    made = {name: settings_of(hints[name], value) if name in inner else value for name, value in settings.items()}
    return kind(**made)
