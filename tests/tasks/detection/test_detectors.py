"""What holds for every kind of detector: what is trained through, what comes out, what is chosen."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from acmix.tasks.dense.backbone import BackboneSettings
from acmix.tasks.detection.detector import build_detector
from acmix.tasks.detection.settings import ImageSettings, OutputSettings
from tasks.detection.small_detectors import (
    CLASSES,
    FAMILIES,
    KINDS,
    Target,
    assert_equal_items,
    batch,
    detections,
    losses,
    scene,
    small_detector,
    small_settings,
)

NONE = torch.zeros(0, 4)
PIXEL = torch.tensor([[11.0, 7, 12, 8], [63, 63, 64, 64]])
ALLOWED: dict[str, list[tuple[Tensor, Target]]] = {
    "one": [scene()],
    "odd sizes": [scene(0, (63, 49)), scene(1, (50, 81)), scene(2, (55, 55))],
    "no object": [scene(boxes=NONE)],
    "no object at all": [scene(0, boxes=NONE), scene(1, boxes=NONE)],
    "no object in one of two": [scene(0, boxes=NONE), scene(1)],
    "one pixel": [scene(boxes=PIXEL), scene(1)],
    "part of a pixel": [scene(boxes=torch.tensor([[30.2, 30.2, 30.4, 30.5]]))],
    "the whole image": [scene(boxes=torch.tensor([[0.0, 0, 64, 64]]))],
    "many": [scene(boxes=PIXEL[:1].repeat(100, 1) + torch.arange(100.0)[:, None] / 2)],
}


@pytest.fixture(scope="module")
def detectors() -> dict[str, Any]:
    """One of each kind; tests leave its weights as they are."""
    return {kind: small_detector(kind) for kind in KINDS}


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.mark.parametrize("case", list(ALLOWED))
def test_what_is_trained_through(detectors: dict[str, Any], kind: str, case: str) -> None:
    detector = detectors[kind]
    found = losses(detector, [image for image, _ in ALLOWED[case]], [target for _, target in ALLOWED[case]])
    assert all(loss.isfinite() for loss in found.values())
    detector.zero_grad()
    sum(found.values(), torch.zeros(())).backward()
    gradients = [value.grad for value in detector.parameters() if value.grad is not None]
    assert all(gradient.isfinite().all() for gradient in gradients)
    assert any(gradient.any() for gradient in gradients)


@pytest.mark.parametrize("size", [(1, 1), (5, 60), (64, 64), (31, 33)], ids=str)
def test_images_of_any_size_are_detected_in(detectors: dict[str, Any], kind: str, size: tuple[int, int]) -> None:
    detector, (height, width) = detectors[kind], size
    (found,) = detections(detector, [torch.rand(3, *size)])
    assert set(found) == {"boxes", "labels", "scores", *(["masks"] if detector.has_masks else [])}
    assert found["boxes"].shape == (len(found["labels"]), 4)
    assert (found["boxes"] <= torch.tensor([width, height, width, height]) + 1e-3).all()
    assert found["scores"].diff().le(0).all()
    assert ((found["labels"] >= 1) & (found["labels"] <= CLASSES)).all()
    if detector.has_masks:
        assert found["masks"].shape == (len(found["labels"]), 1, height, width)


def test_detections_go_through_a_file_and_a_copy(detectors: dict[str, Any], kind: str, tmp_path: Path) -> None:
    detector, (images, _) = detectors[kind], batch()
    expected = detections(detector, images)
    torch.save(detector.state_dict(), tmp_path / "state.pt")
    other = small_detector(kind)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.zero_()
    # It saw other sizes first: nothing is remembered of them.
    detections(other, [torch.rand(3, 33, 33)])
    other.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True), strict=True)
    assert_equal_items(detections(other, images), expected)
    assert_equal_items(detections(copy.deepcopy(detector), images), expected)


@pytest.mark.parametrize("first", [(33, 33), (64, 64)], ids=str)
def test_the_first_batch_decides_nothing(first: tuple[int, int]) -> None:
    """torchvision takes the scales of maps from it, wrongly where 33 pixels are padded to 64."""
    settings = small_settings("faster_rcnn", images=ImageSettings((33,), 64, 80))
    detector, images = small_detector("faster_rcnn", settings=settings), batch()[0]
    detections(detector, [torch.rand(3, *first)])
    assert detector.roi_heads.box_roi_pool.scales == [1 / by for by in detector.backbone.reductions[:4]]
    fresh = small_detector("faster_rcnn", settings=settings)
    assert_equal_items(detections(detector, images), detections(fresh, images))


def test_training_draws_sizes_and_evaluation_has_its_own() -> None:
    settings = small_settings("retinanet", images=ImageSettings((32, 40, 48), 64, 200))
    transform = small_detector("retinanet", settings=settings).transform
    image = torch.rand(3, 50, 100)
    sizes = set()
    for seed in range(40):
        torch.manual_seed(seed)
        sizes.add(transform.train()([image])[0].image_sizes[0])
    assert sizes == {(32, 64), (40, 80), (48, 96)}
    assert transform.eval()([image])[0].image_sizes == [(64, 128)]
    settings = small_settings("retinanet", images=ImageSettings((32, 48, 40), None, 200))
    assert small_detector("retinanet", settings=settings).transform.eval()([image])[0].image_sizes == [(48, 96)]


def test_what_is_frozen_gets_no_gradient() -> None:
    detector, (images, targets) = small_detector("faster_rcnn", frozen_stages=1, frozen_norm=True), batch()
    body = detector.backbone.backbone.body
    norms = [name for name, module in body.named_modules() if isinstance(module, nn.BatchNorm2d)]
    names = [name for name, _ in body.named_parameters()]
    first = names.index(next(name for name in names if name.startswith("layer2")))
    frozen = {name for name in names if name in names[:first] or name.rpartition(".")[0] in norms}
    assert 0 < len(frozen) < len(names)
    before = {name: value.clone() for name, value in body.state_dict().items() if "running" in name}
    sum(losses(detector, images, targets).values(), torch.zeros(())).backward()
    assert all((value.grad is not None) == (name not in frozen) for name, value in body.named_parameters())
    assert all(torch.equal(body.state_dict()[name], value) for name, value in before.items())


def test_images_of_one_channel() -> None:
    settings = small_settings("retinanet", images=ImageSettings((48,), 48, 80, (0.5,), (0.5,)))
    detector = build_detector("acmix_resnet14", 2, 1, BackboneSettings(model_args=FAMILIES["resnet"]), settings)
    assert len(detections(detector, [torch.rand(1, 50, 60)])) == 1


def test_scores_and_counts_are_limited() -> None:
    images = batch()[0]
    many = detections(small_detector("faster_rcnn"), images)
    settings = small_settings("faster_rcnn", outputs=OutputSettings(score_threshold=0.3, detections=3))
    few = detections(small_detector("faster_rcnn", settings=settings), images)
    for each, all_of_them in zip(few, many, strict=True):
        assert len(each["scores"]) <= 3 < len(all_of_them["scores"])
        assert (each["scores"] > 0.3).all()
        torch.testing.assert_close(each["scores"], all_of_them["scores"][: len(each["scores"])])


def test_autocast_rounds_no_box(kind: str) -> None:
    """Half precision moves scores; boxes at 1000 pixels would be rounded to 4 or 8."""
    detector, (images, targets) = small_detector(kind), batch()
    with torch.autocast("cpu", torch.bfloat16):
        found = losses(detector, images, targets)
        assert all(loss.isfinite() and loss.dtype == torch.float32 for loss in found.values())
        made = detections(detector, images)
    sum(found.values(), torch.zeros(())).backward()
    for each in made:
        assert each["boxes"].dtype == each["scores"].dtype == torch.float32
        fine = each["boxes"][(each["boxes"] > 8).all(dim=1)]
        assert len(fine)
        assert (fine != fine.bfloat16().float()).any()
