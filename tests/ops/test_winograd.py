"""The convolution path on wide maps, of which two rows are taken at a time by Winograd's minimal filtering."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from acmix.functional import convolution_path
from fast_backends import INSTRUCTION_SETS, FastBackend, native, using

pytestmark = native

ROUNDING = 2.0**-24  # of float32
FEWEST_COLUMNS = {"avx2": 17, "avx512": 33, "amx": 33}  # that are taken by pairs; portable code takes none
SIZES = [(1, 17), (2, 24), (3, 23), (7, 56), (20, 70), (37, 40), (4, 90), (5, 100)]

every_instruction_set = pytest.mark.parametrize("instructions", INSTRUCTION_SETS)


def made(outputs: int, size: tuple[int, int], groups: int = 3) -> tuple[Tensor, Tensor, Tensor]:
    """Pieces, FC and shifts of 3 N pieces for N outputs."""
    generator = torch.Generator().manual_seed(outputs * size[0])
    shapes = (2, groups, 3 * outputs, *size), (9, 3 * outputs), (groups * outputs, 9, 3, 3)
    pieces, fc, shift = (torch.randn(shape, generator=generator) for shape in shapes)
    return pieces, fc / (3 * outputs) ** 0.5, shift / 9


def local_magnitude(pieces: Tensor, fc: Tensor, shift: Tensor) -> Tensor:
    """The largest entries of the three rows that an output sees times sums over kernel rows, all positive."""
    composed = torch.einsum("cmyx,mp->cpyx", shift.double(), fc.double())
    rows = F.max_pool2d(pieces.double().abs().flatten(1, 2), (3, 1), 1, (1, 0))
    columns = composed.abs().sum(2, keepdim=True)
    return F.conv2d(rows, columns, padding=(0, 1), groups=pieces.shape[1])


def plain_sums(pieces: Tensor, fc: Tensor, shift: Tensor) -> Tensor:
    """The path in float32, one product after the other: what torch's own convolution does depends on the processor."""
    kernels = torch.einsum("gomt,mp->gopt", shift.flatten(2).unflatten(0, (pieces.shape[1], -1)), fc)
    height, width = pieces.shape[3:]
    padded = F.pad(pieces, (1, 1, 1, 1)).unsqueeze(2)
    out = torch.zeros(())
    for piece in range(pieces.shape[2]):
        for tap in range(9):
            y, x = divmod(tap, 3)
            seen = padded[:, :, :, piece, y : y + height, x : x + width]
            out = out + kernels[:, :, piece, tap, None, None] * seen
    return out.flatten(1, 2)


@every_instruction_set
@pytest.mark.parametrize("outputs", [4, 5, 8])
@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("uneven", [False, True], ids=["even", "rows of other magnitudes"])
def test_errors_are_a_few_roundings_of_what_an_output_sees(
    instructions: str, outputs: int, size: tuple[int, int], uneven: bool
) -> None:
    pieces, fc, shift = made(outputs, size)
    if uneven:
        pieces *= 10 ** (4 * torch.randn(size[0], 1, generator=torch.Generator().manual_seed(1)))
    truth = convolution_path(pieces.double(), fc.double(), shift.double(), impl="reference")
    magnitude = local_magnitude(pieces, fc, shift)
    with using(FastBackend("cpu", instructions)):
        ours = (convolution_path(pieces, fc, shift, form="composed", impl="cpu") - truth).abs()
    assert (ours / magnitude).max() < 6 * ROUNDING
    if not uneven and size[0] > 2:  # maps of one or two rows have next to no terms
        plain = (plain_sums(pieces, fc, shift) - truth).abs()
        assert (ours / magnitude).square().mean().sqrt() < 1.1 * (plain / magnitude).square().mean().sqrt()


@every_instruction_set
@pytest.mark.parametrize("what", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("size", [(8, 24), (9, 17), (5, 56), (8, 33)], ids=str)
@pytest.mark.parametrize("stride", [1, 2])
def test_what_is_no_number_stays_where_it_is_seen(
    instructions: str, what: float, size: tuple[int, int], stride: int
) -> None:
    pieces, fc, shift = made(4, size)
    with using(FastBackend("cpu", instructions)):
        for y, x in [(0, 0), (1, 16), (size[0] - 1, size[1] - 1), (size[0] // 2, 9)]:
            spoilt = pieces.clone()
            spoilt[1, 2, 7, y, x] = what
            out = convolution_path(spoilt, fc, shift, stride=stride, form="composed", impl="cpu")
            rows = (torch.arange(out.shape[2]) * stride - y).abs() <= 1
            columns = (torch.arange(out.shape[3]) * stride - x).abs() <= 1
            seen = rows.unsqueeze(1) & columns
            sees = torch.zeros(out.shape, dtype=torch.bool)
            sees[1, -4:] = seen  # the third group of the second image
            assert torch.equal(~out.isfinite(), sees)


@every_instruction_set
@pytest.mark.parametrize("outputs", [4, 5, 8])
@pytest.mark.parametrize("size", [*SIZES, (70, 33)], ids=str)
def test_errors_of_the_gradient_are_a_few_roundings_of_what_an_input_gives(
    instructions: str, outputs: int, size: tuple[int, int]
) -> None:
    pieces, fc, shift = made(outputs, size)
    generator = torch.Generator().manual_seed(2)
    magnitudes = 10 ** (4 * torch.randn(size[0], 1, generator=generator))
    grad = torch.randn((2, 3, outputs, *size), generator=generator) * magnitudes

    def gradient(dtype: torch.dtype, impl: str) -> Tensor:
        leaf = pieces.to(dtype).requires_grad_()
        form = "auto" if impl == "reference" else "composed"
        out = convolution_path(leaf, fc.to(dtype), shift.to(dtype), form=form, impl=impl)
        (found,) = torch.autograd.grad(out, leaf, grad.to(dtype).reshape(out.shape))
        return found

    truth = gradient(torch.float64, "reference")
    composed = torch.einsum("gomyx,mp->gpoyx", shift.double().unflatten(0, (3, outputs)), fc.double())
    rows = F.max_pool2d(grad.double().abs().flatten(1, 2), (3, 1), 1, (1, 0))
    columns = composed.flip(-1).abs().sum(3, keepdim=True).flatten(0, 1)
    magnitude = F.conv2d(rows, columns, padding=(0, 1), groups=3).view_as(pieces)
    with using(FastBackend("cpu", instructions)):
        assert ((gradient(torch.float32, "cpu") - truth).abs() / magnitude).max() < 6 * ROUNDING


# Gradients of the kernels are summed over 64 output rows at a time.
TALL = [(65, 33, 1), (70, 18, 1), (129, 40, 2), (131, 17, 2), (256, 5, 2)]


@every_instruction_set
@pytest.mark.parametrize(("height", "columns", "stride"), TALL)
def test_gradients_of_tall_maps(instructions: str, height: int, columns: int, stride: int) -> None:
    pieces, fc, shift = made(4, (height, columns), groups=2)

    def gradients(dtype: torch.dtype, impl: str) -> tuple[Tensor, ...]:
        leaves = [x.to(dtype).requires_grad_() for x in (pieces, fc, shift)]
        form = "auto" if impl == "reference" else "composed"
        out = convolution_path(*leaves, stride=stride, form=form, impl=impl)
        grad = torch.randn(out.shape, generator=torch.Generator().manual_seed(3))
        return torch.autograd.grad(out, leaves, grad.to(dtype))

    with using(FastBackend("cpu", instructions)):
        found = gradients(torch.float32, "cpu")
    for ours, truth in zip(found, gradients(torch.float64, "reference"), strict=True):
        assert (ours - truth).abs().max() < 1e-6 * truth.abs().max()


@every_instruction_set
@pytest.mark.parametrize("what", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize(("height", "columns", "stride"), TALL)
def test_what_is_no_number_in_a_gradient_goes_where_it_is_given_alone(
    instructions: str, what: float, height: int, columns: int, stride: int
) -> None:
    pieces, fc, shift = made(4, (height, columns), groups=2)
    pieces.requires_grad_()
    with using(FastBackend("cpu", instructions)):
        out = convolution_path(pieces, fc, shift, stride=stride, form="composed", impl="cpu")
        for y in (0, out.shape[2] // 2, min(63, out.shape[2] - 1), out.shape[2] - 1):
            x = y % out.shape[3]
            grad = torch.ones_like(out)
            grad[1, -2, y, x] = what  # of the second group
            (found,) = torch.autograd.grad(out, pieces, grad, retain_graph=True)
            rows = (torch.arange(height) - y * stride).abs() <= 1
            given = torch.zeros(found.shape, dtype=torch.bool)
            given[1, 1] = rows.unsqueeze(1) & ((torch.arange(columns) - x * stride).abs() <= 1)
            assert torch.equal(~found.isfinite(), given)


@every_instruction_set
@pytest.mark.parametrize("size", [(13, 29), (13, 45)], ids=str)
def test_a_map_of_any_place_in_memory_has_the_same_bits(instructions: str, size: tuple[int, int]) -> None:
    pieces, fc, shift = made(4, size)
    with using(FastBackend("cpu", instructions)):
        expected = convolution_path(pieces, fc, shift, form="composed", impl="cpu")
        for offset in (1, 3, 7):
            room = torch.full((pieces.numel() + 64,), math.nan)
            moved = room[offset : offset + pieces.numel()].view(pieces.shape)
            moved.copy_(pieces)
            assert torch.equal(expected, convolution_path(moved, fc, shift, form="composed", impl="cpu"))


@every_instruction_set
@pytest.mark.parametrize(
    ("columns", "outputs"), [(16, 4), (17, 4), (24, 5), (24, 8), (32, 4), (33, 4), (40, 5), (90, 8)]
)
def test_wide_maps_are_taken_by_pairs_of_rows(instructions: str, columns: int, outputs: int) -> None:
    by_pairs = outputs % 4 == 0 and columns >= FEWEST_COLUMNS.get(instructions, math.inf)
    pieces, fc, shift = made(outputs, (14, columns))
    with using(FastBackend("cpu", instructions)):
        whole, less_one, less_two = (
            convolution_path(pieces[..., rows:, :].contiguous(), fc, shift, form="composed", impl="cpu")
            for rows in range(3)
        )
    # Sums of one row are the same wherever it stands; those of a pair change when another row is its partner.
    assert torch.equal(whole[..., 1 + 2 :, :], less_one[..., 2:, :]) is not by_pairs
    assert torch.equal(whole[..., 2 + 2 :, :], less_two[..., 2:, :])
