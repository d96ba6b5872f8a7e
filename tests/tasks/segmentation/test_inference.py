"""Images of any size: whole, in windows, resized."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from acmix.errors import UserError
from acmix.tasks.segmentation import Inference, segment, segment_all
from tasks.segmentation.networks import CLASSES, images, small


class Pixelwise(nn.Module):
    """A network that sees single pixels, and counts what it is shown."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[int, ...]] = []

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append(tuple(x.shape))
        return torch.cat([x, x.square()], dim=1)


@pytest.mark.parametrize("size", [(64, 64), (40, 56), (33, 7)], ids=str)
def test_a_window_that_covers_the_image_is_the_whole_image(size: tuple[int, int]) -> None:
    network, x = small().eval(), images(1, *size)
    with torch.no_grad():
        whole = segment(network, x, size, Inference())
        slid = segment(network, x, size, Inference("slide", crop=64, stride=40))
    assert torch.equal(whole, slid)
    assert torch.equal(whole, network(x))


@pytest.mark.parametrize("size", [(30, 41), (16, 50), (9, 16)], ids=str)
def test_windows_cover_every_pixel(size: tuple[int, int]) -> None:
    network, x = Pixelwise(), images(2, *size)
    out = segment(network, x, size, Inference("slide", crop=16, stride=10))
    torch.testing.assert_close(out, torch.cat([x, x.square()], dim=1))
    assert {shape[-2:] for shape in network.seen} == {(min(size[0], 16), min(size[1], 16))}
    assert len(network.seen) == _windows(size[0]) * _windows(size[1])


def _windows(side: int) -> int:
    """Windows of 16, each 10 pixels further, until the edge."""
    count, end = 1, 16
    while end < side:
        count, end = count + 1, end + 10
    return count


def test_overlapping_windows_are_averaged() -> None:
    class Position(nn.Module):
        calls = 0

        def forward(self, x: Tensor) -> Tensor:
            self.calls += 1
            return torch.full_like(x[:, :1], float(self.calls))

    out = segment(Position(), images(1, 4, 6), (4, 6), Inference("slide", crop=4, stride=2))
    assert out[0, 0, 0].tolist() == [1.0, 1.0, 1.5, 1.5, 2.0, 2.0]


@pytest.mark.parametrize(
    ("size", "settings", "seen"),
    [
        ((20, 30), {"short_side": 40}, (40, 60)),
        ((30, 20), {"short_side": 10}, (15, 10)),
        ((20, 100), {"short_side": 40, "long_side": 100}, (20, 100)),
        ((20, 30), {}, (20, 30)),
    ],
    ids=str,
)
def test_the_short_side_is_resized_and_the_logits_are_resized_back(
    size: tuple[int, int], settings: dict[str, int], seen: tuple[int, int]
) -> None:
    network = Pixelwise()
    out = segment(network, images(1, *size), (17, 23), Inference(**settings))  # type: ignore[arg-type]  # by name
    assert network.seen == [(1, 3, *seen)]
    assert out.shape == (1, 6, 17, 23)


def test_images_of_several_sizes_go_one_size_at_a_time() -> None:
    network, sizes = small().eval(), [(40, 40), (33, 50), (40, 40), (40, 40)]
    singles = [images(1, *size, seed=number)[0] for number, size in enumerate(sizes)]
    wanted = [(40, 40), (66, 100), (40, 40), (20, 20)]
    with torch.no_grad():
        found = dict(segment_all(network, singles, wanted, Inference()))
        together = [found[place] for place in range(len(singles))]
        alone = [segment(network, x[None], size, Inference())[0] for x, size in zip(singles, wanted, strict=True)]
    assert [tuple(each.shape) for each in together] == [(CLASSES, *size) for size in wanted]
    for one, other in zip(together, alone, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


def test_long_images_do_not_grow_without_limit() -> None:
    assert Inference(short_side=512).resized((1, 500)) == (4, 2048)
    assert Inference(short_side=512).resized((300, 400)) == (512, 683)


@pytest.mark.parametrize("settings", [{"short_side": 20}, {"mode": "slide", "crop": 32, "stride": 20}])
def test_half_precision_is_resized_and_summed_in_float32(settings: dict[str, Any]) -> None:
    network, x = small().eval(), images(1, 48, 40)
    with torch.no_grad():
        whole = segment(network, x, (30, 20), Inference(**settings))
        half = segment(network.bfloat16(), x.bfloat16(), (30, 20), Inference(**settings))
    assert half.dtype == torch.float32
    # The network's own rounding; 1.1 and 1.5 units were measured.
    torch.testing.assert_close(half, whole, atol=4 * torch.finfo(torch.bfloat16).eps * float(whole.abs().max()), rtol=0)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"mode": "tile"}, "inference: mode is 'tile': choose from whole, slide"),
        ({"crop": 100, "stride": 101}, "inference: stride is 101, crop 100"),
        ({"stride": 0}, "inference: stride is 0"),
        ({"short_side": 0}, "inference: short_side is 0"),
        ({"long_side": 10}, "inference: long_side limits what short_side enlarges"),
    ],
    ids=str,
)
def test_impossible_settings_are_named(settings: dict[str, object], words: str) -> None:
    with pytest.raises(UserError, match=words):
        Inference(**settings)  # type: ignore[arg-type]  # wrong on purpose
