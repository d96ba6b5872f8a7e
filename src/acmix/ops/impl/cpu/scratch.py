"""Scratch memory that a thread keeps from one call to the next: new memory costs as much as a small map's attention.

The system hands out memory page by page, and cleared, when it is first written to.
"""

import math
import threading

import torch
from torch import Tensor

__all__ = ["scratch"]

# Bytes of one buffer that is kept, or for each of torch's threads; what is larger is new for each call, and given back.
_MOST = 6 * 2**20
_MOST_OF_A_THREAD = 3 * 2**19

_threads = threading.local()


def scratch(name: str, shape: tuple[int, ...]) -> Tensor:
    """Memory of float32 on the CPU with arbitrary values; a name's is one and the same for all calls of a thread.

    Args:
        name: whose memory it is: two that are in use at a time have two names.
        shape: of what comes back.
    """
    entries = math.prod(shape)
    # A buffer that was made for inference alone could not be written to elsewhere.
    with torch.inference_mode(False):
        # Under a mode, memory may be fake.
        if torch._C._len_torch_dispatch_stack() or 4 * entries > max(
            _MOST, _MOST_OF_A_THREAD * torch.get_num_threads()
        ):
            return torch.empty(shape, dtype=torch.float32, device="cpu")
        kept: Tensor | None = getattr(_threads, name, None)
        if kept is None or kept.numel() < entries:
            kept = torch.empty(entries, dtype=torch.float32, device="cpu")
            setattr(_threads, name, kept)
        return kept[:entries].view(shape)
