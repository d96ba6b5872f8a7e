"""The kernels in a program without torch: right and within their memory; and what is wrong is noticed."""

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "scripts" / "check_kernels.py"
COUNT = "12"  # of each family: enough for all kernels

pytestmark = [
    pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler"),
    pytest.mark.skipif(sys.platform != "linux", reason="its memory between pages is Linux's"),
]


@pytest.fixture(scope="module")
def script() -> Iterator[ModuleType]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT / "scripts")
        import check_kernels

        yield check_kernels


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("kernels")


@pytest.fixture(scope="module")
def said(folder: Path) -> str:
    """What the script says of the portable kernels, whose program and results are then in the folder."""
    options = ["--instructions", "portable", "--optimise", "1", "--cases", COUNT, "--folder", str(folder)]
    done = subprocess.run([sys.executable, str(SCRIPT), *options], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture
def results(said: str, folder: Path) -> Tensor:
    return torch.frombuffer(bytearray((folder / "results_portable").read_bytes()), dtype=torch.uint8)


def test_all_kernels_are_right(said: str, script: ModuleType) -> None:
    assert said.rstrip().endswith("nothing wrong")
    assert all(f"\n{kernel} " in said for kernel in script.KERNELS)


def test_an_access_outside_ends_the_program(said: str, folder: Path, tmp_path: Path) -> None:
    program, missing = folder / "check_portable", "4"
    command = [program, folder / "cases", tmp_path / "results", missing]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode < 0, "four bytes less of each tensor, and nobody missed them"
    assert done.stdout == "case 0, before a guard page\n"


def each(script: ModuleType, results: Tensor) -> Iterator[tuple[Any, Tensor]]:
    """All cases with their part of the results."""
    start = 0
    for case in script.make_cases(0, int(COUNT)):
        size = sum(x.untyped_storage().nbytes() for x in case.tensors.values() if x is not None)
        yield case, results[start : start + size]
        start += size


def wrong_after(script: ModuleType, case: Any, results: Tensor, byte: int, bits: int) -> list[str]:
    """Names of the tensors that are wrong where some bits of one byte are others."""
    spoilt = results.clone()
    spoilt[byte] ^= bits
    return [name for name, ratio in script.judged(case, spoilt).items() if not ratio <= 1]


def test_every_tensor_is_looked_at(script: ModuleType, results: Tensor) -> None:
    for case, found in each(script, results):
        assert max(script.judged(case, found).values()) <= 1
        end = 0
        for name, x in case.tensors.items():
            if x is not None and x.numel() > 0:
                end += x.untyped_storage().nbytes()
                # Of the last entry's exponent.
                assert wrong_after(script, case, found, end - 1, 8) == [name], script.describe(case)


def test_what_lies_between_an_outputs_entries_is_looked_at(script: ModuleType, results: Tensor) -> None:
    with_gaps = [(case, found, *gap(case)) for case, found in each(script, results) if gap(case)]
    assert with_gaps
    for case, found, name, byte in with_gaps:
        assert wrong_after(script, case, found, byte, 1) == [name], script.describe(case)


def gap(case: Any) -> tuple[str, int] | tuple[()]:
    """An output's name and the byte behind its first entry, where that belongs to no other entry."""
    start = 0
    for name, x in case.tensors.items():
        if x is not None:
            if name in case.truths and x.numel() > 1 and 1 not in x.stride():
                return name, start + x.itemsize
            start += x.untyped_storage().nbytes()
    return ()


def test_a_nan_is_no_value(script: ModuleType) -> None:
    from kernel_checks.case import Truth, error

    truth = Truth(torch.zeros(2, dtype=torch.float64), torch.full((2,), 1e-3, dtype=torch.float64))
    assert error(torch.tensor([5e-4, 0]), truth) == pytest.approx(0.5)
    assert error(torch.tensor([0, float("nan")]), truth) == float("inf")
    assert error(torch.tensor([0, 1e-3]), Truth(truth.value, torch.zeros(2))) == float("inf")


def test_an_instruction_set_that_is_not_there_is_named(script: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"--instructions sse9: .* has .*portable"):
        script.main(["--instructions", "sse9", "--folder", str(tmp_path)])
