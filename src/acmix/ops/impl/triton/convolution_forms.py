"""Which form of the convolution path runs on CUDA: a table of measurements, and a rule where it has no entry.

`scripts/choose_convolution_forms.py` measures the forms on a card and writes the table, `convolution_forms.json`.
"""

import json
from pathlib import Path
from typing import Literal, NamedTuple, get_args

import torch

__all__ = ["FORMS", "TABLE", "Form", "ShapeClass", "Table", "choose_form", "read_table", "wants_dense"]

Form = Literal["triton", "cudnn"]
FORMS: tuple[Form, ...] = get_args(Form)

TABLE = Path(__file__).with_name("convolution_forms.json")


class ShapeClass(NamedTuple):
    """What the choice depends on.

    Attributes:
        dtype: dtype of the pieces.
        channels_last: whether the channels of a pixel lie closer together than its neighbours.
        groups: width D of the pieces.
        pieces: pieces P that each group reads.
        outputs: output channels of a group.
        kernel: kernel side k.
        stride: stride s.
        size: longer side of the map.
    """

    dtype: torch.dtype
    channels_last: bool
    groups: int
    pieces: int
    outputs: int
    kernel: int
    stride: int
    size: int

    @property
    def key(self) -> str:
        """The table's name of it.

        Maps count up to the next power of two, and both half precisions, which cost the same, as one.
        """
        layout = "last" if self.channels_last else "first"
        side = 1 << (self.size - 1).bit_length()
        dtype = "half" if self.dtype.itemsize == 2 else str(self.dtype).removeprefix("torch.")
        numbers = f"{self.groups}x{self.pieces}to{self.outputs}-k{self.kernel}-s{self.stride}-map{side}"
        return f"{dtype}-{layout}-{numbers}"


class Table(NamedTuple):
    """What was measured.

    Attributes:
        measured_on: name of the card; None: nothing was measured.
        forms: the faster form of forward and backward pass, by `ShapeClass.key`.
        dense_at_inference: keys where, with stage I, one dense convolution of the layer's input is the fastest forward.
    """

    measured_on: str | None
    forms: dict[str, Form]
    dense_at_inference: frozenset[str]


def read_table(path: Path = TABLE) -> Table:
    """The measured choices.

    Raises:
        ValueError: an entry is no form.
    """
    read = json.loads(path.read_text(encoding="utf-8"))
    wrong = {form for form in read["forms"].values() if form not in FORMS}
    if wrong:
        raise ValueError(f"{path}: {sorted(wrong)} are no forms, expected {FORMS}.")
    return Table(read["measured_on"], read["forms"], frozenset(read["dense_at_inference"]))


_MEASURED = read_table()


def choose_form(shape: ShapeClass) -> Form:
    """The form that was measured the fastest; else the rule.

    The kernels here read planes of pixels one after the other; where channels lie together, all groups of a pixel share
    a few sectors of memory, which cuDNN's kernels read at once.
    """
    return _MEASURED.forms.get(shape.key, "cudnn" if shape.channels_last else "triton")


def wants_dense(shape: ShapeClass) -> bool:
    """Whether the collapsed path was measured the fastest for inference; not where nothing was measured."""
    return shape.key in _MEASURED.dense_at_inference
