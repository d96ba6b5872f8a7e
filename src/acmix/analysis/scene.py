"""The image that a network is asked about: read from a file or embedded, and prepared as in training."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from acmix.analysis.attention import Pixel
from acmix.analysis.pixels import pick_pixels
from acmix.errors import UserError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["Preparation", "Scene", "digits_preparation", "make_scene", "read_image", "sample_image"]

_GREY_LEVELS = 16
_DIGIT = 35  # a clear 5: strokes in every direction


@dataclass(frozen=True)
class Preparation:
    """How an image becomes a network's input: resize, then `(x - mean) / std` per channel.

    Attributes:
        channels: 1 or 3.
        image_size: length of the shorter side in pixels.
        mean: one number per channel, of values from 0 to 1.
        std: one number per channel.
    """

    channels: int
    image_size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]


@dataclass(frozen=True)
class Scene:
    """An image, the network's view of it, and the pixels to ask about.

    Attributes:
        image: as a person sees it, at the network's size: [C, H, W], values from 0 to 1.
        network_input: the same, normalised.
        pixels: query pixels on `image`.
        labels: what these pixels are called, by their places on the original image.
        original_size: height and width before the image was resized.
    """

    image: Tensor
    network_input: Tensor
    pixels: tuple[Pixel, ...]
    labels: tuple[str, ...]
    original_size: tuple[int, int]


def read_image(path: Path, channels: int) -> Tensor:
    """Reads an image file.

    Args:
        path: any file that Pillow reads.
        channels: 1 for grey, 3 for colour; the image is converted.

    Returns:
        [C, H, W] in float32, values from 0 to 1.

    Raises:
        UserError: there is no such file, it is no image, or it is broken.
    """
    from PIL import Image, ImageOps, UnidentifiedImageError

    if not path.is_file():
        raise UserError(f"--image {path}: {'a folder' if path.is_dir() else 'no such file'}; expected an image file")
    try:
        with Image.open(path) as file:
            # Cameras store the turn beside the pixels.
            turned = ImageOps.exif_transpose(file)
            if turned.mode.startswith("I;16"):
                # Pillow's own conversion cuts off at 255.
                return (_to_tensor(turned) / 257).expand(channels, -1, -1)
            return _to_tensor(turned.convert("L" if channels == 1 else "RGB"))
    except UnidentifiedImageError as error:
        raise UserError(f"--image {path}: not an image that Pillow can read") from error
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise UserError(f"--image {path}: broken image ({error}); copy it again") from error


def digits_preparation() -> Preparation:
    """How scikit-learn's digits are prepared where nothing else is known: as they are, by their mean and deviation."""
    from sklearn.datasets import load_digits

    images = torch.from_numpy(load_digits().images) / _GREY_LEVELS
    return Preparation(1, images.shape[-1], (float(images.mean()),), (float(images.std()),))


def sample_image(channels: int) -> Tensor:
    """An image that comes with scikit-learn: a handwritten digit for one channel, a photograph for three.

    Args:
        channels: 1 or 3.

    Returns:
        [C, H, W] in float32, values from 0 to 1: 1 x 8 x 8 or 3 x 427 x 640.
    """
    from PIL import Image
    from sklearn.datasets import load_digits, load_sample_image

    if channels == 1:
        digits: NDArray[np.float64] = load_digits().images
        return torch.from_numpy(digits[_DIGIT] / _GREY_LEVELS).float()[None]
    return _to_tensor(Image.fromarray(load_sample_image("china.jpg")))


def make_scene(image: Tensor, preparation: Preparation, pixels: tuple[Pixel, ...] = ()) -> Scene:
    """Prepares an image for a network, and brings the query pixels along.

    Args:
        image: [C, H, W], values from 0 to 1.
        preparation: what the network was trained with.
        pixels: query pixels on this image, before it is resized; none: three places of strong contrast are picked.

    Returns:
        The scene.

    Raises:
        UserError: a pixel lies outside of the image.
    """
    height, width = image.shape[-2:]
    for y, x in pixels:
        if not (0 <= y < height and 0 <= x < width):
            raise UserError(
                f"--pixels {y},{x}: outside of the image, which has rows 0 to {height - 1} and columns 0 to {width - 1}"
            )
    shown = _resize(image, preparation.image_size)
    mean, std = (torch.tensor(values)[:, None, None] for values in (preparation.mean, preparation.std))
    if pixels:
        scaled = tuple((y * shown.shape[-2] // height, x * shown.shape[-1] // width) for y, x in pixels)
        labels = tuple(f"pixel {y},{x}" for y, x in pixels)
    else:
        scaled = tuple(pick_pixels(shown))
        labels = tuple(f"pixel {y * height // shown.shape[-2]},{x * width // shown.shape[-1]}" for y, x in scaled)
    return Scene(shown, (shown - mean) / std, scaled, labels, (height, width))


def _resize(image: Tensor, shorter: int) -> Tensor:
    height, width = image.shape[-2:]
    if min(height, width) == shorter:
        return image
    size = [max(1, round(side * shorter / min(height, width))) for side in (height, width)]
    resized = F.interpolate(image[None], size=size, mode="bilinear", antialias=True, align_corners=False)
    return resized[0].clamp(0, 1)


def _to_tensor(image: object) -> Tensor:
    import numpy as np

    array = np.array(image, dtype=np.float32) / 255
    return torch.from_numpy(array[None] if array.ndim == 2 else array.transpose(2, 0, 1).copy())
