"""Dataclasses from JSON, with every type checked."""

import types
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

__all__ = ["from_json"]

_T = TypeVar("_T")


def from_json(kind: type[_T], data: object, where: str = "") -> _T:
    """Builds a dataclass from what `json.loads` gave.

    Args:
        kind: a dataclass of numbers, words, lists, dictionaries and other dataclasses.
        data: a dictionary with exactly its fields; those with defaults may be missing.
        where: place of the data in the whole, for messages.

    Raises:
        ValueError: a field is unknown, missing, or of another type; the message says which.
    """
    if not isinstance(data, Mapping):
        raise ValueError(f"{where or 'record'}: expected an object, found {_brief(data)}")
    hints = get_type_hints(kind)
    needed = {part.name for part in fields(kind) if part.default is MISSING and part.default_factory is MISSING}  # type: ignore[arg-type]  # only dataclasses come here
    if unknown := sorted(set(data) - set(hints)):
        raise ValueError(f"{where or 'record'}: unknown field {unknown[0]!r}")
    if absent := sorted(needed - set(data)):
        raise ValueError(f"{where or 'record'}: field {absent[0]!r} is missing")
    return kind(**{name: _value(hints[name], value, f"{where}.{name}".strip(".")) for name, value in data.items()})


def _value(kind: Any, value: Any, where: str) -> Any:
    """The value as that type, or ValueError."""
    origin, options = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        if value is None and types.NoneType in options:
            return None
        return _value(next(option for option in options if option is not types.NoneType), value, where)
    if origin is Literal:
        if value not in options:
            raise ValueError(f"{where}: expected one of {options}, found {_brief(value)}")
        return value
    if origin is list and isinstance(value, list):
        return [_value(options[0], part, f"{where}[{number}]") for number, part in enumerate(value)]
    if origin is dict and isinstance(value, dict):
        return {name: _value(options[1], part, f"{where}.{name}") for name, part in value.items()}
    if is_dataclass(kind) and isinstance(kind, type):
        return from_json(kind, value, where)
    accepted = (int, float) if kind is float else kind
    # True is an integer in Python, and not here.
    if origin is None and isinstance(value, accepted) and isinstance(value, bool) == (kind is bool):
        return value
    raise ValueError(f"{where}: expected {getattr(kind, '__name__', kind)}, found {_brief(value)}")


def _brief(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
