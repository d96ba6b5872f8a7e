"""Overlap of classes over a data set, against a plain count; the loss against torch's."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from acmix.tasks.segmentation.losses import pixel_cross_entropy
from acmix.tasks.segmentation.metrics import DatasetIoU, format_classes, intersection_over_union

CLASSES = 6


def counted(predictions: list[np.ndarray], targets: list[np.ndarray]) -> np.ndarray:
    """The confusion matrix, pixel by pixel."""
    matrix = np.zeros((CLASSES, CLASSES))
    for prediction, target in zip(predictions, targets, strict=True):
        for ours, truth in zip(prediction.ravel().tolist(), target.ravel().tolist(), strict=True):
            if truth != 255:
                matrix[truth, ours] += 1
    return matrix


@pytest.fixture
def maps() -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Predictions and targets of three sizes; class 5 never occurs, class 4 in predictions alone."""
    rng = np.random.default_rng(0)
    sizes = [(7, 9), (12, 5), (1, 1), (8, 8)]
    predictions = [rng.integers(0, 5, size) for size in sizes]
    targets = [np.where(rng.random(size) < 0.2, 255, rng.integers(0, 4, size)) for size in sizes]
    targets[3][:] = 255
    return predictions, targets


def test_figures_are_those_of_a_plain_count(maps: tuple[list[np.ndarray], list[np.ndarray]]) -> None:
    predictions, targets = maps
    metric = DatasetIoU(CLASSES)
    for prediction, target in zip(predictions, targets, strict=True):
        metric.update(torch.from_numpy(prediction)[None], torch.from_numpy(target)[None])
    matrix = counted(predictions, targets)
    overlaps = []
    for number in range(CLASSES):
        union = matrix[number].sum() + matrix[:, number].sum() - matrix[number, number]
        if union:
            overlaps.append(matrix[number, number] / union)
    assert len(overlaps) == 5
    values = metric.compute()
    assert values["miou"].item() == pytest.approx(np.mean(overlaps), rel=1e-6)
    assert values["pixel_accuracy"].item() == pytest.approx(np.trace(matrix) / matrix.sum(), rel=1e-6)
    assert metric.confusion is not None
    assert np.array_equal(metric.confusion.numpy(), matrix)
    metric.reset()
    assert np.array_equal(metric.confusion.numpy(), matrix)


def test_overlap_of_known_counts() -> None:
    confusion = torch.tensor([[3, 1, 0], [2, 4, 0], [0, 0, 0]])
    overlap = intersection_over_union(confusion)
    assert overlap[:2].tolist() == pytest.approx([3 / 6, 4 / 7])
    assert overlap[2].isnan()


def test_the_table_names_every_class() -> None:
    table = format_classes(torch.tensor([[3, 1, 0], [2, 4, 0], [0, 0, 0]]), ["sky", "road", "car"])
    lines = [line.split() for line in table.splitlines()]
    assert lines[0] == ["class", "IoU", "%", "accuracy", "%", "pixels", "%"]
    assert lines[2:5] == [
        ["sky", "50.00", "75.00", "40.00"],
        ["road", "57.14", "66.67", "60.00"],
        ["car", "-", "-", "0.00"],
    ]
    assert lines[5:] == [["mean", "53.57", "70.83"], ["all", "pixels", "70.00", "100.00"]]


def test_the_loss_is_torchs_mean_over_the_pixels_that_count() -> None:
    logits = torch.randn(2, CLASSES, 5, 6, generator=torch.Generator().manual_seed(0))
    targets = torch.randint(0, CLASSES, (2, 5, 6), generator=torch.Generator().manual_seed(1))
    targets[0, :3] = 255
    for weights in (None, torch.linspace(0.5, 2, CLASSES)):
        expected = F.cross_entropy(logits, targets, weights, ignore_index=255)
        torch.testing.assert_close(pixel_cross_entropy(logits, targets, weights), expected)


@pytest.mark.parametrize("weights", [None, torch.ones(CLASSES), torch.zeros(CLASSES)], ids=["none", "ones", "zeros"])
def test_where_nothing_counts_the_loss_is_zero_and_so_is_its_gradient(weights: torch.Tensor | None) -> None:
    logits = torch.randn(1, CLASSES, 4, 4, requires_grad=True)
    loss = pixel_cross_entropy(logits, torch.full((1, 4, 4), 255), weights)
    loss.backward()
    assert loss.item() == 0
    assert logits.grad is not None
    assert not logits.grad.any()
