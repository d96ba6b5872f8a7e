"""ACmix over shifted windows, against the mathematics written out window by window."""

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from acmix.nn import ShiftedWindowACmix, TwoPaths
from acmix.nn.shift import shift_kernels
from layer_comparison import randn

# window, shift, map: a multiple, windows that stand out, maps smaller than a window, shifts along one axis.
CASES = [
    (4, 0, (8, 12)),
    (4, 2, (8, 12)),
    (4, 2, (7, 9)),
    (4, 0, (7, 9)),
    (5, 2, (3, 4)),
    (3, 1, (1, 1)),
    ((2, 5), (1, 0), (5, 11)),
    ((3, 2), (0, 1), (6, 3)),
]

# How timm interpolates position biases.
TIMMS_OWN_WARNINGS = pytest.mark.filterwarnings(
    r"ignore:torch.searchsorted\(\):UserWarning:timm", "ignore:Using a non-tuple sequence:UserWarning:timm"
)


def scrambled(*args: Any, seed: int = 0, dtype: torch.dtype = torch.float64, **kwargs: Any) -> ShiftedWindowACmix:
    """A layer whose parameters are all random: shifts, rates and zeros at their start hide mistakes."""
    layer = ShiftedWindowACmix(*args, dtype=torch.float64, **kwargs)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in layer.parameters():
            fan_in = max(parameter[0].numel(), 1)
            parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64) / fan_in**0.5)
    return layer.to(dtype)


def attention_by_hand(layer: ShiftedWindowACmix, x: Tensor) -> Tensor:
    """W-MSA or SW-MSA of one image [H, W, C], each query of each head by itself; padding is the projection of zero."""
    (rows, columns), (down, right) = layer.window_size, layer.shift_size
    height, width, channels = x.shape
    tall, wide = -(-height // rows) * rows, -(-width // columns) * columns
    heads, head_dim = layer.num_heads, layer.head_dim

    def pixel(i: int, j: int) -> Tensor:
        """What lies at a place of the shifted, padded map."""
        return x[(i + down) % height, (j + right) % width] if i < height and j < width else x.new_zeros(channels)

    def part(i: int, j: int) -> tuple[bool, bool]:
        """The last `shift` rows and columns are another part of the image than those beside them."""
        return i >= tall - down, j >= wide - right

    out = x.new_zeros(height, width, heads * head_dim)
    for i in range(height):
        for j in range(width):
            top, left = i // rows * rows, j // columns * columns
            places = [(top + a, left + b) for a in range(rows) for b in range(columns)]
            projected = torch.stack([layer.qkv(pixel(*place)) for place in places]).view(-1, 3, heads, head_dim)
            for head in range(heads):
                q = layer.qkv(pixel(i, j)).view(3, heads, head_dim)[0, head]
                logits = projected[:, 1, head] @ q * head_dim**-0.5
                for n, (a, b) in enumerate(places):
                    offset = (i - a + rows - 1) * (2 * columns - 1) + (j - b + columns - 1)
                    logits[n] = logits[n] + layer.relative_position_bias_table[offset, head]
                    if part(i, j) != part(a, b):
                        logits[n] = logits[n] - 100
                row, column = (i + down) % height, (j + right) % width
                out[row, column, head * head_dim : (head + 1) * head_dim] = logits.softmax(0) @ projected[:, 2, head]
    return out


def convolution_by_hand(layer: ShiftedWindowACmix, x: Tensor) -> Tensor:
    """The convolution path of one image [H, W, C]: on the rolled map at its own size, zeros around it."""
    heads, head_dim = layer.num_heads, layer.head_dim
    rolled = x.roll([-shift for shift in layer.shift_size], (0, 1))
    pieces = layer.qkv(rolled).unflatten(2, (3 * heads, head_dim))
    maps = torch.einsum("hwpd,ip->dihw", pieces, layer.fc.weight.flatten(1)) + layer.fc.bias[:, None, None]
    groups = [
        F.conv2d(maps[d].unsqueeze(0), layer.shift.weight.unflatten(0, (head_dim, -1))[d], padding=1)[0]
        for d in range(head_dim)
    ]
    return torch.cat(groups).permute(1, 2, 0).roll(layer.shift_size, (0, 1))


@pytest.mark.parametrize(("window", "shift", "size"), CASES, ids=str)
def test_both_paths_are_the_mathematics(window: Any, shift: Any, size: tuple[int, int]) -> None:
    layer, x = scrambled(6, 2, window, shift), randn(*size, 6)
    with torch.no_grad():
        attention = layer.alpha * layer.proj(attention_by_hand(layer, x))
        convolution = layer.beta * convolution_by_hand(layer, x)
        paths = layer.forward_paths(x.unsqueeze(0))
        torch.testing.assert_close(paths.attention[0], attention, rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(paths.convolution[0], convolution, rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(layer(x.unsqueeze(0))[0], attention + convolution, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("options", [{}, {"qkv_bias": False}, {"head_dim": 2}], ids=str)
@pytest.mark.parametrize(("shift", "size"), [(0, (4, 4)), (1, (4, 5)), (1, (2, 3))], ids=str)
def test_gradients(shift: int, size: tuple[int, int], options: dict[str, Any]) -> None:
    layer, x = scrambled(6, 1, 2, shift, **options), randn(2, *size, 6).requires_grad_()
    names, parameters = zip(*layer.named_parameters(), strict=True)

    def call(x: Tensor, *values: Tensor) -> Tensor:
        return torch.func.functional_call(layer, dict(zip(names, values, strict=True)), (x,))

    assert torch.autograd.gradcheck(call, (x, *parameters), fast_mode=True)


def test_the_convolution_sees_the_other_end_of_a_shifted_map() -> None:
    layer = scrambled(4, 1, 4, 2, paths="convolution")
    x = randn(1, 8, 8, 4)
    changed = x.clone()
    changed[0, 7, 4] += 1
    moved = (layer(changed) - layer(x)).abs().sum(-1)[0] > 0
    # Rows 7 and 0 are neighbours in the shifted map; its border lies between rows 1 and 2.
    assert sorted({int(row) for row in moved.nonzero()[:, 0]}) == [0, 6, 7]


def test_it_starts_as_swin_and_as_shifts() -> None:
    layer = ShiftedWindowACmix(12, 3)
    assert torch.equal(layer.shift.weight, shift_kernels(3).expand(12, 9, 3, 3))
    assert layer.rate_values() == (0.5, 0.5)
    assert not layer.qkv.bias.any()
    assert 0.015 < layer.qkv.weight.std() < 0.025


@pytest.mark.parametrize("paths", ["attention", "convolution"])
def test_a_dropped_path_leaves_nothing_behind(paths: str) -> None:
    both, one, x = scrambled(8, 2, 4, 2), scrambled(8, 2, 4, 2, paths=paths), randn(1, 7, 8, 8)
    one.load_state_dict({name: value for name, value in both.state_dict().items() if name in one.state_dict()})
    expected = getattr(both.forward_paths(x), paths)
    torch.testing.assert_close(one(x), expected)
    assert one.forward_paths(x)[paths == "attention"] is None
    one(x).sum().backward()
    assert [name for name, parameter in one.named_parameters() if parameter.grad is None] == []


@pytest.mark.parametrize("shift", ["learnable", "fixed", "tensor"])
def test_forms_of_the_shift_start_equal(shift: Any) -> None:
    group, other, x = scrambled(8, 2, 4, 2), scrambled(8, 2, 4, 2, shift=shift), randn(1, 7, 8, 8)
    for layer in (group, other):
        layer.shift.reset_parameters()
    state = {name: value for name, value in group.state_dict().items() if name != "shift.weight"}
    other.load_state_dict(state, strict=False)
    torch.testing.assert_close(other(x), group(x))


@pytest.mark.parametrize("shift", [0, 2])
def test_heads_attend_as_torch_does_where_one_window_is_the_map(shift: int) -> None:
    layer, x = scrambled(8, 2, 4, paths="attention", rates="1,1"), randn(2, 4, 4, 8)
    with torch.no_grad():
        layer.relative_position_bias_table.zero_()
    expected, _ = F.multi_head_attention_forward(
        *(x.flatten(1, 2).transpose(0, 1),) * 3,
        8,
        2,
        layer.qkv.weight,
        layer.qkv.bias,
        None,
        None,
        False,
        0.0,
        layer.proj.weight,
        layer.proj.bias,
    )
    torch.testing.assert_close(layer(x).flatten(1, 2), expected.transpose(0, 1))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("shift", [0, 3])
def test_half_precision(dtype: torch.dtype, shift: int) -> None:
    layer, x = scrambled(16, 2, 7, shift), randn(2, 10, 14, 16)
    half, y = copy.deepcopy(layer).to(dtype), x.to(dtype).requires_grad_()
    x.requires_grad_()
    expected, came = layer(x), half(y)
    expected.sum().backward()
    came.sum().backward()
    assert (came.dtype, y.grad.dtype) == (dtype, dtype)
    limit = 16 * torch.finfo(dtype).eps
    assert (came - expected).abs().max() <= limit * expected.abs().max()
    assert (y.grad - x.grad).abs().max() <= limit * x.grad.abs().max()


def test_dropout_is_of_training_alone() -> None:
    layer, x = scrambled(8, 2, 4, 2, attn_drop=0.5, proj_drop=0.2), randn(1, 8, 8, 8)
    torch.manual_seed(0)
    assert not torch.equal(layer(x), layer(x))
    layer.eval()
    assert torch.equal(layer(x), layer(x))
    plain = scrambled(8, 2, 4, 2).eval()
    torch.testing.assert_close(layer(x), plain(x))


@TIMMS_OWN_WARNINGS
def test_other_windows_keep_what_was_learned() -> None:
    layer, x = scrambled(8, 2, 4, 2), randn(1, 8, 8, 8)
    same = copy.deepcopy(layer)
    same.set_window_size(4, 2)
    assert torch.equal(same(x), layer(x))
    with torch.no_grad():
        layer.relative_position_bias_table.fill_(0.25)
    layer.set_window_size((3, 2), (1, 1))
    torch.testing.assert_close(layer.relative_position_bias_table.detach(), torch.full((5 * 3, 2), 0.25).double())
    assert layer(x).shape == x.shape


def test_the_authors_index_is_read_over() -> None:
    layer = scrambled(8, 2, 4)
    state = layer.state_dict() | {"relative_position_index": torch.zeros(16, 16, dtype=torch.long)}
    layer.load_state_dict(state, strict=True)
    assert layer.relative_position_index[0, 1] != layer.relative_position_index[1, 0]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"channels": 10, "num_heads": 3}, "channels=10 is no multiple of num_heads=3"),
        (
            {"channels": 8, "num_heads": 2, "window_size": 4, "shift_size": 4},
            r"shift_size=\(4, 4\), expected 0 up to less",
        ),
        ({"channels": 8, "num_heads": 2, "window_size": 0}, "window_height"),
        ({"channels": 8, "num_heads": 2, "paths": "none"}, "paths='none', expected one of"),
    ],
    ids=["heads", "shift", "window", "paths"],
)
def test_wrong_arguments_are_named(arguments: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=f"ShiftedWindowACmix: .*{told}"):
        ShiftedWindowACmix(**arguments)


@pytest.mark.parametrize("shape", [(2, 8, 7, 7), (7, 7, 8), (1, 0, 7, 8)], ids=str)
def test_wrong_inputs_are_named(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"ShiftedWindowACmix: the input has shape .*, expected \[B, H, W, 8\]"):
        ShiftedWindowACmix(8, 2)(torch.zeros(shape))


def test_it_is_one_of_the_family() -> None:
    layer = ShiftedWindowACmix(8, 2, shift_size=3)
    assert isinstance(layer, TwoPaths)
    assert "window_size=(7, 7), shift_size=(3, 3), kernel_conv=3" in repr(layer)
