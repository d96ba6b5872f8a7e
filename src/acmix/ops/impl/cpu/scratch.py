"""Memory that is kept from one call to the next: new memory costs as much as a small map's attention.

The system hands out memory page by page, and cleared, when it is first written to.
"""

import math
import threading

import torch
from torch import Tensor

from acmix.ops.impl.cpu.native import MISSING

__all__ = ["idle_bytes", "kept_memory", "release_blocks", "release_memory", "scratch", "stays"]

# Bytes of one buffer that is kept, or for each of torch's threads; what is larger is new for each call, and given back.
_MOST = 6 * 2**20
_MOST_OF_A_THREAD = 3 * 2**19

# Views of a thread's buffers that are kept: a network asks for the same few shapes again and again.
_MOST_VIEWS = 64


class _Kept(threading.local):
    """A thread's buffers by their names, and views of them."""

    def __init__(self) -> None:
        self.buffers: dict[str, Tensor] = {}
        self.views: dict[tuple[str, tuple[int, ...]], Tensor] = {}


_kept = _Kept()


def stays(shape: tuple[int, ...]) -> bool:
    """Whether scratch memory of that shape is kept; it would be too much to hold for each thread otherwise."""
    return 4 * math.prod(shape) <= max(_MOST, _MOST_OF_A_THREAD * torch.get_num_threads())


def scratch(name: str, shape: tuple[int, ...]) -> Tensor:
    """Memory of float32 on the CPU with arbitrary values; a name's is one and the same for all calls of a thread.

    Args:
        name: whose memory it is: two that are in use at a time have two names.
        shape: of what comes back.
    """
    # Under a mode, memory may be fake.
    if not torch._C._len_torch_dispatch_stack():
        view = _kept.views.get((name, shape))
        if view is not None:
            return view
    # A buffer that was made for inference alone could not be written to elsewhere.
    with torch.inference_mode(False):
        return _new_view(name, shape)


def _new_view(name: str, shape: tuple[int, ...]) -> Tensor:
    entries = math.prod(shape)
    if torch._C._len_torch_dispatch_stack() or not stays(shape):
        return torch.empty(shape, dtype=torch.float32, device="cpu")
    buffer = _kept.buffers.get(name)
    if buffer is None or buffer.numel() < entries:
        buffer = torch.empty(entries, dtype=torch.float32, device="cpu")
        # Views would keep the memory that they are of.
        _kept.views = {key: view for key, view in _kept.views.items() if key[0] != name}
        _kept.buffers[name] = buffer
    if len(_kept.views) >= _MOST_VIEWS:
        _kept.views.clear()
    view = buffer[:entries].view(shape)
    _kept.views[name, shape] = view
    return view


def kept_memory(x: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Memory [B, 3, N, D, H, W] of float32, with arbitrary values, that lies ready again when its storage has died.

    Args:
        x: a tensor that tells where and as what it is, under modes in which memory may be fake.
        shape: of what comes back.
    """
    if torch._C._len_torch_dispatch_stack():
        return x.new_empty(shape)
    batch, _, heads, width, height, columns = shape
    kept: Tensor = torch.ops.acmix_cpu.kept_memory(batch, heads, width, height, columns)
    return kept


def idle_bytes() -> int:
    """Bytes that lie ready for what the next training steps keep or write on the way; 512 MiB at most."""
    return 0 if MISSING is not None else int(torch.ops.acmix_cpu.idle_memory())


def release_memory() -> None:
    """Gives back to the system what lies ready for later calls: idle blocks, and this thread's scratch memory."""
    _kept.buffers.clear()
    _kept.views.clear()
    release_blocks()


def release_blocks() -> None:
    """Gives back the idle blocks alone."""
    if MISSING is None:
        torch.ops.acmix_cpu.release_memory()
