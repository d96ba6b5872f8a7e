"""Whether Triton is here, and where its kernels run: on CUDA devices, and on CPUs under its interpreter."""

import importlib.util
import os

import torch

__all__ = ["INTERPRETED", "MISSING", "device_reasons"]

# Triton reads the variable when it is imported, so what it says later does not count. Every launch then runs in numpy,
# for tests.
INTERPRETED = os.environ.get("TRITON_INTERPRET", "0").lower() in ("1", "true", "yes", "on", "y")
"""Whether Triton's interpreter stands in for a compiler, by TRITON_INTERPRET=1 in the environment."""

# Found out without importing it, and here, since a compiled function cannot ask.
MISSING = None if importlib.util.find_spec("triton") is not None else "Triton is not installed: pip install triton"
"""Why the kernels cannot be compiled, or None."""

_OLDEST = (8, 0)


def device_reasons(device: str, index: int | None = None) -> list[str]:
    """Reasons why kernels cannot run on a device; empty: they can.

    Args:
        device: its type.
        index: its number; None: the current one of its type.
    """
    if INTERPRETED:
        return [] if device == "cpu" else [f"TRITON_INTERPRET is set, and the tensors are on {device}, not on a CPU"]
    if device != "cuda":
        return [f"the tensors are on {device}"]
    reason = _card_reason(index)
    return [] if reason is None else [reason]


def _card_reason(index: int | None) -> str | None:
    if torch.version.hip is not None:
        return "its kernels were made for NVIDIA's cards, and torch is built for ROCm"
    capability = _capability(index)
    if capability is None or capability >= _OLDEST:
        return None
    card = "the card" if index is None else f"cuda:{index}"
    return f"it needs compute capability {'.'.join(map(str, _OLDEST))}, {card} has {'.'.join(map(str, capability))}"


def _capability(index: int | None) -> tuple[int, int] | None:
    """Of a card; None where it is not here: its tensors are fake ones then, of a graph that will run elsewhere."""
    if not torch.cuda.is_available() or (index is not None and index >= torch.cuda.device_count()):
        return None
    return torch.cuda.get_device_capability(index)


# As `torch.compiler.assume_constant_result` does, which loads the compiler and Triton with it: a graph takes the answer
# as it is and does not look into the question.
_card_reason._dynamo_marked_constant = True  # type: ignore[attr-defined]  # functions declare none
