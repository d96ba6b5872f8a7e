"""What happens with records of an annotation file that are at fault, and the checks that many records share."""

import math
from pathlib import Path
from typing import Any, Literal, TypeAlias

from acmix.errors import UserError
from acmix.tasks.data.notes import warn

__all__ = ["BadRecordError", "Faults", "OnBadRecord", "finite_numbers", "whole_number"]

OnBadRecord: TypeAlias = Literal["raise", "skip"]
_LARGEST = 2**63
_SHOWN = 60


class BadRecordError(Exception):
    """A record is at fault; the message is the reason."""


class Faults:
    """Refuses or counts the faulty records of a file.

    Args:
        path: The annotation file.
        on_bad_record: `raise` stops at the first; `skip` leaves them out, and `report` tells how many there were.
    """

    def __init__(self, path: Path, on_bad_record: OnBadRecord) -> None:
        self.path = path
        self.on_bad_record = on_bad_record
        self.found: list[str] = []

    def add(self, record: str, reason: str) -> None:
        """Deals with a faulty record.

        Args:
            record: Which it is, such as `annotation 17`.
            reason: What is wrong with it.

        Raises:
            UserError: Faulty records are not to be skipped.
        """
        if self.on_bad_record == "raise":
            raise UserError(f"{self.path}: {record}: {reason}; mend the record, or set on_bad_record to skip")
        self.found.append(f"{record}: {reason}")

    def report(self) -> None:
        """Logs how many records were left out, and the first of them."""
        if self.found:
            warn(f"{self.path}: left out {len(self.found):,} faulty records, the first: {self.found[0]}")


def whole_number(record: dict[str, Any], key: str, least: int = -_LARGEST, most: int = _LARGEST - 1) -> int:
    """Reads a whole number.

    Args:
        record: Where it is.
        key: Under which name.
        least: The smallest that is allowed.
        most: The largest that is allowed.

    Returns:
        The number.

    Raises:
        BadRecordError: It is missing, is no whole number, or out of range.
    """
    if key not in record:
        raise BadRecordError(f"has no '{key}'")
    value = record[key]
    if not isinstance(value, int) or (isinstance(value, bool) and most > 1) or not least <= value <= most:
        limits = "" if most >= _LARGEST - 1 else f" from {least} to {most:,}"
        raise BadRecordError(f"'{key}' is {shown(value)}: expected a whole number{limits}")
    return int(value)


def finite_numbers(values: Any) -> bool:
    """Tells whether a value is a list of finite numbers.

    Args:
        values: Anything that a JSON file holds.

    Returns:
        True if so; also for an empty list.
    """
    # The types are compared outright: a truth value is an int too, and these loops run over millions of coordinates.
    return isinstance(values, list) and all(
        (type(value) is float and math.isfinite(value)) or (type(value) is int and -_LARGEST < value < _LARGEST)
        for value in values
    )


def shown(value: Any) -> str:
    """A value as it stands in a message: one line, not too long.

    Args:
        value: Anything that a JSON file holds.

    Returns:
        Its text.
    """
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
