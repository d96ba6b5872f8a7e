"""What happens to an image is a function of (seed, epoch, index), however it is read."""

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from acmix.errors import UserError
from acmix.tasks.data import Augmentation, ImageFolderDataModule
from acmix.tasks.data.sampler import BatchKey

RECIPES = [
    pytest.param(Augmentation(), id="ImageNet"),
    pytest.param(Augmentation(auto_augment="rand-m9-mstd0.5-inc1", re_prob=0.25), id="RandAugment and erasing"),
    pytest.param(Augmentation(auto_augment="augmix-m3-w3"), id="AugMix"),
    pytest.param(Augmentation(crop="padded"), id="CIFAR"),
    pytest.param(Augmentation(crop="padded", padding=2, vflip=0.5), id="CIFAR with vertical flips"),
    pytest.param(Augmentation(crop="padded", auto_augment="original", re_prob=0.5), id="CIFAR and AutoAugment"),
    pytest.param(Augmentation(crop="center", color_jitter=0.4), id="colour jitter alone"),
]


@pytest.fixture
def root(make_folder: Any) -> Path:
    return make_folder({"train": {"a": 6, "b": 6}, "val": {"a": 3, "b": 3}}, size=(16, 16))


def module(root: Path, augmentation: Augmentation, **options: Any) -> ImageFolderDataModule:
    arguments = {"batch_size": 4, "num_workers": 0, "image_size": 16, "augmentation": augmentation}
    data = ImageFolderDataModule(root, **{**arguments, **options})
    data.setup("fit")
    return data


def epochs(data: ImageFolderDataModule, count: int = 2) -> Tensor:
    """All training images of some epochs [E, N, 3, H, W], in the order of the loader."""
    loader = data.train_dataloader()
    results = []
    for epoch in range(count):
        loader.batch_sampler.sampler.set_epoch(epoch)
        results.append(torch.cat([images for images, _ in loader]))
    data.teardown()
    return torch.stack(results)


def sample(data: ImageFolderDataModule, epoch: int, indices: list[int], part: str = "train") -> Tensor:
    return data.sources[part].batch(BatchKey(epoch, np.array(indices))).images


@pytest.mark.parametrize("augmentation", RECIPES)
@pytest.mark.parametrize("options", [{"cache": "ram"}, {"num_workers": 2}, {"num_workers": 2, "cache": "ram"}], ids=str)
def test_cache_and_workers_change_nothing(root: Path, augmentation: Augmentation, options: dict[str, Any]) -> None:
    plain = epochs(module(root, augmentation))
    assert plain.shape == (2, 12, 3, 16, 16)
    assert torch.equal(epochs(module(root, augmentation, **options)), plain)


@pytest.mark.parametrize("augmentation", RECIPES)
def test_an_image_is_varied_by_seed_epoch_and_index_alone(root: Path, augmentation: Augmentation) -> None:
    data = module(root, augmentation)
    together = sample(data, 3, [5, 0, 9])
    assert torch.equal(together, torch.cat([sample(data, 3, [index]) for index in (5, 0, 9)]))
    everything = list(range(12))
    assert not torch.equal(sample(data, 3, everything), sample(data, 4, everything))
    assert not torch.equal(sample(data, 3, everything), sample(module(root, augmentation, seed=1), 3, everything))


@pytest.mark.parametrize("augmentation", RECIPES)
def test_global_generators_are_left_alone(root: Path, augmentation: Augmentation) -> None:
    data = module(root, augmentation)
    before = random.getstate(), str(np.random.get_state()), torch.get_rng_state()  # noqa: NPY002 - the one under test
    epochs(data)
    after = random.getstate(), str(np.random.get_state()), torch.get_rng_state()  # noqa: NPY002 - as above
    assert before[:2] == after[:2]
    assert torch.equal(before[2], after[2])


def test_worker_processes_leave_the_global_generator_alone(root: Path) -> None:
    before = torch.get_rng_state()
    epochs(module(root, Augmentation(crop="padded"), num_workers=2))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("augmentation", RECIPES)
def test_evaluation_is_not_varied(root: Path, augmentation: Augmentation) -> None:
    data = module(root, augmentation)
    assert torch.equal(sample(data, 0, [0, 1], "val"), sample(data, 1, [0, 1], "val"))


@pytest.mark.parametrize("size", [16, 12, 24])
@pytest.mark.parametrize("crop_pct", [None, 0.8])
def test_evaluation_from_the_cache_is_evaluation_from_files(root: Path, size: int, crop_pct: float | None) -> None:
    options = {"image_size": size, "crop_pct": crop_pct}
    cached, plain = (
        sample(module(root, Augmentation(crop="padded"), cache=cache, **options), 0, list(range(6)), "val")
        for cache in ("ram", "none")
    )
    assert cached.shape == (6, 3, size, size)
    assert torch.equal(cached, plain)


@pytest.mark.parametrize("cache", ["none", "ram"])
def test_images_of_several_sizes(make_folder: Any, cache: str) -> None:
    root = make_folder({"train": {"a": 3}, "val": {"a": 3}}, size=(16, 16))
    make_folder({"train": {"b": 3}, "val": {"b": 3}}, size=(20, 13))
    for augmentation in (Augmentation(), Augmentation(crop="padded")):
        data = module(root, augmentation, cache=cache)
        assert sample(data, 0, [0, 4, 2]).shape == (3, 3, 16, 16)
        assert sample(data, 0, [5], "val").shape == (1, 3, 16, 16)


def test_padded_crops_are_windows_of_the_padded_image(root: Path) -> None:
    black, shown = -torch.tensor([0.485, 0.456, 0.406]) / torch.tensor([0.229, 0.224, 0.225]), set()
    original = sample(module(root, Augmentation(crop="center", hflip=0)), 0, [7])[0]
    padded = black.view(3, 1, 1).expand(3, 24, 24).clone()
    padded[:, 4:20, 4:20] = original
    windows = {}
    for top in range(9):
        for left in range(9):
            window = padded[:, top : top + 16, left : left + 16]
            windows[window.numpy().tobytes()] = (top, left, False)
            windows[window.flip(2).contiguous().numpy().tobytes()] = (top, left, True)
    assert len(windows) == 162
    data = module(root, Augmentation(crop="padded"))
    for epoch in range(1200):
        shown.add(windows[sample(data, epoch, [7])[0].numpy().tobytes()])
    assert len(shown) == 162


@pytest.mark.parametrize("policy", ["rand-m10-n6-p1-inc1", "original", "v0", "augmix-m10"])
def test_policies_run_at_every_magnitude(root: Path, policy: str) -> None:
    # Posterize at the largest magnitude asks Pillow for no bits at all, unless it is kept from that.
    data = module(root, Augmentation(auto_augment=policy))
    for epoch in range(20):
        assert sample(data, epoch, list(range(12))).isfinite().all()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"hflip": 1.5}, "hflip is 1.5: give a probability"),
        ({"re_prob": -1}, "re_prob is -1: give a probability"),
        ({"padding": -1}, "padding is -1"),
        ({"crop": "big"}, "crop is 'big': choose from resized, padded, center"),
        ({"re_mode": "big"}, "re_mode is 'big': choose from const, rand, pixel"),
    ],
    ids=str,
)
def test_impossible_augmentation_is_named(options: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        Augmentation(**options)


@pytest.mark.parametrize("policy", ["rand-x9", "nonsense", "original-x3"])
def test_an_unknown_policy_is_named(root: Path, policy: str) -> None:
    with pytest.raises(UserError, match=f"auto_augment '{policy}' is no policy that timm knows"):
        module(root, Augmentation(auto_augment=policy))
