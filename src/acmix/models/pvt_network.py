"""The Pyramid Vision Transformer (PVT v1) on timm's patches and Twins block, with a choice of what mixes the tokens."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from timm.layers.drop import calculate_drop_path_rates
from timm.layers.helpers import get_device_dtype, to_2tuple
from timm.layers.weight_init import trunc_normal_
from timm.models._features import feature_take_indices
from torch import Tensor, nn

from acmix.models.options import check_mixer, rate_names
from acmix.models.pvt_stage import PositionEmbedding, PVTBlock, PVTMixer, PVTStage
from acmix.models.staged_network import StagedNetwork, StageResult
from acmix.nn.spatial_reduction import Size
from acmix.nn.two_paths import Factory

__all__: list[str] = ["PyramidVisionTransformer"]

POOLS = ("token", "avg", "")

_NORM = partial(nn.LayerNorm, eps=1e-6)


class PyramidVisionTransformer(StagedNetwork):
    """PVT v1 for images of any size, with a choice of what mixes the tokens.

    Images and maps that are no multiple of the patches get zeros at their bottom and right; maps that are no multiple
    of the spatial reduction likewise, before the reduction. Position embeddings are interpolated to the map.

    Args:
        img_size: size of the images, or (height, width), that the position embeddings are made for.
        patch_size: side of the first stage's patches; the other stages halve the map.
        in_chans: channels of the images.
        num_classes: classes, or 0 for features.
        embed_dims: channels of each stage.
        num_heads: heads N of each stage.
        mlp_ratios: width of each stage's MLPs in units of its channels.
        depths: blocks of each stage.
        sr_ratios: sides of the squares of pixels that become one key each.
        global_pool: what is classified: "token", "avg" for the mean of the other tokens, "" for all tokens.
        drop_rate: dropout rate before the classifier.
        pos_drop_rate: dropout rate behind the position embeddings.
        proj_drop_rate: dropout rate of the mixers' outputs and in the MLPs.
        attn_drop_rate: dropout rate of the attention weights.
        drop_path_rate: stochastic depth of the last block; it grows linearly from 0.
        norm_layer: makes the blocks' norms and the last one.
        mixer: what mixes tokens: PVT's "attention", "acmix", or "conv", a 3x3 convolution in its place (Table 6).
        acmix: options of every `SpatialReductionACmix`, such as `shift` or `rates`.
        device: where the parameters are made.
        dtype: dtype of the parameters.

    Raises:
        ValueError: an argument is out of its range; the message names it.
    """

    classifier = "head"

    def __init__(  # noqa: PLR0913  # ruff counts what stands after `*`
        self,
        img_size: int | tuple[int, int] = 224,
        patch_size: int = 4,
        in_chans: int = 3,
        num_classes: int = 1000,
        embed_dims: Sequence[int] = (64, 128, 320, 512),
        num_heads: Sequence[int] = (1, 2, 5, 8),
        mlp_ratios: Sequence[float] = (8, 8, 4, 4),
        depths: Sequence[int] = (3, 4, 6, 3),
        *,
        sr_ratios: Sequence[int] = (8, 4, 2, 1),
        global_pool: str = "token",
        drop_rate: float = 0.0,
        pos_drop_rate: float = 0.0,
        proj_drop_rate: float = 0.0,
        attn_drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        norm_layer: Callable[..., nn.Module] = _NORM,
        mixer: PVTMixer = "attention",
        acmix: Mapping[str, Any] | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        made: Factory = {"device": device, "dtype": dtype}
        stages = len(depths)
        names = {"depths": depths, "embed_dims": embed_dims, "num_heads": num_heads, "sr_ratios": sr_ratios}
        _check(mixer, acmix, names | {"mlp_ratios": mlp_ratios})
        self.num_classes, self.in_chans, self.global_pool = num_classes, in_chans, _pool(global_pool)
        self.num_features = self.head_hidden_size = embed_dims[-1]
        self.num_prefix_tokens = 1
        rates = calculate_drop_path_rates(drop_path_rate, list(depths), stagewise=False)
        drops = {"proj_drop": proj_drop_rate, "attn_drop": attn_drop_rate}
        size, chans, self.feature_info = to_2tuple(img_size), in_chans, list[dict[str, Any]]()
        self.stages = nn.ModuleList()
        for index, dim in enumerate(embed_dims):
            patch, last = patch_size if index == 0 else 2, index == stages - 1
            size = (-(-size[0] // patch), -(-size[1] // patch))
            block = partial(PVTBlock, dim, num_heads[index], int(last), sr_ratios[index], mixer=mixer, acmix=acmix)
            block = partial(block, mlp_ratio=mlp_ratios[index], norm_layer=norm_layer, **drops, **made)
            first = sum(depths[:index])
            blocks = [block(drop_path=rate) for rate in rates[first : first + depths[index]]]
            position = PositionEmbedding(dim, size, last, **made)
            self.stages.append(PVTStage(chans, patch, position, blocks, pos_drop=pos_drop_rate, **made))
            chans, reduction = dim, patch_size * 2**index
            self.feature_info.append({"module": f"stages.{index}", "num_chs": dim, "reduction": reduction})
        self.norm = norm_layer(chans, **made)
        self.head_drop = nn.Dropout(drop_rate)
        self.head = nn.Linear(chans, num_classes, **made) if num_classes > 0 else nn.Identity()
        self.init_weights()

    def init_weights(self) -> None:
        """Start as PVT does; the shift kernels and the rates of ACmix stay as they are."""
        for module in self.modules():
            if isinstance(module, PositionEmbedding):
                module.reset_parameters()
            elif isinstance(module, nn.Linear):
                trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def no_weight_decay(self) -> set[str]:
        """Names of position embeddings, class token and rates, which are no weights."""
        names = {name for name, _ in self.named_parameters() if name.endswith(("pos_embed", "cls_token"))}
        return names | rate_names(self)

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Which parameters belong together for learning rates that depend on the depth."""
        stem = r"^stages\.0\.(?:patch_embed|position)"
        if coarse:
            return {"stem": stem, "blocks": [(r"^stages\.(\d+)", None), (r"^norm", (99999,))]}
        blocks = [(r"^stages\.(\d+)\.blocks\.(\d+)", None), (r"^stages\.(\d+)", (0,)), (r"^norm", (99999,))]
        return {"stem": stem, "blocks": blocks}

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """A new last layer for so many classes, none for 0."""
        self.num_classes = num_classes
        self.global_pool = self.global_pool if global_pool is None else _pool(global_pool)
        made = get_device_dtype(self)
        self.head = nn.Linear(self.num_features, num_classes, **made) if num_classes > 0 else nn.Identity()
        self.head.train(self.training)

    def stages_in_order(self) -> list[PVTStage]:
        """The stages that are there, first to last."""
        return [stage for stage in self.stages if isinstance(stage, PVTStage)]

    def run_stage(self, index: int, x: Tensor) -> StageResult:
        """Tokens [B, T + h * w, C] come out of the last stage, normed, the class token first."""
        stage = self.stages_in_order()[index]
        tokens, size = stage(x)
        normed = self.norm(tokens) if index == len(self.stages) - 1 else tokens
        x, map_of_normed = (_map(of_stage, size, stage.num_prefix_tokens) for of_stage in (tokens, normed))
        return StageResult(normed, x, map_of_normed)

    def prune_intermediate_layers(
        self, indices: int | list[int] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Drop what the maps asked for do not need; returns the stages' indices."""
        wanted, last = feature_take_indices(len(self.stages), indices)
        cut = last < len(self.stages) - 1
        self.stages = self.stages[: last + 1]
        if prune_norm or cut:
            self.norm = nn.Identity()
        if cut:
            self.num_features = self.head_hidden_size = self.feature_info[last]["num_chs"]
            self.num_prefix_tokens = 0
        if prune_head or cut:
            self.reset_classifier(0, "")
        return list(wanted)

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Tokens [B, 1 + h * w, C] -> logits [B, num_classes], or what goes into the last layer."""
        if self.global_pool == "token":
            x = x[:, 0]
        elif self.global_pool == "avg":
            x = x[:, self.num_prefix_tokens :].mean(1)
        x = self.head_drop(x)
        logits: Tensor = x if pre_logits else self.head(x)
        return logits


def _map(tokens: Tensor, size: Size, prefix: int) -> Tensor:
    """[B, T + H * W, C] -> [B, C, H, W]."""
    patches: Tensor = tokens[:, prefix:].transpose(1, 2).unflatten(2, size)
    return patches


def _pool(pool: str) -> str:
    if pool not in POOLS:
        raise ValueError(f"PyramidVisionTransformer: global_pool={pool!r}, expected one of {POOLS}.")
    return pool


def _check(mixer: str, acmix: Mapping[str, Any] | None, stages: Mapping[str, Sequence[float]]) -> None:
    op = "PyramidVisionTransformer"
    lengths = {name: len(values) for name, values in stages.items()}
    if len(set(lengths.values())) != 1:
        raise ValueError(f"{op}: arguments for different numbers of stages: {lengths}; give each one value a stage.")
    if mixer != "attention":
        check_mixer(op, mixer, acmix)
    elif acmix:
        raise ValueError(f"{op}: mixer='attention' has no layer for the options acmix={dict(acmix)}; drop one of them.")
