"""The self-attention network SAN on timm's parts, with a choice of what mixes the pixels."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

import torch
from timm.layers import DropPath, calculate_drop_path_rates, create_classifier
from timm.layers.helpers import get_device_dtype
from timm.models import checkpoint_seq
from timm.models._features import feature_take_indices
from torch import Tensor, nn

from acmix.models.options import rate_names
from acmix.nn.batch_statistics import batch_norm_affine
from acmix.nn.pairwise import PairwiseAttention
from acmix.nn.patchwise import PatchwiseACmix, PatchwiseAttention
from acmix.nn.recompute import recomputed
from acmix.nn.two_paths import Factory
from acmix.ops.window_moments import projection_moments

__all__: list[str] = ["SAN", "SANBlock", "SANMixer", "SANStage"]

SANMixer = Literal["patchwise", "pairwise", "acmix", "conv"]
MIXERS: tuple[str, ...] = get_args(SANMixer)


def _mixer(name: str, channels: int, kernel_size: int, options: Mapping[str, Any]) -> nn.Module:
    """What takes the block's C channels to C / 4 and looks at the neighbours."""
    middle = channels // 4
    if name == "conv":
        return nn.Conv2d(channels, middle, 3, padding=1, **options)
    if name == "acmix":
        return PatchwiseACmix(channels, middle, kernel_size, **options)
    attention = PairwiseAttention if name == "pairwise" else PatchwiseAttention
    return attention(channels, middle, kernel_size, **options)


class SANBlock(nn.Module):
    """Norm, ReLU, mixer to a quarter of the channels, norm, ReLU, 1x1 convolution back, and the input added.

    Args:
        channels: channels C of input and output.
        mixer: the layer [B, C, H, W] -> [B, C / 4, H, W].
        drop_path: rate at which the branch is dropped in training.
        device: where the parameters are made.
        dtype: dtype of the parameters.
    """

    def __init__(
        self,
        channels: int,
        mixer: nn.Module,
        *,
        drop_path: float = 0.0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        made: Factory = {"device": device, "dtype": dtype}
        self.bn1 = nn.BatchNorm2d(channels, **made)
        self.act1 = nn.ReLU(inplace=True)
        self.mixer = mixer
        self.bn2 = nn.BatchNorm2d(channels // 4, **made)
        self.act2 = nn.ReLU(inplace=True)
        self.conv = nn.Conv2d(channels // 4, channels, 1, **made)
        self.drop_path = DropPath(drop_path) if drop_path > 0 else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> the same."""
        branch = self.act2(self.bn2(self.mixer(self.act1(self.bn1(x)))))
        out: Tensor = x + self.drop_path(self.conv(branch))
        return out


class HalvingPool(nn.Module):
    """2x2 max pool of stride 2 that keeps an odd last row and column, so that every size works."""

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, C, ceil(H / 2), ceil(W / 2)]."""
        if torch.compiler.is_compiling():
            # The same without a comparison of sizes, which an export for any size cannot have.
            return nn.functional.max_pool2d(nn.functional.pad(x, (0, 1, 0, 1), value=-math.inf), 2)
        return nn.functional.max_pool2d(x, 2, ceil_mode=True)


class SANStem(nn.Module):
    """1x1 convolution of the image, norm, ReLU and the first pool.

    The norm's statistics follow from means and covariances of the image's few channels, so that the network's largest
    map, all channels at the image's own size, lives for a moment only and is made again in the backward pass.

    Args:
        in_chans: channels of the images.
        channels: channels of the output.
        device: where the parameters are made.
        dtype: dtype of the parameters.
    """

    def __init__(
        self,
        in_chans: int,
        channels: int,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        made: Factory = {"device": device, "dtype": dtype}
        self.conv = nn.Conv2d(in_chans, channels, 1, bias=False, **made)
        self.bn = nn.BatchNorm2d(channels, **made)
        self.pool = HalvingPool()

    def forward(self, x: Tensor) -> Tensor:
        """[B, C_in, H, W] -> [B, C, ceil(H / 2), ceil(W / 2)]."""
        weight = self.conv.weight.to(torch.promote_types(x.dtype, torch.float32))
        count = x.shape[0] * x.shape[2] * x.shape[3]
        scale, shift = batch_norm_affine(self.bn, lambda: projection_moments(x, weight.flatten(1)), count)
        weight = (weight * scale[:, None, None, None]).to(self.conv.weight.dtype)
        out: Tensor = recomputed(self._rest, x, weight, shift.to(weight.dtype))
        return out

    def _rest(self, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        out: Tensor = self.pool(nn.functional.conv2d(x, weight, bias).relu_())
        return out


class SANStage(nn.Module):
    """2x2 max pool but for the first stage, 1x1 convolution, blocks, norm and ReLU.

    Args:
        in_channels: channels of the input.
        channels: channels of the output.
        blocks: what stands between the convolution and the norm.
        pool: whether there is the max pool.
        device: where the parameters are made.
        dtype: dtype of the parameters.
    """

    def __init__(
        self,
        in_channels: int,
        channels: int,
        blocks: Sequence[nn.Module],
        *,
        pool: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        made: Factory = {"device": device, "dtype": dtype}
        self.pool = HalvingPool() if pool else nn.Identity()
        self.conv = nn.Conv2d(in_channels, channels, 1, bias=False, **made)
        self.blocks = nn.Sequential(*blocks)
        self.bn = nn.BatchNorm2d(channels, **made)
        self.act = nn.ReLU(inplace=True)
        self.grad_checkpointing = False

    def forward(self, x: Tensor) -> Tensor:
        """[B, C_in, H, W] -> [B, C, ceil(H / 2), ceil(W / 2)], or of the input's size without the pool."""
        x = self.conv(self.pool(x))
        x = checkpoint_seq(self.blocks, x) if self.grad_checkpointing else self.blocks(x)
        out: Tensor = self.act(self.bn(x))
        return out


class SAN(nn.Module):
    """Self-attention network for images of any size, with a choice of what mixes the pixels.

    A 1x1 convolution at the images' own size, then stages that halve the map each, all without a stride.

    Args:
        layers: blocks of each stage.
        kernels: side K of each stage's windows, odd.
        channels: channels of each stage, multiples of 32.
        in_chans: channels of the images.
        num_classes: classes, or 0 for features.
        global_pool: timm's name of the pooling before the classifier, "avg" or another, "" for none.
        stem_chs: channels of the first convolution.
        drop_rate: dropout rate before the classifier.
        drop_path_rate: stochastic depth of the last block; it grows linearly from 0.
        mixer: what takes a block's C channels to C / 4: SAN's "patchwise" or "pairwise" attention, "acmix", or "conv",
            a 3x3 convolution in its place (Table 6; the 1x1 convolution behind it is the block's own and stays).
        acmix: options of every `acmix.nn.PatchwiseACmix`, such as `shift` or `rates`.
        device: where the parameters are made.
        dtype: dtype of the parameters.

    Raises:
        ValueError: an argument is out of its range; the message names it.
    """

    feature_info: list[dict[str, Any]]

    def __init__(  # noqa: PLR0913  # ruff counts what stands after `*`
        self,
        layers: Sequence[int] = (3, 3, 4, 6, 3),
        kernels: Sequence[int] = (3, 7, 7, 7, 7),
        channels: Sequence[int] = (64, 256, 512, 1024, 2048),
        in_chans: int = 3,
        num_classes: int = 1000,
        global_pool: str = "avg",
        *,
        stem_chs: int = 64,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        mixer: SANMixer = "patchwise",
        acmix: Mapping[str, Any] | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        made: Factory = {"device": device, "dtype": dtype}
        _check(mixer, acmix, {"layers": layers, "kernels": kernels, "channels": channels})
        self.num_classes, self.in_chans, self.drop_rate = num_classes, in_chans, drop_rate
        self.stem = SANStem(in_chans, stem_chs, **made)
        self.feature_info, before = [], stem_chs
        rates = iter(calculate_drop_path_rates(drop_path_rate, sum(layers)))
        for index, (width, kernel_size) in enumerate(zip(channels, kernels, strict=True)):
            blocks = [
                SANBlock(width, _mixer(mixer, width, kernel_size, {**made, **(acmix or {})}), drop_path=rate, **made)
                for _, rate in zip(range(layers[index]), rates, strict=False)
            ]
            self.add_module(f"layer{index}", SANStage(before, width, blocks, pool=index > 0, **made))
            self.feature_info.append({"module": f"layer{index}", "num_chs": width, "reduction": 2 ** (index + 1)})
            before = width
        self.num_features = self.head_hidden_size = before
        self.global_pool, self.fc = create_classifier(before, num_classes, pool_type=global_pool, **made)

    @property
    def stages(self) -> list[SANStage]:
        """The stages that are there, first to last."""
        return [module for module in self.children() if isinstance(module, SANStage)]

    def no_weight_decay(self) -> set[str]:
        """Names of the rates, which are no weights."""
        return rate_names(self)

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Which parameters belong together for learning rates that depend on the depth."""
        fine = [(r"^layer(\d+)\.blocks\.(\d+)", None), (r"^layer(\d+)\.conv", (0,)), (r"^layer(\d+)\.bn", (99999,))]
        return {"stem": r"^stem", "blocks": r"^layer(\d+)" if coarse else fine}

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Keep the blocks' inputs alone for the backward pass, and compute the rest again."""
        for stage in self.stages:
            stage.grad_checkpointing = enable

    def get_classifier(self) -> nn.Module:
        """The last layer."""
        return self.fc

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """A new last layer for so many classes, none for 0."""
        self.num_classes = num_classes
        pool = self.global_pool.pool_type if global_pool is None else global_pool
        made = get_device_dtype(self)
        self.global_pool, self.fc = create_classifier(self.num_features, num_classes, pool_type=pool, **made)
        self.fc.train(self.training)

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | list[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> Any:
        """The maps of the stages, and what `forward_features` returns.

        Args:
            x: images [B, C_in, H, W].
            indices: stages to return: the last n, or those of a list; all by default.
            norm: of no effect: every stage ends with its norm.
            stop_early: whether to leave out the stages behind the last one asked for.
            output_fmt: "NCHW".
            intermediates_only: whether to return the maps alone.

        Returns:
            The list of maps [B, C, h, w], or (the last map, maps).
        """
        if output_fmt != "NCHW":
            raise ValueError(f"{type(self).__name__}: output_fmt={output_fmt!r}, expected 'NCHW'.")
        stages = self.stages
        wanted, last = feature_take_indices(len(stages), indices)
        intermediates = []
        x = self.stem(x)
        for index, stage in enumerate(stages[: last + 1] if stop_early else stages):
            x = stage(x)
            if index in wanted:
                intermediates.append(x)
        return intermediates if intermediates_only else (x, intermediates)

    def prune_intermediate_layers(
        self, indices: int | list[int] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Drop what the maps asked for do not need; returns the stages' indices."""
        stages = len(self.stages)
        wanted, last = feature_take_indices(stages, indices)
        for index in range(last + 1, stages):
            delattr(self, f"layer{index}")
        self.num_features = self.head_hidden_size = self.feature_info[last]["num_chs"]
        if prune_head or last + 1 < stages:
            self.reset_classifier(0, "")
        return wanted

    def forward_features(self, x: Tensor) -> Tensor:
        """Images [B, C_in, H, W] -> the last stage's map [B, C, h, w]."""
        x = self.stem(x)
        for stage in self.stages:
            x = stage(x)
        return x

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """The last stage's map -> logits [B, num_classes], or pooled features."""
        x = nn.functional.dropout(self.global_pool(x), self.drop_rate, self.training)
        return x if pre_logits else self.fc(x)

    def forward(self, x: Tensor) -> Tensor:
        """Images [B, C_in, H, W] -> logits [B, num_classes]."""
        return self.forward_head(self.forward_features(x))


def _check(mixer: str, acmix: Mapping[str, Any] | None, per_stage: Mapping[str, Sequence[int]]) -> None:
    """Raise ValueError unless the mixer exists, takes the options, and all lists are of one length."""
    if mixer not in MIXERS:
        raise ValueError(f"SAN: mixer={mixer!r}, expected one of {MIXERS}.")
    if mixer != "acmix" and acmix:
        raise ValueError(f"SAN: mixer={mixer!r} leaves no layer for the options acmix={dict(acmix)}; drop one of them.")
    lengths = {name: len(values) for name, values in per_stage.items()}
    if len(set(lengths.values())) > 1 or not per_stage["layers"]:
        raise ValueError(f"SAN: {lengths} stages, expected one number of them in all three.")
