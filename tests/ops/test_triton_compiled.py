"""Triton's kernels compiled ahead of time for cards that are not here: they compile, and fit."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from acmix.ops.impl import triton as backend
from acmix.ops.impl.torch.tiles import Window
from acmix.ops.impl.triton import attention, convolution
from acmix.ops.impl.triton.availability import MISSING

if MISSING is not None:
    pytest.skip(MISSING, allow_module_level=True)

import triton
import triton.language as tl

from triton_compiler import Compiled, compile_launches

# A100 and H100; kernels that fit into the shared memory of a program of 8.6 and 8.9 fit into theirs.
CAPABILITIES = (80, 90)
MOST_SHARED = 99 * 1024
# Bytes of a thread. The assembler puts a few registers into memory so that more warps have room; the matrices of the
# widest heads fill them all.
MOST_SPILLED, MOST_SPILLED_OF_MATRICES = 32, 96
REGISTERS_OF_A_PROCESSOR = 65536

FLOAT, HALF = torch.float32, torch.bfloat16


def attend(
    width: int, size: int, dtype: torch.dtype = FLOAT, *, last: bool = False, stride: int = 1, dilation: int = 1
) -> Callable[[], object]:
    """Forward and backward pass of attention over a window of 7 x 7, four heads."""
    shape = (1, size, size, 4, width) if last else (1, 4, width, size, size)
    q = torch.zeros(shape, dtype=dtype)
    q = q.permute(0, 3, 4, 1, 2) if last else q
    position, window = q[0, 0], Window(7, stride, dilation, 0.25)

    def run() -> object:
        out, lse = backend.local_attention(q, q, q, position, window)
        return backend.local_attention_backward(out, (q, q, q), position, window, (out, lse))

    return run


def convolve(
    width: int, size: int, dtype: torch.dtype = FLOAT, *, heads: int = 4, kernel: int = 3, stride: int = 1
) -> Callable[[], object]:
    """Forward and backward pass of the composed convolution path."""
    pieces = torch.zeros(1, width, 3 * heads, size, size, dtype=dtype)
    maps = kernel**2
    fc, shift = torch.zeros(maps, 3 * heads, dtype=dtype), torch.zeros(width * heads, maps, kernel, kernel, dtype=dtype)

    def run() -> object:
        out = backend.convolution_path(pieces, (fc, shift, None), stride, 1, "composed")
        return backend.convolution_path_backward(out, pieces, (fc, shift, None), stride, 1, "composed")

    return run


def attend_to_little(dtype: torch.dtype, window: int) -> Callable[[], object]:
    """One image, one head, no position: what Triton makes constants of."""
    q = torch.zeros(1, 1, 32, 5, 5, dtype=dtype)

    def run() -> object:
        out, lse = backend.local_attention(q, q, q, None, Window(window, 1, 1, 1.0))
        return backend.local_attention_backward(out, (q, q, q), None, Window(window, 1, 1, 1.0), (out, lse))

    return run


def attend_to_much(shape: tuple[int, ...], dtype: torch.dtype, *, stride: int = 1) -> Callable[[], object]:
    """Maps whose offsets take 64 bits, of memory that is not there."""
    q = torch.empty(shape, dtype=dtype, device="meta")
    window = Window(5, stride, 1, 1.0)

    def run() -> object:
        out, lse = backend.local_attention(q, q, q, q[0, 0], window)
        return backend.local_attention_backward(out, (q, q, q), q[0, 0], window, (out, lse))

    return run


def convolve_much(height: int, width: int) -> Callable[[], object]:
    """The composed convolution path of a map whose offsets take 64 bits."""
    pieces = torch.empty(1, 1, 3, height, width, device="meta")
    grad = torch.empty(1, 1, 2, height, width, device="meta")
    weights = torch.empty(1, 2, 3, 3, 3, device="meta")

    def run() -> object:
        convolution.composed_forward(pieces, weights, 1, 1)
        convolution.composed_pieces_gradient(grad, pieces, weights, 1, 1)
        return convolution.composed_weight_gradient(grad, pieces, 3, 1, 1)

    return run


SLOW = pytest.mark.slow
# The stages of ResNet-50 first.
CASES = {
    "stage-1": attend(16, 56),
    "stage-2-half": (attend(32, 28, HALF), SLOW),
    "stage-3": (attend(64, 14), SLOW),
    "stage-4-half": attend(128, 7, HALF),
    "stage-1-strided-channels-last": attend(16, 56, last=True, stride=2),
    "path": convolve(16, 56),
    "path-half": (convolve(128, 7, HALF, stride=2), SLOW),
    "stage-1-half": (attend(16, 56, HALF), SLOW),
    "stage-1-strided": (attend(16, 56, stride=2), SLOW),
    "stage-1-dilated": (attend(16, 56, dilation=2), SLOW),
    "stage-2": (attend(32, 28), SLOW),
    "stage-2-channels-last": (attend(32, 28, last=True), SLOW),
    "stage-2-half-channels-last": (attend(32, 28, HALF, last=True), SLOW),
    "stage-3-half": (attend(64, 14, HALF), SLOW),
    "stage-3-channels-last": (attend(64, 14, last=True), SLOW),
    "stage-4": (attend(128, 7), SLOW),
    "stage-4-channels-last": (attend(128, 7, last=True), SLOW),
    "stage-4-half-channels-last": (attend(128, 7, HALF, last=True), SLOW),
    "one-pixel": (attend(16, 1), SLOW),
    "reflected-often": (attend(16, 2), SLOW),
    "stage-3-half-channels-last": (attend(64, 14, HALF, last=True), SLOW),
    "matrices-reflected-often": (attend(64, 2, HALF), SLOW),
    "matrices-padded": (attend(48, 9, torch.float16), SLOW),
    "width-256-half": (attend(256, 7, HALF), SLOW),
    "one-head-window-1": (attend_to_little(FLOAT, 1), SLOW),
    "one-head-window-3": (attend_to_little(FLOAT, 3), SLOW),
    "one-head-on-matrices": (attend_to_little(HALF, 5), SLOW),
    "path-one-group": (convolve(1, 9, heads=1), SLOW),
    "width-1": (attend(1, 9), SLOW),
    "width-5": (attend(5, 9), SLOW),
    "width-512": (attend(512, 7), SLOW),
    "width-600": (attend(600, 7), SLOW),
    "width-600-channels-last": (attend(600, 7, last=True), SLOW),
    "width-1024": attend(1024, 7),
    "width-1024-half": (attend(1024, 7, HALF), SLOW),
    "width-1024-channels-last-strided": (attend(1024, 7, last=True, stride=2), SLOW),
    "width-2048": (attend(2048, 7), SLOW),
    "width-2048-channels-last": (attend(2048, 7, last=True), SLOW),
    "width-3000-in-parts": attend(3000, 7),
    "width-3000-half-in-parts": (attend(3000, 7, HALF), SLOW),
    "width-3000-in-parts-channels-last": (attend(3000, 7, last=True), SLOW),
    "width-3000-in-parts-dilated": (attend(3000, 7, dilation=2), SLOW),
    "beyond-32-bits": attend_to_much((1, 1, 1, 2**16, 2**15 + 64), FLOAT),
    "beyond-32-bits-in-one-row": (attend_to_much((1, 1, 1, 1, 2**31 + 5), FLOAT), SLOW),
    "beyond-32-bits-strided": (attend_to_much((1, 1, 2, 2**16, 2**15 + 64), HALF, stride=2), SLOW),
    "beyond-32-bits-on-matrices": (attend_to_much((1, 1, 32, 2**14, 2**13), HALF), SLOW),
    "path-beyond-32-bits": (convolve_much(2**16, 2**15 + 64), SLOW),
    "path-beyond-32-bits-in-one-row": (convolve_much(1, 2**31 + 5), SLOW),
    "path-one-head": (convolve(16, 9, heads=1), SLOW),
    "path-kernel-1": (convolve(16, 9, kernel=1), SLOW),
    "path-kernel-5": (convolve(16, 14, heads=8, kernel=5), SLOW),
    "path-kernel-7": (convolve(16, 14, heads=16, kernel=7), SLOW),
    "path-many-heads": (convolve(16, 14, heads=24), SLOW),
}
EVERY = [
    pytest.param(case[0], id=name, marks=case[1]) if isinstance(case, tuple) else pytest.param(case, id=name)
    for name, case in CASES.items()
]


def too_much(kernel: Compiled) -> list[str]:
    """What a kernel has more of than it may."""
    spilled = MOST_SPILLED_OF_MATRICES if kernel.name.startswith("matrix") else MOST_SPILLED
    counts = {
        "spilled bytes": (kernel.spilled, spilled),
        "shared memory": (kernel.shared, MOST_SHARED),
        "registers": (kernel.registers * 32 * kernel.warps, REGISTERS_OF_A_PROCESSOR),
    }
    return [name for name, (count, most) in counts.items() if count > most]


@pytest.mark.parametrize("capability", CAPABILITIES)
@pytest.mark.parametrize("run", EVERY)
def test_kernels_fit(
    run: Callable[[], object], capability: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    kernels = compile_launches(capability, run, monkeypatch, tmp_path)
    assert len(kernels) == 3
    for kernel in kernels:
        assert not too_much(kernel), kernel
        assert not kernel.atomics, kernel
        # What the compiler says was read: no kernel does without, and products on matrix units go through memory.
        assert 16 <= kernel.registers <= 255, kernel
        assert kernel.shared > 0 or not kernel.name.startswith("matrix"), kernel


def test_a_kernel_that_does_not_fit_is_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A cut that gives each thread four times what it can hold."""
    cut = attention.plan_cut(64, attention.Call(False, False, False))
    monkeypatch.setattr(attention, "plan_cut", lambda *args: cut._replace(places=4 * cut.places))
    found = compile_launches(CAPABILITIES[0], attend(64, 14), monkeypatch, tmp_path)
    assert all(too_much(kernel) == ["spilled bytes"] for kernel in found)
    assert too_much(Compiled("matrix_forward", 255, 0, MOST_SHARED + 1, 16)) == ["shared memory", "registers"]


@triton.jit
def _add(x):  # noqa: ANN001, ANN202  Triton takes annotations for compile-time arguments
    tl.atomic_add(x + tl.arange(0, 32), 1.0)


@pytest.mark.parametrize("capability", CAPABILITIES)
def test_an_atomic_is_found(capability: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    found = compile_launches(
        capability, lambda: _add[(1,)](torch.zeros(32), enable_fp_fusion=True), monkeypatch, tmp_path
    )
    assert [kernel.atomics > 0 for kernel in found] == [True]
