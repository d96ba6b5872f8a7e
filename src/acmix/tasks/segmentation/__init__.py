"""Semantic segmentation: Semantic FPN and UperNet on the networks of the zoo."""

from acmix.tasks.data.segmentation_labels import IGNORE
from acmix.tasks.segmentation.decoder import DecoderSettings
from acmix.tasks.segmentation.inference import Inference, segment, segment_all
from acmix.tasks.segmentation.network import Segmenter, build_segmenter
from acmix.tasks.segmentation.task import SegmentationTask

__all__ = [
    "IGNORE",
    "DecoderSettings",
    "Inference",
    "SegmentationTask",
    "Segmenter",
    "build_segmenter",
    "segment",
    "segment_all",
]
