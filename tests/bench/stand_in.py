"""Stands where a checkout of the authors' code would: their names of class and parameters, this library's functions."""

import torch
from torch import Tensor, nn

from acmix.functional import convolution_path, local_attention

WRONG = 1.0
"""What the attention is multiplied with: a test's mistake."""


class ACmix(nn.Module):
    def __init__(
        self, in_planes: int, out_planes: int, kernel_att: int, head: int, kernel_conv: int, stride: int, dilation: int
    ) -> None:
        super().__init__()
        self.head, self.kernel_att, self.stride = head, kernel_att, stride
        width, maps = out_planes // head, kernel_conv**2
        self.conv1, self.conv2, self.conv3 = (nn.Conv2d(in_planes, out_planes, 1) for _ in range(3))
        self.conv_p = nn.Conv2d(2, width, 1)
        self.fc = nn.Conv2d(3 * head, maps, 1, bias=False)
        self.dep_conv = nn.Conv2d(maps * width, out_planes, kernel_conv, groups=width, bias=False)
        self.rate1, self.rate2 = nn.Parameter(torch.ones(1)), nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor) -> Tensor:
        parts = [layer(x).unflatten(1, (self.head, -1)) for layer in (self.conv1, self.conv2, self.conv3)]
        rows, columns = (torch.linspace(-1, 1, size) for size in x.shape[2:])
        grid = torch.stack([columns.expand(len(rows), -1), rows.unsqueeze(1).expand(-1, len(columns))])
        code = self.conv_p(grid.unsqueeze(0)).squeeze(0)
        options = {"stride": self.stride, "impl": "reference"}
        attended = local_attention(*parts, self.kernel_att, position=code, **options).flatten(1, 2)
        pieces = torch.cat(parts, 1).transpose(1, 2)
        convolved = convolution_path(pieces, self.fc.weight.flatten(1), self.dep_conv.weight, **options)
        return self.rate1 * WRONG * attended + self.rate2 * convolved
