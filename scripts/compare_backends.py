"""Times the layer's backends against each other and against the 3x3 convolution, in turn, in one process.

Usage: python scripts/compare_backends.py [--batch 1] [--channels 64] [--size 56] [--turns 15] [--threads 2]
"""

import argparse
import platform
import statistics
import time
from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import nn

from acmix import ACmix
from acmix.ops.dispatch import backend_reasons
from acmix.ops.problem import Problem


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in {"batch": 1, "channels": 64, "size": 56, "turns": 15, "threads": 2}.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    x = torch.randn(args.batch, args.channels, args.size, args.size, requires_grad=True)
    here = Problem("local_attention", "cpu", torch.float32, 7, args.channels // 4)
    able = [impl for impl, reasons in backend_reasons(here).items() if not reasons]
    layers: dict[str, nn.Module] = {impl: ACmix(args.channels, args.channels, impl=impl) for impl in able}
    layers["conv 3x3"] = nn.Conv2d(args.channels, args.channels, 3, padding=1)
    print(
        f"{tuple(x.shape)} float32, {platform.processor() or platform.machine()}, {args.threads} threads, "
        f"torch {torch.__version__}, medians of {args.turns} turns in ms"
    )
    for what, run in {"inference": infer, "training step": train}.items():
        times = take_turns({name: bind(run, layer, x) for name, layer in layers.items()}, args.turns)
        told = ", ".join(f"{name} {1e3 * seconds:.1f}" for name, seconds in times.items())
        print(f"{what}: {told}")
        for impl in able:
            ratios = times["reference"] / times[impl], times[impl] / times["conv 3x3"]
            print(f"  {impl}: {ratios[0]:.1f} x faster than the reference, {ratios[1]:.2f} x the convolution's time")
    print_projections(x.detach(), args.turns)


def print_projections(x: torch.Tensor, turns: int) -> None:
    """Stage I as torch's 1x1 convolution and as a product of matrices: which one the layer takes depends on the map."""
    channels = x.shape[1]
    weight, bias = torch.randn(3 * channels, channels, 1, 1), torch.randn(3 * channels)
    product = bias.unsqueeze(1), weight.flatten(1).expand(len(x), -1, -1), x.flatten(2)
    with torch.inference_mode():
        forms = {"convolution": lambda: F.conv2d(x, weight, bias), "product": lambda: torch.baddbmm(*product)}
        times = take_turns(forms, turns)
    print("stage I: " + ", ".join(f"{name} {1e3 * seconds:.1f}" for name, seconds in times.items()))


def bind(run: Callable[[nn.Module, torch.Tensor], None], layer: nn.Module, x: torch.Tensor) -> Callable[[], None]:
    return lambda: run(layer, x)


def infer(layer: nn.Module, x: torch.Tensor) -> None:
    with torch.inference_mode():
        layer(x)


def train(layer: nn.Module, x: torch.Tensor) -> None:
    layer(x).sum().backward()


def take_turns(runs: Mapping[str, Callable[[], object]], turns: int) -> dict[str, float]:
    times: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(turns + 2):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            if turn >= 2:  # the first turns warm up
                times[name].append(time.perf_counter() - start)
    return {name: statistics.median(seconds) for name, seconds in times.items()}


if __name__ == "__main__":
    main()
