"""RetinaNet (Lin et al. 2017): torchvision's, on a network of the zoo, with labels from 1."""

from typing import Any

from torch import Tensor
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.retinanet import RetinaNet, RetinaNetHead

from acmix.tasks.dense.backbone import undecayed
from acmix.tasks.detection.door import check_precision, check_targets, told_batch_norm
from acmix.tasks.detection.image_transform import ImageTransform
from acmix.tasks.detection.norms import norm_layer, widened
from acmix.tasks.detection.pyramid import PyramidBackbone
from acmix.tasks.detection.settings import DetectorSettings

__all__ = ["RetinaNetDetector"]


class RetinaNetDetector(RetinaNet):
    """torchvision's RetinaNet, which knows no background class: its classes are 0 to C - 1, here they are 1 to C.

    Args:
        pyramid: The maps to detect on.
        anchors: Of those maps.
        num_classes: C, without background.
        settings: Images, heads and outputs.
    """

    def __init__(
        self, pyramid: PyramidBackbone, anchors: AnchorGenerator, num_classes: int, settings: DetectorSettings
    ) -> None:
        norm = norm_layer(settings.heads.norm)
        super().__init__(
            pyramid,
            num_classes,
            anchor_generator=anchors,
            head=_Head(pyramid.out_channels, anchors.num_anchors_per_location()[0], num_classes, norm),
            score_thresh=settings.outputs.score_threshold,
            nms_thresh=settings.outputs.nms_threshold,
            detections_per_img=settings.outputs.detections,
            topk_candidates=settings.outputs.candidates,
        )
        self.transform = ImageTransform(settings.images, pyramid.multiple)
        self.num_classes = num_classes
        self.has_masks = False

    def no_weight_decay(self) -> set[str]:
        """Names of the parameters that the network of the backbone wants without weight decay; timm asks for them."""
        return undecayed(self)

    def forward(self, images: list[Tensor], targets: list[dict[str, Tensor]] | None = None) -> Any:
        """Losses in training, detections elsewhere; see `build_detector`."""
        shifted = None
        check_precision(self)
        if targets is not None:
            check_targets(images, targets, self.num_classes)
            shifted = [{**target, "labels": target["labels"] - 1} for target in targets]
        with told_batch_norm():
            outputs = super().forward(images, shifted)
        if self.training:
            return outputs
        return [{**detection, "labels": detection["labels"] + 1} for detection in outputs]


class _Head(RetinaNetHead):
    """The two towers; what they give out is not rounded."""

    def forward(self, x: list[Tensor]) -> dict[str, Tensor]:
        return {name: widened(values) for name, values in super().forward(x).items()}
