"""Which samples an epoch's batches hold: a function of seed and epoch, the same for any number of processes."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from acmix.tasks.data.seeding import epoch_order

__all__ = ["BatchKey", "EpochBatches", "EpochOrder"]


class BatchKey(NamedTuple):
    """What a batch is made from: all that a worker needs to know.

    Attributes:
        epoch: Number of the epoch, from 0.
        indices: Sample numbers [B].
    """

    epoch: int
    indices: NDArray[np.int64]


class EpochOrder:
    """The order of the samples in the current epoch.

    Args:
        count: Number of samples.
        seed: Seed of the run's data, >= 0.
        shuffle: A new permutation each epoch; otherwise 0, 1, 2, ...
        reshuffle: With False every epoch keeps the permutation of epoch 0.
    """

    def __init__(self, count: int, seed: int, *, shuffle: bool, reshuffle: bool = True) -> None:
        self.count = count
        self.seed = seed
        self.shuffle = shuffle
        self.reshuffle = reshuffle
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Moves to an epoch; Lightning calls this before each.

        Args:
            epoch: Number of the epoch, from 0.
        """
        self.epoch = epoch

    def order(self) -> NDArray[np.int64]:
        """Returns the sample numbers of the current epoch, in order [count]."""
        if not self.shuffle:
            return np.arange(self.count)
        return epoch_order(self.seed, self.epoch if self.reshuffle else 0, self.count)


class EpochBatches:
    """Cuts an epoch's order into batches and takes the share of one process.

    A step of all processes together reads the next `batch_size * world_size` samples of the order, and each process
    takes its part of them. So the steps read the same samples on 1 process with batch size 64 as on 2 with 32, and all
    processes have equally many batches. Where the last step has fewer samples than there are processes, those samples
    are repeated (at most `world_size - 1` times); every other sample is read exactly once.

    Args:
        sampler: The order of the samples (under this name Lightning finds its `set_epoch`).
        batch_size: Samples per batch and process.
        drop_last: Leaves out the last step where it is incomplete, unless it is the only one.
        rank: Number of this process.
        world_size: Number of processes.
    """

    def __init__(
        self, sampler: EpochOrder, batch_size: int, *, drop_last: bool, rank: int = 0, world_size: int = 1
    ) -> None:
        self.sampler = sampler
        self.batch_size = batch_size
        self.drop_last = drop_last
        self.rank = rank
        self.world_size = world_size

    @property
    def total_batch_size(self) -> int:
        """Samples per step of all processes together."""
        return self.batch_size * self.world_size

    def __len__(self) -> int:
        whole, rest = divmod(self.sampler.count, self.total_batch_size)
        return whole if (self.drop_last and whole) or not rest else whole + 1

    def __iter__(self) -> Iterator[BatchKey]:
        return self.starting_at(0)

    def starting_at(self, first_batch: int) -> Iterator[BatchKey]:
        """The batches of the current epoch from a position on.

        Args:
            first_batch: Number of batches to leave out at the beginning.

        Yields:
            The keys of this process's batches.
        """
        epoch, order = self.sampler.epoch, self.sampler.order()
        for step in range(first_batch, len(self)):
            samples = order[step * self.total_batch_size : (step + 1) * self.total_batch_size]
            if len(samples) < self.world_size:
                samples = np.resize(samples, self.world_size)
            yield BatchKey(epoch, np.array_split(samples, self.world_size)[self.rank])
