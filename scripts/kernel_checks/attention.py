"""Cases of window attention, forward and backward."""

import itertools
import math
import random
from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from acmix.functional import local_attention
from acmix.ops.geometry import output_size, reflect, window_offsets
from acmix.ops.layout import compute_dtype
from kernel_checks.case import DTYPES, SUMMED, Case, Truth, dense, placed, truth

MAPS = ((1, 1), (1, 7), (9, 1), (2, 3), (5, 16), (6, 15), (13, 13), (7, 32), (17, 33), (5, 70), (40, 34))
# Maps whose rows end with a part of a vector that two heads share, where kernels do so; the last one in several units.
SHARED_MAPS = ((3, 4), (7, 7), (17, 33), (5, 70), (40, 34), (9, 56), (6, 24), (100, 20))
WIDTHS = (1, 3, 4, 16, 65)
MOST_PRODUCTS = 5_000_000  # of queries, window and channels: a case takes a second at most, sanitized too

# Orders of the axes [B, N, D, H, W], the outermost first, and gaps behind entries of each; heads may stand further
# apart even where each head's map must be dense.
LAYOUTS = {
    "dense": ((0, 1, 2, 3, 4), (0, 0, 0, 0, 0)),
    "channels last": ((0, 3, 4, 1, 2), (0, 0, 0, 0, 0)),
    "gaps": ((0, 1, 2, 3, 4), (5, 1, 7, 3, 0)),
    "columns apart": ((0, 1, 2, 3, 4), (0, 0, 0, 0, 1)),
}
DENSE_ROWS = ("dense", "gaps")
DENSE_MAPS = {"dense": LAYOUTS["dense"], "gaps": ((0, 1, 2, 3, 4), (9, 5, 0, 0, 0))}


class Window(NamedTuple):
    """Of one case: the window, the map, and what else the call has."""

    kernel: int
    stride: int
    dilation: int
    size: tuple[int, int]
    width: int
    batch: int
    heads: int
    dtype: torch.dtype
    layouts: tuple[str, ...]  # of q, k, v, position, and the output or its gradient
    position: bool
    rate: bool
    fills: bool
    spread: float  # of queries: how far apart logits are
    in_parts: bool = False  # the position code, of columns and rows

    @property
    def out_size(self) -> tuple[int, int]:
        height, columns = (output_size(size, self.stride) for size in self.size)
        return height, columns

    @property
    def scale(self) -> float:
        return float(self.width**-0.5)

    def __str__(self) -> str:
        window = f"window {self.kernel}, stride {self.stride}, dilation {self.dilation}"
        what = [name for name in ("position", "rate", "fills", "in_parts") if getattr(self, name)]
        shape = (self.batch, self.heads, self.width, *self.size)
        return f"{window} on {shape} of {self.dtype}, {', '.join((*what, *self.layouts))}"


class Inputs(NamedTuple):
    """All in float64, rounded to the case's dtype; `rate` [B, N, 1, 1, 1]."""

    q: Tensor
    k: Tensor
    v: Tensor
    position: Tensor | None
    rate: Tensor
    grad: Tensor
    parts: tuple[Tensor, Tensor, Tensor] | None = None  # of the position code: [D, 2], places of columns and of rows


def cases(seed: int) -> Iterator[Callable[[], Case]]:
    """All cases, forward and backward in turn; each is worked out when it is called."""
    chance = random.Random(seed)
    generator = torch.Generator().manual_seed(seed)
    for window in itertools.chain(windows(chance), windows_of_layers(chance), windows_of_pairs(chance)):
        inputs = make_inputs(window, generator)
        yield partial(forward, window, inputs)
        yield partial(backward, window, inputs)


def windows(chance: random.Random) -> Iterator[Window]:
    """Every window in every dtype, and dense rows of float32, which have code of their own, on every map."""
    every = itertools.product((1, 3, 5, 7, 9), (1, 2, 3), (1, 2), DTYPES, range(2))
    for kernel, stride, dilation, dtype, _ in every:
        yield drawn(chance, (kernel, stride, dilation), dtype, None, tuple(LAYOUTS))
    for kernel, stride, size in itertools.product((3, 5, 7), (1, 2), MAPS):
        if is_near(kernel, 1, size):
            yield drawn(chance, (kernel, stride, 1), torch.float32, size, DENSE_ROWS)
    for kernel, stride in itertools.product((3, 5, 7), (1, 2)):
        case = drawn(chance, (kernel, stride, 1), torch.float32, MAPS[-1], DENSE_ROWS)
        yield case._replace(width=WIDTHS[-1], batch=1, heads=1)  # rows of several units
    yield case._replace(batch=0)
    for kernel, stride in itertools.product((3, 5, 7), (1, 2)):  # a last unit with another rest of rows
        case = drawn(chance, (kernel, stride, 1), torch.float32, (34, 128), DENSE_ROWS)
        yield case._replace(width=32, batch=1, heads=1)


def windows_of_layers(chance: random.Random) -> Iterator[Window]:
    """What the layer gives to kernels that take the position code in parts."""
    for kernel, stride, size in itertools.product((3, 5, 7), (1, 2), (*MAPS, (9, 56), (30, 29))):
        if is_near(kernel, 1, size):
            case = drawn(chance, (kernel, stride, 1), torch.float32, size, ("dense",))
            yield case._replace(in_parts=case.position)


def windows_of_pairs(chance: random.Random) -> Iterator[Window]:
    """The paper's window on an even number of heads, as others and as the layer give it to kernels."""
    for in_parts, size in itertools.product((False, True), SHARED_MAPS):
        case = drawn(chance, (7, 1, 1), torch.float32, size, ("dense",) if in_parts else DENSE_ROWS)
        heads = 2 if size == SHARED_MAPS[-1] else chance.choice((4, 6))
        yield case._replace(width=chance.choice((1, 6, 16)), batch=1, heads=heads, in_parts=in_parts and case.position)


def drawn(
    chance: random.Random,
    window: tuple[int, int, int],
    dtype: torch.dtype,
    size: tuple[int, int] | None,
    layouts: tuple[str, ...],
) -> Window:
    """A case of which the rest is drawn; again where it is too much work, or left to other code by the callers."""
    kernel, stride, dilation = window
    while True:
        case = Window(
            kernel, stride, dilation, size or chance.choice(MAPS), chance.choice(WIDTHS), chance.choice((1, 1, 2)),
            chance.choice((1, 2, 3)), dtype, tuple(chance.choice(layouts) for _ in range(5)), chance.random() < 0.5,
            chance.random() < 0.5, chance.random() < 0.5, chance.choice((1.0, 1.0, 5.0)),
        )  # fmt: skip
        work = case.batch * case.heads * case.width * math.prod(case.out_size) * kernel**2
        if work <= MOST_PRODUCTS and is_near(kernel, dilation, case.size):
            # The kernels fill gradients of queries in the computing dtype alone.
            fills = case.fills and dtype == compute_dtype(dtype)
            return case._replace(stride=min(stride, max(case.size)), fills=fills)


def is_near(kernel: int, dilation: int, size: tuple[int, int]) -> bool:
    """Whether a window reaches so little beyond the map that the callers give it to the kernels."""
    return (kernel - 1) // 2 * dilation <= 2 * max(size)


def make_inputs(window: Window, generator: torch.Generator) -> Inputs:
    shape = (window.batch, window.heads, window.width, *window.size)

    def normal(*sizes: int, dtype: torch.dtype = window.dtype) -> Tensor:
        return torch.randn(sizes, generator=generator, dtype=torch.float64).to(dtype).double()

    q = (window.spread * normal(*shape)).to(window.dtype).double()
    rate = normal(1, dtype=compute_dtype(window.dtype)) if window.rate else torch.ones(1, dtype=torch.float64)
    position = normal(*shape[2:]) if window.position else None
    parts = None
    if window.in_parts:
        code, across, down = normal(window.width, 2), normal(window.size[1]), normal(window.size[0])
        parts = code, across, down
        position = code[:, :1, None] * across + code[:, 1:, None] * down[:, None]
    grad = normal(*shape[:3], *window.out_size)
    return Inputs(q, normal(*shape), normal(*shape), position, rate.expand(*shape[:2], 1, 1, 1), grad, parts)


def forward(window: Window, inputs: Inputs) -> Case:
    out = reference(window, inputs)
    value = truth(out, Terms(window, inputs).forward(), compute_dtype(window.dtype), window.dtype)
    tensors = read_tensors(window, inputs)
    tensors["out"] = laid(torch.full_like(out, math.nan), window, 4)
    return case("attention forward", window, tensors, {"out": value})


def backward(window: Window, inputs: Inputs) -> Case:
    leaves = [x.clone().requires_grad_() for x in (inputs.q, inputs.k, inputs.v, inputs.rate)]
    out = reference(window, inputs._replace(q=leaves[0], k=leaves[1], v=leaves[2], rate=leaves[3]))
    of_q, of_k, of_v, of_rate = torch.autograd.grad(out, leaves, inputs.grad)
    terms, computing = Terms(window, inputs).backward(), compute_dtype(window.dtype)
    truths = {
        "grad_q": truth(of_q, terms[0], computing, window.dtype),
        "grad_k": truth(of_k, terms[1], computing, computing),
        "grad_v": truth(of_v, terms[2], computing, computing),
    }
    tensors = read_tensors(window, inputs)
    tensors["grad"] = laid(inputs.grad, window, 4)
    apart = DENSE_MAPS[window.layouts[1] if window.layouts[1] in DENSE_MAPS else "dense"]
    tensors["grad_q"] = empty_grad_q(window, of_q, apart)
    for name, of in (("grad_k", of_k), ("grad_v", of_v)):
        tensors[name] = placed(torch.full_like(of, math.nan, dtype=computing), *apart)
    if window.rate:
        truths["grad_rate"] = truth(of_rate.flatten(1), terms[3], computing, computing)
        tensors["grad_rate"] = dense(torch.full(of_rate.shape[:2], math.nan, dtype=computing))
    return case("attention backward", window, tensors, truths)


def empty_grad_q(window: Window, like: Tensor, apart: tuple[tuple[int, ...], tuple[int, ...]]) -> Tensor:
    """NaN where the kernel must write; zeros between queries where it may leave them."""
    empty = torch.full_like(like, math.nan, dtype=window.dtype)
    if window.fills:
        return placed(empty, *apart)
    queries = torch.zeros_like(empty, dtype=torch.bool)
    queries[..., :: window.stride, :: window.stride] = True
    return placed(empty.masked_fill(~queries, 0), *LAYOUTS[window.layouts[0]])


def reference(window: Window, inputs: Inputs) -> Tensor:
    out = local_attention(
        inputs.q, inputs.k, inputs.v, window.kernel, position=inputs.position, stride=window.stride,
        dilation=window.dilation, scale=window.scale, impl="reference",
    )  # fmt: skip
    return inputs.rate * out


def laid(x: Tensor, window: Window, number: int) -> Tensor:
    return placed(x.to(window.dtype), *LAYOUTS[window.layouts[number]])


def read_tensors(window: Window, inputs: Inputs) -> dict[str, Tensor | None]:
    tensors: dict[str, Tensor | None] = {
        name: laid(x, window, i) for i, (name, x) in enumerate(zip("qkv", inputs[:3], strict=True))
    }
    if inputs.parts:
        tensors |= {name: dense(x.float()) for name, x in zip(("code", "across", "down"), inputs.parts, strict=True)}
    code = None if inputs.position is None else laid(inputs.position[None, None], window, 3)
    rate = dense(inputs.rate.flatten()[:1].to(compute_dtype(window.dtype))) if window.rate else None
    return tensors | {"position": code, "rate": rate}


def case(kernel: str, window: Window, tensors: dict[str, Tensor | None], truths: dict[str, Truth]) -> Case:
    of_gradients = ("grad", "grad_q", "grad_k", "grad_v", "grad_rate")
    names = ("q", "k", "v", "out", "position", "rate", *of_gradients, "code", "across", "down")
    shape = (window.batch, window.heads, window.width, *window.size)
    numbers = (*shape, *window.out_size, window.kernel, window.stride, window.dilation, int(window.fills))
    return Case(kernel, numbers, window.scale, {name: tensors.get(name) for name in names}, truths, str(window))


def most_often(indices: Tensor) -> int:
    """How often the same index stands in one row, at most."""
    return int((indices.unsqueeze(1) == indices.unsqueeze(2)).sum(2).max())


class Terms:
    """Sums of the absolute values of what each result is a sum of, with what errors of the logits make of the weights.

    A logit is off by roundings of its own terms, a weight by as much of itself, and by as much again for the norm, a
    sum of weights. Where a small map shows a window the same key n times, as many sums are rounded the same way: by
    half a rounding of the last sum for each, on average.
    """

    def __init__(self, window: Window, inputs: Inputs) -> None:
        self.window, self.inputs = window, inputs
        rows, columns = (
            reflect(
                torch.arange(0, size, window.stride)[:, None] + window_offsets(window.kernel, window.dilation), size
            )
            for size in window.size
        )
        # [T, Q]: where the map's flat pixel stands that each query sees through each place of the window
        self.seen = (rows[:, None, :, None] * window.size[1] + columns[None, :, None, :]).flatten(2).flatten(0, 1).mT
        less = 0 if inputs.position is None else inputs.position
        self.q = inputs.q[..., :: window.stride, :: window.stride].flatten(3)
        self.keys = inputs.k.abs() if inputs.position is None else inputs.k.abs() + inputs.position.abs()
        logits = self.products(self.q, inputs.k - less)
        roundings = self.products(self.q.abs(), self.keys).amax(2, keepdim=True)
        repeated = 1 + (most_often(rows) * most_often(columns) - 1) / 2 / SUMMED
        self.weights = inputs.rate.abs().flatten(3) * logits.softmax(2) * (repeated + 2 * roundings)  # [B, N, T, Q]

    def products(self, left: Tensor, right: Tensor, scale: float | None = None) -> Tensor:
        """[B, N, D, Q] and maps [B, N, D, H, W] -> [B, N, T, Q]."""
        scale = self.window.scale if scale is None else scale
        return scale * (left.unsqueeze(3) * right.flatten(3)[..., self.seen]).sum(2)

    def gathered(self, weights: Tensor, values: Tensor) -> Tensor:
        """[B, N, T, Q] and maps -> [B, N, D, Q]."""
        return (weights.unsqueeze(2) * values.flatten(3)[..., self.seen]).sum(3)

    def scattered(self, weights: Tensor, queries: Tensor) -> Tensor:
        """[B, N, T, Q] and [B, N, D, Q] -> maps."""
        shares = (weights.unsqueeze(2) * queries.unsqueeze(3)).flatten(3)
        like = self.inputs.k
        return torch.zeros_like(like).flatten(3).index_add_(3, self.seen.flatten(), shares).view_as(like)

    def forward(self) -> Tensor:
        terms: Tensor = self.gathered(self.weights, self.inputs.v.abs()).unflatten(3, self.window.out_size)
        return terms

    def backward(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Of the gradients of q, k, v, and of the rate [B, N]."""
        grad, window = self.inputs.grad.abs().flatten(3), self.window
        products = self.products(grad, self.inputs.v.abs(), 1.0)
        means = (self.weights * products).sum(2, keepdim=True)
        rate = self.inputs.rate.abs().flatten(3)
        of_logits = self.weights * (products + means / rate) * window.scale
        of_q = torch.zeros_like(self.inputs.q)
        of_q[..., :: window.stride, :: window.stride] = self.gathered(of_logits, self.keys).unflatten(
            3, window.out_size
        )
        of_rate = means.sum(3).squeeze(2) / rate.flatten(1)
        return of_q, self.scattered(of_logits, self.q.abs()), self.scattered(self.weights, grad), of_rate
