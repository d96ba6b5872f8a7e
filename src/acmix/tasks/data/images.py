"""Reading image files; what cannot be read is named."""

import os
import struct
import zlib
from collections.abc import Sequence
from typing import Literal, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from acmix.errors import UserError

__all__ = ["FileStore", "ImageStore", "Images", "OnBadImage", "UnreadableImageError", "packed", "read_image", "refuse"]

OnBadImage: TypeAlias = Literal["raise", "skip"]
Images: TypeAlias = NDArray[np.uint8] | list[Image.Image]
"""A batch before its transform: uint8 [B, H, W, 3] where all have one size and are in memory, else single images."""

# What Pillow's decoders raise for damaged files, beside its own errors.
_DECODING_ERRORS = (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error, Image.DecompressionBombError)


class UnreadableImageError(Exception):
    """A file cannot be read as an image; the message is the reason."""


class ImageStore(Protocol):
    """The images of a data set, by number.

    Attributes:
        paths: Their files, encoded as by `os.fsencode` [N].
    """

    paths: NDArray[np.bytes_]

    def __len__(self) -> int:
        """Number of images, unreadable ones included."""
        ...

    def read(self, indices: NDArray[np.int64]) -> tuple[Images, NDArray[np.bool_], dict[str, str]]:
        """Reads images.

        Args:
            indices: Numbers of the images [B].

        Returns:
            The images that can be read, which of the B they are, and the other files with reasons.

        Raises:
            UserError: A file cannot be read, and unreadable files are not to be skipped.
        """
        ...


def read_image(path: str) -> Image.Image:
    """Reads and decodes an image file.

    Args:
        path: The file.

    Returns:
        The image in RGB.

    Raises:
        UnreadableImageError: The file is no image, is damaged, or cannot be opened.
    """
    try:
        with Image.open(path) as image:
            if image.mode == "P" and "transparency" in image.info:
                # Converted directly, Pillow warns that such palettes want this step.
                return image.convert("RGBA").convert("RGB")
            return image.convert("RGB")
    except UnidentifiedImageError:
        raise UnreadableImageError("not an image") from None
    except _DECODING_ERRORS as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise UnreadableImageError(" ".join(reason.split()) or type(error).__name__) from None


def refuse(path: str, reason: str) -> UserError:
    """The error for an unreadable file that is not to be skipped.

    Args:
        path: The file.
        reason: Why it cannot be read.

    Returns:
        An error that names the file, the reason and the ways out.
    """
    return UserError(f"cannot read {path}: {reason}; repair or remove the file, or set on_bad_image to skip")


def packed(paths: Sequence[str]) -> NDArray[np.bytes_]:
    """File names in one array: forked workers would copy a list's strings, one by one, as they count references.

    Args:
        paths: File names.

    Returns:
        The names, encoded as by `os.fsencode` [N].
    """
    return np.array([os.fsencode(path) for path in paths])


class FileStore:
    """Reads the files each time they are asked for.

    Args:
        paths: Image files.
        on_bad_image: What to do with a file that cannot be read.
    """

    def __init__(self, paths: list[str], on_bad_image: OnBadImage) -> None:
        self.paths = packed(paths)
        self.on_bad_image = on_bad_image

    def __len__(self) -> int:
        return len(self.paths)

    def read(self, indices: NDArray[np.int64]) -> tuple[Images, NDArray[np.bool_], dict[str, str]]:
        """Reads and decodes files; see `ImageStore`.

        Args:
            indices: Numbers of the images [B].

        Returns:
            Images, which of the B they are, and the other files with reasons.
        """
        images: list[Image.Image] = []
        kept = np.ones(len(indices), dtype=np.bool_)
        skipped: dict[str, str] = {}
        for place, path in enumerate(map(os.fsdecode, self.paths[indices])):
            try:
                images.append(read_image(path))
            except UnreadableImageError as error:
                if self.on_bad_image == "raise":
                    raise refuse(path, str(error)) from None
                kept[place] = False
                skipped[path] = str(error)
        return images, kept, skipped
