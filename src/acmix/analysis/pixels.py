"""Picks pixels worth asking about where the user names none."""

import torch
import torch.nn.functional as F
from torch import Tensor

from acmix.analysis.attention import Pixel

__all__ = ["pick_pixels"]


def pick_pixels(image: Tensor, count: int = 3) -> list[Pixel]:
    """Picks places of strong contrast, far from each other and from the border.

    Args:
        image: the image, [C, H, W], at least one pixel large.
        count: how many pixels are wanted; small images may have room for fewer.

    Returns:
        Pixels as (row, column), the strongest contrast first; always the same for the same image.
    """
    height, width = image.shape[-2:]
    grey = image.float().mean(0)[None, None]
    reach = max(1, round(0.03 * min(height, width)))
    smooth = F.avg_pool2d(grey, 2 * reach + 1, stride=1, padding=reach, count_include_pad=False)
    contrast = F.avg_pool2d((grey - smooth).abs(), 2 * reach + 1, stride=1, padding=reach)[0, 0]
    rows, columns = torch.arange(height)[:, None], torch.arange(width)
    border_y, border_x = height // 8, width // 8
    free = (rows >= border_y) & (rows < height - border_y) & (columns >= border_x) & (columns < width - border_x)
    chosen: list[Pixel] = []
    while len(chosen) < count and bool(free.any()):
        best = int(torch.where(free, contrast, -1.0).argmax())
        y, x = divmod(best, width)
        chosen.append((y, x))
        free &= ((rows - y).abs() >= 0.3 * height) | ((columns - x).abs() >= 0.3 * width)
    return chosen
