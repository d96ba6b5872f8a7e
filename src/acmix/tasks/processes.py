"""What the processes of a run tell each other."""

from typing import TypeVar

import torch

__all__ = ["merged"]

K = TypeVar("K")
V = TypeVar("V")


def merged(rows: dict[K, V], world_size: int) -> dict[K, V]:
    """The entries of all processes together; each key's is the last process's that has it.

    Args:
        rows: This process's entries; plain values.
        world_size: Number of processes; all of them call this.
    """
    if world_size == 1:
        return rows
    parts: list[dict[K, V]] = [{}] * world_size
    torch.distributed.all_gather_object(parts, rows)
    return {key: value for part in parts for key, value in part.items()}
