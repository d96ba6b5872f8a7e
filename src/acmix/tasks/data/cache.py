"""Images decoded once and kept in memory."""

import os
from collections.abc import Sequence

import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_only
from numpy.typing import NDArray
from PIL import Image
from rich.progress import Progress

from acmix.errors import UserError
from acmix.tasks.data.images import Images, OnBadImage, UnreadableImageError, packed, read_image, refuse
from acmix.tasks.data.notes import inform

__all__ = ["RamStore"]

_SIZE_SAMPLES = 64


class RamStore:
    """All images of a list of files as uint8 in memory, one after the other.

    Filling shows a progress bar. One flat tensor holds the pixels, so that worker processes share it with the main
    process instead of copying it. In a run of several processes each holds its own.

    Args:
        paths: Image files.
        on_bad_image: What to do with a file that cannot be read.
        name: What the progress bar calls the images.

    Raises:
        UserError: A file cannot be read and is not to be skipped, or the images are larger than the memory.
    """

    def __init__(self, paths: Sequence[str], on_bad_image: OnBadImage, name: str) -> None:
        _check_memory(paths)
        self.paths = packed(paths)
        pixels = bytearray()
        self.skipped: dict[int, tuple[str, str]] = {}
        self.sizes = np.zeros((len(paths), 2), dtype=np.int64)
        self.starts = np.zeros(len(paths), dtype=np.int64)
        # A context, not rich's `track`: that one, left by an error, stops its bar when it is collected as garbage, and
        # waits for ever if another bar is being drawn then.
        with Progress(disable=getattr(rank_zero_only, "rank", 0) != 0) as progress:
            bar = progress.add_task(f"decoding {name}", total=len(paths))
            for index, path in enumerate(paths):
                progress.advance(bar)
                self.starts[index] = len(pixels)
                try:
                    image = read_image(path)
                except UnreadableImageError as error:
                    if on_bad_image == "raise":
                        raise refuse(path, str(error)) from None
                    self.skipped[index] = (path, str(error))
                    continue
                self.sizes[index] = image.height, image.width
                pixels.extend(image.tobytes())
        if not pixels:
            raise UserError(f"none of the {len(paths)} {name} images can be read, the first is {paths[0]}")
        self.pixels = torch.frombuffer(pixels, dtype=torch.uint8)
        sizes = np.unique(self.sizes[self.sizes[:, 0] > 0], axis=0)
        self.one_size = tuple(sizes[0].tolist()) if len(sizes) == 1 else None
        inform(f"{name}: {len(paths) - len(self.skipped):,} images decoded, {len(pixels) / 2**20:,.0f} MiB in memory")

    def __len__(self) -> int:
        return len(self.sizes)

    def read(self, indices: NDArray[np.int64]) -> tuple[Images, NDArray[np.bool_], dict[str, str]]:
        """Returns images from memory; see `ImageStore`.

        Args:
            indices: Numbers of the images [B].

        Returns:
            Images, which of the B they are, and the other files with reasons.
        """
        kept = self.sizes[indices, 0] > 0
        skipped = dict(self.skipped[index] for index in indices[~kept].tolist())
        rows = indices[kept]
        if self.one_size is None:
            return [self._single(row) for row in rows.tolist()], kept, skipped
        stack = self.pixels.numpy().reshape(-1, *self.one_size, 3)
        return stack[self.starts[rows] // stack[0].size], kept, skipped

    def _single(self, row: int) -> Image.Image:
        height, width = self.sizes[row].tolist()
        start = int(self.starts[row])
        return Image.fromarray(self.pixels[start : start + height * width * 3].numpy().reshape(height, width, 3))


def _check_memory(paths: Sequence[str]) -> None:
    """Refuses a cache that cannot fit, judged by the sizes of some images, before hours of decoding."""
    if "SC_PHYS_PAGES" not in getattr(os, "sysconf_names", {}):
        return
    areas = []
    for path in paths[:: max(1, len(paths) // _SIZE_SAMPLES)]:
        try:
            with Image.open(path) as image:
                areas.append(image.height * image.width)
        except (OSError, ValueError, SyntaxError):
            continue
    needed = 3 * len(paths) * float(np.mean(areas)) if areas else 0.0
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if needed > memory:
        raise UserError(
            f"cache 'ram' needs about {needed / 2**30:,.0f} GiB for {len(paths):,} images, this machine has "
            f"{memory / 2**30:,.0f} GiB: set cache to none"
        )
