"""Cases of the sums over a grid, and of the FC and the shifts as one kernel, in float32."""

import random
from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor

from kernel_checks.case import Case, Truth, dense, truth
from kernel_checks.product import empty, normal

FLOAT = torch.float32

# Rows and pixels around vectors, and around the 512 pixels that are summed in float.
GRIDS = ((1, 1), (3, 2), (5, 7), (2, 16), (4, 31), (1, 511), (2, 512), (3, 513), (2, 1100))
# Channels around the 32 that are summed in float; maps k * k of one tap, 9, 16 and 25; pieces.
MIXINGS = ((1, 1, 1), (2, 1, 5), (3, 9, 12), (31, 9, 3), (32, 4, 6), (33, 9, 7), (70, 16, 9), (5, 25, 12), (34, 49, 3))


def cases(seed: int) -> Iterator[Callable[[], Case]]:
    """All cases of these kernels; each is worked out when it is called."""
    generator = torch.Generator().manual_seed(seed)
    order = random.Random(seed).sample(GRIDS, len(GRIDS))
    for rows, pixels in order:
        yield partial(grid_sums, rows, pixels, generator)
    for channels, maps, pieces in MIXINGS:
        yield partial(mixing, channels, maps, pieces, generator)


def grid_sums(rows: int, pixels: int, generator: torch.Generator) -> Case:
    maps, grid = normal(generator, rows, pixels), normal(generator, 2, pixels)
    weights = torch.cat([grid, torch.ones_like(grid[:1])])
    value, terms = maps @ weights.mT, maps.abs() @ weights.abs().mT
    tensors: dict[str, Tensor | None] = {"rows": dense(maps.to(FLOAT)), "grid": dense(grid.to(FLOAT))}
    tensors["sums"] = torch.full(value.shape, torch.nan, dtype=torch.float64)
    truths = {"sums": truth(value, terms, FLOAT, torch.float64)}
    return Case("grid sums", [rows, pixels], 1.0, tensors, truths, f"{rows} rows of {pixels} pixels")


def mixing(channels: int, maps: int, pieces: int, generator: torch.Generator) -> Case:
    mix, shifts = normal(generator, maps, pieces), normal(generator, channels, maps, maps)
    grads = normal(generator, channels, pieces, maps)

    def summed(equation: str, left: Tensor, right: Tensor) -> Truth:
        value, terms = (torch.einsum(equation, a, b) for a, b in ((left, right), (left.abs(), right.abs())))
        return truth(value, terms, FLOAT, FLOAT)

    truths = {
        "kernels": summed("ip,cit->cpt", mix, shifts),
        "grad_mix": summed("cpt,cit->ip", grads, shifts),
        "grad_shifts": summed("ip,cpt->cit", mix, grads),
    }
    tensors: dict[str, Tensor | None] = {name: dense(x.to(FLOAT)) for name, x in (("mix", mix), ("shifts", shifts))}
    tensors |= {"kernels": empty(channels, pieces, maps), "grad_kernels": dense(grads.to(FLOAT))}
    tensors |= {name: empty(*truths[name].value.shape) for name in ("grad_mix", "grad_shifts")}
    text = f"{channels} channels, {maps} maps, {pieces} pieces"
    return Case("mixing", [channels, maps, pieces], 1.0, tensors, truths, text)
