"""Compiles Triton's kernels for cards that are not here, by the launches that would run them there."""

import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import triton
from triton.backends.compiler import GPUTarget
from triton.runtime.driver import driver
from triton.runtime.jit import JITFunction

__all__ = ["Compiled", "compile_launches"]

_TOOL = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"


class Compiled(NamedTuple):
    """A kernel in machine code.

    Attributes:
        name: of the kernel.
        registers: of a thread.
        spilled: bytes of a thread's registers that lie in memory.
        shared: bytes of shared memory of a program.
        warps: of a program.
        atomics: instructions whose order among threads is not fixed.
    """

    name: str
    registers: int
    spilled: int
    shared: int
    warps: int
    atomics: int = 0


class _Card:
    """What Triton asks of a card."""

    def __init__(self, capability: int) -> None:
        self.capability = capability

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", self.capability, 32)

    def get_current_device(self) -> int:
        return self.capability  # a number that no card of this machine has

    def get_current_stream(self, device: int) -> int:
        return 0


def compile_launches(
    capability: int, run: Callable[[], object], patch: pytest.MonkeyPatch, folder: Path
) -> list[Compiled]:
    """What `run` launches, compiled instead of launched.

    Args:
        capability: of the card, such as 80.
        run: calls a backend's functions with tensors of any device.
        patch: undone by the caller.
        folder: for Triton's cache.
    """
    kernels: list[Any] = []

    def instead_of_a_launch(kernel: Any, grid: tuple[int, ...]) -> Callable[..., None]:
        # Along its other axes a grid ends at 65535.
        assert len(grid) == 1
        assert 0 < grid[0] < 2**31

        def compile_it(*args: Any, **options: Any) -> None:
            kernels.append(kernel.warmup(*args, grid=grid, **options))

        return compile_it

    patch.setenv("TRITON_CACHE_DIR", str(folder))
    patch.setattr(driver, "_active", _Card(capability))
    patch.setattr(JITFunction, "__getitem__", instead_of_a_launch)
    run()
    return [_described(kernel, folder / f"{number}.cubin") for number, kernel in enumerate(kernels)]


def _described(kernel: Any, path: Path) -> Compiled:
    path.write_bytes(kernel.asm["cubin"])
    told = subprocess.run([str(_TOOL), "--dump-resource-usage", str(path)], capture_output=True, text=True, check=True)
    numbers = {name: int(value) for name, value in re.findall(r"([A-Z]+):(\d+)", told.stdout)}
    spilled = numbers["STACK"] + numbers["LOCAL"]
    metadata, atomics = (
        kernel.metadata,
        len(re.findall(r"^\s*(?:@\S+\s+)?(?:atom|red)\.", kernel.asm["ptx"], re.MULTILINE)),
    )
    return Compiled(metadata.name, numbers["REG"], spilled, metadata.shared, metadata.num_warps, atomics)
