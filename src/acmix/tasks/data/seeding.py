"""Randomness as a function of (seed, epoch, index): nothing here depends on what ran before.

Two ways to draw, for two kinds of transform:

* `epoch_uniforms`: a table of uniform numbers for one epoch, one row per sample. Transforms of whole batches read the
  rows of their samples.
* `preserved_rng` with `seed_sample`: for transforms of others (timm, torchvision) that draw from the global generators
  of Python, NumPy and torch. Each sample seeds them anew, and the caller finds them as they were before.
"""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray

__all__ = ["epoch_order", "epoch_uniforms", "preserved_rng", "seed_sample"]

# One stream per purpose, so that the order of an epoch and its augmentation share no random number.
_ORDER, _UNIFORMS, _SAMPLE = 0, 1, 2


def epoch_order(seed: int, epoch: int, count: int) -> NDArray[np.int64]:
    """The order in which an epoch reads its samples.

    Args:
        seed: Seed of the run's data, >= 0.
        epoch: Number of the epoch, from 0.
        count: Number of samples.

    Returns:
        A permutation of `range(count)`.
    """
    return np.random.default_rng((_ORDER, seed, epoch)).permutation(count)


@lru_cache(maxsize=2)
def epoch_uniforms(seed: int, epoch: int, count: int, draws: int) -> NDArray[np.float32]:
    """Uniform random numbers for every sample of an epoch.

    The tables of the last two epochs are kept: a table is drawn once per epoch and process.

    Args:
        seed: Seed of the run's data, >= 0.
        epoch: Number of the epoch, from 0.
        count: Number of samples.
        draws: Random numbers per sample.

    Returns:
        Read-only array [count, draws] in [0, 1); row i belongs to sample i and does not depend on `count`.
    """
    table = np.random.default_rng((_UNIFORMS, seed, epoch)).random((count, draws), dtype=np.float32)
    table.flags.writeable = False
    return table


@contextmanager
def preserved_rng() -> Iterator[None]:
    """Restores the global CPU generators of Python, NumPy and torch at the end of the block."""
    python_state = random.getstate()
    numpy_state = np.random.get_state()  # noqa: NPY002 - the legacy generator is the one that timm draws from
    torch_state = torch.default_generator.get_state()
    try:
        yield
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)  # noqa: NPY002 - as above
        torch.default_generator.set_state(torch_state)


def seed_sample(seed: int, epoch: int, index: int) -> None:
    """Seeds the global CPU generators for one sample; call it inside `preserved_rng`.

    Args:
        seed: Seed of the run's data, >= 0.
        epoch: Number of the epoch, from 0.
        index: Number of the sample in its data set.
    """
    words = np.random.SeedSequence((_SAMPLE, seed, epoch, index)).generate_state(3)
    random.seed(int(words[0]))
    np.random.seed(int(words[1]))  # noqa: NPY002 - the legacy generator is the one that timm draws from
    # torch.manual_seed would seed the accelerators as well.
    torch.default_generator.manual_seed(int(words[2]))
