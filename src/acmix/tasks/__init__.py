"""Training, evaluation and use of networks on Lightning."""

from acmix.tasks.base import Task
from acmix.tasks.classification import ClassificationTask, Targets
from acmix.tasks.detection.task import DetectionTask
from acmix.tasks.recipe import Recipe
from acmix.tasks.segmentation.task import SegmentationTask

__all__ = ["ClassificationTask", "DetectionTask", "Recipe", "SegmentationTask", "Targets", "Task"]
