"""The loader that gives Lightning its batches, and how a run goes on in the middle of an epoch."""

import os
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from acmix.errors import UserError
from acmix.tasks.data.sampler import BatchKey, EpochBatches

__all__ = ["Batch", "BatchSource", "EpochLoader"]


class Batch(NamedTuple):
    """A batch as a source makes it.

    Attributes:
        images: float32 [B, C, H, W], or a list of [C, H, W] where sizes differ.
        targets: What belongs to the images: class numbers int64 [B], masks, or boxes in a list of dictionaries.
        skipped: Files that were left out because they cannot be read, with the reason.
    """

    images: Tensor | list[Tensor]
    targets: Any
    skipped: dict[str, str]


class BatchSource(Protocol):
    """A data set that makes whole batches; a pure function of the key."""

    def __len__(self) -> int:
        """Number of samples."""
        ...

    def batch(self, key: BatchKey) -> Batch:
        """Makes a batch.

        Args:
            key: Epoch and sample numbers [B].

        Returns:
            Images and targets.
        """
        ...


class EpochLoader:
    """Iterates over the batches of an epoch; resumes in the middle of one.

    How a restart finds its place. Lightning stores the progress of its loops in each checkpoint, and asks each loader
    that has `state_dict` and `load_state_dict` for a state of its own. On a restart in mid-epoch it hands that state
    back, makes the iterator, and only then says which epoch it is (`batch_sampler.sampler.set_epoch`). So this loader
    keeps no count of its own, which workers that read ahead and interrupted steps would falsify:

    * nothing is decided before the first batch is asked for (`__iter__` is a generator);
    * then, and only after `load_state_dict`, it asks `first_batch` for the number of batches of this epoch that the
      trainer has completed, and starts behind them without reading them;
    * every batch is made from its `BatchKey` alone, so the batches are those of the uninterrupted run, with any number
      of workers;
    * the state is used to refuse a restart that cannot continue the epoch (other seed, data or total batch size).

    It holds a `torch.utils.data.DataLoader` and is none itself, so Lightning neither replaces its sampler nor makes it
    anew.

    Args:
        source: Makes the batches.
        batch_sampler: Names the samples of the batches.
        num_workers: Worker processes; 0 makes the batches in this process.
        pin_memory: Copies batches to pinned memory, for CUDA.
        first_batch: Number of completed batches of the current epoch; asked after a restart.
        on_skip: Told the files that a batch left out, with the reasons.
    """

    def __init__(
        self,
        source: BatchSource,
        batch_sampler: EpochBatches,
        *,
        num_workers: int = 0,
        pin_memory: bool = False,
        first_batch: Callable[[], int] = lambda: 0,
        on_skip: Callable[[dict[str, str]], None] = lambda skipped: None,
    ) -> None:
        self.source = source
        self.batch_sampler = batch_sampler
        self.num_workers = num_workers
        self._first_batch = first_batch
        self._on_skip = on_skip
        self._restarted = False
        self._keys = _Keys(batch_sampler)
        self._loader = DataLoader(
            _Fetch(source),
            sampler=self._keys,
            batch_size=None,
            num_workers=num_workers,
            collate_fn=_unchanged,
            pin_memory=pin_memory,
            persistent_workers=num_workers > 0,
            # The workers' base seed comes from here and not from the global generator, which stays as it is.
            generator=torch.Generator(),
        )

    def __len__(self) -> int:
        return len(self.batch_sampler)

    def __iter__(self) -> Iterator[tuple[Any, Any]]:
        self._keys.first_batch = self._first_batch() if self._restarted else 0
        self._restarted = False
        for batch in self._loader:
            if isinstance(batch, UserError):
                self.close()
                raise batch
            if batch.skipped:
                self._on_skip(batch.skipped)
            yield batch.images, batch.targets

    @property
    def files(self) -> list[str]:
        """The files behind the samples, none for data that are not files."""
        paths = getattr(getattr(self.source, "store", None), "paths", ())
        return [os.fsdecode(path) for path in paths]

    def state_dict(self) -> dict[str, int]:
        """Returns what a restart in this epoch has to agree with; plain numbers."""
        sampler = self.batch_sampler.sampler
        return {
            "completed_batches": self._first_batch(),
            "seed": sampler.seed,
            "samples": sampler.count,
            "total_batch_size": self.batch_sampler.total_batch_size,
        }

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Makes the next iteration start where the trainer stands.

        Args:
            state_dict: What `state_dict` returned when the checkpoint was written.

        Raises:
            UserError: The checkpoint is from the middle of an epoch that this loader cannot continue.
        """
        self._restarted = True
        if state_dict["completed_batches"] == 0:
            return
        words = {"seed": "seed", "samples": "number of training images", "total_batch_size": "total batch size"}
        ours = self.state_dict()
        for name, word in words.items():
            if state_dict[name] != ours[name]:
                raise UserError(
                    f"the checkpoint is from the middle of an epoch with {word} {state_dict[name]}, this run has "
                    f"{ours[name]}: resume with the same {word}, or from a checkpoint of an epoch's end"
                )

    def close(self) -> None:
        """Ends the worker processes; the next iteration starts new ones."""
        # A loader with persistent workers keeps them in this attribute alone; it has no public way to end them.
        self._loader._iterator = None


class _Keys(Sampler[BatchKey]):
    """The batch keys from a position on, in the form that `DataLoader` takes."""

    def __init__(self, batches: EpochBatches) -> None:
        self.batches = batches
        self.first_batch = 0

    def __iter__(self) -> Iterator[BatchKey]:
        return self.batches.starting_at(self.first_batch)

    def __len__(self) -> int:
        return len(self.batches)


class _Fetch(Dataset[Any]):
    """Makes batches, in a worker or in the main process.

    A `UserError` travels as a value: torch would pack one raised in a worker into several lines of traceback.
    """

    def __init__(self, source: BatchSource) -> None:
        self.source = source

    def __getitem__(self, key: BatchKey) -> Batch | UserError:
        try:
            return self.source.batch(key)
        except UserError as error:
            return error


def _unchanged(batch: Any) -> Any:
    return batch
