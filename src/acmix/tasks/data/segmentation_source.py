"""Images with their labels, read from files or from memory, as batches."""

from typing import NamedTuple

import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_only
from numpy.typing import NDArray
from rich.progress import Progress
from torch import Tensor
from torchvision.transforms.v2 import functional as vision

from acmix.errors import UserError
from acmix.tasks.data.images import UnreadableImageError, packed, read_image
from acmix.tasks.data.loader import Batch
from acmix.tasks.data.notes import inform
from acmix.tasks.data.sampler import BatchKey
from acmix.tasks.data.segmentation_labels import IGNORE, LabelRule, read_labels
from acmix.tasks.data.segmentation_listing import Pairs
from acmix.tasks.data.segmentation_transforms import TrainingTransform, normalise

__all__ = ["LabelledPixels", "PairStore", "PixelFormat"]


class PixelFormat(NamedTuple):
    """What images look like afterwards.

    Attributes:
        mean: Per channel, of values in [0, 1]; subtracted.
        std: Per channel; divided by.
        scale: Factor to the images' sides.
    """

    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    scale: float


class PairStore:
    """Images and their labels by number; labels keep the size that they have in the file.

    Args:
        pairs: The files; an image without annotation gets ignored labels.
        rule: What the numbers in annotations mean.
        scale: Factor to the images' sides.

    Attributes:
        paths: The image files, encoded as by `os.fsencode` [N].
    """

    def __init__(self, pairs: Pairs, rule: LabelRule, scale: float) -> None:
        self.paths = packed(pairs.images)
        self.annotations = packed(pairs.annotations)
        self.rule = rule
        self.scale = scale
        self._kept: list[tuple[Tensor, Tensor]] | None = None

    def __len__(self) -> int:
        return len(self.paths)

    def keep(self, name: str) -> None:
        """Reads everything into memory.

        Args:
            name: What the progress bar calls the images.

        Raises:
            UserError: As `read`.
        """
        kept = []
        # A context, not rich's `track`: that one, left by an error, stops its bar when it is collected as garbage, and
        # waits for ever if another bar is being drawn then.
        with Progress(disable=getattr(rank_zero_only, "rank", 0) != 0) as progress:
            bar = progress.add_task(f"decoding {name}", total=len(self))
            for index in range(len(self)):
                kept.append(self.read(index))
                progress.advance(bar)
        self._kept = kept
        size = sum(image.nbytes + labels.nbytes for image, labels in kept)
        inform(f"{name}: {len(self):,} images and annotations decoded, {size / 2**20:,.0f} MiB in memory")

    def read(self, index: int) -> tuple[Tensor, Tensor]:
        """Reads a pair.

        Args:
            index: Its number.

        Returns:
            Image uint8 [3, h, w], scaled; labels uint8 [H, W] of the original size.

        Raises:
            UserError: A file cannot be read, the annotation has another size than the image or holds an unknown label.
        """
        if self._kept is not None:
            return self._kept[index]
        path, annotation = (names[index].decode(errors="surrogateescape") for names in (self.paths, self.annotations))
        try:
            pixels = np.array(read_image(path))
        except UnreadableImageError as error:
            raise UserError(f"cannot read {path}: {error}; repair or remove the file") from None
        labels = read_labels(annotation, self.rule) if annotation else _nothing(pixels)
        if labels.shape != pixels.shape[:2]:
            sizes = [f"{width}x{height}" for height, width in (labels.shape, pixels.shape[:2])]
            raise UserError(
                f"the annotation {annotation} is {sizes[0]}, its image {path} is {sizes[1]}; make them agree"
            )
        image = torch.from_numpy(pixels).permute(2, 0, 1)
        if self.scale != 1:
            size = [max(1, round(side * self.scale)) for side in image.shape[-2:]]
            image = vision.resize(image, size, antialias=True)
        return image.contiguous(), torch.from_numpy(labels)


class LabelledPixels:
    """Makes batches of stored pairs; a `BatchSource`.

    Args:
        store: The pairs.
        form: Normalisation.
        transform: Varies images and labels, for training: one tensor each a batch. None: lists of whole images, and of
            labels of the original sizes.
    """

    def __init__(self, store: PairStore, form: PixelFormat, transform: TrainingTransform | None) -> None:
        self.store = store
        self.form = form
        self.transform = transform

    def __len__(self) -> int:
        return len(self.store)

    def batch(self, key: BatchKey) -> Batch:
        """Reads and transforms pairs.

        Args:
            key: Epoch and sample numbers [B].

        Returns:
            Images float32 [B, 3, H, W] and labels int64 [B, H, W], 255 where they are ignored, or lists of these.

        Raises:
            UserError: As `PairStore.read`.
        """
        images, targets = [], []
        for index in key.indices.tolist():
            image, labels = self.store.read(index)
            if self.transform is not None:
                if labels.shape != image.shape[-2:]:
                    nearest = vision.InterpolationMode.NEAREST_EXACT
                    labels = vision.resize(labels[None], list(image.shape[-2:]), nearest)[0]
                image, labels = self.transform(image, labels, key.epoch, index)
            images.append(normalise(image, self.form.mean, self.form.std))
            targets.append(torch.as_tensor(labels).long())
        if self.transform is None:
            return Batch(images, targets, {})
        return Batch(torch.stack(images), torch.stack(targets), {})


def _nothing(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.full(pixels.shape[:2], IGNORE, dtype=np.uint8)
