"""The work of a detector on one image, counted without computing anything."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from acmix.analysis.complexity import Complexity, count_complexity
from acmix.tasks.detection.retinanet import RetinaNetDetector

__all__ = ["count_detector"]


def count_detector(
    detector: nn.Module, input_size: Sequence[int], *, regions: int = 1000, masks: int = 100
) -> Complexity:
    """Counts a detector's parameters, and the multiply-adds of one image, as the field's tables count them.

    That is backbone, pyramid and heads; the boxes' suppression and the cutting of regions are not counted. How many
    regions there are depends on the image; tables take a fixed number of them.

    Args:
        detector: Of `build_detector`; it is left as it was.
        input_size: C, H, W of the image that the backbone sees.
        regions: Regions that go through each box head of an R-CNN.
        masks: Regions that go through each mask head.

    Returns:
        Parameters, and multiply-adds of convolutions, matrix products and attention.
    """
    return count_complexity(_Heads(detector, regions, masks), input_size)


class _Heads(nn.Module):
    """The parts of a detector whose work is counted, in a row."""

    def __init__(self, detector: Any, regions: int, masks: int) -> None:
        super().__init__()
        self.detector = detector
        self.counts = {"box": regions, "mask": masks}

    def forward(self, image: Tensor) -> None:
        detector: Any = self.detector
        maps = list(detector.backbone(image).values())
        if isinstance(detector, RetinaNetDetector):
            detector.head(maps)
            return
        detector.rpn.head(maps)
        heads: Any = detector.roi_heads
        for stage in getattr(heads, "stages", [heads]):
            for kind, count in self.counts.items():
                pool = getattr(stage, f"{kind}_roi_pool")
                if pool is not None:
                    cut = image.new_empty(count, detector.backbone.out_channels, *pool.output_size)
                    getattr(stage, f"{kind}_predictor")(getattr(stage, f"{kind}_head")(cut))
