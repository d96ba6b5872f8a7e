"""A training step of SAN beside one whose layers unfold k and v, in turn, in one process: time and peak of memory.

The other version is the same network with `F.unfold`, torch's own batch norm, multiply and sum in its layers. Memory is
what torch's allocator has handed out at once; parameters, gradients and images are part of it.

Usage: python scripts/compare_san.py [--model san10] [--batch 1] [--size 224] [--turns 5] [--threads 2]
"""

import argparse
import copy
import itertools
import platform
import statistics
import time
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from acmix import create_model
from acmix.nn import PatchwiseAttention

MIB = 2**20


class Unfolded(nn.Module):
    """The same layer with k and v unfolded, on the same parameters."""

    def __init__(self, layer: PatchwiseAttention) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor, norm: nn.Module) -> Tensor:
        x = F.relu(norm(x), inplace=True)
        layer, net = self.layer, self.layer.weights
        size, kernel, groups = x.shape[2:], net.kernel_size, net.groups
        q, k, v = layer.query(x), layer.key(x), layer.value(x)
        stacked = torch.cat([q.flatten(2), self.unfold(k, kernel)], 1).unsqueeze(2)
        hidden = net.norm2(net.reduce(F.relu(net.norm1(stacked), inplace=True)))
        weights = net.expand(F.relu(hidden, inplace=True)).unflatten(1, (1, groups, kernel**2)).squeeze(4)
        window = self.unfold(v, kernel).unflatten(1, (-1, groups, kernel**2))
        out: Tensor = (weights * window).sum(3).flatten(1, 2).unflatten(2, size)
        return out

    @staticmethod
    def unfold(x: Tensor, kernel: int) -> Tensor:
        return F.unfold(F.pad(x, (kernel // 2,) * 4, mode="reflect"), kernel)


def unfolded(network: nn.Module) -> nn.Module:
    other = copy.deepcopy(network)
    for name, module in list(other.named_modules()):
        if isinstance(module, PatchwiseAttention):
            parent, _, child = name.rpartition(".")
            setattr(other.get_submodule(parent), child, Unfolded(module))
    return other


def step(network: nn.Module, x: Tensor) -> Tensor:
    network.zero_grad()
    out: Tensor = network(x)
    F.cross_entropy(out, torch.zeros(len(x), dtype=torch.long)).backward()
    return out.detach()


def peak(network: nn.Module, x: Tensor) -> int:
    """The largest sum of all allocations so far in a step, beside parameters, buffers and images."""
    network.zero_grad()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        step(network, x)
        network.zero_grad()
    results: Any = profiler.profiler
    events = [event for event in results.kineto_results.events() if event.name() == "[memory]"]
    sizes = [event.nbytes() for event in sorted(events, key=lambda event: int(event.start_ns()))]
    held = sum(t.numel() * t.element_size() for t in (x, *network.parameters(), *network.buffers()))
    return int(held + max(itertools.accumulate(sizes)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="san10")
    for name, default in {"batch": 1, "size": 224, "turns": 5, "threads": 2}.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    ours = create_model(args.model).train()
    theirs = unfolded(ours)
    x = torch.randn(args.batch, 3, args.size, args.size)
    difference = (step(ours, x) - step(theirs, x)).abs().max().item()
    networks = {"ours": ours, "unfolded": theirs}
    peaks = {name: peak(network, x) for name, network in networks.items()}
    times: dict[str, list[float]] = {name: [] for name in networks}
    for turn in range(args.turns + 1):
        for name, network in networks.items():
            start = time.perf_counter()
            step(network, x)
            if turn:  # the first turn warms up
                times[name].append(time.perf_counter() - start)
    print(
        f"{args.model}, {tuple(x.shape)} float32, {platform.processor() or platform.machine()}, {args.threads} "
        f"threads, torch {torch.__version__}; largest difference of the logits {difference:.1e}"
    )
    print(
        f"peak of a training step: {peaks['ours'] / MIB:.1f} MiB, unfolded {peaks['unfolded'] / MIB:.1f} MiB, "
        f"ratio {peaks['ours'] / peaks['unfolded']:.3f}"
    )
    seconds = {name: statistics.median(values) for name, values in times.items()}
    pairs = [ours / theirs for ours, theirs in zip(times["ours"], times["unfolded"], strict=True)]
    print(
        f"time of a training step, medians of {args.turns} turns: {seconds['ours']:.3f} s, unfolded "
        f"{seconds['unfolded']:.3f} s, ratio of pairs {statistics.median(pairs):.3f}"
    )


if __name__ == "__main__":
    main()
