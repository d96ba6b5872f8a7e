"""Cases of the convolution of many small groups, forward and backward."""

import itertools
import math
import random
from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from acmix.ops.geometry import output_size
from acmix.ops.layout import compute_dtype
from kernel_checks.attention import DENSE_ROWS, LAYOUTS, MAPS, is_near
from kernel_checks.case import DTYPES, Case, Truth, dense, placed, truth

MOST_PRODUCTS = 1_500_000
WIDE = 16  # columns: wider maps have code of their own
BROAD = [(4, 52), (5, 64), (3, 81), (2, 97)]  # which are taken by other numbers of vectors
TALL = [(65, 3), (129, 5), (141, 18)]  # whose gradients are packed some rows at a time


class Groups(NamedTuple):
    """Of one case: the kernel, the map, and what else the call has."""

    kernel: int
    stride: int
    dilation: int
    size: tuple[int, int]
    batch: int
    groups: int
    pieces: int
    outputs: int
    dtype: torch.dtype
    layouts: tuple[str, ...]  # of x or its gradient, and of the output or its gradient
    ones: bool
    adds: bool

    @property
    def out_size(self) -> tuple[int, int]:
        height, columns = (output_size(size, self.stride) for size in self.size)
        return height, columns

    @property
    def shape(self) -> tuple[int, ...]:
        return self.batch, self.groups, self.pieces, *self.size

    @property
    def out_shape(self) -> tuple[int, ...]:
        return self.batch, self.groups, self.outputs, *self.out_size

    def __str__(self) -> str:
        kernel = f"kernel {self.kernel}, stride {self.stride}, dilation {self.dilation}, {self.outputs} outputs"
        what = [name for name in ("ones", "adds") if getattr(self, name)]
        return f"{kernel} from {self.shape} of {self.dtype}, {', '.join((*what, *self.layouts))}"


class Inputs(NamedTuple):
    """All in float64, rounded to the dtypes that the kernel gets; `before` is what it adds to, or zeros."""

    x: Tensor
    weight: Tensor
    grad: Tensor
    before: Tensor
    before_x: Tensor


def cases(seed: int) -> Iterator[Callable[[], Case]]:
    """All cases, forward and backward in turn; each is worked out when it is called."""
    chance = random.Random(seed)
    generator = torch.Generator().manual_seed(seed)
    for groups in every(chance):
        inputs = make_inputs(groups, generator)
        yield partial(forward, groups, inputs)
        yield partial(backward, groups, inputs)


def every(chance: random.Random) -> Iterator[Groups]:
    """Every kernel in every dtype, and dense rows of float32, which have code of their own, on every map."""
    for kernel, stride, dilation, dtype, _ in itertools.product((1, 3, 5), (1, 2, 3), (1, 2), DTYPES, range(2)):
        yield drawn(chance, (kernel, stride, dilation), dtype, None, tuple(LAYOUTS))
    for stride, size, _ in itertools.product((1, 2), MAPS, range(2)):
        yield drawn(chance, (3, stride, 1), torch.float32, size, DENSE_ROWS)._replace(ones=False)
    for stride, size in itertools.product((1, 2), TALL):
        yield drawn(chance, (3, stride, 1), torch.float32, size, DENSE_ROWS)._replace(ones=False)
    for outputs, size in itertools.product((4, 8), [*(size for size in MAPS if size[1] > WIDE), *BROAD]):
        case = drawn(chance, (3, 1, 1), torch.float32, size, DENSE_ROWS)
        yield case._replace(ones=False, outputs=outputs, batch=1, groups=2)  # outputs by blocks of four, rows by pairs
    yield drawn(chance, (3, 1, 1), torch.float32, MAPS[-1], DENSE_ROWS)._replace(batch=0)


def drawn(
    chance: random.Random,
    kernel: tuple[int, int, int],
    dtype: torch.dtype,
    size: tuple[int, int] | None,
    layouts: tuple[str, ...],
) -> Groups:
    """A case of which the rest is drawn; again where it is too much work, or left to other code by the callers."""
    while True:
        case = Groups(
            *kernel, size or chance.choice(MAPS), chance.choice((1, 1, 2, 3)), chance.choice((1, 2, 3)),
            chance.randint(1, 12), chance.randint(1, 12), dtype, tuple(chance.choice(layouts) for _ in range(2)),
            chance.random() < 0.5, chance.random() < 0.5,
        )  # fmt: skip
        work = math.prod(case.out_shape) * case.pieces * case.kernel**2
        if work <= MOST_PRODUCTS and is_near(case.kernel, case.dilation, case.size):
            return case._replace(stride=min(case.stride, max(case.size)))


def make_inputs(groups: Groups, generator: torch.Generator) -> Inputs:
    def normal(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype).double()

    inputs = groups.pieces + groups.ones
    weight = (groups.groups * groups.outputs, inputs, groups.kernel, groups.kernel)
    shapes = groups.shape, weight, groups.out_shape, groups.out_shape, groups.shape
    dtypes = groups.dtype, compute_dtype(groups.dtype), *[groups.dtype] * 3
    made = Inputs(*(normal(shape, dtype) for shape, dtype in zip(shapes, dtypes, strict=True)))
    zeros = {name: torch.zeros_like(getattr(made, name)) for name in ("before", "before_x")}
    return made if groups.adds else made._replace(**zeros)


def convolved(groups: Groups, x: Tensor, weight: Tensor) -> Tensor:
    """By torch: a piece of ones, zero padding, all groups of it."""
    ones = torch.ones_like(x[:, :, :1])
    pieces = torch.cat([x, ones], 2) if groups.ones else x
    padding = (groups.kernel - 1) // 2 * groups.dilation
    options = {"stride": groups.stride, "dilation": groups.dilation, "padding": padding, "groups": groups.groups}
    out = F.conv2d(pieces.flatten(1, 2), weight, None, **options)
    return out.view(groups.out_shape)


def gradients(groups: Groups, x: Tensor, weight: Tensor, grad: Tensor) -> tuple[Tensor, Tensor]:
    leaves = x.clone().requires_grad_(), weight.clone().requires_grad_()
    of_x, of_weight = torch.autograd.grad(convolved(groups, *leaves), leaves, grad)
    return of_x, of_weight


def forward(groups: Groups, inputs: Inputs) -> Case:
    value = convolved(groups, inputs.x, inputs.weight) + inputs.before
    terms = convolved(groups, inputs.x.abs(), inputs.weight.abs()) + inputs.before.abs()
    tensors = {"x": laid(inputs.x, groups, 0), "weight": weights(groups, inputs)}
    tensors["out"] = laid(inputs.before if groups.adds else torch.full_like(value, math.nan), groups, 1)
    truths = {"out": truth(value, terms, compute_dtype(groups.dtype), groups.dtype)}
    return case("convolution forward", groups, tensors, truths)


def backward(groups: Groups, inputs: Inputs) -> Case:
    of_x, of_weight = gradients(groups, inputs.x, inputs.weight, inputs.grad)
    # All terms are positive then, so that the gradients are the sums of absolute terms.
    x_terms, weight_terms = gradients(groups, inputs.x.abs(), inputs.weight.abs(), inputs.grad.abs())
    computing = compute_dtype(groups.dtype)
    truths = {
        "grad_x": truth(of_x + inputs.before_x, x_terms + inputs.before_x.abs(), computing, groups.dtype),
        "grad_weight": truth(of_weight, weight_terms, computing, computing),
    }
    tensors = {"x": laid(inputs.x, groups, 0), "weight": weights(groups, inputs), "grad": laid(inputs.grad, groups, 1)}
    tensors["grad_x"] = laid(inputs.before_x if groups.adds else torch.full_like(of_x, math.nan), groups, 0)
    tensors["grad_weight"] = dense(torch.full_like(of_weight, math.nan, dtype=computing))
    return case("convolution backward", groups, tensors, truths)


def laid(x: Tensor, groups: Groups, number: int) -> Tensor:
    return placed(x.to(groups.dtype), *LAYOUTS[groups.layouts[number]])


def weights(groups: Groups, inputs: Inputs) -> Tensor:
    return dense(inputs.weight.to(compute_dtype(groups.dtype)))


def case(kernel: str, groups: Groups, tensors: dict[str, Tensor], truths: dict[str, Truth]) -> Case:
    names = ("x", "out", "weight", "grad", "grad_x", "grad_weight")
    numbers = (
        groups.batch, groups.groups, groups.pieces, groups.outputs, *groups.size, *groups.out_size, groups.kernel,
        groups.stride, groups.dilation, int(groups.ones), int(groups.adds),
    )  # fmt: skip
    return Case(kernel, numbers, 1.0, {name: tensors.get(name) for name in names}, truths, str(groups))
