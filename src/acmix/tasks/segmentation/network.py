"""A backbone, a decoder and their heads: logits of every pixel for images of any size."""

from typing import cast

from torch import Tensor, nn
from torch.nn import functional as F

from acmix.tasks.dense.backbone import Backbone, BackboneSettings, undecayed
from acmix.tasks.segmentation.decoder import DecoderSettings, build_decoder
from acmix.tasks.segmentation.norms import accept_single_values

__all__ = ["Segmenter", "build_segmenter"]


class Segmenter(nn.Module):
    """Semantic segmentation.

    Images are padded at the right and at the bottom with zeros, the mean of normalised pixels, to the next multiple of
    the backbone's largest reduction, at least twice that (a norm takes no map of one pixel). Classes are predicted at
    the size of the first map (1/4 of the image for networks of ImageNet), enlarged bilinearly, and cut to the image's
    size.

    Args:
        backbone: Gives the maps.
        num_classes: Classes K.
        settings: Decoder and heads.

    Raises:
        UserError: The decoder cannot stand on the backbone's maps.
    """

    def __init__(self, backbone: Backbone, num_classes: int, settings: DecoderSettings) -> None:
        super().__init__()
        self.backbone = backbone
        self.decoder = build_decoder(backbone.channels, backbone.reductions, settings)
        width = cast("int", self.decoder.out_channels)
        self.head = nn.Sequential(nn.Dropout2d(settings.dropout), nn.Conv2d(width, num_classes, 1))
        self.auxiliary: nn.Module | None = None
        if settings.auxiliary:
            self.auxiliary = _fcn_head(backbone.channels[settings.aux_level], num_classes, settings)
        self._aux_level = settings.aux_level
        self._multiple = max(backbone.reductions)

    def forward(self, images: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """Logits of every pixel.

        Args:
            images: [B, C, H, W], normalised, of any size.

        Returns:
            [B, K, H, W]; in training, where there is an auxiliary head, also its logits of the same shape.
        """
        height, width = images.shape[-2:]
        padded = F.pad(images, (0, self._padding(width), 0, self._padding(height)))
        maps = self.backbone(padded)
        logits = _enlarge(self.head(self.decoder(maps)), padded, height, width)
        if not self.training or self.auxiliary is None:
            return logits
        return logits, _enlarge(self.auxiliary(maps[self._aux_level]), padded, height, width)

    def no_weight_decay(self) -> set[str]:
        """Names of the parameters that the network of the backbone wants without weight decay; timm asks for them."""
        return undecayed(self)

    def _padding(self, side: int) -> int:
        return max(-side % self._multiple, 2 * self._multiple - side)


def build_segmenter(
    name: str, num_classes: int, in_chans: int, backbone_settings: BackboneSettings, decoder_settings: DecoderSettings
) -> Segmenter:
    """A network for semantic segmentation.

    Args:
        name: A registered network, such as `acmix_pvt_tiny` or timm's `resnet50`.
        num_classes: Classes, those that are ignored not counted.
        in_chans: Image channels.
        backbone_settings: Levels, what is frozen, further arguments of the network.
        decoder_settings: Decoder and heads.

    Raises:
        UserError: The name is unknown, or the network or the decoder refuses its settings.

    Example:
        >>> settings = DecoderSettings("upernet", channels=64)
        >>> network = build_segmenter("acmix_resnet14", 11, 3, BackboneSettings(), settings).eval()
        >>> network(torch.zeros(1, 3, 97, 50)).shape
        torch.Size([1, 11, 97, 50])
    """
    return Segmenter(Backbone(name, in_chans, backbone_settings), num_classes, decoder_settings)


def _fcn_head(channels: int, num_classes: int, settings: DecoderSettings) -> nn.Module:
    """The published auxiliary head: one 3x3 convolution with batch norm and ReLU, dropout, classifier."""
    head = nn.Sequential(
        nn.Conv2d(channels, settings.aux_channels, 3, padding=1, bias=False),
        nn.BatchNorm2d(settings.aux_channels),
        nn.ReLU(),
        nn.Dropout2d(settings.dropout),
        nn.Conv2d(settings.aux_channels, num_classes, 1),
    )
    return accept_single_values(head)


def _enlarge(logits: Tensor, padded: Tensor, height: int, width: int) -> Tensor:
    return F.interpolate(logits, padded.shape[-2:], mode="bilinear", align_corners=False)[..., :height, :width]
