"""Programs that run the kernels of one instruction set without torch; flags as CMakeLists.txt has them."""

import re
import shlex
import subprocess
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
SOURCES = ROOT / "csrc"
INCLUDED = SOURCES / "check" / "masked_lanes.h"
EMULATION = SOURCES / "check" / "emulated_avx512.h"
TILES = SOURCES / "check" / "emulated_tiles.h"


class Build(NamedTuple):
    """How programs are compiled and run: "" for no sanitizers, the optimisation that is installed, no emulation."""

    folder: Path
    compiler: str
    sanitize: str
    optimise: str
    run: str
    emulates: str = ""

    def machine(self) -> str:
        return self.output("-dumpmachine").strip()

    def output(self, option: str) -> str:
        return subprocess.run([self.compiler, option], check=True, capture_output=True, text=True).stdout

    def is_gcc(self) -> bool:
        return "clang" not in self.output("--version")


class InstructionSet(NamedTuple):
    """One of CMakeLists.txt; `lender` is the set whose kernels it uses for what it has none for itself, or ""."""

    name: str
    source: str
    flags: tuple[str, ...]
    lender: str


def instruction_sets(for_x86: bool) -> dict[str, InstructionSet]:
    """By name, with what CMakeLists.txt gives to each."""
    text = (ROOT / "CMakeLists.txt").read_text(encoding="utf-8")
    lent = {
        name: (what, lender)
        for name, what, lender in re.findall(
            r"target_compile_definitions\(acmix_(\w+) PRIVATE (ACMIX_FLOAT64|ACMIX_BASE)=(\w+)\)", text
        )
    }
    found = {}
    for name, source, vector_bytes, options in re.findall(
        r"^ *acmix_instruction_set\((\w+) (\w+) (\d+) ?(.*)\)$", text, re.MULTILINE
    ):
        flags = [f"-DACMIX_ISA={name}", f"-DACMIX_VECTOR_BYTES={vector_bytes}", *shlex.split(options)]
        if name == "portable" and for_x86:
            flags += ["-DACMIX_SMALL", "-Os"]
        if name == "portable" or for_x86:
            what, lender = lent.get(name, ("", "")) if for_x86 else ("", "")
            flags += [f"-D{what}={lender}"] if lender else []
            found[name] = InstructionSet(name, f"{source}.cpp", tuple(flags), lender)
    return found


def common_flags(build: Build) -> list[str]:
    """Those of the installed library, or of one that is watched."""
    text = (ROOT / "CMakeLists.txt").read_text(encoding="utf-8")
    release, of_gcc, of_others = re.findall(r'CMAKE_CXX_FLAGS_RELEASE "(.*)"\)', text)
    flags = ["-std=gnu++17", *shlex.split(release), *shlex.split(of_gcc if build.is_gcc() else of_others)]
    if build.sanitize:
        flags += [f"-fsanitize={build.sanitize}", "-fno-sanitize-recover=all", "-fno-omit-frame-pointer", "-g1"]
    return flags


def compiled(build: Build, instructions: InstructionSet) -> Path:
    """The program, with the kernels of that instruction set in it."""
    build.folder.mkdir(parents=True, exist_ok=True)
    program = build.folder / f"check_{instructions.name}"
    objects, of = [kernels_of(build, instructions)], instructions
    while of.lender:
        of = instruction_sets(for_x86=True)[of.lender]
        objects.append(kernels_of(build, of))
    options = [*warned_flags(build), f"-DACMIX_ISA={instructions.name}", "-O1", "-pthread"]
    sources = [SOURCES / "check" / "driver.cpp"]
    if has_matrix_unit(instructions):
        options.append("-DACMIX_AMX")
        if not emulates_tiles(build):
            options.append("-DACMIX_ASKS")
            sources.append(SOURCES / "matrix_unit.cpp")
    compile_one(build, [*options, *sources, *objects, "-o", program])
    return program


def has_matrix_unit(instructions: InstructionSet) -> bool:
    return "-mamx-tile" in instructions.flags


def emulates_tiles(build: Build) -> bool:
    """In plain code sanitizers see what a matrix unit reads and writes."""
    return build.emulates == "amx" or bool(build.sanitize)


@cache
def kernels_of(build: Build, instructions: InstructionSet) -> Path:
    """The kernels of that instruction set, compiled; those that are lent to another set, once."""
    kernels = build.folder / f"kernels.o_{instructions.name}"
    flags: Sequence[str | Path] = instructions.flags
    if build.emulates == "avx512" and instructions.name == "avx512":
        flags = emulated(instructions.flags)
    elif has_matrix_unit(instructions) and emulates_tiles(build):
        flags = [*(flag for flag in instructions.flags if not flag.startswith("-mamx")), "-include", TILES]
    optimise = [f"-O{build.optimise}"] if build.optimise else []
    options = [*warned_flags(build), *flags, *optimise, *watching_flags(build)]
    compile_one(build, [*options, "-c", SOURCES / instructions.source, "-o", kernels])
    return kernels


def warned_flags(build: Build) -> list[str]:
    return [*common_flags(build), "-Wall", "-Wextra", "-Wno-psabi", "-DACMIX_POISON"]


def emulated(flags: tuple[str, ...]) -> list[str | Path]:
    """AVX-512's flags for a processor that has AVX2 alone."""
    others = [flag for flag in flags if not flag.startswith("-mavx512")]
    return [*others, "-include", EMULATION, "-Wno-unused-parameter"]


def watching_flags(build: Build) -> list[str | Path]:
    """Of kernels that sanitizers watch."""
    flags: list[str | Path] = ["-include", INCLUDED] if build.sanitize else []
    if "address" in build.sanitize:
        # Calls instead of code in place before each access: AVX2 compiles in half the time.
        calls = "asan-instrumentation-with-call-threshold=0"
        flags += [f"--param={calls}"] if build.is_gcc() else ["-mllvm", f"-{calls}"]
    return flags


def compile_one(build: Build, arguments: Sequence[str | Path]) -> None:
    subprocess.run([build.compiler, *arguments], check=True)
