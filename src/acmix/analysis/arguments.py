"""Readers of command-line values that both commands share."""

import argparse
import ast
import re
from typing import Any

from acmix.analysis.attention import Pixel

__all__ = ["add_model_args", "read_assignment", "read_pixel"]


def add_model_args(parser: argparse.ArgumentParser, purpose: str) -> None:
    """Declares `--model-args`.

    Args:
        parser: gets the argument.
        purpose: end of its help text.
    """
    parser.add_argument(
        "--model-args",
        nargs="+",
        type=read_assignment,
        default=[],
        metavar="KEY=VALUE",
        help=f"arguments of the network, such as stem=small, {purpose}",
    )


def read_assignment(text: str) -> tuple[str, Any]:
    """Reads KEY=VALUE; the value is a Python literal, or a word as it stands.

    Args:
        text: such as `stem=small` or `channels=[8,16,32,64]`.

    Returns:
        Key and value.

    Raises:
        ArgumentTypeError: the text has another form.
    """
    key, equals, value = text.partition("=")
    if not (key.isidentifier() and equals):
        raise argparse.ArgumentTypeError(f"{text!r} is no argument; write key=value such as stem=small")
    try:
        return key, ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return key, value


def read_pixel(text: str) -> Pixel:
    """Reads Y,X.

    Args:
        text: such as `12,20`.

    Returns:
        Row and column.

    Raises:
        ArgumentTypeError: the text has another form.
    """
    match = re.fullmatch(r"(\d+),(\d+)", text)
    if match is None:
        raise argparse.ArgumentTypeError(f"{text!r} is no pixel; write row,column such as 12,20")
    return int(match[1]), int(match[2])
