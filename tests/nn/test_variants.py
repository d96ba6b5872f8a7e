"""The rows of the paper's Tables 6 and 7 as options of the layer: rates, paths, and forms of shift and sum."""

import copy
import io
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from acmix import ACmix
from acmix.nn import TwoPaths
from acmix.nn.shift import SHIFT_INITS, SHIFTS, shift_kernels
from acmix.nn.two_paths import PATHS, RATES
from layer_comparison import randn

SHARED = ("tensor", "fixed", "learnable")
ALL_RATES: list[Any] = list(RATES)
ALL_SHIFTS: list[Any] = list(SHIFTS)


class Bare(TwoPaths):
    """The shared part alone: pieces in, convolution path out."""

    def __init__(self, heads: int = 2, width: int = 3, **options: Any) -> None:
        super().__init__(heads * width, width, 3 * heads, dtype=torch.float64, **options)

    def forward(self, pieces: Tensor, stride: int = 1, dilation: int = 1) -> Tensor | None:
        return self.convolve(pieces, stride, dilation)


def bare(shift: Any, seed: int = 0, **options: Any) -> Bare:
    """Random but for the kernels, which are shifts: FC, rates and biases."""
    layer = Bare(shift=shift, **options)
    with torch.no_grad():
        for name, parameter in layer.named_parameters():
            if name != "shift.weight":
                parameter.copy_(randn(*parameter.shape, seed=seed))
    return layer


def pieces_of(height: int = 5, width: int = 6, batch: int = 2, channels_last: bool = False) -> Tensor:
    pieces = randn(batch, 3, 6, height, width)
    return pieces.movedim((1, 2), (3, 4)).contiguous().movedim((3, 4), (1, 2)) if channels_last else pieces


def results(layer: Bare, pieces: Tensor, stride: int = 1, dilation: int = 1) -> dict[str, Tensor]:
    """Output and the gradients of what all four forms have in common."""
    pieces = pieces.detach().requires_grad_()
    out = layer(pieces, stride, dilation)
    named = {name: value for name, value in layer.named_parameters() if name.startswith(("fc", "beta", "shift.bias"))}
    grads = torch.autograd.grad((out * randn(*out.shape, seed=5)).sum(), [pieces, *named.values()])
    return {"out": out.detach(), **dict(zip(["pieces", *named], grads, strict=True))}


class TestFourFormsOfShiftAndSum:
    @pytest.mark.parametrize("shift", SHARED)
    @pytest.mark.parametrize(
        ("size", "stride", "dilation", "options"),
        [
            ((6, 8), 1, 1, {}),
            ((6, 8), 2, 1, {}),
            ((5, 7), 2, 1, {"fc_bias": True}),
            ((7, 8), 3, 1, {"conv_bias": True}),
            ((6, 5), 1, 2, {"fc_bias": True, "conv_bias": True}),
            ((5, 5), 2, 2, {}),
            ((1, 1), 1, 1, {"fc_bias": True}),
            ((1, 4), 2, 1, {}),
            ((6, 7), 1, 1, {"kernel_conv": 5}),
            ((2, 2), 1, 2, {"kernel_conv": 5, "fc_bias": True}),
            ((4, 4), 1, 1, {"kernel_conv": 1}),
            ((6, 7), 1, 1, {"rates": "1,1"}),
            ((6, 7), 1, 1, {"impl": "reference"}),
        ],
        ids=str,
    )
    def test_give_equal_outputs_and_gradients(
        self, shift: Any, size: tuple[int, int], stride: int, dilation: int, options: dict[str, Any]
    ) -> None:
        group = results(bare("group", **options), pieces_of(*size), stride, dilation)
        other = results(bare(shift, **options), pieces_of(*size), stride, dilation)
        assert group.keys() == other.keys()
        for name, expected in group.items():
            torch.testing.assert_close(other[name], expected, rtol=0, atol=1e-12, msg=name)

    @pytest.mark.parametrize("shift", SHARED)
    def test_with_alphas_complement_as_rate(self, shift: Any) -> None:
        layers = [bare(form, rates="alpha,1-alpha") for form in ("group", shift)]
        outs = [layer(pieces_of()) for layer in layers]
        torch.testing.assert_close(outs[1], outs[0], rtol=0, atol=1e-12)

    @pytest.mark.parametrize("shift", ALL_SHIFTS)
    @pytest.mark.parametrize("channels_last", [False, True])
    @pytest.mark.parametrize("stride", [1, 2])
    def test_keep_the_memory_format(self, shift: Any, channels_last: bool, stride: int) -> None:
        out = bare(shift, fc_bias=True)(pieces_of(5, 6, channels_last=channels_last), stride)
        layout = torch.channels_last if channels_last else torch.contiguous_format
        assert out.is_contiguous(memory_format=layout)
        torch.testing.assert_close(out, bare(shift, fc_bias=True)(pieces_of(5, 6), stride))

    @pytest.mark.parametrize("shift", ALL_SHIFTS)
    def test_take_an_empty_batch(self, shift: Any) -> None:
        assert bare(shift)(pieces_of(5, 6, batch=0), 2).shape == (0, 6, 3, 3)

    @pytest.mark.parametrize("shift", ALL_SHIFTS)
    def test_autocast_gives_its_dtype(self, shift: Any) -> None:
        layer = bare(shift, fc_bias=True, conv_bias=True).float()
        with torch.autocast("cpu", torch.bfloat16):
            out = layer(pieces_of().float())
        assert out.dtype == torch.bfloat16
        torch.testing.assert_close(out.float(), layer(pieces_of().float()), rtol=0.1, atol=0.1)

    @pytest.mark.parametrize("shift", ALL_SHIFTS)
    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
    def test_half_precision(self, shift: Any, dtype: torch.dtype) -> None:
        layer, pieces = bare(shift, fc_bias=True), pieces_of()
        truth = layer(pieces)
        out = layer.to(dtype)(pieces.to(dtype))
        assert out.dtype == dtype
        assert (out - truth).abs().max() <= 16 * torch.finfo(dtype).eps * truth.abs().max()

    @pytest.mark.parametrize("shift", SHARED)
    def test_make_d_maps_that_serve_n_consecutive_channels_each(self, shift: Any) -> None:
        layer = Bare(4, 3, shift=shift)
        nn.init.normal_(layer.fc.weight)
        if isinstance(layer.shift.weight, nn.Parameter):
            nn.init.normal_(layer.shift.weight)
        maps = layer(randn(2, 3, 12, 4, 5)).unflatten(1, (3, 4))
        assert torch.equal(maps, maps[:, :, :1].expand_as(maps))
        assert not torch.allclose(maps[:, 0], maps[:, 1])

    def test_group_makes_another_map_for_every_channel(self) -> None:
        layer = Bare(4, 3, shift="group")
        nn.init.normal_(layer.shift.weight)
        maps = layer(randn(2, 3, 12, 4, 5)).unflatten(1, (3, 4))
        assert not torch.allclose(maps[:, :, 0], maps[:, :, 1])

    @pytest.mark.parametrize(
        ("shift", "kernels", "learned"),
        [("group", (6, 9, 3, 3), True), ("learnable", (3, 9, 3, 3), True), ("fixed", (3, 9, 3, 3), False)],
    )
    def test_kernels_are_in_the_state_dict(self, shift: Any, kernels: tuple[int, ...], learned: bool) -> None:
        layer = Bare(shift=shift)
        assert layer.state_dict()["shift.weight"].shape == kernels
        assert torch.equal(layer.state_dict()["shift.weight"], shift_kernels(3, dtype=torch.float64).expand(kernels))
        assert ("shift.weight" in dict(layer.named_parameters())) == learned

    def test_tensor_shifts_have_no_kernels(self) -> None:
        assert set(Bare(shift="tensor").state_dict()) == {"alpha", "beta", "fc.weight"}

    def test_fixed_kernels_are_saved_and_read(self) -> None:
        source, layer = Bare(shift="fixed"), Bare(shift="fixed")
        source.shift.weight.mul_(2)
        layer.load_state_dict(source.state_dict(), strict=True)
        assert torch.equal(layer(pieces_of()), source(pieces_of()))


class TestStart:
    @pytest.mark.parametrize("shift", ["group", "learnable"])
    def test_random_kernels_start_as_those_of_a_convolution(self, shift: Any) -> None:
        torch.manual_seed(0)
        layer = TwoPaths(96, 24, 12, shift=shift, shift_init="random")
        channels = len(layer.shift.weight)
        conv = nn.Conv2d(9 * 24, channels, 3, groups=24)
        bound = (9 * 3 * 3) ** -0.5
        assert layer.shift.weight.shape == conv.weight.shape
        for weight in (layer.shift.weight, conv.weight):
            assert weight.abs().max() <= bound
            assert weight.std().item() == pytest.approx(bound / 3**0.5, rel=0.05)

    @pytest.mark.parametrize(
        ("shift", "init"), [*((shift, "shift") for shift in SHIFTS), ("group", "random"), ("learnable", "random")]
    )
    def test_reset_parameters_starts_again(self, shift: Any, init: Any) -> None:
        options: dict[str, Any] = {"shift": shift, "shift_init": init, "conv_bias": True}
        layer = ACmix(8, 8, num_heads=2, **options)
        torch.manual_seed(1)
        layer.reset_parameters()
        first = copy.deepcopy(layer.state_dict())
        with torch.no_grad():
            for value in layer.state_dict().values():
                value.add_(1)
        torch.manual_seed(1)
        layer.reset_parameters()
        assert all(torch.equal(first[name], value) for name, value in layer.state_dict().items())
        assert (layer.alpha.item(), layer.beta.item()) == (0.5, 0.5)
        assert not layer.shift.bias.any()

    def test_random_kernels_differ_from_shifts(self) -> None:
        torch.manual_seed(0)
        layer = ACmix(8, 8, shift_init="random")
        assert not torch.equal(layer.shift.weight, shift_kernels(3).expand(8, 9, 3, 3))


class TestRates:
    @pytest.mark.parametrize(
        ("rates", "learned"),
        [("alpha,beta", {"alpha", "beta"}), ("alpha,1-alpha", {"alpha"}), ("alpha,1", {"alpha"}), ("1,1", set())],
    )
    def test_which_are_learned(self, rates: Any, learned: set[str]) -> None:
        layer = ACmix(8, 8, rates=rates)
        assert {name for name, _ in layer.named_parameters() if name in ("alpha", "beta")} == learned
        assert {name for name in ("alpha", "beta") if getattr(layer, name) is not None} == learned

    @pytest.mark.parametrize(
        ("rates", "values"),
        [
            ("alpha,beta", (0.3, 0.8)),
            ("alpha,1-alpha", (0.3, 0.7)),
            ("alpha,1", (0.3, 1.0)),
            ("1,1", (1.0, 1.0)),
        ],
    )
    @pytest.mark.parametrize("shift", ALL_SHIFTS)
    def test_are_what_the_paths_are_multiplied_with(self, rates: Any, values: tuple[float, float], shift: Any) -> None:
        options: dict[str, Any] = {"shift": shift, "conv_bias": True, "dtype": torch.float64}
        layer, plain = ACmix(8, 8, rates=rates, **options), ACmix(8, 8, rates="1,1", **options)
        with torch.no_grad():
            layer.shift.bias.normal_()
            for rate, value in (("alpha", 0.3), ("beta", 0.8)):
                if getattr(layer, rate) is not None:
                    getattr(layer, rate).fill_(value)
        shared = {name: value for name, value in layer.state_dict().items() if name not in ("alpha", "beta")}
        plain.load_state_dict(shared, strict=True)
        x = randn(2, 8, 5, 6)
        attention, convolution = plain.forward_paths(x)
        assert layer.rate_values() == pytest.approx(values)
        torch.testing.assert_close(layer(x), values[0] * attention + values[1] * convolution)
        found = layer.forward_paths(x)
        torch.testing.assert_close(found.attention, values[0] * attention)
        torch.testing.assert_close(found.convolution, values[1] * convolution)

    @pytest.mark.parametrize("rates", ALL_RATES)
    @pytest.mark.parametrize("shift", ALL_SHIFTS)
    def test_gradients_are_the_derivatives(self, rates: Any, shift: Any) -> None:
        layer = ACmix(4, 4, 3, num_heads=2, rates=rates, shift=shift, conv_bias=True, dtype=torch.float64)
        x = randn(1, 4, 3, 3).requires_grad_()
        assert torch.autograd.gradcheck(lambda x, *_: layer(x), [x, *layer.parameters()], fast_mode=True)

    @pytest.mark.parametrize("rates", ALL_RATES)
    def test_every_parameter_gets_a_gradient(self, rates: Any) -> None:
        layer = ACmix(8, 8, rates=rates)
        layer(randn(1, 8, 5, 5, dtype=torch.float32)).square().sum().backward()
        assert [name for name, value in layer.named_parameters() if value.grad is None] == []

    def test_the_complement_moves_with_alpha(self) -> None:
        layer = ACmix(8, 8, rates="alpha,1-alpha", dtype=torch.float64)
        x, cotangent = randn(1, 8, 5, 5), randn(1, 8, 5, 5, seed=1)
        plain = ACmix(8, 8, rates="1,1", dtype=torch.float64)
        plain.load_state_dict({k: v for k, v in layer.state_dict().items() if k != "alpha"}, strict=True)
        attention, convolution = plain.forward_paths(x)
        (layer(x) * cotangent).sum().backward()
        torch.testing.assert_close(layer.alpha.grad, ((attention - convolution) * cotangent).sum().reshape(1))


class TestPaths:
    @pytest.mark.parametrize(
        ("paths", "rates", "values", "learned"),
        [
            ("attention", "alpha,beta", (0.5, None), {"alpha"}),
            ("attention", "alpha,1", (0.5, None), {"alpha"}),
            ("attention", "1,1", (1.0, None), set()),
            ("convolution", "alpha,beta", (None, 0.5), {"beta"}),
            ("convolution", "alpha,1", (None, 1.0), set()),
            ("convolution", "1,1", (None, 1.0), set()),
        ],
    )
    def test_one_alone_drops_the_other_and_its_rate(
        self, paths: Any, rates: Any, values: tuple[float | None, float | None], learned: set[str]
    ) -> None:
        layer = ACmix(8, 8, paths=paths, rates=rates, dtype=torch.float64)
        both = ACmix(8, 8, rates=rates, dtype=torch.float64)
        state = layer.state_dict()
        both.load_state_dict({**both.state_dict(), **state})
        x = randn(2, 8, 5, 6)
        assert layer.rate_values() == values
        assert {name for name in state if name in ("alpha", "beta")} == learned
        assert ("fc.weight" in state, "position.weight" in state) == (paths == "convolution", paths == "attention")
        found = layer.forward_paths(x)
        other = "convolution" if paths == "attention" else "attention"
        assert getattr(found, other) is None
        torch.testing.assert_close(layer(x), getattr(both.forward_paths(x), paths))
        layer(x).sum().backward()
        assert [name for name, value in layer.named_parameters() if value.grad is None] == []


class TestEveryVariant:
    @pytest.mark.parametrize("shift", ALL_SHIFTS)
    def test_compiles_without_a_break(self, shift: Any) -> None:
        torch.compiler.reset()
        rates: Any = dict(zip(ALL_SHIFTS, ALL_RATES, strict=True))[shift]
        layer = ACmix(8, 8, 3, num_heads=2, shift=shift, rates=rates, conv_bias=True, dtype=torch.float64)
        compiled = torch.compile(copy.deepcopy(layer), fullgraph=True, backend="aot_eager")
        x = randn(2, 8, 5, 6)
        for network in (layer, compiled):
            network(x).square().sum().backward()
        torch.testing.assert_close(compiled(x), layer(x))
        for (name, ours), theirs in zip(compiled.named_parameters(), layer.parameters(), strict=True):
            torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-10, atol=1e-10, msg=name)

    @pytest.mark.parametrize("shift", ALL_SHIFTS)
    def test_exports_with_any_batch_and_size(self, shift: Any) -> None:
        layer = ACmix(8, 8, 3, num_heads=2, stride=2, shift=shift).eval()
        # From 3 pixels on: torch.export takes a size of 1 for a constant, and stride 2 makes it of 2.
        height, width = (torch.export.Dim(name, min=3) for name in ("height", "width"))
        x = randn(2, 8, 6, 7, dtype=torch.float32)
        exported = torch.export.export(
            layer, (x,), dynamic_shapes={"x": {0: torch.export.Dim("batch"), 2: height, 3: width}}
        ).module()
        for shape in ((1, 8, 5, 9), (4, 8, 3, 4)):
            other = randn(*shape, dtype=torch.float32)
            torch.testing.assert_close(exported(other), layer(other))

    @pytest.mark.filterwarnings("ignore:.*is deprecated. Please switch to:FutureWarning")  # still in wide use
    @pytest.mark.parametrize("shift", ALL_SHIFTS)
    def test_traces(self, shift: Any) -> None:
        layer = ACmix(8, 8, 3, num_heads=2, shift=shift).eval()
        x, other = randn(2, 8, 6, 7, dtype=torch.float32), randn(1, 8, 4, 9, dtype=torch.float32)
        traced: Any = torch.jit.trace(layer, (x,))
        torch.testing.assert_close(traced(other), layer(other))

    @pytest.mark.parametrize("shift", ALL_SHIFTS)
    @pytest.mark.parametrize("rates", ALL_RATES)
    def test_its_state_goes_through_a_file(self, shift: Any, rates: Any) -> None:
        options: dict[str, Any] = {"shift": shift, "rates": rates, "conv_bias": True}
        layer, other = ACmix(8, 8, **options), ACmix(8, 8, **options)
        file = io.BytesIO()
        torch.save(layer.state_dict(), file)
        file.seek(0)
        other.load_state_dict(torch.load(file, weights_only=True), strict=True)
        x = randn(1, 8, 5, 5, dtype=torch.float32)
        assert torch.equal(other(x), layer(x))

    @pytest.mark.parametrize("shift", ALL_SHIFTS)
    def test_the_meta_device(self, shift: Any) -> None:
        layer = ACmix(8, 8, shift=shift, device="meta")
        assert layer(torch.empty(1, 8, 5, 5, device="meta")).shape == (1, 8, 5, 5)

    def test_the_authors_state_loads_into_the_papers_choice(self) -> None:
        source, layer = ACmix(8, 8), ACmix(8, 8, shift="group")
        theirs = {"alpha": "rate1", "beta": "rate2", "query": "conv1", "key": "conv2", "value": "conv3"}
        theirs |= {"position": "conv_p", "shift": "dep_conv"}
        state = {}
        for name, value in source.state_dict().items():
            head, dot, rest = name.partition(".")
            state[theirs.get(head, head) + dot + rest] = value
        layer.load_state_dict(state, strict=True)
        x = randn(1, 8, 5, 5, dtype=torch.float32)
        assert torch.equal(layer(x), source(x))


class TestErrors:
    @pytest.mark.parametrize(
        ("option", "choices"), [("paths", PATHS), ("rates", RATES), ("shift", SHIFTS), ("shift_init", SHIFT_INITS)]
    )
    @pytest.mark.parametrize("value", ["no such", "", None, ["group"]], ids=str)
    def test_wrong_names_are_told_with_the_right_ones(self, option: str, choices: tuple[str, ...], value: Any) -> None:
        options: dict[str, Any] = {option: value}
        with pytest.raises(ValueError, match=f"^ACmix: {option}=.*expected one of") as error:
            ACmix(8, 8, **options)
        assert str(choices) in str(error.value)

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"rates": "alpha,1-alpha", "paths": "attention"}, "rates='alpha,1-alpha' with paths='attention'"),
            ({"rates": "alpha,1-alpha", "paths": "convolution"}, "rates='alpha,1-alpha' with paths='convolution'"),
            ({"shift": "fixed", "shift_init": "random"}, "shift_init='random' with shift='fixed'"),
            ({"shift": "tensor", "shift_init": "random"}, "shift_init='random' with shift='tensor'"),
        ],
        ids=str,
    )
    def test_options_that_exclude_each_other(self, options: dict[str, Any], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            ACmix(8, 8, **options)

    def test_channels_that_the_pieces_do_not_divide(self) -> None:
        with pytest.raises(ValueError, match="7 output channels are no multiple of the width 3 of the pieces"):
            TwoPaths(7, 3, 6)

    def test_mixing_nothing_is_an_error(self) -> None:
        with pytest.raises(RuntimeError, match="both paths are dropped"):
            TwoPaths(6, 3, 6).mix(None, None)
