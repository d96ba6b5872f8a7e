"""What can be chosen about a detector; the defaults are the published ones."""

from dataclasses import dataclass, field
from typing import Literal

__all__ = [
    "AnchorSettings",
    "CascadeSettings",
    "DetectorKind",
    "DetectorSettings",
    "HeadSettings",
    "ImageSettings",
    "OutputSettings",
    "ProposalSettings",
    "PyramidSettings",
]

DetectorKind = Literal["retinanet", "faster_rcnn", "mask_rcnn", "cascade_rcnn", "cascade_mask_rcnn"]
Norm = Literal["none", "batch", "group"]
Weights = tuple[float, float, float, float]


@dataclass(frozen=True)
class ImageSettings:
    """How images are resized and normalised; their sides' proportion is kept.

    Attributes:
        min_size: Short side in pixels; several: one of them is drawn for each image in training.
        test_min_size: Short side in evaluation; None: the greatest of `min_size`.
        max_size: The long side is at most so many pixels; the short one becomes less where they meet.
        mean: Of each channel, of images in 0 to 1.
        std: Of each channel, of images in 0 to 1.
    """

    min_size: tuple[int, ...] = (800,)
    test_min_size: int | None = None
    max_size: int = 1333
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class PyramidSettings:
    """The feature pyramid.

    Attributes:
        channels: Of every map, and of the convolutions of the heads.
        norm: After each convolution of the pyramid; the published recipes start from weights of ImageNet and have none.
    """

    channels: int = 256
    norm: Norm = "none"


@dataclass(frozen=True)
class AnchorSettings:
    """Anchors at each place of each map.

    Attributes:
        scales: Sides of square anchors in strides of the map, so that a map of stride 4 with scale 8 has anchors of
            32 pixels. None: as published, 8 for R-CNN, and 4 times 1, 2^(1/3), 2^(2/3) for RetinaNet.
        aspect_ratios: Height over width.
    """

    scales: tuple[float, ...] | None = None
    aspect_ratios: tuple[float, ...] = (0.5, 1.0, 2.0)


@dataclass(frozen=True)
class ProposalSettings:
    """The region proposal network of the R-CNNs.

    Attributes:
        train_pre_nms: Boxes of a map that enter the suppression in training.
        train_post_nms: Boxes of an image that leave it in training.
        test_pre_nms: Boxes of a map that enter it in evaluation.
        test_post_nms: Boxes of an image that leave it in evaluation.
        nms_threshold: Of two boxes that overlap (IoU) by more, the better one stays.
        positive_iou: Anchors that overlap an object by so much are positive; so is each object's best anchor.
        negative_iou: Anchors that overlap all objects by less are negative.
        samples: Anchors of an image that the loss sees.
        positive_fraction: Of the samples at most so many are positive.
    """

    train_pre_nms: int = 2000
    train_post_nms: int = 2000
    test_pre_nms: int = 1000
    test_post_nms: int = 1000
    nms_threshold: float = 0.7
    positive_iou: float = 0.7
    negative_iou: float = 0.3
    samples: int = 256
    positive_fraction: float = 0.5


@dataclass(frozen=True)
class HeadSettings:
    """The heads; all but `norm` are of the R-CNNs alone.

    Attributes:
        norm: In the convolutions of RetinaNet's two towers, or of the box head `4conv1fc`.
        box_head: Two fully connected layers, or four convolutions and one fully connected layer.
        fc_channels: Width of the fully connected layers.
        class_agnostic: One box for each region instead of one for each class.
        box_loss: Of a cascade: smooth L1 on the offsets, or the generalised IoU of the boxes.
        giou_weight: Weight of the latter.
        samples: Regions of an image that the loss sees.
        positive_fraction: Of the samples at most so many are positive.
    """

    norm: Norm = "none"
    box_head: Literal["2fc", "4conv1fc"] = "2fc"
    fc_channels: int = 1024
    class_agnostic: bool = False
    box_loss: Literal["smooth_l1", "giou"] = "smooth_l1"
    giou_weight: float = 10.0
    samples: int = 512
    positive_fraction: float = 0.25


@dataclass(frozen=True)
class CascadeSettings:
    """The stages of a cascade (Cai and Vasconcelos 2018), an entry each.

    Attributes:
        ious: Regions that overlap an object by so much are positive.
        box_weights: Of the offsets of a box: x, y, width, height.
        loss_weights: Of the stage's losses.
    """

    ious: tuple[float, ...] = (0.5, 0.6, 0.7)
    box_weights: tuple[Weights, ...] = ((10.0, 10.0, 5.0, 5.0), (20.0, 20.0, 10.0, 10.0), (30.0, 30.0, 15.0, 15.0))
    loss_weights: tuple[float, ...] = (1.0, 0.5, 0.25)


@dataclass(frozen=True)
class OutputSettings:
    """Which detections are given out.

    Attributes:
        score_threshold: Those of a score above it.
        nms_threshold: Of two of a class that overlap (IoU) by more, the better one.
        detections: At most so many of an image.
        candidates: Of RetinaNet: at most so many of a map enter the suppression.
    """

    score_threshold: float = 0.05
    nms_threshold: float = 0.5
    detections: int = 100
    candidates: int = 1000


@dataclass(frozen=True)
class DetectorSettings:
    """A detector but for its backbone.

    Attributes:
        kind: Which detector; those with `mask` in their name need masks in the targets.
        images: Resizing and normalisation.
        pyramid: The feature pyramid.
        anchors: Sizes and shapes of anchors.
        proposals: The region proposal network of the R-CNNs.
        heads: The heads.
        cascade: The stages of a cascade.
        outputs: Which detections are given out.
    """

    kind: DetectorKind = "retinanet"
    images: ImageSettings = field(default_factory=ImageSettings)
    pyramid: PyramidSettings = field(default_factory=PyramidSettings)
    anchors: AnchorSettings = field(default_factory=AnchorSettings)
    proposals: ProposalSettings = field(default_factory=ProposalSettings)
    heads: HeadSettings = field(default_factory=HeadSettings)
    cascade: CascadeSettings = field(default_factory=CascadeSettings)
    outputs: OutputSettings = field(default_factory=OutputSettings)

    @property
    def has_masks(self) -> bool:
        """Whether the detector predicts masks and learns from them."""
        return "mask" in self.kind

    @property
    def has_cascade(self) -> bool:
        """Whether the boxes are refined by several stages."""
        return self.kind.startswith("cascade")
