"""Training, evaluation and use of networks on Lightning."""

from acmix.tasks.base import Task
from acmix.tasks.classification import ClassificationTask, Targets
from acmix.tasks.recipe import Recipe

__all__ = ["ClassificationTask", "Recipe", "Targets", "Task"]
