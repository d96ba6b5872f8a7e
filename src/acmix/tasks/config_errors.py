"""The messages of the configuration parser, which are trees of several lines, in one line."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import fields, is_dataclass
from difflib import get_close_matches
from importlib import import_module
from typing import get_type_hints

from acmix.tasks.names import nearest

__all__ = ["in_one_line", "with_nearest"]

# What the parser tells of its own types, and of the whole configuration, is no help to the one who wrote it.
_LEFT_OUT = re.compile(
    r"Does not validate against any of the Union subtypes|Subtypes: .*|Errors:|Expected a <class 'NoneType'>"
    r"|Given value type: .*|Given value: (NestedArg\(|Namespace\(|\{).*"
)
# An option that there is not: of the command, of a class that the configuration names, in a file.
_UNKNOWN = re.compile(r"unrecognized arguments: --([\w.-]+).*")
_UNKNOWN_OF_CLASS = re.compile(
    r"(\w+): Problem with given class_path '([\w.]+)': (?:Option '|unrecognized arguments: --)([\w.-]+)"
    r"(?:' is not accepted|[= ].*|$)"
)
_UNKNOWN_IN_FILE = re.compile(r"does not accept option '([\w.-]+)'")


def in_one_line(message: str) -> str:
    """Joins the telling lines of a parser's message.

    Args:
        message: What the parser says, lines indented and some with dashes.

    Returns:
        One line.
    """
    lines = [line.strip().removeprefix("- ") for line in message.splitlines()]
    told = "; ".join(line for line in lines if line and not _LEFT_OUT.fullmatch(line)).replace(":; ", ": ")
    told = re.sub(r"<class '(?:\w+\.)*(\w+)'>", r"\1", told).replace("typing.Literal", "one of ")
    return re.sub(r"Parser key \"([^\"]+)\"", r"\1", told)


def with_nearest(told: str, options: Sequence[str]) -> str:
    """Says which option was meant where there is none of that name.

    Args:
        told: What the parser says, in one line.
        options: The command's own options, such as `--trainer.max_steps`.

    Returns:
        The line, or another one that names the unknown option and those like it.
    """
    if of_class := _UNKNOWN_OF_CLASS.fullmatch(told):
        group, path, name = of_class.groups()
        known = [f"--{group}.{option}" for option in _options_of(path)]
        return _unknown(f"--{group}.{name.removeprefix('init_args.')}", known)
    if unknown := _UNKNOWN.fullmatch(told):
        return _unknown(f"--{unknown[1]}", options)
    if in_file := _UNKNOWN_IN_FILE.search(told):
        return f"{told}; {nearest(in_file[1], [option.removeprefix('--') for option in options])}"
    return told


def _unknown(option: str, known: Sequence[str]) -> str:
    # Within its group first: otherwise every option of a long group is like every other.
    group, _, name = option.rpartition(".")
    inside = {other.rpartition(".")[2]: other for other in known if other.rpartition(".")[0] == group}
    close = [inside[other] for other in get_close_matches(name, inside, cutoff=0.5)]
    return f"no option {option}; " + (f"did you mean {', '.join(close)}?" if close else nearest(option, known))


def _options_of(path: str) -> Iterator[str]:
    """Options of a class that the parser has imported, and of the settings among them."""
    module, _, name = path.rpartition(".")
    hints = get_type_hints(getattr(import_module(module), name).__init__)
    for option, kind in hints.items():
        if option != "return":
            yield option
            yield from (f"{option}.{field.name}" for field in fields(kind)) if is_dataclass(kind) else ()
