"""The fast backends that can run on this machine's CPU; the native one with each of its instruction sets."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple, TypeVar

import pytest
import torch

from acmix.ops.impl import cpu
from acmix.ops.impl.cpu.native import MISSING

__all__ = ["FAST", "INSTRUCTION_SETS", "FastBackend", "every_fast_backend", "native", "on_threads", "using"]

Found = TypeVar("Found")
INSTRUCTION_SETS: tuple[str, ...] = () if MISSING else cpu.instruction_sets()


class FastBackend(NamedTuple):
    impl: str
    instructions: str = "auto"


FAST = [FastBackend("torch"), *(FastBackend("cpu", name) for name in INSTRUCTION_SETS)]

every_fast_backend = pytest.mark.parametrize("backend", FAST, ids=lambda fast: f"{fast.impl}-{fast.instructions}")
native = pytest.mark.skipif(MISSING is not None, reason=f"no native kernels here: {MISSING}")


@contextmanager
def using(backend: FastBackend) -> Iterator[str]:
    """The name to ask for, with its instruction set chosen."""
    if backend.impl != "cpu":
        yield backend.impl
        return
    cpu.use_instruction_set(backend.instructions)
    try:
        yield backend.impl
    finally:
        cpu.use_instruction_set("auto")


def on_threads(run: Callable[[], Found]) -> list[Found]:
    """What `run` gives with one, two and three threads."""
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            found.append(run())
    finally:
        torch.set_num_threads(before)
    return found
