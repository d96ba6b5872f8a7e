"""Cases of stage I's product of matrices and of the products of rows that give its weight's gradient, in float32."""

import math
import random
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from kernel_checks.case import Case, dense, placed, truth

FLOAT = torch.float32
IN_ORDER = (0, 1, 2)


class Sizes(NamedTuple):
    """Images of `pixels`; parts of `part_rows` rows each; and the other side of the product."""

    images: int
    pixels: int
    parts: int
    part_rows: int
    other: int


# Odd sizes around those of tiles, and blocks: 48 columns, 192 or 256 of the depth, 12 blocks; images that end
# in the middle of a vector, and several in one vector; weights of more than 2^18 entries, in one group of blocks and
# in two.
PRODUCTS = (
    Sizes(1, 1, 1, 1, 1), Sizes(3, 1, 3, 3, 5), Sizes(2, 5, 3, 7, 17), Sizes(1, 15, 2, 8, 193), Sizes(3, 16, 3, 8, 257),
    Sizes(2, 37, 3, 11, 64), Sizes(1, 49, 3, 16, 400), Sizes(5, 49, 3, 5, 33), Sizes(2, 196, 3, 13, 31),
    Sizes(1, 240, 1, 24, 8), Sizes(1, 241, 2, 9, 3), Sizes(3, 341, 3, 7, 9), Sizes(2, 1601, 1, 5, 12),
    Sizes(7, 9, 3, 32, 65), Sizes(2, 49, 3, 190, 500), Sizes(7, 49, 3, 190, 500),
)  # fmt: skip
# Large enough for a matrix unit, either way: around its tiles of 16 rows and columns and 32 of the depth, and panels of
# 32 rows; blocks of 128 columns that are multiplied together and others; a depth of more than 512, and weights of more
# than 1 MB.
TILED = (
    Sizes(2, 196, 3, 23, 72), Sizes(6, 49, 3, 32, 96), Sizes(1, 784, 3, 32, 65), Sizes(2, 131, 1, 81, 66),
    Sizes(18, 15, 3, 27, 80), Sizes(5, 1600, 3, 24, 72), Sizes(4, 81, 3, 171, 560), Sizes(1, 320, 3, 64, 1100),
)  # fmt: skip
# Around tiles of 6 left rows, units of 96, tiles of 64, 16 or 8 right rows, and steps of 112 pixels.
ROWS = (
    Sizes(1, 1, 1, 1, 1), Sizes(3, 1, 3, 3, 5), Sizes(2, 5, 3, 7, 17), Sizes(1, 15, 2, 8, 127), Sizes(3, 16, 3, 8, 129),
    Sizes(2, 37, 3, 11, 64), Sizes(1, 111, 3, 2, 7), Sizes(2, 112, 3, 33, 65), Sizes(1, 113, 2, 5, 4),
    Sizes(2, 225, 1, 25, 63), Sizes(30, 49, 3, 4, 6), Sizes(9, 56, 1, 97, 10), Sizes(1, 3301, 1, 7, 5),
    Sizes(4, 9, 3, 17, 260), Sizes(1, 20, 3, 64, 512), Sizes(5, 23, 1, 6, 16),
)  # fmt: skip


def cases(seed: int) -> Iterator[Callable[[], Case]]:
    """All cases of both kernels; each is worked out when it is called."""
    chance = random.Random(seed)
    generator = torch.Generator().manual_seed(seed)
    for sizes in PRODUCTS:
        for transposed in (False, True):
            yield partial(product, sizes, transposed, chance.random() < 0.5, gaps_of(chance), generator)
    for sizes in ROWS:
        for adds in (False, True):
            yield partial(row_products, sizes, adds, chance.random() < 0.5, gaps_of(chance), generator)
    for sizes in TILED:
        for transposed in (False, True):
            yield partial(product, sizes, transposed, chance.random() < 0.5, gaps_of(chance), generator)


def gaps_of(chance: random.Random) -> tuple[int, int]:
    """Entries between images and between rows of a product's two maps."""
    return chance.choice((0, 0, 3)), chance.choice((0, 0, 1))


def normal(generator: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(shape, generator=generator, dtype=FLOAT).double()


def empty(*shape: int) -> Tensor:
    return torch.full(shape, math.nan, dtype=FLOAT)


def in_parts(x: Tensor, rows: int) -> dict[str, Tensor | None]:
    """Dense parts of so many rows; three of them or fewer."""
    parts = list(x.to(FLOAT).split(rows))
    return {f"part {i}": dense(parts[i]) if i < len(parts) else None for i in range(3)}


def mapped(x: Tensor, gaps: tuple[int, int]) -> Tensor:
    """[images, rows, pixels] of which the pixels are dense."""
    image, row = gaps
    return placed(x.to(FLOAT), IN_ORDER, (image, row, 0))


def product(sizes: Sizes, transposed: bool, biased: bool, gaps: tuple[int, int], generator: torch.Generator) -> Case:
    stacked = normal(generator, sizes.parts * sizes.part_rows, sizes.other)
    weight = stacked.mT if transposed else stacked
    rows, depth = weight.shape
    x, bias = (
        normal(generator, sizes.images, depth, sizes.pixels),
        normal(generator, rows) if biased else torch.zeros(rows),
    )
    value, terms = (w @ y + b[:, None] for w, y, b in ((weight, x, bias), (weight.abs(), x.abs(), bias.abs())))
    tensors = in_parts(stacked, sizes.part_rows)
    tensors |= {"bias": dense(bias.to(FLOAT)) if biased else None, "x": mapped(x, gaps)}
    tensors["out"] = mapped(empty(*value.shape), gaps)
    strides = [stride for name in ("x", "out") for stride in strides_of(tensors[name])]
    sides = [sizes.part_rows, sizes.other, int(transposed)]
    numbers = [sizes.images, rows, depth, sizes.pixels, *sides, *strides]
    text = f"{sizes}, {'transposed, ' * transposed}{'bias, ' * biased}gaps {gaps}"
    return Case("product", numbers, 1.0, tensors, {"out": truth(value, terms, FLOAT, FLOAT)}, text)


def strides_of(x: Tensor | None) -> Sequence[int]:
    """Between images and between rows."""
    return () if x is None else x.stride()[:2]


def row_products(sizes: Sizes, adds: bool, sums: bool, gaps: tuple[int, int], generator: torch.Generator) -> Case:
    rows = sizes.parts * sizes.part_rows
    left, right = (normal(generator, sizes.images, n, sizes.pixels) for n in (rows, sizes.other))
    before, before_sums = normal(generator, rows, sizes.other), normal(generator, rows)
    if not adds:
        before, before_sums = torch.zeros_like(before), torch.zeros_like(before_sums)
    values, terms = (
        ((a @ b.mT).sum(0) + c, a.sum((0, 2)) + d)
        for a, b, c, d in (
            (left, right, before, before_sums),
            tuple(map(torch.abs, (left, right, before, before_sums))),
        )
    )
    image = (gaps[0], 0)  # all but the images are dense
    tensors: dict[str, Tensor | None] = {"left": mapped(left, image), "right": mapped(right, image)}
    tensors |= in_parts(before if adds else empty(*before.shape), sizes.part_rows)
    tensors["sums"] = dense(before_sums.to(FLOAT) if adds else empty(rows)) if sums else None
    truths = {
        f"part {i}": truth(value, of_terms, FLOAT, FLOAT)
        for i, (value, of_terms) in enumerate(
            zip(values[0].split(sizes.part_rows), terms[0].split(sizes.part_rows), strict=True)
        )
    }
    if sums:
        truths["sums"] = truth(values[1], terms[1], FLOAT, FLOAT)
    steps = [strides_of(tensors[name])[0] for name in ("left", "right")]
    numbers = [sizes.images, rows, sizes.other, sizes.pixels, *steps, sizes.part_rows, int(adds)]
    text = f"{sizes}, {'adds, ' * adds}{'sums, ' * sums}gaps {image}"
    return Case("row products", numbers, 1.0, tensors, truths, text)
