"""What others have printed or counted about the zoo's networks, beside which docs/models.md puts this library's."""

from dataclasses import dataclass

__all__ = ["PUBLISHED", "Published"]


@dataclass(frozen=True)
class Published:
    """Figures of one network, as they were printed; empty where there are none.

    Attributes:
        paper: parameters, FLOPs and top-1 on ImageNet (table of Fig. 4).
        plot: FLOPs of its point in the plots of Fig. 4, read off the vector graphics.
        code: parameters of the authors' network, and multiply-adds as the authors count them.
    """

    paper: tuple[str, str, str] = ("", "", "")
    plot: str = ""
    code: tuple[str, str] = ("", "")


# Paper: arXiv 2111.14556v1, which takes the baselines' figures from their papers.
# Code: ResNet and Swin with ACmix from LeapLabTHU/ACmix (81dddb6), SAN from hszhao/SAN (d88b022), PVT from
# whai362/PVT (57e2dfa). Their parameters are those of the networks as their code builds them. Multiply-adds: Swin's
# `flops()` method, SAN's own counter (pairwise: its README); the others have none.
PUBLISHED = {
    "conv_resnet26": Published(("13.7M", "2.4G", "73.6")),
    "conv_resnet38": Published(("19.6M", "3.2G", "76.0")),
    "conv_resnet50": Published(("25.6M", "4.1G", "76.9")),
    "acmix_resnet26": Published(("10.6M", "2.3G", "76.1"), "2.262", ("10,487,816", "")),
    "acmix_resnet38": Published(("14.6M", "2.9G", "77.4"), "2.915", ("14,410,896", "")),
    "acmix_resnet50": Published(("18.6M", "3.6G", "77.8"), "3.568", ("18,333,976", "")),
    "san10": Published(("11.8M", "1.9G", "77.1"), "", ("11,841,124", "1.87 G")),
    "san15": Published(("16.2M", "2.6G", "78.0"), "", ("16,181,310", "2.58 G")),
    "san19": Published(("20.5M", "3.3G", "78.2"), "", ("20,518,470", "3.26 G")),
    "san10_pairwise": Published(code=("10,531,848", "2.2 G")),
    "san15_pairwise": Published(code=("14,065,436", "3.0 G")),
    "san19_pairwise": Published(code=("17,596,156", "3.8 G")),
    "acmix_san10": Published(("12.1M", "1.9G", "77.6"), "1.92"),
    "acmix_san15": Published(("16.6M", "2.7G", "78.4"), "2.68"),
    "acmix_san19": Published(("21.2M", "3.4G", "78.7"), "3.38"),
    "pvt_tiny": Published(("13M", "1.9G", "75.1"), "", ("13,229,288", "")),
    "pvt_small": Published(("25M", "3.8G", "79.8"), "", ("24,485,864", "")),
    "acmix_pvt_tiny": Published(("13M", "2.0G", "78.0"), "2.00"),
    "acmix_pvt_small": Published(("25M", "3.9G", "81.7"), "3.95"),
    "swin_tiny_patch4_window7_224": Published(("29M", "4.5G", "81.3"), "", ("28,288,354", "4.494 G")),
    "swin_small_patch4_window7_224": Published(("50M", "8.7G", "83.0"), "", ("49,606,258", "8.747 G")),
    "acmix_swin_tiny": Published(("30M", "4.6G", "81.9"), "4.66", ("28,649,908", "4.649 G")),
    "acmix_swin_small": Published(("51M", "9.0G", "83.5"), "9.02", ("50,345,080", "8.999 G")),
}
