"""Files that are no images or are damaged: named in one line, or skipped and counted."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from acmix.errors import UserError
from acmix.tasks.data import Augmentation, ImageFolderDataModule


@pytest.fixture
def root(make_folder: Any) -> Path:
    return make_folder({"val": {"ant": 2, "bee": 2, "cat": 2}})


def module(root: Path, **options: Any) -> ImageFolderDataModule:
    plain = Augmentation(crop="center", hflip=0)
    arguments = {"batch_size": 4, "num_workers": 0, "image_size": 8, "augmentation": plain}
    return ImageFolderDataModule(root, **{**arguments, **options})


def set_up_and_read(data: ImageFolderDataModule) -> tuple[Tensor, Tensor]:
    """All images and targets of the validation part."""
    data.setup("validate")
    images, targets = zip(*data.val_dataloader(), strict=True)
    return torch.cat(images), torch.cat(targets)


def truncated(path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path, quality=95)
    path.write_bytes(path.read_bytes()[:900])


def text(path: Path) -> None:
    path.write_text("this is no image")


def broken_png(path: Path) -> None:
    Image.new("RGB", (8, 8)).save(path, format="png")
    content = bytearray(path.read_bytes())
    content[45] ^= 0xFF
    path.write_bytes(content)


BAD = [
    pytest.param(truncated, "image file is truncated", id="truncated JPEG"),
    pytest.param(text, "not an image", id="no image"),
    pytest.param(lambda path: path.write_bytes(b""), "not an image", id="empty file"),
    pytest.param(broken_png, "", id="damaged PNG"),
]


@pytest.mark.parametrize(("spoil", "reason"), BAD)
@pytest.mark.parametrize("options", [{"num_workers": 0}, {"num_workers": 2}, {"cache": "ram"}], ids=str)
def test_a_bad_image_stops_the_run_in_one_line(
    root: Path, spoil: Callable[[Path], object], reason: str, options: dict[str, Any]
) -> None:
    bad = root / "val/bee/000.jpg"
    spoil(bad)
    data = module(root, **options)
    with pytest.raises(UserError) as caught:
        set_up_and_read(data)
    assert str(caught.value).startswith(f"cannot read {bad}: {reason}")
    assert str(caught.value).endswith("; repair or remove the file, or set on_bad_image to skip")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("spoil", "reason"), BAD)
@pytest.mark.parametrize("options", [{"num_workers": 0}, {"num_workers": 2}, {"cache": "ram"}], ids=str)
def test_bad_images_can_be_skipped_and_are_counted(
    root: Path,
    spoil: Callable[[Path], object],
    reason: str,
    options: dict[str, Any],
    caplog: pytest.LogCaptureFixture,
) -> None:
    good_images, good_targets = set_up_and_read(module(root))
    bad = [root / "val/ant/000a.jpg", root / "val/bee/009.jpg"]
    for path in bad:
        spoil(path)
    data = module(root, on_bad_image="skip", **options)
    for _ in range(2):
        images, targets = set_up_and_read(data)
        assert torch.equal(images, good_images)
        assert torch.equal(targets, good_targets)
    data.teardown()
    assert list(data.skipped) == [str(path) for path in bad]
    assert [message.split(": ")[0] for message in caplog.messages] == [f"skipped {path}" for path in bad]
    assert caplog.messages[1].endswith("(2 skipped so far)")
    assert reason in caplog.messages[0]


def test_a_batch_of_bad_images_stops_the_run(root: Path) -> None:
    for path in (root / "val/ant").iterdir():
        text(path)
    data = module(root, on_bad_image="skip", batch_size=2)
    with pytest.raises(UserError, match=r"none of the 2 images of a batch can be read, .*val/ant/000\.png"):
        set_up_and_read(data)
