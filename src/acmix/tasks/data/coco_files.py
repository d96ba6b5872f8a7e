"""Finds the image files that an annotation file names."""

import os
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from acmix.errors import UserError
from acmix.tasks.data.coco_records import CocoRecords

__all__ = ["missing_annotations", "missing_folder", "missing_images"]


def missing_images(folder: Path, records: CocoRecords, rows: NDArray[np.int64]) -> list[int]:
    """Looks for image files, folder by folder: a question for each of 100,000 files takes minutes on a network's disk.

    Args:
        folder: The folder of images.
        records: What names them.
        rows: Which of the records are wanted.

    Returns:
        The rows whose files are not there.
    """
    there: dict[str, set[str]] = {}
    missing = []
    for row in rows.tolist():
        parent, name = os.path.split(records.file_names[row])
        if parent not in there:
            inner = folder / parent
            there[parent] = {entry.name for entry in inner.iterdir()} if inner.is_dir() else set()
        if name not in there[parent]:
            missing.append(row)
    return missing


def missing_folder(folder: Path, option: str) -> UserError:
    """The error for a folder of images that is not there.

    Args:
        folder: The folder.
        option: What sets it.

    Returns:
        An error that names the folders that are there.
    """
    for parent in folder.parents:
        if parent.is_dir():
            there = sorted(entry.name for entry in parent.iterdir() if entry.is_dir())
            return UserError(f"no folder {folder} (in {parent}: {', '.join(there[:8]) or 'none'}): set {option}")
    return UserError(f"no folder {folder}: set {option}")


def missing_annotations(path: Path, option: str) -> UserError:
    """The error for an annotation file that is not there.

    Args:
        path: The file.
        option: What sets it.

    Returns:
        An error that names the JSON files that are there.
    """
    there = sorted(entry.name for entry in path.parent.glob("*.json")) if path.parent.is_dir() else []
    return UserError(
        f"no annotation file {path} (JSON files in {path.parent}: {', '.join(there[:8]) or 'none'}): set {option}"
    )
