"""Measures the forms of the convolution path on the CUDA device, in turn, and writes the table that chooses among them.

For every shape: forward and backward pass on Triton's kernels and on cuDNN's; for inference also one dense convolution
of the layer's input. By default at ResNet-50's stages, in float32 and bfloat16 and both memory formats.

Usage: python scripts/choose_convolution_forms.py [--batch 128] [--turns 7] [--shapes 64x56 128x56/2] [--output TABLE]
"""

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from acmix import ACmix
from acmix.bench.case import STAGES, STRIDED, parse_shape
from acmix.bench.figures import quartiles
from acmix.bench.timing import Call, Clock, CudaClock
from acmix.bench.turns import Limits, paired_ratios, prepare, take_turns
from acmix.ops.collapsed import PathWeights, collapsed_path
from acmix.ops.impl.triton.convolution import convolution_path, convolution_path_backward
from acmix.ops.impl.triton.convolution_forms import FORMS, TABLE, Form, ShapeClass, read_table
from acmix.ops.layout import is_channels_last

_HEADS, _KERNEL = 4, 3


class Inputs(NamedTuple):
    """What one shape is measured with."""

    x: Tensor
    pieces: Tensor
    weights: PathWeights
    stride: int

    @property
    def shape_class(self) -> ShapeClass:
        """What the table knows of it."""
        groups, count = self.pieces.shape[1:3]
        outputs, size = self.weights.shift_weight.shape[0] // groups, max(self.pieces.shape[3:])
        last = is_channels_last(self.pieces)
        return ShapeClass(self.pieces.dtype, last, groups, count, outputs, _KERNEL, self.stride, size)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--turns", type=int, default=7)
    parser.add_argument("--shapes", nargs="+", default=[*STAGES, *STRIDED], metavar="CxH")
    parser.add_argument("--output", type=Path, default=TABLE)
    args = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit("choose_convolution_forms: torch finds no CUDA device here")
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    known = read_table(args.output)
    clock = CudaClock()
    card = torch.cuda.get_device_name()
    # Measurements of another card count for nothing here.
    forms = dict(known.forms) if known.measured_on == card else {}
    dense = set(known.dense_at_inference) if known.measured_on == card else set()
    for inputs in all_inputs(args.shapes, args.batch):
        key = inputs.shape_class.key
        forms[key], ratio = fastest_form(inputs, clock, args.turns)
        dense.discard(key)
        share = dense_over(inputs, forms[key], clock, args.turns)
        if share < 1:
            dense.add(key)
        print(f"{key}: {forms[key]}, cudnn over triton {ratio:.2f}; dense over it at inference {share:.2f}")
    table = {"measured_on": card, "forms": forms, "dense_at_inference": sorted(dense)}
    args.output.write_text(json.dumps(table, indent=2) + "\n", encoding="utf-8")
    print(f"wrote {args.output}")


def all_inputs(shapes: list[str], batch: int) -> Iterator[Inputs]:
    """Layers of these shapes in both dtypes and memory formats."""
    for shape in shapes:
        channels, size, stride = parse_shape(shape)
        for dtype in (torch.float32, torch.bfloat16):
            for memory_format in (torch.contiguous_format, torch.channels_last):
                layer = ACmix(channels, channels, num_heads=_HEADS, stride=stride, device="cuda", dtype=dtype)
                x = torch.randn(batch, channels, size, size, device="cuda", dtype=dtype)
                yield inputs_of(layer, x.to(memory_format=memory_format))


def inputs_of(layer: ACmix, x: Tensor) -> Inputs:
    """What the layer's convolution path reads for an input."""
    with torch.no_grad():
        rows, biases = layer._projection()
        pieces = layer._project(x).pieces
        bias = None if biases is None else biases.flatten(1)
        kernels = layer.shift.weight
        if kernels is None:
            raise ValueError("choose_convolution_forms: a layer without kernels")
        weights = PathWeights(rows.flatten(3).flatten(1, 2), bias, layer.fc_weight(x.dtype), kernels.detach())
    return Inputs(x, pieces, weights, layer.stride)


def training_call(inputs: Inputs, form: Form) -> Call:
    """Forward and backward pass of one form."""
    pieces, parts = inputs.pieces, (inputs.weights.fc_weight, inputs.weights.shift_weight, None)

    def call() -> None:
        out = convolution_path(pieces, parts, inputs.stride, 1, form)
        convolution_path_backward(out, pieces, parts, inputs.stride, 1, form)

    return call


def fastest_form(inputs: Inputs, clock: Clock, turns: int) -> tuple[Form, float]:
    """The faster form of forward and backward pass, and cuDNN's time over the kernels' own."""
    calls = {str(form): training_call(inputs, form) for form in FORMS}
    with torch.no_grad():
        ratio = median_ratio(calls, ("cudnn", "triton"), clock, turns)
    return ("triton" if ratio >= 1 else "cudnn"), ratio


def dense_over(inputs: Inputs, form: Form, clock: Clock, turns: int) -> float:
    """Time of the dense convolution over that of a form, forward pass alone."""
    parts = inputs.weights.fc_weight, inputs.weights.shift_weight, None
    calls: dict[str, Call] = {
        "dense": lambda: collapsed_path(inputs.x, inputs.weights, inputs.stride, 1),
        form: lambda: convolution_path(inputs.pieces, parts, inputs.stride, 1, form),
    }
    with torch.no_grad():
        return median_ratio(calls, ("dense", form), clock, turns)


def median_ratio(calls: dict[str, Call], names: tuple[str, str], clock: Clock, turns: int) -> float:
    """Median of the first one's time over the second's, in turn."""
    first, second = names
    timed = {name: prepare(call, clock, Limits(turns, 3.0)) for name, call in calls.items()}
    take_turns(timed, second, clock, turns)
    return quartiles(paired_ratios(timed[first].samples, timed[second].samples)).median


if __name__ == "__main__":
    main()
