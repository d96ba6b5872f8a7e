"""Opens annotation files in COCO's layout: their outer form and their classes."""

import json
from pathlib import Path
from typing import Any

from acmix.errors import UserError
from acmix.tasks.data.coco_faults import BadRecordError, shown, whole_number

__all__ = ["read_annotation_file", "read_categories"]

_FORM = "expected COCO's object with lists 'images', 'annotations' and 'categories'"


def read_annotation_file(path: Path) -> dict[str, Any]:
    """Reads an annotation file.

    Args:
        path: The JSON file.

    Returns:
        An object that holds lists under `images`, `annotations` and `categories`.

    Raises:
        UserError: The file cannot be read, is no JSON, or has another form.
    """
    try:
        with path.open(encoding="utf-8-sig") as file:
            content = json.load(file)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from None
    except json.JSONDecodeError as error:
        raise UserError(
            f"{path} is no JSON, or is cut off: {error.msg} in line {error.lineno}, column {error.colno}; {_FORM}"
        ) from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is no JSON: {shown(str(error))}; {_FORM}") from None
    if not isinstance(content, dict):
        raise UserError(f"{path} holds a {type(content).__name__}; {_FORM}")
    for key in ("images", "annotations", "categories"):
        if key not in content:
            there = ", ".join(map(repr, list(content)[:8])) or "none"
            raise UserError(f"{path} has no '{key}' (its keys: {there}); {_FORM}")
        if not isinstance(content[key], list):
            raise UserError(f"{path}: '{key}' is a {type(content[key]).__name__}; {_FORM}")
    return content


def read_categories(path: Path, records: list[Any]) -> dict[int, str]:
    """Reads the classes.

    Args:
        path: The file they come from, for messages.
        records: The file's `categories`.

    Returns:
        Names by category id, in ascending order of the ids.

    Raises:
        UserError: There are none, one is at fault, or two share an id or a name.
    """
    names: dict[int, str] = {}
    for place, record in enumerate(records):
        try:
            if not isinstance(record, dict):
                raise BadRecordError(f"is {shown(record)}: expected an object with 'id' and 'name'")
            number, name = whole_number(record, "id"), record.get("name")
            if not isinstance(name, str) or not name:
                raise BadRecordError(f"'name' is {shown(name)}: expected a text")
            if number in names:
                raise BadRecordError(f"the id {number} is that of '{names[number]}' already")
            if name in names.values():
                raise BadRecordError(f"the name '{name}' stands there twice")
        except BadRecordError as fault:
            raise UserError(f"{path}: category number {place + 1} in the list: {fault}; mend the record") from None
        names[number] = name
    if not names:
        raise UserError(f"{path} has no categories: expected at least one, with 'id' and 'name'")
    return dict(sorted(names.items()))
