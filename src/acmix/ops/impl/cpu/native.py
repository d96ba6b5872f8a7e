"""Finds and loads the library of native kernels, and chooses among its instruction sets."""

import os
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import torch

__all__ = ["ENVIRONMENT", "MISSING", "instruction_sets", "use_instruction_set"]

ENVIRONMENT = "ACMIX_CPU_INSTRUCTIONS"
"""Environment variable that names the instruction set to use: "auto", "amx", "avx512", "avx2" or "portable"."""

_FILE = "libacmix_cpu.so"
# What the library's operators take and give; changes with `kInterface` in csrc/library.cpp.
_INTERFACE = 10
_HINT = "reinstall acmix where torch and a C++ compiler are: pip install --force-reinstall --no-deps acmix"


def _candidates() -> list[Path]:
    """Beside this file or, where the package is installed in place, where the installer has put what it built."""
    paths = [Path(__file__).with_name(_FILE)]
    try:
        installed = distribution("acmix").locate_file(f"acmix/ops/impl/cpu/{_FILE}")
    except PackageNotFoundError:
        return paths
    return [*paths, Path(str(installed))]


def _names() -> tuple[str, ...]:
    return tuple(str(torch.ops.acmix_cpu.instruction_sets()).split())


def _interface() -> int:
    """The loaded library's number; 0 of those that have none."""
    return int(torch.ops.acmix_cpu.interface()) if hasattr(torch.ops.acmix_cpu, "interface") else 0


def _load() -> str | None:
    """Loads the library; returns why it is not there, or None."""
    path = next((path for path in _candidates() if path.exists()), None)
    if path is None:
        return f"its kernels were not built; {_HINT}"
    try:
        torch.ops.load_library(str(path))
    except OSError as error:
        return f"its library does not load ({error}); {_HINT}"
    if _interface() != _INTERFACE:
        return f"its library was built from other sources than these; {_HINT}"
    wanted = os.environ.get(ENVIRONMENT, "auto")
    if not torch.ops.acmix_cpu.use_instruction_set(wanted):
        return f"{ENVIRONMENT}={wanted!r}, but this process may use {', '.join(_names())}; choose one or 'auto'"
    return None


# Found out when acmix is imported: a compiled function cannot load libraries.
MISSING = _load()
"""Why the kernels are not there, or None."""


def instruction_sets() -> tuple[str, ...]:
    """Instruction sets that were built and that this processor has, the best first.

    Raises:
        RuntimeError: the kernels are not there; the message says why.
    """
    _require()
    return _names()


def use_instruction_set(name: str) -> None:
    """Use one of `instruction_sets()` from now on, in all threads; "auto" for the best.

    Raises:
        ValueError: the name is none of them.
        RuntimeError: the kernels are not there; the message says why.
    """
    _require()
    if not torch.ops.acmix_cpu.use_instruction_set(name):
        raise ValueError(f"use_instruction_set: {name!r}, expected 'auto' or one of {instruction_sets()}.")


def _require() -> None:
    if MISSING is not None:
        raise RuntimeError(f"the native CPU backend cannot run: {MISSING}")
