from pathlib import Path

import pytest
import torch
from torch import Tensor

from acmix.analysis.attention import LayerView, choose_layers, look_inside
from acmix.analysis.attention_picture import draw_heads, draw_overview
from acmix.analysis.panels import mark
from acmix.analysis.scene import Preparation, Scene, make_scene
from acmix.nn import ACmix
from analysis.pictures import painted, read_png

GLOW = "#e8590d"


def view_of(image: Tensor, pixels: list[tuple[int, int]], *, paths: str = "both", sharpness: float = 1.0) -> LayerView:
    torch.manual_seed(0)
    layer = ACmix(image.shape[0], 8, kernel_att=5, paths=paths)
    if layer.alpha is not None:
        with torch.no_grad():
            layer.query.weight.mul_(sharpness)
            layer.query.bias.mul_(sharpness)
    [view] = look_inside(layer, image, pixels, choose_layers(layer))
    return view


def scene_of(image: Tensor, pixels: list[tuple[int, int]]) -> Scene:
    size = min(image.shape[-2:])
    return make_scene(image, Preparation(image.shape[0], size, (0.0,) * len(image), (1.0,) * len(image)), tuple(pixels))


def glow(path: Path) -> int:
    """Number of pixels that have the full colour of attention."""
    return len(painted(read_png(path), GLOW, tolerance=24))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [(1, 1), (8, 8), (9, 31), (60, 12)], ids=str)
def test_any_image_is_drawn(tmp_path: Path, channels: int, size: tuple[int, int]) -> None:
    image = torch.rand(channels, *size)
    pixels = [(size[0] // 2, size[1] // 2)]
    draw_overview(scene_of(image, pixels), [view_of(image, pixels)], tmp_path / "view.png")
    assert glow(tmp_path / "view.png") > 20
    assert len(painted(read_png(tmp_path / "view.png"), mark(0))) > 100


def test_every_layer_adds_a_row_and_every_pixel_a_column(tmp_path: Path) -> None:
    image, pixels = torch.rand(1, 16, 16), [(4, 4), (8, 8), (12, 12)]
    view = view_of(image, pixels)
    draw_overview(scene_of(image, pixels), [view], tmp_path / "one.png")
    draw_overview(scene_of(image, pixels), [view, view], tmp_path / "two.png")
    one, two = read_png(tmp_path / "one.png"), read_png(tmp_path / "two.png")
    assert two.shape[0] - one.shape[0] == pytest.approx(1.5 * 209, abs=2)
    assert two.shape[1] == one.shape[1]
    assert all(len(painted(one, mark(number))) > 100 for number in range(3))


def test_sharp_attention_fills_less_of_the_window(tmp_path: Path) -> None:
    image, pixels = torch.rand(1, 12, 12), [(6, 6)]
    draw_overview(scene_of(image, pixels), [view_of(image, pixels, sharpness=0.0)], tmp_path / "even.png")
    draw_overview(scene_of(image, pixels), [view_of(image, pixels, sharpness=300.0)], tmp_path / "sharp.png")
    assert glow(tmp_path / "sharp.png") * 2 < glow(tmp_path / "even.png")


def test_a_missing_path_is_left_empty(tmp_path: Path) -> None:
    image, pixels = torch.rand(1, 12, 12), [(6, 6)]
    draw_overview(scene_of(image, pixels), [view_of(image, pixels, paths="convolution")], tmp_path / "view.png")
    assert glow(tmp_path / "view.png") == 0


def test_heads_have_a_panel_each(tmp_path: Path) -> None:
    image, pixels = torch.rand(3, 12, 12), [(6, 6), (0, 0)]
    draw_heads(scene_of(image, pixels), view_of(image, pixels), tmp_path / "heads.png")
    picture = read_png(tmp_path / "heads.png")
    frames = painted(picture[: picture.shape[0] // 2], mark(0))[:, 1]
    runs = 1 + int((torch.from_numpy(frames).sort().values.diff() > 60).sum())
    assert runs >= 5  # the image and four heads


def test_a_layer_without_attention_has_no_heads(tmp_path: Path) -> None:
    image = torch.rand(1, 12, 12)
    with pytest.raises(ValueError, match="no attention path"):
        draw_heads(scene_of(image, [(6, 6)]), view_of(image, [(6, 6)], paths="convolution"), tmp_path / "heads.png")
