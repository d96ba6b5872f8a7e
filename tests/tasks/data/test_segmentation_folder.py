"""Folders of images and annotations: what is read, how it is varied, what is refused and in which words."""

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from acmix.errors import UserError
from acmix.tasks.data.sampler import BatchKey
from acmix.tasks.data.segmentation_folder import SegmentationFolderDataModule
from acmix.tasks.data.segmentation_transforms import SegmentationAugmentation

SHARED = Path(__file__).parents[3] / ".." / "shared" / "data" / "camvid"
PLAIN = SegmentationAugmentation(crop=(16, 16), ratio=(1.0, 1.0), hflip=0.0)
VARIED = SegmentationAugmentation(crop=(16, 16), distortion=0.5)
CLASSES = ["sky", "road", "car"]


def write_pair(root: Path, part: str, name: str, size: tuple[int, int] = (20, 24), seed: int = 0) -> None:
    """An image of random pixels, and an annotation of blocks of classes 0 to 2 and 255."""
    rng = np.random.default_rng(seed)
    image = root / "images" / part / f"{name}.png"
    annotation = root / "annotations" / part / f"{name}.png"
    for path in (image, annotation):
        path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(rng.integers(0, 256, (*size, 3), dtype=np.uint8)).save(image)
    blocks = rng.choice(np.array([0, 1, 2, 255], dtype=np.uint8), (size[0] // 4 + 1, size[1] // 4 + 1))
    Image.fromarray(blocks.repeat(4, 0).repeat(4, 1)[: size[0], : size[1]]).save(annotation)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "scenes"
    for number in range(6):
        write_pair(folder, "training", f"{number}", seed=number)
    write_pair(folder, "validation", "a", (20, 24), 10)
    write_pair(folder, "validation", "b", (17, 9), 11)
    return folder


def module(root: Path, stage: str = "fit", **options: Any) -> SegmentationFolderDataModule:
    arguments = {"classes": CLASSES, "batch_size": 2, "num_workers": 0, "augmentation": PLAIN}
    data = SegmentationFolderDataModule(root, **{**arguments, **options})
    data.setup(stage)
    return data


def sample(data: SegmentationFolderDataModule, epoch: int, indices: list[int]) -> tuple[Tensor, Tensor]:
    images, targets, _ = data.sources["train"].batch(BatchKey(epoch, np.array(indices)))
    return images, targets  # type: ignore[return-value]  # training batches are tensors


def annotate(root: Path, labels: np.ndarray, name: str = "a") -> Path:
    path = root / "annotations" / "validation" / f"{name}.png"
    Image.fromarray(labels).save(path)
    return path


def first_labels(root: Path, **options: Any) -> Tensor:
    _, targets = next(iter(module(root, "validate", **options).val_dataloader()))
    return targets[0]


# --- what is read ----------------------------------------------------------------------------------------------------


def test_evaluation_reads_whole_images_and_labels(root: Path) -> None:
    data = module(root, "validate")
    assert (data.num_classes, data.class_names, data.in_chans, data.image_size) == (3, CLASSES, 3, None)
    images, targets = next(iter(data.val_dataloader()))
    assert [tuple(image.shape) for image in images] == [(3, 20, 24), (3, 17, 9)]
    for image, target, name in zip(images, targets, "ab", strict=True):
        assert (image.dtype, target.dtype) == (torch.float32, torch.int64)
        mean, std = (torch.tensor(values).view(3, 1, 1) for values in (data.mean, data.std))
        pixels = ((image * std + mean) * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
        assert np.array_equal(pixels, np.asarray(Image.open(root / f"images/validation/{name}.png")))
        assert np.array_equal(target.numpy(), np.asarray(Image.open(root / f"annotations/validation/{name}.png")))


def test_training_batches_are_crops(root: Path) -> None:
    images, targets = next(iter(module(root).train_dataloader()))
    assert (images.shape, targets.shape) == ((2, 3, 16, 16), (2, 16, 16))
    assert (images.dtype, targets.dtype) == (torch.float32, torch.int64)
    assert set(targets.unique().tolist()) <= {0, 1, 2, 255}


def test_image_and_labels_move_together(root: Path) -> None:
    """An image that shows its labels as grey levels shows them after every crop, resize and flip."""
    for number in range(6):
        labels = np.asarray(Image.open(root / f"annotations/training/{number}.png"))
        shown = np.where(labels == 255, 3, labels).astype(np.uint8) * 80
        Image.fromarray(np.repeat(shown[..., None], 3, 2)).save(root / f"images/training/{number}.png")
    data = module(root, augmentation=SegmentationAugmentation(crop=(16, 16), ratio=(1.0, 3.0)))
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (data.mean, data.std))
    for epoch in range(4):
        images, targets = sample(data, epoch, [0, 1, 2, 3, 4, 5])
        grey = ((images * std + mean) * 255 / 80).mean(dim=1)
        agree = (grey.round() == targets.masked_fill(targets == 255, 3)).float().mean()
        # Between two blocks the image is interpolated, the labels are not.
        assert agree > 0.75


def test_images_smaller_than_the_crop_are_padded_with_ignored_pixels(root: Path) -> None:
    images, targets = sample(module(root, augmentation=SegmentationAugmentation((40, 40), ratio=(1.0, 1.0))), 0, [0, 1])
    assert images.shape[-2:] == targets.shape[-2:] == (40, 40)
    outside = images.abs().amax(dim=1) < 0.01
    assert outside.sum(dim=(1, 2)).tolist() == [40 * 40 - 20 * 24] * 2
    assert (targets[outside] == 255).all()


def test_the_short_side_is_the_measure_of_the_random_resize(root: Path) -> None:
    small = SegmentationAugmentation((64, 64), short_side=40, ratio=(1.0, 1.0))
    _, targets = sample(module(root, augmentation=small), 0, [0])
    rows = (targets[0] != 255).any(dim=1).sum()
    assert 36 <= rows <= 40
    limited = SegmentationAugmentation((64, 64), short_side=40, long_side=24, ratio=(1.0, 1.0))
    assert 16 <= (sample(module(root, augmentation=limited), 0, [0])[1][0] != 255).any(dim=1).sum() <= 20


def test_crops_of_one_class_are_drawn_again(root: Path) -> None:
    labels = np.zeros((20, 200), dtype=np.uint8)
    labels[:, 190:] = 1
    Image.fromarray(labels).save(root / "annotations/training/0.png")
    Image.new("RGB", (200, 20)).save(root / "images/training/0.png")
    shares = []
    for share in (1.0, 0.9):
        augmentation = SegmentationAugmentation((20, 20), ratio=(1.0, 1.0), max_class_share=share)
        data = module(root, augmentation=augmentation)
        shares.append(sum(bool((sample(data, epoch, [0])[1] == 1).any()) for epoch in range(40)))
    assert shares[1] > 2 * shares[0]


def test_scale_shrinks_images_and_not_the_labels_of_evaluation(root: Path) -> None:
    data = module(root, "validate", scale=0.5)
    images, targets = next(iter(data.val_dataloader()))
    assert [tuple(image.shape) for image in images] == [(3, 10, 12), (3, 8, 4)]
    assert [tuple(target.shape) for target in targets] == [(20, 24), (17, 9)]
    images, targets = sample(
        module(root, scale=0.5, augmentation=SegmentationAugmentation((8, 8), ratio=(1, 1))), 0, [0]
    )
    assert (images.shape[-2:], targets.shape[-2:]) == ((8, 8), (8, 8))


def test_zero_is_ignored_and_the_others_move_down(root: Path) -> None:
    labels = np.tile(np.array([0, 1, 2, 3, 255, 9], dtype=np.uint8), (20, 4))
    annotate(root, labels)
    expected = torch.tensor([255, 0, 1, 2, 255, 255]).tile(20, 4)
    assert torch.equal(first_labels(root, reduce_zero_label=True, ignored_labels=[9]), expected)


def test_a_palette_counts_by_its_numbers(root: Path) -> None:
    labels = np.tile(np.array([0, 1, 2, 255], dtype=np.uint8), (20, 6))
    picture = Image.fromarray(labels)
    picture.putpalette(list(range(255, -1, -1)) * 3)
    picture.save(root / "annotations/validation/a.png")
    assert torch.equal(first_labels(root), torch.from_numpy(labels.astype(np.int64)))


def test_labels_of_sixteen_bits(root: Path) -> None:
    labels = np.tile(np.array([0, 1, 2, 1000], dtype=np.uint16), (20, 6))
    annotate(root, labels)
    assert first_labels(root, ignored_labels=[1000])[0, :4].tolist() == [0, 1, 2, 255]


@pytest.mark.parametrize("how", ["number", "file"])
def test_classes(root: Path, how: str) -> None:
    (root / "names.txt").write_text("sky\nroad\n\ncar\n")
    classes, expected = {"number": (3, ["0", "1", "2"]), "file": (str(root / "names.txt"), CLASSES)}[how]
    assert module(root, classes=classes).class_names == expected


def test_the_test_reads_its_folder_or_the_validation(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert len(module(root, "test").sources["test"]) == 2
    assert caplog.messages == [f"no folder 'test' in {root / 'annotations'}: the test reads the validation images"]
    write_pair(root, "test", "c")
    assert len(module(root, "test").sources["test"]) == 1


def test_prediction_reads_any_folder(root: Path) -> None:
    Image.new("RGB", (7, 5)).save(root / "photo.jpg")
    (root / "photos").mkdir()
    (root / "photo.jpg").rename(root / "photos/photo.jpg")
    data = module(root, "predict", predict_folder="photos", scale=0.5)
    images, targets = next(iter(data.predict_dataloader()))
    assert (tuple(images[0].shape), tuple(targets[0].shape)) == ((3, 2, 4), (5, 7))
    assert (targets[0] == 255).all()


# --- how it is varied ------------------------------------------------------------------------------------------------


def test_a_sample_is_varied_by_seed_epoch_and_index_alone(root: Path) -> None:
    data, everything = module(root, augmentation=VARIED), list(range(6))
    together = sample(data, 3, [5, 0, 2])
    singles = [sample(data, 3, [index]) for index in (5, 0, 2)]
    for part in (0, 1):
        assert torch.equal(together[part], torch.cat([single[part] for single in singles]))
        assert not torch.equal(sample(data, 3, everything)[part], sample(data, 4, everything)[part])
        other = module(root, augmentation=VARIED, seed=1)
        assert not torch.equal(sample(data, 3, everything)[part], sample(other, 3, everything)[part])


@pytest.mark.parametrize("options", [{"cache": "ram"}, {"num_workers": 2}], ids=str)
def test_cache_and_workers_change_nothing(root: Path, options: dict[str, Any]) -> None:
    batches = []
    for chosen in ({}, options):
        data = module(root, augmentation=VARIED, scale=0.75, **chosen)
        batches.append([torch.cat([part.flatten(1).float() for part in batch], 1) for batch in data.train_dataloader()])
        data.teardown()
    assert len(batches[0]) == 3
    assert all(torch.equal(one, other) for one, other in zip(*batches, strict=True))


def test_global_generators_are_left_alone(root: Path) -> None:
    data = module(root, augmentation=VARIED)
    before = random.getstate(), str(np.random.get_state()), torch.get_rng_state()  # noqa: NPY002 - the one under test
    sample(data, 0, [0, 1])
    after = random.getstate(), str(np.random.get_state()), torch.get_rng_state()  # noqa: NPY002 - as above
    assert before[:2] == after[:2]
    assert torch.equal(before[2], after[2])


# --- what is refused -------------------------------------------------------------------------------------------------


def cut(path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (40, 40), dtype=np.uint8)
    Image.fromarray(noise).save(path)
    path.write_bytes(path.read_bytes()[:900])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        pytest.param(
            lambda root: (root / "annotations/validation").rename(root / "x"),
            "no folder {root}/annotations/validation (folders in {root}/annotations: training): expected im",
            id="no annotations",
        ),
        pytest.param(
            lambda root: root.rename(root.with_name("moved")), "no data folder {root}: expected images/", id="no root"
        ),
        pytest.param(
            lambda root: (root / "annotations/validation/b.png").unlink(),
            "the image {root}/images/validation/b.png has no annotation: expected {root}/annotations/validation/b.png",
            id="no annotation",
        ),
        pytest.param(
            lambda root: (root / "images/validation/b.png").unlink(),
            "the annotation {root}/annotations/validation/b.png has no image: expected {root}/images/validation/b.jpg",
            id="no image",
        ),
        pytest.param(
            lambda root: (root / "annotations/validation/b.png").rename(root / "annotations/validation/b.jpg"),
            "the annotation {root}/annotations/validation/b.jpg is no PNG file",
            id="JPEG annotation",
        ),
        pytest.param(
            lambda root: annotate(root, np.zeros((5, 6), dtype=np.uint8)),
            "the annotation {root}/annotations/validation/a.png is 6x5, its image {root}/images/validation/a.png is",
            id="other size",
        ),
        pytest.param(
            lambda root: annotate(root, np.full((20, 24), 7, dtype=np.uint8)),
            "{root}/annotations/validation/a.png: 480 pixels have the label 7, expected 0 to 2 or ignored ones (255)",
            id="unknown label",
        ),
        pytest.param(
            lambda root: annotate(root, np.zeros((20, 24, 3), dtype=np.uint8)),
            "the annotation {root}/annotations/validation/a.png is RGB, expected one channel of class numbers",
            id="RGB annotation",
        ),
        pytest.param(
            lambda root: cut(root / "annotations/validation/a.png"),
            "cannot read the annotation {root}/annotations/validation/a.png: image file is truncated",
            id="broken annotation",
        ),
        pytest.param(
            lambda root: (root / "annotations/validation/a.png").write_text("x"),
            "cannot read the annotation {root}/annotations/validation/a.png: not an image",
            id="no PNG",
        ),
        pytest.param(
            lambda root: cut(root / "images/validation/a.png"),
            "cannot read {root}/images/validation/a.png: image file is truncated",
            id="broken image",
        ),
        pytest.param(
            lambda root: Image.new("RGB", (2, 2)).save(root / "images/validation/a.jpg"),
            "{root}/images/validation/a.jpg and {root}/images/validation/a.png differ in their suffix alone",
            id="same stem",
        ),
    ],
)
@pytest.mark.parametrize("cache", ["none", "ram"])
def test_bad_data_are_named_in_one_line(root: Path, change: Callable[[Path], Any], words: str, cache: str) -> None:
    change(root)
    with pytest.raises(UserError) as caught:
        list(module(root, "validate", cache=cache).val_dataloader())
    assert str(caught.value).startswith(words.format(root=root))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"scale": 0.0}, "scale is 0.0: give a factor above 0"),
        ({"classes": 1}, "classes names 1 classes: give 2 to 255"),
        ({"classes": "nowhere.txt"}, "classes nowhere.txt is no text file"),
        ({"ignored_labels": [-1]}, r"ignored_labels are \[-1\]: give numbers of at least 0"),
        ({"batch_size": 0}, "batch_size is 0: give a whole number of at least 1"),
        ({"predict_folder": "nowhere"}, "no folder .*nowhere: expected a folder with images"),
    ],
    ids=str,
)
def test_impossible_options_are_named(root: Path, options: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        module(root, "predict", **options)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"hflip": 2.0}, "augmentation: hflip is 2.0"),
        ({"crop": (0, 8)}, r"augmentation: crop is \(0, 8\)"),
        ({"ratio": (2.0, 1.0)}, "augmentation: ratio is"),
        ({"long_side": 100}, "augmentation: long_side limits what short_side enlarges"),
    ],
    ids=str,
)
def test_impossible_augmentation_is_named(options: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        SegmentationAugmentation(**options)


# --- real data -------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not SHARED.is_dir(), reason="CamVid is not in ../shared/data")
def test_camvid_has_eleven_classes_and_ignored_pixels() -> None:
    data = SegmentationFolderDataModule(SHARED, 11, 4, 0, ignored_labels=[11], augmentation=PLAIN)
    data.setup()
    assert [len(data.sources[name]) for name in ("train", "val", "test")] == [367, 101, 233]
    images, targets = next(iter(data.val_dataloader()))
    assert {tuple(image.shape) for image in images} == {(3, 360, 480)}
    seen = set(torch.stack(targets).unique().tolist())
    assert {255} < seen <= {*range(11), 255}
    strict = SegmentationFolderDataModule(SHARED, 11, 4, 0)
    strict.setup("validate")
    with pytest.raises(UserError, match="have the label 11, expected 0 to 10"):
        next(iter(strict.val_dataloader()))
