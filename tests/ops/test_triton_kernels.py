"""Triton's kernels on the CPU, under its interpreter: `triton_interpreted*.py`, where TRITON_INTERPRET is set.

The variable counts when Triton is imported, and changes what every kernel is: the checks have a process of their own.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from acmix.ops.impl.triton.availability import MISSING

CHECKS = sorted(Path(__file__).parent.glob("triton_interpreted*.py"))
ROOT = Path(__file__).parents[2]


@pytest.mark.skipif(MISSING is not None, reason=f"{MISSING}")
@pytest.mark.parametrize("marker", ["not slow", pytest.param("slow", marks=pytest.mark.slow)])
@pytest.mark.parametrize("checks", CHECKS, ids=lambda path: path.stem)
def test_the_kernels_under_the_interpreter(checks: Path, marker: str) -> None:
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-p", "no:xdist", str(checks)]
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    for name in ("PYTEST_XDIST_WORKER", "PYTEST_ADDOPTS"):
        environment.pop(name, None)
    done = subprocess.run(
        [*command, "-m", marker, "--tb=short", "--show-capture=no"],
        env=environment, cwd=ROOT, capture_output=True, text=True, timeout=900, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert " passed" in done.stdout
