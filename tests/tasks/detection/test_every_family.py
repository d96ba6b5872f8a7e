"""Every kind of detector on every family of networks; all kinds on one family by default, all of all in slow tests."""

import pytest
import torch

from tasks.detection.small_detectors import (
    KINDS,
    assert_equal_items,
    batch,
    detections,
    losses,
    small_detector,
)

# Without gradient: it drops out of the attention's softmax.
IDLE = ("position.bias",)

FAMILIES = {
    "acmix_resnet14": {},
    "conv_resnet14": {},
    "attn_resnet14": {},
    "acmix_san10": {},
    "san10_pairwise": {},
    "acmix_pvt_tiny": {},
    "pvt_tiny": {},
    "acmix_swin_tiny": {"stage_norm": True},
    "swin_tiny_patch4_window7_224": {"stage_norm": True},
    "resnet18": {},
}
QUICK = {
    *((name, "retinanet") for name in FAMILIES),
    *(("acmix_resnet14", kind) for kind in KINDS),
    ("acmix_swin_tiny", "cascade_mask_rcnn"),
    ("acmix_pvt_tiny", "mask_rcnn"),
    ("acmix_san10", "faster_rcnn"),
}
PAIRS = [
    pytest.param(name, kind, marks=[] if (name, kind) in QUICK else [pytest.mark.slow])
    for name in FAMILIES
    for kind in KINDS
]


@pytest.mark.parametrize(("name", "kind"), PAIRS)
def test_a_step_moves_every_weight(name: str, kind: str) -> None:
    detector, (images, targets) = small_detector(kind, name, **FAMILIES[name]), batch()
    found = losses(detector, images, targets)
    assert all(loss.isfinite() and loss > 0 for loss in found.values())
    torch.stack(list(found.values())).sum().backward()
    without = [name for name, value in detector.named_parameters() if value.grad is None]
    assert without == []
    assert all(value.grad.isfinite().all() for value in detector.parameters())
    idle = [name for name, value in detector.named_parameters() if not value.grad.any()]
    assert [name for name in idle if not name.endswith(IDLE)] == []


@pytest.mark.parametrize(("name", "kind"), PAIRS)
def test_the_same_weights_detect_the_same(name: str, kind: str) -> None:
    detector, other = (small_detector(kind, name, **FAMILIES[name]) for _ in range(2))
    images, targets = batch()
    # Its batch norms' statistics and its weights move away from the other's.
    torch.stack(list(losses(detector, images, targets).values())).sum().backward()
    torch.optim.SGD(detector.parameters(), 1e-3).step()
    other.load_state_dict(detector.state_dict(), strict=True)
    expected = detections(detector, images)
    assert all(len(each["boxes"]) for each in expected)
    assert_equal_items(detections(other, images), expected)
