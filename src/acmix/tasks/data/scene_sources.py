"""Batches of digit scenes."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from acmix.tasks.data.loader import Batch
from acmix.tasks.data.sampler import BatchKey
from acmix.tasks.data.scene_composition import Scene, SceneForm, compose_scene

__all__ = ["SCENE_MEAN", "SCENE_STD", "DetectionScenes", "Scenes", "SegmentationScenes"]

# Streams of their own, beside those of acmix.tasks.data.seeding.
_FIXED, _FRESH = 3, 4
SCENE_MEAN, SCENE_STD = 0.5, 0.25
"""What scenes for segmentation are normalised by, in all channels."""


class Scenes:
    """The scenes of one part: a function of part and number, or of seed, epoch and number.

    Args:
        images: Handwritten digits to choose from, float32 [M, 8, 8].
        labels: Which digits they are, int64 [M].
        form: Sizes and numbers.
        count: Number of scenes.
        part: Number of the part.
        seed: With a seed, each epoch has scenes of its own; None: all have the same.
    """

    def __init__(
        self,
        images: NDArray[np.float32],
        labels: NDArray[np.int64],
        form: SceneForm,
        count: int,
        part: int,
        seed: int | None,
    ) -> None:
        self.images = images
        self.labels = labels
        self.form = form
        self.count = count
        self.part = part
        self.seed = seed

    def of(self, key: BatchKey) -> list[Scene]:
        """Composes the scenes of a batch.

        Args:
            key: Epoch and scene numbers [B].

        Returns:
            B scenes.
        """
        return [self._scene(key.epoch, index) for index in key.indices.tolist()]

    def _scene(self, epoch: int, index: int) -> Scene:
        words = (_FIXED, self.part, index) if self.seed is None else (_FRESH, self.seed, epoch, index)
        return compose_scene(np.random.default_rng(words), self.images, self.labels, self.form)


class DetectionScenes:
    """Scenes with boxes and masks; a `DetectionSource`.

    Args:
        scenes: The scenes.
    """

    def __init__(self, scenes: Scenes) -> None:
        self.scenes = scenes
        self.category_ids = list(range(1, 11))

    def __len__(self) -> int:
        return self.scenes.count

    def file_name(self, image_id: int) -> str:
        """A name for a scene.

        Args:
            image_id: The scene's number.

        Returns:
            What its file could be called.
        """
        return f"scene_{image_id:05d}.png"

    def batch(self, key: BatchKey) -> Batch:
        """Composes scenes.

        Args:
            key: Epoch and scene numbers [B].

        Returns:
            Images [3, H, W] in [0, 1] and torchvision's target dictionaries.
        """
        scenes = self.scenes.of(key)
        targets = [_target(scene, index) for scene, index in zip(scenes, key.indices.tolist(), strict=True)]
        return Batch([_planes(scene) for scene in scenes], targets, {})


class SegmentationScenes:
    """Scenes with a class for each pixel; a `BatchSource`.

    Args:
        scenes: The scenes.
        stacked: Batches are tensors, for training; otherwise lists of single images and maps.
    """

    def __init__(self, scenes: Scenes, *, stacked: bool) -> None:
        self.scenes = scenes
        self.stacked = stacked

    def __len__(self) -> int:
        return self.scenes.count

    def batch(self, key: BatchKey) -> Batch:
        """Composes scenes.

        Args:
            key: Epoch and scene numbers [B].

        Returns:
            Normalised images [3, H, W] and maps int64 [H, W], stacked or in lists.
        """
        scenes = self.scenes.of(key)
        images = [(_planes(scene) - SCENE_MEAN) / SCENE_STD for scene in scenes]
        maps = [torch.from_numpy(_classes(scene)) for scene in scenes]
        return Batch(torch.stack(images), torch.stack(maps), {}) if self.stacked else Batch(images, maps, {})


def _planes(scene: Scene) -> Tensor:
    return torch.from_numpy(scene.image).permute(2, 0, 1).contiguous()


def _target(scene: Scene, index: int) -> dict[str, Tensor]:
    return {
        "boxes": torch.from_numpy(scene.boxes),
        "labels": torch.from_numpy(scene.digits + 1),
        "masks": torch.from_numpy(scene.masks.astype(np.uint8)),
        "image_id": torch.tensor(index),
        "area": torch.from_numpy(scene.masks.sum(axis=(1, 2)).astype(np.float32)),
        "iscrowd": torch.zeros(len(scene.digits), dtype=torch.int64),
        "orig_size": torch.tensor(scene.image.shape[:2]),
    }


def _classes(scene: Scene) -> NDArray[np.int64]:
    """Classes of all pixels; as masks do not overlap, their order is of no account."""
    classes: NDArray[np.int64] = np.tensordot(scene.digits + 1, scene.masks, axes=1).astype(np.int64)
    return classes
