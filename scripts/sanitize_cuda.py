"""Runs every Triton kernel on tiny maps under NVIDIA's compute-sanitizer, which watches each access to memory.

The tool comes with the CUDA toolkit, not with torch: it is looked for in PATH, in $CUDA_HOME/bin and in
/usr/local/cuda/bin. Where it is in none of these the script says so and ends with 0; it ends with 1 where the tool
finds a fault, where a test fails, and where the run takes longer than its limit.

Usage: python scripts/sanitize_cuda.py [--tool memcheck racecheck] [--limit 120]
"""

import argparse
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TOOLS = ("memcheck", "racecheck", "synccheck", "initcheck")
_NAME = "compute-sanitizer"
_TESTS = "tests/ops/test_triton_cuda.py"

# Each tensor gets memory of its own from the driver: within a block that torch's allocator shares out, what reaches
# beyond a tensor's end does not reach beyond the block's.
_ENVIRONMENT = {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tool", nargs="+", choices=TOOLS, default=["memcheck"], help="(default: memcheck)")
    parser.add_argument("--limit", type=float, default=120, metavar="SECONDS", help="of each tool (default: 120)")
    args = parser.parse_args()
    found = find_sanitizer(os.environ)
    if found is None:
        print(f"{_NAME} was not found in {', '.join(map(str, folders(os.environ)))}: memory accesses were NOT checked")
        return
    for tool in args.tool:
        fault = run(found, tool, args.limit)
        if fault is not None:
            sys.exit(f"{_NAME} --tool {tool}: {fault}")
        print(f"{_NAME} --tool {tool}: clean")


def folders(environment: Mapping[str, str]) -> list[Path]:
    """Where the tool may be."""
    listed = [*environment.get("PATH", "").split(os.pathsep), "/usr/local/cuda/bin"]
    if environment.get("CUDA_HOME"):
        listed.append(str(Path(environment["CUDA_HOME"]) / "bin"))
    return [Path(folder) for folder in listed if folder]


def find_sanitizer(environment: Mapping[str, str]) -> str | None:
    """The tool's path, or None."""
    return shutil.which(_NAME, path=os.pathsep.join(map(str, folders(environment))))


def command(sanitizer: str, tool: str) -> list[str]:
    """What is run: the tests that are made for it."""
    # Calls of the driver that fail are none of the kernels' faults: torch itself tries what a driver may lack.
    options = ["--tool", tool, "--target-processes", "all", "--report-api-errors", "no", "--error-exitcode", "99"]
    tests = ["-m", "pytest", "-m", "cuda", "-k", "each_kernel_once", "-p", "no:cacheprovider", _TESTS]
    return [sanitizer, *options, sys.executable, *tests]


def run(sanitizer: str, tool: str, limit: float) -> str | None:
    """What is wrong, or None."""
    environment = {**os.environ, **_ENVIRONMENT}
    # A session of its own, so that what it has started ends with it.
    with subprocess.Popen(command(sanitizer, tool), cwd=ROOT, env=environment, start_new_session=True) as running:
        try:
            code = running.wait(limit)
        except subprocess.TimeoutExpired:
            os.killpg(running.pid, signal.SIGKILL)
            return f"not done after {limit:g} seconds"
    return None if code == 0 else f"ended with {code}; its report stands above"


if __name__ == "__main__":
    main()
