import pytest
import torch

from acmix.analysis.pixels import pick_pixels


def test_pixels_are_picked_at_contrast_far_from_each_other() -> None:
    image = torch.zeros(1, 64, 64)
    image[:, 14:18, 14:18] = 1
    image[:, 44:48, 40:44] = 1
    first, second = pick_pixels(image, 2)
    near = [min(abs(y - a) + abs(x - b) for a, b in ((15.5, 15.5), (45.5, 41.5))) for y, x in (first, second)]
    assert max(near) <= 8
    assert abs(first[0] - second[0]) > 20


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (2, 2), (8, 8), (7, 300)], ids=str)
def test_any_size_gives_pixels_inside(size: tuple[int, int]) -> None:
    pixels = pick_pixels(torch.rand(3, *size))
    assert 1 <= len(pixels) <= 3
    assert len(set(pixels)) == len(pixels)
    assert all(0 <= y < size[0] and 0 <= x < size[1] for y, x in pixels)
