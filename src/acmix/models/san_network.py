"""The self-attention network SAN on timm's parts, with a choice of what mixes the pixels."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from timm.layers import calculate_drop_path_rates, create_classifier
from timm.layers.helpers import get_device_dtype
from timm.models._features import feature_take_indices
from torch import Tensor, nn

from acmix.models.options import rate_names
from acmix.models.san_stage import MIXERS, SANBlock, SANMixer, SANStage, SANStem, make_mixer
from acmix.models.staged_network import StagedNetwork, StageResult
from acmix.nn.two_paths import Factory

__all__: list[str] = ["SAN"]


class SAN(StagedNetwork):
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

    classifier = "fc"
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
        rates: Iterator[Any] = iter(calculate_drop_path_rates(drop_path_rate, sum(layers)))
        for index, (width, kernel_size) in enumerate(zip(channels, kernels, strict=True)):
            blocks = [
                SANBlock(
                    width, make_mixer(mixer, width, kernel_size, {**made, **(acmix or {})}), drop_path=rate, **made
                )
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

    def stages_in_order(self) -> list[SANStage]:
        """The same, as every network of stages has it."""
        return self.stages

    def no_weight_decay(self) -> set[str]:
        """Names of the rates, which are no weights."""
        return rate_names(self)

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Which parameters belong together for learning rates that depend on the depth."""
        fine = [(r"^layer(\d+)\.blocks\.(\d+)", None), (r"^layer(\d+)\.conv", (0,)), (r"^layer(\d+)\.bn", (99999,))]
        return {"stem": r"^stem", "blocks": r"^layer(\d+)" if coarse else fine}

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """A new last layer for so many classes, none for 0."""
        self.num_classes = num_classes
        pool = self.global_pool.pool_type if global_pool is None else global_pool
        made = get_device_dtype(self)
        self.global_pool, self.fc = create_classifier(self.num_features, num_classes, pool_type=pool, **made)
        self.fc.train(self.training)

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

    def run_stem(self, x: Tensor) -> Tensor:
        """Images [B, C_in, H, W] -> [B, stem_chs, ceil(H / 2), ceil(W / 2)]."""
        out: Tensor = self.stem(x)
        return out

    def run_stage(self, index: int, x: Tensor) -> StageResult:
        """Its map is all that comes out of a stage, which ends with its norm."""
        x = self.stages[index](x)
        return StageResult(x, x, x)

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """The last stage's map -> logits [B, num_classes], or pooled features."""
        x = nn.functional.dropout(self.global_pool(x), self.drop_rate, self.training)
        return x if pre_logits else self.fc(x)


def _check(mixer: str, acmix: Mapping[str, Any] | None, per_stage: Mapping[str, Sequence[int]]) -> None:
    """Raise ValueError unless the mixer exists, takes the options, and all lists are of one length."""
    if mixer not in MIXERS:
        raise ValueError(f"SAN: mixer={mixer!r}, expected one of {MIXERS}.")
    if mixer != "acmix" and acmix:
        raise ValueError(f"SAN: mixer={mixer!r} leaves no layer for the options acmix={dict(acmix)}; drop one of them.")
    lengths = {name: len(values) for name, values in per_stage.items()}
    if len(set(lengths.values())) > 1 or not per_stage["layers"]:
        raise ValueError(f"SAN: {lengths} stages, expected one number of them in all three.")
