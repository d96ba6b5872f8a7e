"""torchvision's resizing and normalising of images, with a size of its own for evaluation."""

from collections.abc import Sequence

from torch import Tensor
from torchvision.models.detection.transform import GeneralizedRCNNTransform

from acmix.errors import UserError
from acmix.tasks.detection.settings import ImageSettings

__all__ = ["ImageTransform"]


class ImageTransform(GeneralizedRCNNTransform):
    """Draws among the training sizes in training and takes the size of evaluation elsewhere.

    Args:
        settings: Sizes, mean and deviation.
        multiple: Batches are padded with zeros, at the right and at the bottom, to multiples of so many pixels.
    """

    def __init__(self, settings: ImageSettings, multiple: int) -> None:
        test_size = max(settings.min_size) if settings.test_min_size is None else settings.test_min_size
        # torchvision evaluates at the last size.
        sizes = (*settings.min_size, test_size)
        super().__init__(sizes, settings.max_size, settings.mean, settings.std, size_divisible=multiple)

    def torch_choice(self, k: Sequence[int]) -> int:
        """One of the training sizes, by torch's random numbers."""
        return int(super().torch_choice(k[:-1]))

    def normalize(self, image: Tensor) -> Tensor:
        """An image [C, H, W] of 0 to 1 -> of mean 0 and deviation 1, over many images."""
        channels, needed = image.shape[0], len(self.image_mean)
        if channels != needed:
            raise UserError(f"an image has {channels} channels, the detector is for {needed}")
        height, width = image.shape[-2:]
        scale = min(min(self.min_size) / min(height, width), self.max_size / max(height, width))
        if int(min(height, width) * scale) < 1:
            raise UserError(
                f"an image of {height} x {width} pixels has no height or width left at {self.max_size} pixels"
            )
        normalized: Tensor = super().normalize(image)
        return normalized
