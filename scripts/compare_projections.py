"""Times stage I as torch's 1x1 convolution and as a product of matrices, in turn: which one pays depends on the map.

Usage: python scripts/compare_projections.py [--batch 8] [--channels 64] [--sizes 14 28 56] [--turns 15] [--threads 2]
"""

import argparse

import torch
import torch.nn.functional as F

from acmix.bench.figures import quartiles
from acmix.bench.timing import WallClock
from acmix.bench.turns import Limits, paired_ratios, prepare, take_turns


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in {"batch": 8, "channels": 64, "turns": 15, "threads": 2}.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--sizes", type=int, nargs="+", default=[14, 28, 56])
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    for size in args.sizes:
        ratio, low, high = compare(torch.randn(args.batch, args.channels, size, size), args.turns)
        print(f"{args.channels} x {size} x {size}: product over convolution {ratio:.2f} ({low:.2f} - {high:.2f})")


def compare(x: torch.Tensor, turns: int) -> tuple[float, float, float]:
    """Median and quartiles of the product's time over the convolution's."""
    channels, clock = x.shape[1], WallClock()
    weight, bias = torch.randn(3 * channels, channels, 1, 1), torch.randn(3 * channels)
    product = bias.unsqueeze(1), weight.flatten(1).expand(len(x), -1, -1), x.flatten(2)
    forms = {"convolution": lambda: F.conv2d(x, weight, bias), "product": lambda: torch.baddbmm(*product)}
    with torch.inference_mode():
        timed = {name: prepare(form, clock, Limits(turns, 60)) for name, form in forms.items()}
        take_turns(timed, "convolution", clock, turns)
    low, median, high = quartiles(paired_ratios(timed["product"].samples, timed["convolution"].samples))
    return median, low, high


if __name__ == "__main__":
    main()
