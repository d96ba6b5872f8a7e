"""Procedural backgrounds for the digit scenes: gradients, smooth noise and stripes in two colours, with grain."""

from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["draw_background", "smooth_noise"]

_GRAIN = 0.03


def draw_background(rng: np.random.Generator, size: int) -> NDArray[np.float32]:
    """Draws a background.

    Args:
        rng: Where the randomness comes from.
        size: Height and width.

    Returns:
        Float32 [size, size, 3] in [0, 1].
    """
    ends = rng.uniform(0.05, 0.95, (2, 3)).astype(np.float32)
    blend = _PATTERNS[rng.integers(len(_PATTERNS))](rng, size)
    picture: NDArray[np.float32] = ends[0] + blend[..., None] * (ends[1] - ends[0])
    picture += np.float32(_GRAIN) * (2 * rng.random((size, size, 1), dtype=np.float32) - 1)
    return np.clip(picture, 0, 1, out=picture)


def smooth_noise(rng: np.random.Generator, size: int, cells: int) -> NDArray[np.float32]:
    """Uniform random numbers on a coarse grid, interpolated smoothly.

    Args:
        rng: Where the randomness comes from.
        size: Height and width.
        cells: Cells of the grid along each side.

    Returns:
        Float32 [size, size] in [0, 1].
    """
    weights = _weights(size, cells)
    noise = weights @ rng.random((cells + 1, cells + 1), dtype=np.float32) @ weights.T
    return _float(noise)


def _gradient(rng: np.random.Generator, size: int) -> NDArray[np.float32]:
    return _float((_slope(rng, size) + 1) / 2)


def _clouds(rng: np.random.Generator, size: int) -> NDArray[np.float32]:
    cells = int(rng.integers(2, 5))
    coarse, middle, fine = (smooth_noise(rng, size, factor * cells) for factor in (1, 2, 5))
    return _float(0.55 * coarse + 0.3 * middle + 0.15 * fine)


def _speckles(rng: np.random.Generator, size: int) -> NDArray[np.float32]:
    return _float((smooth_noise(rng, size, 3) + smooth_noise(rng, size, int(rng.integers(12, 24)))) / 2)


def _stripes(rng: np.random.Generator, size: int) -> NDArray[np.float32]:
    """Wavy stripes, paler than the other patterns: strokes shall not be mistaken for them."""
    waves = rng.uniform(2, 7) * _slope(rng, size) + 2 * smooth_noise(rng, size, 3)
    return _float(0.5 + 0.3 * np.sin(np.pi * waves))


_PATTERNS = (_gradient, _clouds, _clouds, _speckles, _stripes)


def _slope(rng: np.random.Generator, size: int) -> NDArray[np.float32]:
    """A plane through zero at the centre, in a random direction, within [-1, 1]."""
    angle = rng.uniform(0, 2 * np.pi)
    line = np.linspace(-1, 1, size)
    across, down = np.cos(angle), np.sin(angle)
    return _float((across * line[None] + down * line[:, None]) / (abs(across) + abs(down)))


@lru_cache(maxsize=64)
def _weights(size: int, cells: int) -> NDArray[np.float32]:
    """Interpolation between neighbouring grid points, with no slope at the points: [size, cells + 1]."""
    place = np.linspace(0, cells, size, endpoint=False)
    left = place.astype(np.int64)
    share = place - left
    share = share * share * (3 - 2 * share)
    weights = np.zeros((size, cells + 1), dtype=np.float32)
    rows = np.arange(size)
    weights[rows, left], weights[rows, left + 1] = 1 - share, share
    weights.flags.writeable = False
    return weights


def _float(values: NDArray[Any]) -> NDArray[np.float32]:
    return values.astype(np.float32, copy=False)
