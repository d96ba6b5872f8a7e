"""A step's randomness as a function of seed, epoch, batch and rank, never of what ran before."""

import os
import random

import numpy as np
import torch

__all__ = ["seed_step"]


def seed_step(epoch: int, batch: int, rank: int) -> None:
    """Seeds all generators that a training step draws from (drop path, dropout, Mixup).

    The run's seed is the one given to Lightning's `seed_everything`, 0 without one. So a run that stops in mid-epoch
    and is resumed draws what the run that went through drew.

    Args:
        epoch: The epoch, from 0.
        batch: The batch within the epoch, from 0.
        rank: The process's rank among all processes.
    """
    seed = int(os.environ.get("PL_GLOBAL_SEED", "0"))
    words = np.random.SeedSequence((seed, epoch, batch, rank)).generate_state(4)
    torch.manual_seed(int(words[0]) << 32 | int(words[1]))
    random.seed(int(words[2]))
    np.random.seed(int(words[3]))  # noqa: NPY002  timm's Mixup draws from NumPy's global generator
