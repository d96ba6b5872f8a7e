"""From decoded images to batches: timm's transforms image by image, and the CIFAR recipe on whole batches."""

from collections.abc import Callable, Iterable
from typing import Any, Protocol

import numpy as np
import torch
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from acmix.errors import UserError
from acmix.tasks.data.augmentation import Augmentation, ImageFormat, Interpolation
from acmix.tasks.data.images import Images
from acmix.tasks.data.sampler import BatchKey
from acmix.tasks.data.seeding import epoch_uniforms, preserved_rng, seed_sample

__all__ = ["BatchTransform", "for_evaluation", "for_training"]


class BatchTransform(Protocol):
    """Makes a batch of images ready for the network."""

    def __call__(self, images: Images, key: BatchKey) -> Tensor:
        """Transforms images.

        Args:
            images: uint8 [B, H, W, 3] or single images.
            key: Epoch and sample numbers [B] of these images.

        Returns:
            float32 [B, 3, H, W].
        """
        ...


def for_training(augmentation: Augmentation, form: ImageFormat, seed: int, count: int) -> BatchTransform:
    """The transform for training.

    Args:
        augmentation: How images are varied.
        form: What they look like afterwards.
        seed: Seed of the run's data.
        count: Number of samples in the data set.

    Returns:
        Crops and flips of whole batches where nothing else is asked for, otherwise timm's transforms per image.

    Raises:
        UserError: timm does not know the `auto_augment` policy.
    """
    extras = augmentation.auto_augment or augmentation.jitter or augmentation.re_prob
    if augmentation.crop != "resized" and not extras:
        return _CropAndFlip(augmentation, form, seed, count)
    return _PerImage(_timm_training(augmentation, form), seed)


def for_evaluation(form: ImageFormat) -> BatchTransform:
    """The transform for validation, test and prediction: resize, centre crop, normalise.

    Args:
        form: What images look like afterwards.

    Returns:
        timm's transform, on whole batches where images in memory have the right size already.
    """
    from timm.data.transforms_factory import create_transform

    steps = create_transform(
        form.size,
        interpolation=_fixed(form.interpolation),
        mean=form.mean,
        std=form.std,
        crop_pct=form.crop_pct,
    )
    return _Evaluation(form, _PerImage(steps, seed=None))


class _PerImage:
    """Applies a transform of others to each image, its random numbers fixed by (seed, epoch, index)."""

    def __init__(self, steps: Callable[[Image.Image], Tensor], seed: int | None) -> None:
        self.steps = steps
        self.seed = seed

    def __call__(self, images: Images, key: BatchKey) -> Tensor:
        singles = _singles(images)
        if self.seed is None:
            return torch.stack([self.steps(image) for image in singles])
        with preserved_rng():
            results = []
            for image, index in zip(singles, key.indices.tolist(), strict=True):
                seed_sample(self.seed, key.epoch, index)
                results.append(self.steps(image))
            return torch.stack(results)


class _Evaluation:
    """Resize, centre crop, normalise; only the last where nothing else is to do."""

    def __init__(self, form: ImageFormat, per_image: _PerImage) -> None:
        self.form = form
        self.per_image = per_image

    def __call__(self, images: Images, key: BatchKey) -> Tensor:
        size = (self.form.size, self.form.size)
        if isinstance(images, np.ndarray) and images.shape[1:3] == size and self.form.crop_pct == 1:
            return _normalise(images.transpose(0, 3, 1, 2), self.form)
        return self.per_image(images, key)


class _CropAndFlip:
    """Random crops of the padded images and random flips, a whole batch at a time.

    In NumPy: on batches this small, torch's threads cost more than they give wherever other work keeps the cores busy.
    """

    def __init__(self, augmentation: Augmentation, form: ImageFormat, seed: int, count: int) -> None:
        self.padding = augmentation.padding if augmentation.crop == "padded" else 0
        self.hflip = augmentation.hflip
        self.vflip = augmentation.vflip
        self.form = form
        self.seed = seed
        self.count = count
        self.resize = _resize_and_center(form)

    def __call__(self, images: Images, key: BatchKey) -> Tensor:
        size, pad = self.form.size, self.padding
        if not isinstance(images, np.ndarray) or images.shape[1:3] != (size, size):
            images = np.stack([np.asarray(self.resize(image)) for image in _singles(images)])
        draws = epoch_uniforms(self.seed, key.epoch, self.count, 4)[key.indices]
        batch = np.arange(len(images))
        if pad:
            top, left = (draws[:, :2] * (2 * pad + 1)).astype(np.int64).T
            padded = np.zeros((len(images), size + 2 * pad, size + 2 * pad, 3), dtype=np.uint8)
            padded[:, pad : pad + size, pad : pad + size] = images
            crops = sliding_window_view(padded, (size, size), axis=(1, 2))[batch, top, left]
        else:
            crops = images.transpose(0, 3, 1, 2).copy()
        mirrored, upended = batch[draws[:, 2] < self.hflip], batch[draws[:, 3] < self.vflip]
        crops[mirrored] = crops[mirrored][:, :, :, ::-1]
        crops[upended] = crops[upended][:, :, ::-1]
        return _normalise(crops, self.form)


def _singles(images: Images) -> Iterable[Image.Image]:
    return map(Image.fromarray, images) if isinstance(images, np.ndarray) else images


def _normalise(images: NDArray[np.uint8], form: ImageFormat) -> Tensor:
    """uint8 [B, 3, H, W] to normalised float32, in the order of torchvision's ToTensor and Normalize."""
    mean, std = (np.array(values, dtype=np.float32).reshape(3, 1, 1) for values in (form.mean, form.std))
    floats = images.astype(np.float32, order="C")
    floats /= np.float32(255)
    floats -= mean
    floats /= std
    return torch.from_numpy(floats)


def _resize_and_center(form: ImageFormat) -> Callable[[Image.Image], Image.Image]:
    from torchvision import transforms

    resize = transforms.Resize(form.size, transforms.InterpolationMode(_fixed(form.interpolation)))
    steps: Callable[[Image.Image], Image.Image] = transforms.Compose([resize, transforms.CenterCrop(form.size)])
    return steps


def _timm_training(augmentation: Augmentation, form: ImageFormat) -> Callable[[Image.Image], Tensor]:
    from timm.data.transforms_factory import create_transform
    from torchvision import transforms

    try:
        crop, change, finish = create_transform(
            form.size,
            is_training=True,
            scale=augmentation.scale,
            ratio=augmentation.ratio,
            hflip=augmentation.hflip,
            vflip=augmentation.vflip,
            color_jitter=augmentation.jitter,
            auto_augment=augmentation.auto_augment,
            interpolation=form.interpolation,
            mean=form.mean,
            std=form.std,
            re_prob=augmentation.re_prob,
            re_mode=augmentation.re_mode,
            re_count=augmentation.re_count,
            separate=True,
        )
    except (AssertionError, KeyError, ValueError) as error:
        if augmentation.auto_augment is None:
            raise
        raise UserError(
            f"auto_augment {augmentation.auto_augment!r} is no policy that timm knows ({error}): "
            "write, for example, rand-m9-mstd0.5-inc1"
        ) from None
    _keep_a_bit(change)
    if augmentation.crop != "resized":
        padding = augmentation.padding if augmentation.crop == "padded" else 0
        flips: list[Any] = [
            transforms.RandomHorizontalFlip(augmentation.hflip),
            transforms.RandomVerticalFlip(augmentation.vflip),
        ]
        crop = transforms.Compose([_resize_and_center(form), transforms.RandomCrop(form.size, padding=padding), *flips])
    steps: Callable[[Image.Image], Tensor] = transforms.Compose([crop, change, finish])
    return steps


def _keep_a_bit(steps: Any) -> None:
    """Lets timm's posterize keep at least one bit per channel.

    At the largest magnitude timm asks for none, which Pillow from version 13 on refuses.
    """
    from timm.data.auto_augment import AugMixAugment, AutoAugment, RandAugment

    for step in steps.transforms:
        ops: list[Any] = []
        if isinstance(step, AutoAugment):
            ops = [op for policy in step.policy for op in policy]
        elif isinstance(step, RandAugment | AugMixAugment):
            ops = step.ops
        for op in ops:
            if op.name.startswith("Posterize"):
                op.level_fn = _AtLeastOneBit(op.level_fn)


class _AtLeastOneBit:
    """A level function of timm's posterize with a floor; a class, so that it can be pickled for worker processes."""

    def __init__(self, level_fn: Callable[[float, dict[str, Any]], tuple[int]]) -> None:
        self.level_fn = level_fn

    def __call__(self, level: float, hparams: dict[str, Any]) -> tuple[int]:
        return (max(1, self.level_fn(level, hparams)[0]),)


def _fixed(interpolation: Interpolation) -> str:
    return "bilinear" if interpolation == "random" else interpolation
