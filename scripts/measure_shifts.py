"""Measure the ways to shift and sum; write docs/records/shifts.json, and from it the tables of docs/idea.md.

    python scripts/measure_shifts.py

takes a few minutes on a quiet machine; `scripts/shift_tables.py` writes the tables again without measuring. One row is
of this library's native kernels, and left out where they were not built; all others are of torch's operators. All
variants start from the same tensors and, with kernels that start as shifts, give the same values: that is checked
before any clock runs. They are timed in turns within one process, on one thread.
"""

import argparse
import functools
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from shift_tables import RECORD, write_tables
from torch import Tensor

from acmix.functional import convolution_path
from acmix.ops.decompositions import shift
from acmix.ops.impl.cpu.native import MISSING

ROOT = Path(__file__).resolve().parents[1]

STAGES = ((64, 56), (128, 28), (256, 14), (512, 7))
BATCH, HEADS, TAPS = 8, 4, 9
OFFSETS = [(p - 1, q - 1) for p in range(3) for q in range(3)]

# Passes: how often one map of width D is read or written when every step runs by itself.
# F.pad reads and writes each map and first fills its eight moved results with zeros; each of the eight additions
# reads two maps and writes one.
PAD_AND_ADD = 2 * TAPS + (TAPS - 1) + 3 * (TAPS - 1)
ADD_IN_PLACE = 1 + 3 * TAPS
ONE_SET, ALL_SETS = TAPS + 1, TAPS + HEADS
MIX, REPEAT, COMPOSED = 3 * HEADS + TAPS, 1 + HEADS, 3 * HEADS + HEADS
# Multiply-adds for one position and one of the D channels of a map.
MIX_MACS, ONE_MACS, ALL_MACS = 3 * HEADS * TAPS, TAPS * TAPS, HEADS * TAPS * TAPS


class Case:
    """The tensors of one stage (kernels start as shifts) and what each variant does with them."""

    def __init__(self, channels: int, size: int) -> None:
        generator = torch.Generator().manual_seed(0)
        self.width = channels // HEADS
        self.pieces = torch.randn(BATCH, self.width, 3 * HEADS, size, size, generator=generator)
        self.mix = torch.randn(TAPS, 3 * HEADS, generator=generator)
        one_hot = torch.eye(TAPS).view(TAPS, 3, 3)
        self.one_set = one_hot.repeat(self.width, 1, 1, 1)
        self.all_sets = one_hot.repeat(channels, 1, 1, 1)
        self.maps = self.mixed()
        self.image = torch.randn(BATCH, channels, size, size, generator=generator)
        self.dense = torch.randn(channels, channels, 3, 3, generator=generator) / channels

    def mixed(self) -> Tensor:
        """The fully connected layer: pieces [B, D, 3N, H, W], as Stage I writes them, become maps [B, D, 9, H, W]."""
        return (self.mix @ self.pieces.flatten(3)).view(BATCH, self.width, TAPS, *self.pieces.shape[3:])

    def grouped(self, maps: Tensor, kernels: Tensor) -> Tensor:
        return F.conv2d(maps.flatten(1, 2), kernels, padding=1, groups=self.width)

    def per_head(self, out: Tensor) -> Tensor:
        """One set of kernels gives D maps; every head gets them: [B, D, H, W] -> [B, D * N, H, W]."""
        return out.repeat_interleave(HEADS, dim=1)

    def sum_one_set(self) -> Tensor:
        return self.grouped(self.maps, self.one_set)

    def sum_all_sets(self) -> Tensor:
        return self.grouped(self.maps, self.all_sets)

    def path_shifts(self) -> Tensor:
        return self.per_head(pad_and_add(self.mixed()))

    def path_one_set(self) -> Tensor:
        return self.per_head(self.grouped(self.mixed(), self.one_set))

    def path_all_sets(self) -> Tensor:
        return self.grouped(self.mixed(), self.all_sets)

    def path_composed(self) -> Tensor:
        return self.grouped(self.pieces, torch.einsum("ciyx,ij->cjyx", self.all_sets, self.mix))

    def path_kernels(self) -> Tensor:
        return convolution_path(self.pieces, self.mix, self.all_sets, form="composed", impl="cpu")

    def convolve(self) -> Tensor:
        return F.conv2d(self.image, self.dense, padding=1)


def pad_and_add(maps: Tensor) -> Tensor:
    return functools.reduce(torch.add, (shift(m, *offset) for m, offset in zip(maps.unbind(2), OFFSETS, strict=True)))


def add_in_place(maps: Tensor) -> Tensor:
    height, width = maps.shape[-2:]
    out = torch.zeros_like(maps[:, :, 0])
    for m, (dy, dx) in zip(maps.unbind(2), OFFSETS, strict=True):
        there = m[..., max(0, dy) : height + min(0, dy), max(0, dx) : width + min(0, dx)]
        out[..., max(0, -dy) : height - max(0, dy), max(0, -dx) : width - max(0, dx)] += there
    return out


@dataclass(frozen=True)
class Variant:
    """One way; `leaves` are the tensors that a training step differentiates (none: no training step is timed)."""

    part: str
    name: str
    passes: int
    macs: int
    run: Callable[[Case], Tensor]
    leaves: tuple[str, ...] = ()


def variants(channels: int) -> list[Variant]:
    one, all_sets, composed = MIX_MACS + ONE_MACS, MIX_MACS + ALL_MACS, HEADS * MIX_MACS
    learned = ("pieces", "mix", "all_sets")
    ways = [
        Variant("sum", "shifts", PAD_AND_ADD, 0, lambda case: pad_and_add(case.maps)),
        Variant("sum", "in_place", ADD_IN_PLACE, 0, lambda case: add_in_place(case.maps)),
        Variant("sum", "one_set", ONE_SET, ONE_MACS, Case.sum_one_set),
        Variant("sum", "all_sets", ALL_SETS, ALL_MACS, Case.sum_all_sets),
        Variant("path", "shifts", MIX + PAD_AND_ADD + REPEAT, MIX_MACS, Case.path_shifts, ("pieces", "mix")),
        Variant("path", "fixed", MIX + ONE_SET + REPEAT, one, Case.path_one_set, ("pieces", "mix")),
        Variant("path", "learnable", MIX + ONE_SET + REPEAT, one, Case.path_one_set, ("pieces", "mix", "one_set")),
        Variant("path", "all_sets", MIX + ALL_SETS, all_sets, Case.path_all_sets, learned),
        Variant("path", "composed", COMPOSED, composed, Case.path_composed, learned),
        Variant("path", "kernels", COMPOSED, composed, Case.path_kernels, learned),
        Variant("scale", "dense", 2 * HEADS, HEADS * TAPS * channels, Case.convolve, ("image", "dense")),
        Variant("scale", "copy", 2 * TAPS, 0, lambda case: case.maps.clone()),
    ]
    return [way for way in ways if MISSING is None or way.name != "kernels"]


def check_equal(case: Case, ways: list[Variant]) -> None:
    """With kernels that are shifts all variants of a part are one function; N equal sets repeat each map N times."""
    for part in ("sum", "path"):
        outputs = [way.run(case) for way in ways if way.part == part]
        first, *others = (out.reshape(BATCH, case.width, -1, *out.shape[2:]) for out in outputs)
        for out in others:
            torch.testing.assert_close(out, first.expand_as(out), rtol=1e-4, atol=1e-4)


def forward(way: Variant, case: Case) -> None:
    with torch.inference_mode():
        way.run(case)


def training_step(way: Variant, case: Case) -> None:
    leaves = [getattr(case, name) for name in way.leaves]
    for leaf in leaves:
        leaf.requires_grad_()
    torch.autograd.grad(way.run(case).sum(), leaves)
    for leaf in leaves:
        leaf.requires_grad_(False)


def undisturbed(run: Callable[[], None]) -> float:
    """Seconds of a run whose one thread held its core throughout; a run that was interrupted is run again."""
    for _ in range(500):
        wall, busy = time.perf_counter(), time.process_time()
        run()
        wall, busy = time.perf_counter() - wall, time.process_time() - busy
        if busy > 0.97 * wall:
            return wall
    raise SystemExit("the machine is too busy to measure on: 500 runs in a row were interrupted; try again later")


def measure_stage(channels: int, size: int, rounds: int) -> dict[str, Any]:
    case, ways = Case(channels, size), variants(channels)
    check_equal(case, ways)
    jobs = [("forward", forward, way) for way in ways] + [
        ("training", training_step, way) for way in ways if way.leaves
    ]
    seconds: list[list[float]] = [[] for _ in jobs]
    for turn in range(rounds + 2):
        for (_, run, way), times in zip(jobs, seconds, strict=True):
            elapsed = undisturbed(functools.partial(run, way, case))
            if turn >= 2:  # the first two turns warm up
                times.append(elapsed)
    map_bytes = BATCH * case.width * size * size * 4
    results = []
    for (mode, _, way), times in zip(jobs, seconds, strict=True):
        low, median, high = (round(1e3 * t, 4) for t in statistics.quantiles(times, n=4))
        row = {"part": way.part, "variant": way.name, "mode": mode, "median_ms": median, "quartiles_ms": [low, high]}
        if mode == "forward":
            row |= {"passes": way.passes, "moved_bytes": way.passes * map_bytes, "macs": way.macs * map_bytes // 4}
        results.append(row)
    return {"channels": channels, "size": size, "map_bytes": map_bytes, "results": results}


def onednn_kernel() -> str:
    """Which of its implementations oneDNN chooses for the group convolution of the first stage."""
    channels, size = STAGES[0]
    groups = channels // HEADS
    code = (
        f"import torch; x = torch.rand({BATCH}, {TAPS * groups}, {size}, {size}); "
        f"w = torch.rand({channels}, {TAPS}, 3, 3); torch.nn.functional.conv2d(x, w, padding=1, groups={groups})"
    )
    environment = os.environ | {"ONEDNN_VERBOSE": "1"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    found = re.search(r"exec,cpu,convolution,([^,]+),", done.stdout)
    return found.group(1) if found else "not oneDNN"


def cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    names = re.findall(r"model name\s*: (.+)", info.read_text()) if info.exists() else []
    return names[0] if names else platform.processor()


def measure(rounds: int) -> dict[str, Any]:
    torch.set_num_threads(1)
    git = ["git", "-C", str(ROOT), "rev-parse", "HEAD"]
    return {
        "device": {"kind": "cpu", "name": cpu_name(), "threads": torch.get_num_threads()},
        "instruction_set": torch.backends.cpu.get_cpu_capability(),
        "onednn_group_convolution": onednn_kernel(),
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
        "commit": subprocess.run(git, capture_output=True, text=True, check=True).stdout.strip(),
        "settings": {"batch": BATCH, "heads": HEADS, "kernel": 3, "dtype": "float32", "rounds": rounds},
        "load_average_before": round(os.getloadavg()[0], 2),
        "stages": [measure_stage(channels, size, rounds) for channels, size in STAGES],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=40, help="turns that are timed (default: %(default)s)")
    options = parser.parse_args()
    record = measure(options.rounds)
    RECORD.parent.mkdir(parents=True, exist_ok=True)
    RECORD.write_text(json.dumps(record, indent=1) + "\n")
    write_tables(record)


if __name__ == "__main__":
    main()
