"""Finding the images of ADE20K's layout and the annotation of each."""

from pathlib import Path
from typing import NamedTuple

from acmix.errors import UserError
from acmix.tasks.data.listing import list_folder

__all__ = ["Pairs", "list_pairs", "list_unlabelled"]

_IMAGES, _ANNOTATIONS = "images", "annotations"


class Pairs(NamedTuple):
    """Images with their annotations.

    Attributes:
        images: Image files, sorted.
        annotations: Their annotations [N]; empty strings where there are none.
    """

    images: list[str]
    annotations: list[str]


def list_pairs(root: Path, part: str) -> Pairs:
    """Lists `root/images/part/**` with `root/annotations/part/**/<same name>.png`.

    Args:
        root: The data folder.
        part: Name of the folder in `images` and in `annotations`.

    Returns:
        Every image and every annotation, in pairs.

    Raises:
        UserError: A folder is missing or empty, or an image or annotation has no counterpart.
    """
    folders = {name: root / name / part for name in (_IMAGES, _ANNOTATIONS)}
    for name, folder in folders.items():
        if not folder.is_dir():
            raise UserError(_missing(root, name, part))
    images = _by_name(folders[_IMAGES])
    annotations = _by_name(folders[_ANNOTATIONS])
    for path in annotations.values():
        if path.suffix.lower() != ".png":
            raise UserError(f"the annotation {path} is no PNG file; expected class numbers as PNG, which loses none")
    for name, path in images.items():
        if name not in annotations:
            expected = folders[_ANNOTATIONS] / f"{name}.png"
            raise UserError(f"the image {path} has no annotation: expected {expected}; add it, or remove the image")
    for name, path in annotations.items():
        if name not in images:
            expected = folders[_IMAGES] / f"{name}.jpg"
            raise UserError(f"the annotation {path} has no image: expected {expected}; add it, or remove the file")
    return Pairs([str(path) for path in images.values()], [str(annotations[name]) for name in images])


def list_unlabelled(folder: Path) -> Pairs:
    """Lists all images in a folder and below, without annotations.

    Args:
        folder: A folder of images.

    Raises:
        UserError: There is no such folder, or no image in it.
    """
    paths = list_folder(folder).paths
    return Pairs(paths, [""] * len(paths))


def _by_name(folder: Path) -> dict[str, Path]:
    """Images by their path in the folder, without the suffix."""
    found: dict[str, Path] = {}
    for path in map(Path, list_folder(folder).paths):
        name = path.relative_to(folder).with_suffix("").as_posix()
        if name in found:
            raise UserError(f"{found[name]} and {path} differ in their suffix alone; rename or remove one of them")
        found[name] = path
    return found


def _missing(root: Path, name: str, part: str) -> str:
    expected = f"expected {_IMAGES}/{part}/*.jpg and {_ANNOTATIONS}/{part}/*.png"
    if not root.is_dir():
        return f"no data folder {root}: {expected} in it"
    held = root / name if (root / name).is_dir() else root
    there = sorted(entry.name for entry in held.iterdir() if entry.is_dir())
    return f"no folder {root / name / part} (folders in {held}: {', '.join(there) or 'none'}): {expected} in {root}"
