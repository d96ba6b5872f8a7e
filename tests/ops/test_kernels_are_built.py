"""Tests of the native kernels are skipped without them; where they can be built they have to be there."""

import os
import shutil

import pytest

from acmix.ops.impl.cpu.native import MISSING

# Those that CMake looks for.
COMPILERS = [os.environ.get("CXX", ""), "c++", "g++", "clang++"]


@pytest.mark.skipif(not any(map(shutil.which, COMPILERS)), reason="no C++ compiler builds kernels here")
def test_a_machine_with_a_compiler_has_the_kernels() -> None:
    assert MISSING is None
