"""The embedded digits."""

from hashlib import sha256

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits

from acmix.errors import UserError
from acmix.tasks.data import DigitsDataModule, digits_split
from acmix.tasks.data.sampler import BatchKey


def module(**options: int | bool | float) -> DigitsDataModule:
    data = DigitsDataModule(**options)  # type: ignore[arg-type]  # one dictionary for options of several types
    data.setup("fit")
    return data


def everything(data: DigitsDataModule, part: str, epoch: int = 0) -> torch.Tensor:
    source = data.sources[part]
    return source.batch(BatchKey(epoch, np.arange(len(source)))).images


def test_split_takes_every_image_once() -> None:
    split = digits_split()
    images = np.concatenate([split.train_images, split.val_images, split.test_images])
    all_images = load_digits().images / 16
    assert sorted(image.tobytes() for image in images) == sorted(
        image.tobytes() for image in all_images.astype(np.float32)
    )


@pytest.mark.parametrize(("part", "size"), [("train", 1300), ("val", 137), ("test", 360)])
def test_parts_have_equal_shares_of_each_digit(part: str, size: int) -> None:
    labels = getattr(digits_split(), f"{part}_labels")
    shares = np.bincount(labels, minlength=10) / size
    expected = np.bincount(load_digits().target, minlength=10) / 1797
    assert len(labels) == size
    assert np.abs(shares - expected).max() <= 1 / size


def test_split_is_the_one_of_the_first_release() -> None:
    # Results on the held-out images are comparable only while these are the same images.
    split = digits_split()
    digest = sha256(split.test_images.tobytes() + split.test_labels.tobytes()).hexdigest()
    assert digest.startswith("f61c9b9dd2f6e871")


def test_split_cannot_be_changed_by_accident() -> None:
    with pytest.raises(ValueError, match="read-only"):
        digits_split().test_images[0] = 0


@pytest.mark.parametrize("size", [8, 16, 28])
def test_batches(size: int) -> None:
    data = module(batch_size=50, image_size=size)
    images, targets = next(iter(data.train_dataloader()))
    assert (images.shape, images.dtype) == ((50, 1, size, size), torch.float32)
    assert (targets.shape, targets.dtype) == ((50,), torch.int64)
    assert (data.num_classes, data.in_chans, data.class_names) == (10, 1, [str(digit) for digit in range(10)])


def test_training_images_are_normalised() -> None:
    images = everything(module(), "train")
    assert images.mean().item() == pytest.approx(0, abs=1e-5)
    assert images.std().item() == pytest.approx(1, abs=1e-3)


def test_a_stage_reads_its_part() -> None:
    data = module(batch_size=64)
    data.setup("test")
    sizes = {
        "val": sum(len(targets) for _, targets in data.val_dataloader()),
        "test": sum(len(targets) for _, targets in data.test_dataloader()),
        "predict": sum(len(targets) for _, targets in data.predict_dataloader()),
    }
    assert sizes == {"val": 137, "test": 360, "predict": 360}


def test_only_training_is_augmented_and_anew_in_each_epoch() -> None:
    plain, moved = module(), module(augment=True)
    assert not torch.equal(everything(plain, "train"), everything(moved, "train"))
    assert not torch.equal(everything(moved, "train", epoch=0), everything(moved, "train", epoch=1))
    assert torch.equal(everything(plain, "val", epoch=0), everything(moved, "val", epoch=1))


def test_an_images_augmentation_does_not_depend_on_its_batch() -> None:
    data = module(augment=True)
    together = everything(data, "train", epoch=4)[[7, 3, 700]]
    alone = [data.sources["train"].batch(BatchKey(4, np.array([index]))).images for index in (7, 3, 700)]
    assert torch.equal(together, torch.cat(alone))


def test_no_movement_changes_nothing() -> None:
    still = module(augment=True, max_rotation=0, max_shift=0)
    assert torch.allclose(everything(still, "train"), everything(module(), "train"), atol=1e-5)


@pytest.mark.parametrize("size", [8, 20])
def test_movements_are_rotations_and_shifts(size: int) -> None:
    data = module(augment=True, image_size=size, max_rotation=30, max_shift=1)
    draws = torch.tensor(epoch_draws(data)) * 2 - 1
    angle, shift = torch.deg2rad(draws[:, 0] * 30), draws[:, 1:] / 4
    cos, sin = angle.cos(), angle.sin()
    # affine_grid puts x first; a turn is one of the sampling positions.
    maps = torch.stack([cos, -sin, shift[:, 1], sin, cos, shift[:, 0]], 1).view(-1, 2, 3)
    plain = everything(module(image_size=size), "train")
    black = plain.min()
    grid = F.affine_grid(maps, list(plain.shape), align_corners=False)
    expected = F.grid_sample(plain - black, grid, align_corners=False) + black
    assert torch.allclose(everything(data, "train"), expected, atol=1e-4)


def epoch_draws(data: DigitsDataModule) -> np.ndarray:
    from acmix.tasks.data.seeding import epoch_uniforms

    return epoch_uniforms(data.seed, 0, 1300, 3)


@pytest.mark.parametrize(
    ("name", "value"), [("batch_size", 0), ("num_workers", -1), ("seed", -1), ("image_size", 0), ("max_shift", -1)]
)
def test_impossible_options_are_named(name: str, value: int) -> None:
    with pytest.raises(UserError, match=rf"{name} (is )?{value}"):
        module(**{name: value})
