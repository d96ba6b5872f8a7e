"""Runs the native kernels on hostile cases in a program without torch and compares with the reference in float64.

Every tensor of a case lies in memory of exactly its size: on the heap, and at both ends of pages between two that must
not be touched. All units at once, some at a time in mixed order, some rows before others, three threads, also with
shares of their own, and one that two help must give the same bits; whatever is no output must keep its own. Ends with 1
where something is wrong, a sanitizer's report and a crash among it.

    python scripts/check_kernels.py                                    # as installed
    python scripts/check_kernels.py --sanitize address,undefined      # watched; and --sanitize thread
    python scripts/check_kernels.py --emulate avx512                   # that set where there is AVX2 alone
    python scripts/check_kernels.py --emulate amx                      # and a matrix unit where there is AVX-512 alone
    python scripts/check_kernels.py --compiler aarch64-linux-gnu-g++ --run "qemu-aarch64 -L /usr/aarch64-linux-gnu"
"""

import argparse
import os
import random
import shlex
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from kernel_checks import attention, convolution, product, sums
from kernel_checks.build import Build, InstructionSet, compiled, instruction_sets
from kernel_checks.case import KERNELS, Case, judged, memory_of, packed
from torch import Tensor

from acmix.tables import format_table

# What a processor must have, in the words of /proc/cpuinfo.
TILES = {"amx_tile", "amx_bf16"}  # which are emulated where there are none
AVX512 = {"avx2", "fma", "avx512f", "avx512dq"}
NEEDED = {
    "amx": AVX512 | TILES | {"avx512bw"},
    "avx512": AVX512,
    "avx2": {"avx2", "fma"},
    "portable": set(),
}


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sanitize", default="", help="sanitizers to compile with, such as address,undefined")
    parser.add_argument("--optimise", default="", help="such as 1 for -O1; default: as installed, with sanitizers 1")
    parser.add_argument("--compiler", default="g++")
    parser.add_argument("--run", default="", help="command before the program, such as an emulator")
    parser.add_argument("--instructions", nargs="+", help="instruction sets; default: all that can run here")
    parser.add_argument(
        "--cases", type=int, help="so many of attention, convolution, products and sums each; default: all"
    )
    parser.add_argument(
        "--emulate",
        choices=("avx512", "amx"),
        default="",
        help="check that set alone, on a processor that has AVX2 (with GCC), or AVX-512",
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--missing", type=int, default=0, help="bytes that each tensor's memory lacks: it must fail")
    parser.add_argument("--folder", type=Path, help="for programs and cases; default: a temporary one")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    args = parse(arguments)
    with tempfile.TemporaryDirectory() as temporary:
        optimise = args.optimise or ("1" if args.sanitize else "")
        build = Build(args.folder or Path(temporary), args.compiler, args.sanitize, optimise, args.run, args.emulate)
        chosen = chosen_sets(build, [args.emulate] if args.emulate else args.instructions)
        start = time.perf_counter()
        cases = make_cases(args.seed, args.cases)
        print(f"{len(cases)} cases and their truths: {time.perf_counter() - start:.0f} s", flush=True)
        build.folder.mkdir(parents=True, exist_ok=True)
        write_cases(cases, build.folder / "cases")
        rows, faults = [], []
        for instructions in chosen:
            found, errors = check(build, instructions, cases, args.missing)
            faults += found
            rows += table_rows(instructions.name, cases, errors)
    if rows:
        print("worst error over what is allowed:")
        print(format_table(("kernel", "instruction set", "cases", "32 and 64 bits", "16 bits"), rows, left=(0, 1)))
    print("\n".join(faults) if faults else "nothing wrong")
    return 1 if faults else 0


def chosen_sets(build: Build, names: Sequence[str] | None) -> list[InstructionSet]:
    """Those named, or all for this processor; for another one there is the portable set alone."""
    for_x86 = build.machine().startswith(("x86_64", "amd64"))
    known = instruction_sets(for_x86)
    if names is None:
        names = [name for name in reversed(known) if NEEDED[name] <= processor_flags() | TILES]
    unknown = [name for name in names if name not in known]
    if unknown:
        raise SystemExit(f"--instructions {' '.join(unknown)}: {build.machine()} has {', '.join(known)}")
    return [known[name] for name in names]


def processor_flags() -> set[str]:
    path = Path("/proc/cpuinfo")
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return {flag for line in lines if line.startswith("flags") for flag in line.split()}


def make_cases(seed: int, count: int | None) -> list[Case]:
    chance, made = random.Random(seed), []
    for family in (attention, convolution, product, sums):
        every = list(family.cases(seed))
        made += [make() for make in (every if count is None else chance.sample(every, min(count, len(every))))]
    return made


def write_cases(cases: Sequence[Case], path: Path) -> None:
    with path.open("wb") as file:
        file.write(struct.pack("<q", len(cases)))
        for case in cases:
            file.write(packed(case))


def check(
    build: Build, instructions: InstructionSet, cases: Sequence[Case], missing: int
) -> tuple[list[str], list[float]]:
    """What is wrong, and each case's worst error over what is allowed."""
    start = time.perf_counter()
    if instructions.name == "amx" and not processor_flags() >= TILES:
        build = build._replace(emulates="amx")
    program = compiled(build, instructions)
    between = time.perf_counter()
    results = build.folder / f"results_{instructions.name}"
    done = run(build, [program, build.folder / "cases", results, str(missing)])
    name, end = instructions.name, time.perf_counter()
    print(f"{name}: compiled in {between - start:.0f} s, ran {end - between:.0f} s", flush=True)
    lines = done.stdout.splitlines()
    faults = [f"{name}: {line}; {text_of(cases, line)}" for line in lines if "other bits" in line]
    if done.stderr or done.returncode != (1 if faults else 0):
        last = lines[-1] if lines else "nothing was run"
        return [f"{name}: ended with {done.returncode} at {last}; {text_of(cases, last)}\n{done.stderr}"], []
    found, errors = judge(cases, torch.frombuffer(bytearray(results.read_bytes()), dtype=torch.uint8))
    return faults + [f"{name}: {fault}" for fault in found], errors


def run(build: Build, command: Sequence[Path | str]) -> subprocess.CompletedProcess[str]:
    emulator = shlex.split(build.run)
    # GCC 12 gives vectors of 64 bytes a place that is not aligned where use after return is watched (its bug 110027);
    # leaks cannot be found in an emulator.
    watching = {
        "ASAN_OPTIONS": f"detect_stack_use_after_return=0:detect_leaks={int(not emulator)}",
        "UBSAN_OPTIONS": "print_stacktrace=1",
    }
    environment = watching | os.environ
    return subprocess.run([*emulator, *command], capture_output=True, text=True, env=environment, check=False)


def text_of(cases: Sequence[Case], line: str) -> str:
    """The case that a line of the program is about."""
    words = line.replace(",", " ").split()
    return describe(cases[int(words[1])]) if words[:1] == ["case"] else ""


def describe(case: Case) -> str:
    return f"{case.kernel}: {case.text}"


def judge(cases: Sequence[Case], results: Tensor) -> tuple[list[str], list[float]]:
    """Which tensors are further off than is allowed, and each case's worst error."""
    faults, errors, at = [], [], 0
    for case in cases:
        size = sum(len(memory_of(x)) for x in case.tensors.values() if x is not None)
        of_tensors = judged(case, results[at : at + size])
        at += size
        errors.append(max(of_tensors.values()))
        wrong = [f"{name} {ratio:.3g}" for name, ratio in of_tensors.items() if ratio > 1]
        if wrong:
            faults.append(f"{describe(case)}: error over what is allowed: {', '.join(wrong)}")
    return faults, errors


def table_rows(name: str, cases: Sequence[Case], errors: Sequence[float]) -> list[tuple[str, ...]]:
    """One for each kernel; with 16 bits nearly all of an error is the last rounding, to which 1 belongs."""
    rows: list[tuple[str, ...]] = []
    of_cases = list(zip(cases, errors, strict=False))
    for kernel in KERNELS if errors else ():
        wide = [error for case, error in of_cases if case.kernel == kernel and not is_narrow(case)]
        narrow = [error for case, error in of_cases if case.kernel == kernel and is_narrow(case)]
        worst = (f"{max(some):.2f}" if some else "-" for some in (wide, narrow))
        rows.append((kernel, name, str(len(wide) + len(narrow)), *worst))
    return rows


def is_narrow(case: Case) -> bool:
    return any(x is not None and x.itemsize == 2 for x in case.tensors.values())


if __name__ == "__main__":
    sys.exit(main())
