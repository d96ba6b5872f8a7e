"""What `acmix predict` writes, by task."""

from typing import TypeAlias

from acmix.tasks.base import Task
from acmix.tasks.detection.predictions import DetectionPredictions
from acmix.tasks.detection.task import DetectionTask
from acmix.tasks.predictions import PredictionTable
from acmix.tasks.run_directory import RunDirectory
from acmix.tasks.segmentation.predictions import SegmentationPredictions
from acmix.tasks.segmentation.task import SegmentationTask

__all__ = ["PredictionWriter", "prediction_writer"]

PredictionWriter: TypeAlias = PredictionTable | DetectionPredictions | SegmentationPredictions


def prediction_writer(task: Task, directory: RunDirectory) -> PredictionWriter:
    """The callback that keeps a task's predictions: a table of classes, or a folder of pictures.

    Args:
        task: What predicts.
        directory: Where the run keeps its files.
    """
    if isinstance(task, DetectionTask):
        return DetectionPredictions(directory.prediction_folder)
    if isinstance(task, SegmentationTask):
        return SegmentationPredictions(directory.prediction_folder)
    return PredictionTable(directory.predictions)
