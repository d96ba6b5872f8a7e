from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from acmix.analysis.scene import Preparation, make_scene, read_image, sample_image
from acmix.errors import UserError

GREY = Preparation(1, 16, (0.25,), (0.5,))


def test_a_colour_file_is_read_in_colour_or_grey(tmp_path: Path) -> None:
    Image.new("RGB", (4, 3), (255, 0, 51)).save(tmp_path / "red.png")
    assert read_image(tmp_path / "red.png", 3)[:, 0, 0].tolist() == pytest.approx([1.0, 0.0, 0.2])
    assert read_image(tmp_path / "red.png", 1).shape == (1, 3, 4)


def test_sixteen_bits_are_read_to_their_full_range(tmp_path: Path) -> None:
    Image.fromarray(np.array([[0, 32768, 65535]], dtype=np.uint16)).save(tmp_path / "deep.png")
    assert read_image(tmp_path / "deep.png", 1)[0, 0].tolist() == pytest.approx([0, 0.5, 1], abs=0.003)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nowhere\.png: no such file"):
        read_image(tmp_path / "nowhere.png", 3)


def test_a_file_that_is_no_image_is_named(tmp_path: Path) -> None:
    (tmp_path / "notes.png").write_text("not pixels")
    with pytest.raises(UserError, match=r"notes\.png: not an image"):
        read_image(tmp_path / "notes.png", 3)


def test_a_truncated_jpeg_is_named(tmp_path: Path) -> None:
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)).save(tmp_path / "cut.jpg")
    whole = (tmp_path / "cut.jpg").read_bytes()
    (tmp_path / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match=r"cut\.jpg: broken image"):
        read_image(tmp_path / "cut.jpg", 3)


@pytest.mark.parametrize(("channels", "shape"), [(1, (1, 8, 8)), (3, (3, 427, 640))])
def test_embedded_images_fill_the_range(channels: int, shape: tuple[int, ...]) -> None:
    image = sample_image(channels)
    assert image.shape == shape
    assert (float(image.min()), float(image.max())) == (0.0, 1.0)


def test_pixels_move_with_the_resized_image() -> None:
    scene = make_scene(torch.rand(1, 8, 12), GREY, ((0, 0), (7, 11), (4, 6)))
    assert scene.image.shape == (1, 16, 24)
    assert scene.pixels == ((0, 0), (14, 22), (8, 12))
    assert scene.labels == ("pixel 0,0", "pixel 7,11", "pixel 4,6")


def test_the_input_is_normalised_and_the_shown_image_is_not() -> None:
    scene = make_scene(torch.full((1, 16, 16), 0.75), GREY, ((0, 0),))
    assert (float(scene.image.mean()), float(scene.network_input.mean())) == (0.75, 1.0)


def test_labels_of_picked_pixels_lie_on_the_original_image() -> None:
    scene = make_scene(torch.rand(1, 8, 8), GREY)
    places = [tuple(map(int, label.removeprefix("pixel ").split(","))) for label in scene.labels]
    assert places == [(y // 2, x // 2) for y, x in scene.pixels]


def test_a_pixel_outside_is_refused() -> None:
    with pytest.raises(UserError, match=r"--pixels 8,0: outside of the image, which has rows 0 to 7"):
        make_scene(torch.rand(1, 8, 8), GREY, ((8, 0),))
