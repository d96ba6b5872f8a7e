"""The ACmix layer over neighbourhood attention."""

import warnings
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from acmix.functional import local_attention, local_attention_weights
from acmix.nn.authors_keys import translate_authors_keys
from acmix.nn.parameters import child_of, parameter_of, weight_and_bias
from acmix.nn.planes import as_planes, in_format_of, runs_on_planes
from acmix.nn.pointwise import pointwise
from acmix.nn.position import check_step, coordinate_grid
from acmix.nn.shift import Shift, ShiftInit
from acmix.nn.two_paths import ACmixPaths, Factory, Paths, Rates, TwoPaths, Window, present
from acmix.ops.autocast import autocast, is_autocasting
from acmix.ops.checks import check_positive, check_tensors, check_window
from acmix.ops.collapsed import PathWeights, collapsed_path, runs_collapsed
from acmix.ops.impl.layer_inputs import LayerInputs, LayerWindow
from acmix.ops.layer import is_usual_map, layer, runs_at_once
from acmix.ops.problem import OpName
from acmix.ops.tracing import is_jit_tracing

__all__ = ["ACmix"]

_Three = tuple[Tensor | None, Tensor | None, Tensor | None]

# Windows are 3 to 13 wide in practice; a wider one that equals a channel count is a misplaced argument.
_WIDEST_USUAL_WINDOW = 31


class _Projected(NamedTuple):
    """Stage I: all pieces [B, D, 3N, H, W] and their parts [B, N, D, H, W], views of one tensor."""

    pieces: Tensor
    q: Tensor
    k: Tensor
    v: Tensor


class ACmix(TwoPaths):
    """Self-attention and convolution on one set of projections: `alpha * attention + beta * convolution` (Eq. 13).

    Stands where a k x k convolution stood: [B, C_in, H, W] -> [B, C_out, ceil(H / s), ceil(W / s)], any H, W >= 1, any
    floating-point dtype, any device. An unbatched [C_in, H, W] works as with `torch.nn.Conv2d`.

    Loads the authors' state dicts (`conv1` ... `rate2`) as well as its own. As in their code, attention channel
    `n * D + c` and convolution channel `c * N + n` are added as they stand.

    Compiles, exports and traces (`torch.compile`, `torch.export`, ONNX, `torch.jit.trace`); `torch.jit.script`, which
    torch itself gives up, is not supported.

    Args:
        in_channels: channels of the input.
        out_channels: channels C of the output, a multiple of `num_heads`.
        kernel_att: side K of the attention window, odd.
        num_heads: heads N.
        kernel_conv: side k of the convolution path's kernels, odd.
        stride: stride s of both paths. The projections run at the input's size.
        dilation: spreads the attention window and the shift kernels.
        bias: whether the three projections have a bias.
        position: whether the keys get a position code, a 1x1 projection of a coordinate grid. The projection's bias is
            the authors' and has no effect: it drops out of the softmax, its gradient is zero.
        position_step: None for the authors' grid from -1 to 1, which depends on the map's size; a number for a fixed
            distance between neighbouring pixels, which does not: crops then see what the whole map sees.
        conv_bias: whether the convolution path has a bias; the authors' has none.
        paths: "both", or "attention" or "convolution" alone; the other path and its rate are then dropped (Table 6).
        rates: "alpha,beta" for two learned rates; "alpha,1-alpha", "alpha,1" or "1,1" for less freedom (Table 6).
        shift: how maps are shifted and summed (Fig. 3, Table 7): "group" by N sets of learned kernels, the paper's
            choice; "learnable" by one set; "fixed" by one that stays as it starts; "tensor" by slices and sums.
        shift_init: "shift", or "random" for kernels that start as `nn.Conv2d` does (Table 7).
        impl: backend of both paths, see `acmix.functional.local_attention`.
        device: where the parameters are made.
        dtype: dtype of the parameters.

    Attributes:
        alpha: rate of the attention path, parameter of shape (1,), 0.5 at the start; None where it is not learned.
        beta: rate of the convolution path, likewise.

    Raises:
        ValueError: an argument is out of its range; the message names it.

    Example:
        >>> ACmix(64, 64)(torch.randn(1, 64, 56, 56)).shape
        torch.Size([1, 64, 56, 56])
    """

    def __init__(  # noqa: PLR0913  # ruff counts what stands after `*`; seven stand before it
        self,
        in_channels: int,
        out_channels: int,
        kernel_att: int = 7,
        num_heads: int = 4,
        kernel_conv: int = 3,
        stride: int = 1,
        dilation: int = 1,
        *,
        bias: bool = True,
        position: bool = True,
        position_step: float | None = None,
        conv_bias: bool = False,
        paths: Paths = "both",
        rates: Rates = "alpha,beta",
        shift: Shift = "group",
        shift_init: ShiftInit = "shift",
        impl: str = "auto",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        check_window("ACmix", "kernel_att", kernel_att)
        check_window("ACmix", "kernel_conv", kernel_conv)
        check_positive("ACmix", in_channels=in_channels, out_channels=out_channels, num_heads=num_heads)
        check_positive("ACmix", stride=stride, dilation=dilation)
        if out_channels % num_heads:
            raise ValueError(f"ACmix: out_channels={out_channels} is no multiple of num_heads={num_heads}; change one.")
        check_step("ACmix", position_step)
        if kernel_att > _WIDEST_USUAL_WINDOW and kernel_att in (in_channels, out_channels):
            message = f"ACmix: kernel_att={kernel_att} is a channel count; the third argument is the window's side."
            warnings.warn(message, stacklevel=2)
        # NumPy's integers become Python's: torch's operators take no others.
        in_channels, out_channels, kernel_att, num_heads = map(int, (in_channels, out_channels, kernel_att, num_heads))
        kernel_conv, stride, dilation = int(kernel_conv), int(stride), int(dilation)
        head_width = out_channels // num_heads
        made: Factory = {"device": device, "dtype": dtype}
        super().__init__(
            out_channels,
            head_width,
            3 * num_heads,
            kernel_conv=kernel_conv,
            conv_bias=conv_bias,
            paths=paths,
            rates=rates,
            shift=shift,
            shift_init=shift_init,
            impl=impl,
            **made,
        )
        self.in_channels, self.out_channels, self.kernel_att = in_channels, out_channels, kernel_att
        self.num_heads, self.head_width = num_heads, head_width
        self.stride, self.dilation, self.position_step = stride, dilation, position_step
        self.query = nn.Conv2d(in_channels, out_channels, 1, bias=bias, **made)
        self.key = nn.Conv2d(in_channels, out_channels, 1, bias=bias, **made)
        self.value = nn.Conv2d(in_channels, out_channels, 1, bias=bias, **made)
        has_code = position and self.paths != "convolution"
        self.position = nn.Conv2d(2, head_width, 1, **made) if has_code else None
        self.register_load_state_dict_pre_hook(_translate)  # type: ignore[no-untyped-call]  # torch does not type it

    @classmethod
    def attention_ops(cls, paths: Paths) -> tuple[OpName, ...]:
        """Window attention, where that path is there."""
        return () if paths == "convolution" else ("local_attention",)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C_in, H, W] or [C_in, H, W] -> [B, C, H', W'] or [C, H', W']; the memory format follows the input."""
        if not is_usual_map(x, self.in_channels, child_of(self, "query")._parameters.get("weight")):
            check_tensors("ACmix", {"the input": x})
            if x.dim() == 3:
                return self.forward(x.unsqueeze(0)).squeeze(0)
            self._check_input(x)
        inputs = self._inputs_at_once(x)
        if inputs is not None:
            out = layer(inputs, self._layer_window())
            return out if self.paths == "attention" else self.with_bias(out)
        projected = self._project(x)
        convolution = self._convolve(x, projected.pieces)
        return in_format_of(x, self.mix(self._attend(projected), convolution), self.impl)

    def forward_paths(self, x: Tensor) -> ACmixPaths:
        """The two terms of the output of `forward`, each with its rate, in the output's shape."""
        check_tensors("ACmix", {"the input": x})
        if x.dim() == 3:
            parts = self.forward_paths(x.unsqueeze(0))
            return ACmixPaths(*(None if part is None else part.squeeze(0) for part in parts))
        self._check_input(x)
        projected = self._project(x)
        attention = self._attend(projected)
        convolution = self.convolve(projected.pieces, **self._window())
        return ACmixPaths(None if attention is None else self.attended(attention), convolution)

    def attention_maps(self, x: Tensor, pixels: list[tuple[int, int]]) -> Tensor:
        """Where the queries at P output pixels (row, column) look: weights [B, N, P, H, W] over all keys, sum 1.

        Raises:
            ValueError: the layer has no attention path, or a pixel lies outside of the output.
        """
        if self.paths == "convolution":
            raise ValueError("ACmix: attention_maps of a layer with paths='convolution', which has no attention path.")
        check_tensors("ACmix", {"the input": x})
        self._check_input(x)
        _, q, k, _ = self._project(x)
        code = self._position_code(q.shape[3:], q.dtype)
        return local_attention_weights(q, k, pixels, self.kernel_att, position=code, **self._window())

    def _project(self, x: Tensor) -> _Projected:
        """Stage I as one convolution whose channels come out in the order (d, q/k/v, head) that both paths read."""
        heads, width = self.num_heads, self.head_width
        weight, bias = self._projection()
        project = as_planes if runs_on_planes(x, self.impl) else pointwise
        qkv = project(x, weight.flatten(0, 2), None if bias is None else bias.flatten())
        q, k, v = qkv.unflatten(1, (width, 3, heads)).transpose(1, 3).unbind(2)
        return _Projected(qkv.unflatten(1, (width, 3 * heads)), q, k, v)

    def _projection(self) -> tuple[Tensor, Tensor | None]:
        """Weights [D, 3, N, C_in, 1, 1] and biases [D, 3, N] of stage I, in the order in which its output comes out."""
        children = (self.query, self.key, self.value)
        # One copy each: what is stacked are views in the order that comes out.
        shape = (self.num_heads, self.head_width)
        weight = torch.stack([autocast(child.weight).unflatten(0, shape).transpose(0, 1) for child in children], 1)
        if self.query.bias is None:
            return weight, None
        return weight, torch.stack([autocast(present(child.bias)).unflatten(0, shape).mT for child in children], 1)

    def _convolve(self, x: Tensor, pieces: Tensor) -> Tensor | None:
        """The convolution path with its rate, from the pieces or, where that is faster, from the input."""
        kernels = self.shift.weight if self.paths != "attention" and self.shift.form == "group" else None
        if kernels is None or not runs_collapsed(pieces, kernels, self.stride, self.impl):
            return self.convolve(pieces, **self._window())
        weight, bias = self._projection()
        rows, biases = weight.flatten(3).flatten(1, 2), None if bias is None else bias.flatten(1)
        weights = PathWeights(rows, biases, self.fc_weight(pieces.dtype), kernels)
        return self.with_bias(collapsed_path(autocast(x), weights, **self._window()))

    def _check_input(self, x: Tensor) -> None:
        if is_jit_tracing():
            return  # sizes are tensors there, and a comparison of two would warn
        wrong = x.dim() != 4 or x.shape[1] != self.in_channels
        if wrong or (not torch.compiler.is_compiling() and 0 in x.shape[2:]):
            expected = f"[B, {self.in_channels}, H, W] or [{self.in_channels}, H, W] with H, W >= 1"
            raise ValueError(f"ACmix: the input has shape {tuple(x.shape)}, expected {expected}.")
        weight = child_of(self, "query")._parameters.get("weight")  # None where a parametrization computes it
        if weight is None or (x.dtype == weight.dtype and x.device == weight.device):
            return
        if not torch.compiler.is_compiling() and not is_autocasting(x.device.type):
            came = f"the input is {x.dtype} on {x.device} but the parameters are {weight.dtype} on {weight.device}"
            raise TypeError(f"ACmix: {came}, expected one dtype and one device; move one of them with .to(...).")

    def _window(self) -> Window:
        return {"stride": self.stride, "dilation": self.dilation}

    def _position_code(self, size: torch.Size, dtype: torch.dtype) -> Tensor | None:
        if self.position is None:
            return None
        grid = coordinate_grid(size[0], size[1], self.position_step, self.position.weight)
        code: Tensor = self.position(grid.unsqueeze(0))
        return code.squeeze(0).to(dtype)

    def _layer_window(self) -> LayerWindow:
        return LayerWindow(
            self.num_heads, 0 if self.paths == "convolution" else self.kernel_att, self.stride, self.dilation
        )

    def _inputs_at_once(self, x: Tensor) -> LayerInputs | None:
        """What both stages are given where they run as one op, and None where they cannot."""
        kernel = 0 if self.paths == "attention" else self.kernel_conv
        shift: Any = child_of(self, "shift") if kernel else None  # nn.Module as such has no form
        if shift is not None and shift.form != "group":
            return None
        if not runs_at_once(x, self.head_width, kernel, self._layer_window(), self.impl):
            return None
        query, key, value = (weight_and_bias(child_of(self, name)) for name in ("query", "key", "value"))
        biases = (query[1], key[1], value[1])
        code: _Three = (None, None, None)
        path: _Three = (None, None, None)
        position = self._modules.get("position")
        if position is not None:
            weight, bias = weight_and_bias(position)
            code = (weight, bias, coordinate_grid(x.shape[2], x.shape[3], self.position_step, weight))
        fc_bias = None
        if kernel:
            fc, fc_bias = weight_and_bias(child_of(self, "fc"))
            path = (fc, self._beta(), weight_and_bias(shift)[0])
        alpha = parameter_of(self, "alpha")
        inputs = LayerInputs(x, query[0], key[0], value[0], *biases, *code, *path, alpha)
        # Somebody may have taken a bias away, or changed the dtype of a part.
        is_usual = fc_bias is None and len({bias is None for bias in biases}) == 1
        is_usual = is_usual and (code[0] is None or code[1] is not None)
        return inputs if is_usual and all(given is None or given.dtype == x.dtype for given in inputs) else None

    def _attend(self, projected: _Projected) -> Tensor | None:
        if self.paths == "convolution":
            return None
        _, q, k, v = projected
        code = self._position_code(q.shape[3:], q.dtype)
        attended = local_attention(q, k, v, self.kernel_att, position=code, impl=self.impl, **self._window())
        # Heads and their channels merge as the last axes: a batch of one would lose its stride, and with it the format.
        return attended.movedim((1, 2), (3, 4)).flatten(3).movedim(3, 1)

    def extra_repr(self) -> str:
        """The arguments that `print(layer)` shows."""
        text = f"{self.in_channels}, {self.out_channels}, kernel_att={self.kernel_att}, num_heads={self.num_heads}"
        text += f", stride={self.stride}, dilation={self.dilation}"
        if self.position_step is not None:
            text += f", position_step={self.position_step}"
        return f"{text}, {self.path_repr()}"


def _translate(layer: nn.Module, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
    translate_authors_keys(layer, state_dict, prefix)
