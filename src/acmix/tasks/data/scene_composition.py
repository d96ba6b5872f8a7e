"""Puts handwritten digits on a background, so that their boxes and masks are known."""

import math
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from acmix.tasks.data.scene_textures import draw_background

__all__ = ["MAX_OVERLAP", "MIN_VISIBLE", "Scene", "SceneForm", "compose_scene"]

MIN_VISIBLE = 0.6
"""Share of a digit's pixels that later digits leave uncovered, at least."""

MAX_OVERLAP = 0.3
"""Largest part of the smaller of two digits' boxes that lies within the other, as they are drawn."""

_STROKE = 0.45
_EDGE = 0.15
_TRIES = 12
_COLOURS = 12
_CONTRAST = 0.45

_Window: TypeAlias = tuple[slice, slice]


class SceneForm(NamedTuple):
    """What the scenes of a data set have in common.

    Attributes:
        size: Height and width of the image.
        max_digits: Most digits in a scene; the least is one.
        digit_sizes: Smallest and largest side of the square that a digit is drawn in, in pixels.
    """

    size: int = 96
    max_digits: int = 6
    digit_sizes: tuple[int, int] = (14, 36)


class Scene(NamedTuple):
    """A picture of N digits.

    Attributes:
        image: Float32 [H, W, 3] in [0, 1].
        digits: Int64 [N] in 0 to 9.
        masks: The visible pixels of each digit, bool [N, H, W]; no two overlap.
    """

    image: NDArray[np.float32]
    digits: NDArray[np.int64]
    masks: NDArray[np.bool_]

    @property
    def boxes(self) -> NDArray[np.float32]:
        """Tight boxes around the masks, float32 [N, 4]: left, top, right, bottom; right and bottom exclusive."""
        sides = []
        for axis in (1, 2):
            inside: NDArray[np.bool_] = np.any(self.masks, axis=axis)
            sides += [inside.argmax(axis=1), inside.shape[1] - inside[:, ::-1].argmax(axis=1)]
        return np.stack([sides[0], sides[2], sides[1], sides[3]], axis=1).astype(np.float32)


def compose_scene(
    rng: np.random.Generator, images: NDArray[np.float32], labels: NDArray[np.int64], form: SceneForm
) -> Scene:
    """Draws 1 to `max_digits` digits of random sizes, places and colours, later ones on top of earlier ones.

    A digit that finds no place where all earlier ones stay visible enough is left out.

    Args:
        rng: Where the randomness comes from.
        images: Handwritten digits to choose from, float32 [M, 8, 8] in [0, 1].
        labels: Which digits they are, int64 [M].
        form: Sizes and numbers.

    Returns:
        The scene.
    """
    picture = draw_background(rng, form.size)
    chosen = rng.integers(len(labels), size=rng.integers(1, form.max_digits + 1))
    placed: list[int] = []
    masks: list[NDArray[np.bool_]] = []
    areas: list[int] = []
    windows: list[_Window] = []
    for number in chosen.tolist():
        for _ in range(_TRIES):
            opacity, window = _place(rng, images[number], form)
            stroke = opacity > 0.5
            if any(_overlap(window, other) > MAX_OVERLAP for other in windows):
                continue
            left = [int(np.count_nonzero(mask)) - int(np.count_nonzero(mask[window] & stroke)) for mask in masks]
            if all(rest >= MIN_VISIBLE * area for rest, area in zip(left, areas, strict=True)):
                break
        else:
            continue
        for mask in masks:
            mask[window] &= ~stroke
        whole = np.zeros((form.size, form.size), dtype=np.bool_)
        whole[window] = stroke
        placed.append(number)
        masks.append(whole)
        areas.append(int(np.count_nonzero(stroke)))
        windows.append(window)
        below = picture[window]
        below += opacity[..., None] * (_colour(rng, below[stroke].mean(axis=0)) - below)
    return Scene(picture, labels[placed], np.stack(masks))


def _place(
    rng: np.random.Generator, image: NDArray[np.float32], form: SceneForm
) -> tuple[NDArray[np.float32], _Window]:
    """A digit's opacity [h, w], cut to its stroke, and where it goes in the picture."""
    smallest, largest = form.digit_sizes
    side = smallest * (largest / smallest) ** rng.random()
    narrow = rng.uniform(0.85, 1.0)
    width, height = max(4, round(side * narrow)), max(4, round(side))
    ink = np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC))
    opacity = np.clip((ink - (_STROKE - _EDGE)) / (2 * _EDGE), 0, 1).astype(np.float32)
    rows, columns = (np.flatnonzero((opacity > 0.5).any(axis=axis)) for axis in (1, 0))
    opacity = opacity[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    top, left = (int(rng.integers(form.size - length + 1)) for length in opacity.shape)
    return opacity, (slice(top, top + opacity.shape[0]), slice(left, left + opacity.shape[1]))


def _overlap(first: _Window, second: _Window) -> float:
    """What two windows share, as a part of the smaller one."""
    shared: int = math.prod(
        max(0, min(a.stop, b.stop) - max(a.start, b.start)) for a, b in zip(first, second, strict=True)
    )
    smaller: int = min(math.prod(side.stop - side.start for side in window) for window in (first, second))
    return shared / smaller


def _colour(rng: np.random.Generator, ground: NDArray[np.float32]) -> NDArray[np.float32]:
    """A random colour that stands out from the one beneath."""
    colours = rng.random((_COLOURS, 3), dtype=np.float32)
    contrast = np.abs((colours - ground) @ np.array([0.3, 0.6, 0.1], dtype=np.float32))
    enough = contrast >= _CONTRAST
    chosen: NDArray[np.float32] = colours[enough.argmax() if enough.any() else contrast.argmax()]
    return chosen
