"""Memory: the peak of a call, what is kept for the backward pass, and what the machine has left."""

import itertools
import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from acmix.bench.timing import Call
from acmix.ops.impl import cpu

__all__ = ["available_bytes", "held_bytes", "peak_bytes", "saved_bytes"]

_MEMORY_INFO = Path("/proc/meminfo")


def held_bytes(*tensors: Tensor) -> int:
    """Bytes of the distinct storages behind some tensors."""
    storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in tensors}
    return sum(storages.values())


def peak_bytes(call: Call, device: str, *held: Tensor) -> int:
    """The most memory that torch's allocator has handed out at once during a call, and what was held before it.

    Scratch memory that native kernels take for themselves, some rows per thread, is not in it.

    Args:
        call: what is measured; its first call should lie behind it.
        device: device type.
        held: tensors that are there before: parameters, buffers, inputs.

    Returns:
        Bytes.
    """
    if device == "cuda":
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        call()
        torch.cuda.synchronize()
        return int(torch.cuda.max_memory_allocated() - before + held_bytes(*held))
    cpu.release_blocks()  # torch's allocator would not be asked again for what lies ready
    # The profiler's library tells of its start on standard error, in the middle of the progress.
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        call()
    results: Any = profiler.profiler
    events = [event for event in results.kineto_results.events() if event.name() == "[memory]"]
    sizes = [event.nbytes() for event in sorted(events, key=lambda event: int(event.start_ns()))]
    return int(held_bytes(*held) + max(itertools.accumulate(sizes), default=0))


def saved_bytes(module: nn.Module, inputs: tuple[Tensor, ...]) -> int:
    """Bytes of all distinct storages that autograd keeps for the backward pass, parameters and inputs included.

    Args:
        module: what is measured.
        inputs: its inputs, which require gradients.
    """
    storages: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        storages[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        out = module(*inputs)
    # Alive until here, so that no storage's address is used twice.
    total = sum(storages.values())
    del out
    return total


def available_bytes(device: str) -> int | None:
    """Memory that is free for tensors now; None where the system does not tell."""
    if device == "cuda":
        return int(torch.cuda.mem_get_info()[0])
    if not _MEMORY_INFO.exists():
        return None
    lines = _MEMORY_INFO.read_text(encoding="utf-8").splitlines()
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")), None)
