"""The messages of the configuration parser, which are trees of several lines, in one line."""

import re

__all__ = ["in_one_line"]

# What the parser tells of its own types, and of the whole configuration, is no help to the one who wrote it.
_LEFT_OUT = re.compile(
    r"Does not validate against any of the Union subtypes|Subtypes: .*|Errors:|Expected a <class 'NoneType'>"
    r"|Given value type: .*|Given value: (NestedArg\(|Namespace\(|\{).*"
)


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
