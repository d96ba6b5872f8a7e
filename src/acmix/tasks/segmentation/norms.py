"""Batch norms that also take a single value per channel, which pooling to 1x1 leaves of a batch of one."""

from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["SingleValueBatchNorm", "accept_single_values"]


class SingleValueBatchNorm(nn.BatchNorm2d):
    """`nn.BatchNorm2d` that normalises a single value per channel in training with its running statistics.

    Statistics of one value would be that value and zero, and the result its shift whatever came in; torch refuses.
    """

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  torch's word
        """Values [B, C, H, W] -> normalised values."""
        if self.training and self.track_running_stats and input.numel() == input.shape[1]:
            return F.batch_norm(
                input, self.running_mean, self.running_var, self.weight, self.bias, training=False, eps=self.eps
            )
        return super().forward(input)


def accept_single_values(module: nn.Module) -> nn.Module:
    """Puts `SingleValueBatchNorm` in place of every `nn.BatchNorm2d` in a module.

    Args:
        module: Changed in place; its norms must be as they are built, scale 1 and shift 0.

    Returns:
        The same module.
    """
    for name, child in module.named_children():
        if type(child) is nn.BatchNorm2d:
            setattr(module, name, SingleValueBatchNorm(child.num_features, eps=child.eps, momentum=child.momentum))
        else:
            accept_single_values(child)
    return module
