"""A training step of SAN beside one whose layers unfold k and v, in turn, in one process: time and peak of memory.

The other version is the same network with `F.unfold`, torch's own batch norm, multiply and sum in its layers. Memory is
what torch's allocator has handed out at once; parameters, gradients and images are part of it.

Usage: python scripts/compare_san.py [--model san10] [--batch 1] [--size 224] [--turns 5] [--threads 2]
"""

import argparse
import copy
import platform

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from acmix import create_model
from acmix.bench.figures import quartiles
from acmix.bench.memory import peak_bytes
from acmix.bench.passes import Contestant, make_call
from acmix.bench.timing import WallClock
from acmix.bench.turns import Limits, paired_ratios, prepare, take_turns
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="san10")
    for name, default in {"batch": 1, "size": 224, "turns": 5, "threads": 2}.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    ours = create_model(args.model).train()
    x, clock = torch.randn(args.batch, 3, args.size, args.size), WallClock()
    contestants = {"ours": Contestant(ours, (x,)), "unfolded": Contestant(unfolded(ours), (x,))}
    difference = (contestants["ours"].module(x) - contestants["unfolded"].module(x)).abs().max().item()
    calls = {name: make_call(contestant, "training") for name, contestant in contestants.items()}
    timed = {name: prepare(call, clock, Limits(args.turns, 600)) for name, call in calls.items()}
    peaks = {name: peak_bytes(call, "cpu", *contestants[name].held()) for name, call in calls.items()}
    take_turns(timed, "unfolded", clock, args.turns)
    print(
        f"{args.model}, {tuple(x.shape)} float32, {platform.processor() or platform.machine()}, {args.threads} "
        f"threads, torch {torch.__version__}; largest difference of the logits {difference:.1e}"
    )
    print(
        f"peak of a training step: {peaks['ours'] / MIB:.1f} MiB, unfolded {peaks['unfolded'] / MIB:.1f} MiB, "
        f"ratio {peaks['ours'] / peaks['unfolded']:.3f}"
    )
    seconds = {name: quartiles([sample.seconds for sample in one.samples]).median for name, one in timed.items()}
    pairs = quartiles(paired_ratios(timed["ours"].samples, timed["unfolded"].samples))
    print(
        f"time of a training step, medians of {args.turns} turns: {seconds['ours']:.3f} s, unfolded "
        f"{seconds['unfolded']:.3f} s, ratio of pairs {pairs.median:.3f} ({pairs.low:.3f} - {pairs.high:.3f})"
    )


if __name__ == "__main__":
    main()
