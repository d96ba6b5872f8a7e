"""Finding the images and classes of a folder tree, in an order that never changes."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from torchvision.datasets.folder import IMG_EXTENSIONS, has_file_allowed_extension, make_dataset

from acmix.errors import UserError
from acmix.tasks.data.notes import warn

__all__ = ["Listing", "find_classes", "hold_out", "list_folder", "list_labelled"]

_HOLD_OUT_SEED = 0


class Listing(NamedTuple):
    """Files with their class numbers.

    Attributes:
        paths: Image files, sorted by class and name.
        targets: int64 [N].
    """

    paths: list[str]
    targets: NDArray[np.int64]

    def part(self, rows: NDArray[np.int64]) -> "Listing":
        """Returns the rows in ascending order.

        Args:
            rows: Numbers of the rows to keep.
        """
        rows = np.sort(rows)
        return Listing([self.paths[row] for row in rows], self.targets[rows])


def find_classes(folder: Path) -> list[str]:
    """The classes of a folder: the names of its sub-folders, sorted; hidden ones do not count.

    Args:
        folder: A folder of class folders.

    Returns:
        The class names.

    Raises:
        UserError: There is no such folder, or it holds no class folder.
    """
    if not folder.is_dir():
        raise UserError(f"no folder {folder}: expected one sub-folder per class, with images in it")
    names = sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    if not names:
        raise UserError(f"no class folders in {folder}: expected one sub-folder per class, with images in it")
    return names


def list_labelled(folder: Path, class_names: list[str]) -> Listing:
    """Lists the images of every class, also in deeper folders.

    Args:
        folder: A folder of class folders.
        class_names: The classes that it must hold, all of them and no other.

    Returns:
        Files and class numbers, sorted by class and path.

    Raises:
        UserError: The class folders are other ones, or a class holds no image.
    """
    found = find_classes(folder)
    if found != class_names:
        missing, unknown = sorted({*class_names} - {*found}), sorted({*found} - {*class_names})
        told = [f"{word} {_some(names)}" for word, names in (("lacks", missing), ("adds", unknown)) if names]
        raise UserError(
            f"the class folders in {folder} are not those of the training set: it {' and '.join(told)}; "
            "make the folders' names agree"
        )
    listing = _walk(folder, class_names)
    counts = np.bincount(listing.targets, minlength=len(class_names))
    empty = [name for name, count in zip(class_names, counts, strict=True) if count == 0]
    if empty:
        raise UserError(
            f"no images for class {_some(empty)} in {folder}: add images ({', '.join(IMG_EXTENSIONS)}) "
            "or remove the empty folder"
        )
    return listing


def list_folder(folder: Path) -> Listing:
    """Lists all images in a folder and below, without classes.

    Args:
        folder: A folder of images.

    Returns:
        Files in sorted order, each with target -1.

    Raises:
        UserError: There is no such folder, or no image in it.
    """
    if not folder.is_dir():
        raise UserError(f"no folder {folder}: expected a folder with images")
    listing = _walk(folder, ["."])
    if not listing.paths:
        raise UserError(f"no images in {folder}: expected files that end in {', '.join(IMG_EXTENSIONS)}")
    paths = [str(Path(path)) for path in listing.paths]
    return Listing(paths, np.full(len(paths), -1, dtype=np.int64))


def hold_out(listing: Listing, fraction: float) -> tuple[Listing, Listing]:
    """Splits a part off, in equal shares of each class and always in the same way.

    Args:
        listing: Files with class numbers.
        fraction: Share of each class that is held out, rounded, at least one image; a class of one image keeps it.

    Returns:
        The rest and the held-out part.
    """
    held: list[NDArray[np.int64]] = []
    for target in np.unique(listing.targets):
        rows = np.flatnonzero(listing.targets == target)
        count = min(max(1, round(fraction * len(rows))), len(rows) - 1)
        held.append(np.random.default_rng((_HOLD_OUT_SEED, int(target))).permutation(rows)[:count])
    chosen = np.concatenate(held)
    return listing.part(np.setdiff1d(np.arange(len(listing.paths)), chosen)), listing.part(chosen)


def _walk(folder: Path, class_names: list[str]) -> Listing:
    ignored: list[str] = []

    def is_image(path: str) -> bool:
        if Path(path).name.startswith("."):
            return False
        if not has_file_allowed_extension(path, IMG_EXTENSIONS):
            ignored.append(path)
            return False
        return True

    numbers = {name: number for number, name in enumerate(class_names)}
    samples = make_dataset(folder, numbers, is_valid_file=is_image, allow_empty=True)
    if ignored:
        warn(f"ignored {len(ignored)} files in {folder} whose names are no image's, the first is {ignored[0]}")
    return Listing([path for path, _ in samples], np.array([target for _, target in samples], dtype=np.int64))


def _some(names: list[str], limit: int = 5) -> str:
    shown = ", ".join(f"'{name}'" for name in names[:limit])
    return shown if len(names) <= limit else f"{shown} and {len(names) - limit} more"
