"""What holds for every test."""

import os
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator

import pytest

# One thread a process: the tests' maps are small, and the workers of pytest-xdist share the cores. Set before torch is
# imported, and inherited by the programs that tests start.
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture
def poisoned_memory() -> Iterator[None]:
    """Memory that torch hands out holds NaN."""
    import torch

    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture
def run_python() -> Callable[[str], str]:
    """Run a program in a fresh process; its output comes back, its failure fails the test."""

    def run(program: str) -> str:
        command = [sys.executable, "-W", "error::UserWarning:acmix", "-c", textwrap.dedent(program)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run
