"""What timm asks of a network of stages, the same for SAN and PVT."""

from typing import Any, ClassVar, NamedTuple

import torch
from timm.models._features import feature_take_indices
from torch import Tensor, nn

__all__: list[str] = ["StageResult", "StagedNetwork"]


class StageResult(NamedTuple):
    """What comes out of a stage.

    Attributes:
        features: what `forward_features` returns where this stage is the last.
        map: [B, C, h, w], which the next stage reads.
        normed: the same map, through the network's last norm where this stage is the last.
    """

    features: Tensor
    map: Tensor
    normed: Tensor


class StagedNetwork(nn.Module):
    """A network whose stages read each other's maps.

    A network says which its stages are, what one does, and what comes before and behind them: `stages_in_order`,
    `run_stage`, `run_stem`, `forward_head`.
    """

    classifier: ClassVar[str]
    """Name of the last layer."""

    def stages_in_order(self) -> list[Any]:
        """The stages that are there, first to last; each has a switch `grad_checkpointing`."""
        raise NotImplementedError

    def run_stem(self, x: Tensor) -> Tensor:
        """Images [B, C_in, H, W] -> what the first stage reads."""
        return x

    def run_stage(self, index: int, x: Tensor) -> StageResult:
        """The map before a stage [B, C, h, w] -> its result."""
        raise NotImplementedError

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """What `forward_features` returns -> logits [B, num_classes], or what goes into the last layer."""
        raise NotImplementedError

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Keep the blocks' inputs alone for the backward pass, and compute the rest again."""
        for stage in self.stages_in_order():
            stage.grad_checkpointing = enable

    def get_classifier(self) -> nn.Module:
        """The last layer."""
        return self.get_submodule(self.classifier)

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
            norm: whether the last stage's map goes through the network's last norm, where that is none of the stage.
            stop_early: whether to leave out the stages behind the last one asked for.
            output_fmt: "NCHW".
            intermediates_only: whether to return the maps alone.

        Returns:
            The list of maps [B, C, h, w], or (features, maps). Their memory format is the images'.
        """
        if output_fmt != "NCHW":
            raise ValueError(f"{type(self).__name__}: output_fmt={output_fmt!r}, expected 'NCHW'.")
        stages = len(self.stages_in_order())
        wanted, last = feature_take_indices(stages, indices)
        channels_last = x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()
        layout = torch.channels_last if channels_last else torch.contiguous_format
        intermediates = []
        x = self.run_stem(x)
        for index in range(last + 1 if stop_early else stages):
            result = self.run_stage(index, x)
            x = result.map
            if index in wanted:
                intermediates.append((result.normed if norm else x).contiguous(memory_format=layout))
        return intermediates if intermediates_only else (result.features, intermediates)

    def forward_features(self, x: Tensor) -> Tensor:
        """Images [B, C_in, H, W] -> what the last stage makes of them, normed."""
        x = self.run_stem(x)
        for index in range(len(self.stages_in_order())):
            result = self.run_stage(index, x)
            x = result.map
        return result.features

    def forward(self, x: Tensor) -> Tensor:
        """Images [B, C_in, H, W] -> logits [B, num_classes]."""
        return self.forward_head(self.forward_features(x))
