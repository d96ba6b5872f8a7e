"""Class numbers as annotation files hold them, and as training wants them."""

import struct
import zlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from acmix.errors import UserError

__all__ = ["IGNORE", "LabelRule", "read_labels"]

IGNORE = 255
"""The class number of pixels that are not learned and not counted."""

# What Pillow's decoders raise for damaged files, beside its own errors.
_DECODING_ERRORS = (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error, Image.DecompressionBombError)
_ONE_CHANNEL = ("1", "L", "P", "I", "I;16")


class LabelRule:
    """From the numbers in the files to classes 0 to K - 1 and 255, ignored.

    Args:
        num_classes: Classes K, at most 255.
        reduce_zero: The files say 0 for "none of the classes" and k + 1 for class k, as ADE20K's do.
        ignored: Numbers in the files whose pixels are ignored, beside 255.
    """

    def __init__(self, num_classes: int, *, reduce_zero: bool = False, ignored: Sequence[int] = ()) -> None:
        self.last = num_classes - 1 + reduce_zero
        self.ignored = sorted({*ignored, IGNORE} | ({0} if reduce_zero else set()))
        self.table = np.full(max(self.last, *self.ignored) + 1, -1, dtype=np.int16)
        self.table[reduce_zero : self.last + 1] = np.arange(num_classes)
        self.table[self.ignored] = IGNORE

    def apply(self, labels: NDArray[np.integer], path: str) -> NDArray[np.uint8]:
        """The classes of a file's numbers.

        Args:
            labels: As they stand in the file [H, W].
            path: The file, for the message.

        Returns:
            Classes and 255, uint8 [H, W].

        Raises:
            UserError: A number is none of the classes and not ignored.
        """
        known = (labels >= 0) & (labels < len(self.table))
        mapped = self.table[np.where(known, labels, 0)]
        wrong = ~known | (mapped < 0)
        if wrong.any():
            values = np.unique(labels[wrong]).tolist()
            more = f" and {len(values) - 5} more" if len(values) > 5 else ""
            raise UserError(
                f"{path}: {int(wrong.sum()):,} pixels have the label {', '.join(map(str, values[:5]))}{more}, expected "
                f"0 to {self.last} or ignored ones ({', '.join(map(str, self.ignored))}); mend the file, or set "
                "classes, reduce_zero_label or ignored_labels"
            )
        return mapped.astype(np.uint8)


def read_labels(path: str, rule: LabelRule) -> NDArray[np.uint8]:
    """Reads an annotation: a PNG of one channel, whose numbers (palette numbers, where it has colours) are the classes.

    Args:
        path: The file.
        rule: What the numbers mean.

    Returns:
        Classes and 255, uint8 [H, W].

    Raises:
        UserError: The file cannot be read, has several channels, or holds a number that is no class.
    """
    try:
        with Image.open(path) as image:
            mode = image.mode
            labels = np.array(image) if mode in _ONE_CHANNEL else None
    except UnidentifiedImageError:
        raise UserError(f"cannot read the annotation {path}: not an image; repair or replace the file") from None
    except _DECODING_ERRORS as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        told = " ".join(reason.split()) or type(error).__name__
        raise UserError(f"cannot read the annotation {path}: {told}; repair or replace the file") from None
    if labels is None:
        raise UserError(
            f"the annotation {path} is {mode}, expected one channel of class numbers; "
            "write the numbers of the classes as an 8-bit PNG"
        )
    return rule.apply(labels.astype(np.int64), path)
