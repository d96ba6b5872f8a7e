"""Scenes of handwritten digits."""

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from acmix.errors import UserError
from acmix.tasks.data import scene_composition
from acmix.tasks.data.digits import digits_split
from acmix.tasks.data.loader import Batch
from acmix.tasks.data.sampler import BatchKey
from acmix.tasks.data.scene_composition import MIN_VISIBLE, SceneForm, compose_scene
from acmix.tasks.data.scene_sources import DetectionScenes
from acmix.tasks.data.scene_textures import draw_background
from acmix.tasks.data.scenes import DigitScenesDataModule


def module(task: Any = "detection", **options: Any) -> DigitScenesDataModule:
    data = DigitScenesDataModule(task, **options)
    data.setup()
    return data


def batch(data: DigitScenesDataModule, part: str, epoch: int = 0, indices: Any = range(40)) -> Batch:
    return data.sources[part].batch(BatchKey(epoch, np.array(indices)))


def same(first: Batch, second: Batch) -> bool:
    return all(
        torch.equal(one, other) and all(torch.equal(target[name], like[name]) for name in target)
        for one, other, target, like in zip(first.images, second.images, first.targets, second.targets, strict=True)
    )


def test_detection_batches() -> None:
    data = module()
    images, targets = next(iter(data.train_dataloader()))
    assert len(images) == len(targets) == 8
    assert data.class_names == [str(digit) for digit in range(10)]
    for image, target in zip(images, targets, strict=True):
        count = len(target["labels"])
        assert (image.shape, image.dtype) == ((3, 96, 96), torch.float32)
        assert 0 <= image.min() < image.max() <= 1
        assert 1 <= count <= 6
        assert {name: (value.dtype, tuple(value.shape)) for name, value in target.items()} == {
            "boxes": (torch.float32, (count, 4)),
            "labels": (torch.int64, (count,)),
            "masks": (torch.uint8, (count, 96, 96)),
            "image_id": (torch.int64, ()),
            "area": (torch.float32, (count,)),
            "iscrowd": (torch.int64, (count,)),
            "orig_size": (torch.int64, (2,)),
        }
        assert target["labels"].min() >= 1
        assert target["labels"].max() <= 10


def test_boxes_are_tight_and_masks_apart() -> None:
    for target in batch(module(), "val").targets:
        masks = target["masks"]
        assert masks.sum(0).max() == 1
        assert torch.equal(target["area"], masks.sum((1, 2)).float())
        for mask, (left, top, right, bottom) in zip(masks, target["boxes"].int().tolist(), strict=True):
            inside = mask[top:bottom, left:right]
            assert inside.sum() == mask.sum()
            for edge in (inside[0], inside[-1], inside[:, 0], inside[:, -1]):
                assert edge.any()


def test_all_digits_occur_in_all_sizes() -> None:
    targets = batch(module(test_scenes=300), "test", indices=range(300)).targets
    labels = torch.cat([target["labels"] for target in targets])
    boxes = torch.cat([target["boxes"] for target in targets])
    heights = boxes[:, 3] - boxes[:, 1]
    assert torch.bincount(labels, minlength=11)[1:].min() > 50
    assert heights.min() < 16
    assert heights.max() > 33
    assert heights.max() <= 36
    assert {len(target["labels"]) for target in targets} == {1, 2, 3, 4, 5, 6}


def test_digits_stay_visible(monkeypatch: pytest.MonkeyPatch) -> None:
    split, form = digits_split(), SceneForm(size=64)
    tried: list[NDArray[np.bool_]] = []
    place = scene_composition._place

    def noted(*arguments: Any) -> Any:
        opacity, window = place(*arguments)
        stroke = np.zeros((64, 64), dtype=np.bool_)
        stroke[window] = opacity > 0.5
        tried.append(stroke)
        return opacity, window

    monkeypatch.setattr(scene_composition, "_place", noted)
    covered = 0
    for number in range(60):
        tried.clear()
        scene = compose_scene(np.random.default_rng(number), split.val_images, split.val_labels, form)
        for mask in scene.masks:
            whole = [stroke for stroke in tried if not (mask & ~stroke).any()]
            shares = [mask.sum() / stroke.sum() for stroke in whole]
            assert max(shares) >= MIN_VISIBLE
            covered += max(shares) < 1
    assert covered > 10, "digits must overlap at all"


def test_digits_differ_from_their_background() -> None:
    data = module()
    contrast = []
    made = batch(data, "test", indices=range(100))
    for image, target in zip(made.images, made.targets, strict=True):
        bare = target["masks"].sum(0) == 0
        for mask in target["masks"].bool():
            rows, columns = torch.nonzero(mask, as_tuple=True)
            around = torch.zeros_like(bare)
            around[max(0, rows.min() - 3) : rows.max() + 4, max(0, columns.min() - 3) : columns.max() + 4] = True
            ground = image[:, around & bare].mean(1)
            contrast.append(float((image[:, mask].mean(1) - ground).abs().max()))
    assert np.quantile(contrast, 0.02) > 0.2


def test_parts_show_their_own_digits_in_their_own_scenes() -> None:
    data = module()
    split = digits_split()
    for part in ("train", "val", "test"):
        source = data.sources[part]
        assert isinstance(source, DetectionScenes)
        assert source.scenes.images is getattr(split, f"{part}_images")
    assert not same(batch(data, "val", indices=[0]), batch(data, "test", indices=[0]))


def test_fresh_scenes_are_a_function_of_seed_epoch_and_number() -> None:
    data, again, other = module(), module(), module(seed=1)
    made = batch(data, "train", 3)
    assert same(made, batch(again, "train", 3))
    assert same(batch(again, "train", 3, [17]), Batch(made.images[17:18], made.targets[17:18], {}))
    for changed in (batch(data, "train", 4), batch(other, "train", 3), batch(data, "train", 3, range(1, 41))):
        assert not any(torch.equal(one, old) for one, old in zip(changed.images, made.images, strict=True))


def test_fixed_scenes_depend_on_neither_seed_nor_epoch() -> None:
    data, other = module(fresh=False), module(fresh=False, seed=1)
    for part_name in ("train", "val", "test"):
        assert same(batch(data, part_name, 0), batch(other, part_name, 5))
    assert not same(batch(module(), "train", 0, [0]), batch(data, "train", 0, [0]))


def test_segmentation_has_the_detections_scenes() -> None:
    detection, segmentation = module(), module("segmentation")
    assert segmentation.num_classes == 11
    assert segmentation.class_names[:2] == ["background", "0"]
    boxes, maps = batch(detection, "val"), batch(segmentation, "val")
    assert isinstance(maps.images, list)
    for image, target, normalised, classes in zip(boxes.images, boxes.targets, maps.images, maps.targets, strict=True):
        assert torch.allclose(normalised, (image - 0.5) / 0.25, atol=1e-6)
        assert (classes.shape, classes.dtype) == ((96, 96), torch.int64)
        expected = torch.zeros(96, 96, dtype=torch.int64)
        for label, mask in zip(target["labels"], target["masks"].bool(), strict=True):
            expected[mask] = label
        assert torch.equal(classes, expected)


def test_segmentation_trains_on_tensors() -> None:
    images, maps = next(iter(module("segmentation", batch_size=4, image_size=64).train_dataloader()))
    assert isinstance(images, Tensor)
    assert (images.shape, images.dtype) == ((4, 3, 64, 64), torch.float32)
    assert (maps.shape, maps.dtype) == ((4, 64, 64), torch.int64)


def test_numbers_of_scenes() -> None:
    data = module(train_scenes=20, val_scenes=3, test_scenes=5, batch_size=4)
    loaders = (data.train_dataloader(), data.val_dataloader(), data.test_dataloader(), data.predict_dataloader())
    assert [sum(len(images) for images, _ in loader) for loader in loaders] == [20, 3, 5, 5]


def test_workers_make_the_same_scenes() -> None:
    alone, workers = module(train_scenes=16), module(train_scenes=16, num_workers=2)
    for (images, targets), (others, likes) in zip(alone.train_dataloader(), workers.train_dataloader(), strict=True):
        assert same(Batch(images, targets, {}), Batch(others, likes, {}))
    workers.teardown()


def test_backgrounds_are_varied_and_within_range() -> None:
    pictures = np.stack([draw_background(np.random.default_rng(number), 48) for number in range(60)])
    assert pictures.dtype == np.float32
    assert pictures.min() >= 0
    assert pictures.max() <= 1
    assert len({picture.tobytes() for picture in pictures}) == 60
    assert pictures.mean((1, 2)).std() > 0.1


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"task": "classification"}, "task is 'classification'"),
        ({"train_scenes": 0}, "train_scenes is 0"),
        ({"max_digits": 0}, "max_digits is 0"),
        ({"digit_sizes": (30, 20)}, "digit_sizes are 30 and 20"),
        ({"digit_sizes": (4, 20)}, "digit_sizes are 4 and 20"),
        ({"image_size": 32}, "digit_sizes are 14 and 36"),
    ],
)
def test_impossible_options_are_named(options: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        module(**options)
