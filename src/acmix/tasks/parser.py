"""The parser of `acmix fit | validate | test | predict`: options by their whole names, nested ones one by one."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import yaml
from lightning.pytorch.cli import LightningArgumentParser

from acmix.errors import UserError

__all__ = ["NestedOption", "WholeWordParser", "nested", "split_nested"]

_ARGUMENTS = ("--model.model_args.", "--model.init_args.model_args.")
_EXPONENT = re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+")

NestedOption = tuple[tuple[str, ...], Any]
"""The keys that lead to a value, and the value."""


class WholeWordParser(LightningArgumentParser):
    """Lightning's parser without abbreviations: `--trainer.max_step` is a mistake, not `--trainer.max_steps`."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        # Parsers of this class are also made for the options of model and data.
        super().__init__(*args, **{"allow_abbrev": False, **kwargs})


def split_nested(words: Sequence[str]) -> tuple[list[str], list[NestedOption]]:
    """Takes options such as `--model.model_args.acmix.rates` out of a command line.

    The parser keeps the last alone of several that lead into one dictionary.

    Args:
        words: The command line.

    Returns:
        The other words, and the nested options in order, their values read as YAML.

    Raises:
        UserError: An option has no value.
    """
    others, found = list[str](), list[NestedOption]()
    rest = iter(words)
    for word in rest:
        flag, equals, value = word.partition("=")
        start = next((prefix for prefix in _ARGUMENTS if flag.startswith(prefix)), "")
        keys = tuple(flag.removeprefix(start).split("."))
        if not start or len(keys) < 2:
            others.append(word)
            continue
        text = value if equals else next(rest, None)
        if not all(keys) or text is None or (not equals and text.startswith("--")):
            raise UserError(f"{flag} needs names between dots and a value, such as --model.model_args.acmix.rates 1,1")
        found.append((keys, _value(flag, text)))
    return others, found


def _value(flag: str, text: str) -> Any:
    if _EXPONENT.fullmatch(text):
        # A word for YAML 1.1, a number for everybody else.
        return float(text)
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise UserError(f"{flag}: {text!r} is no YAML value") from error


def nested(arguments: Mapping[str, Any] | None, options: Sequence[NestedOption]) -> dict[str, Any]:
    """The arguments of a network with nested options put in.

    Args:
        arguments: What configuration files and other options say.
        options: See `split_nested`.

    Returns:
        A dictionary of its own; where two options have the same keys, the last one counts.

    Raises:
        UserError: Keys lead into what is no dictionary.
    """
    merged = dict(arguments or {})
    for keys, value in options:
        place = merged
        for depth, key in enumerate(keys[:-1], start=1):
            inner = place.get(key)
            if inner is not None and not isinstance(inner, Mapping):
                name = ".".join(("model_args", *keys[:depth]))
                raise UserError(f"{name} is {inner!r}, which has no {keys[depth]!r}; leave one of the two out")
            place[key] = place = dict(inner or {})
        place[keys[-1]] = value
    return merged
