"""`acmix bench`: measures operators and networks, prints tables, writes records and pictures."""

import argparse
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from acmix.bench.arguments import add_subcommands
from acmix.bench.authors import find_authors_file, load_authors_class
from acmix.bench.cases import contests, name_of
from acmix.bench.contest import Contest
from acmix.bench.drawing import draw_record
from acmix.bench.measure import Bench
from acmix.bench.origin import describe_origin
from acmix.bench.record import SCHEMA, Conditions, Record, read_record, write_record
from acmix.bench.report import describe_run, details, summary_text
from acmix.bench.settings import DTYPES, Settings
from acmix.bench.work import measure_limits
from acmix.errors import UserError
from acmix.packages import missing, require

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments of `acmix bench`."""
    parser.description = (
        "Times contenders in turn in one process, after each has shown that its answers are right, and compares each "
        "turn with a yardstick. Writes a JSON record and a picture; Ctrl-C keeps what was measured."
    )
    add_subcommands(parser)


def run(args: argparse.Namespace) -> int:
    """Runs `acmix bench`.

    Args:
        args: what `add_arguments` declares, and `words`, the words after `acmix`.

    Returns:
        The exit status: 0, or 1 where an implementation of this library gave wrong answers or broke down.

    Raises:
        UserError: a device, package, file or network is not there.
        KeyboardInterrupt: Ctrl-C, after what was measured has been written.
    """
    if args.topic == "draw":
        return _draw(args.records, args.output)
    settings = _settings(args)
    _check(settings, args)
    with _conditions(settings):
        return _measure(args, settings)


def _settings(args: argparse.Namespace) -> Settings:
    return Settings(
        args.device,
        DTYPES[args.dtype],
        args.threads,
        args.turns,
        args.budget,
        tuple(dict.fromkeys(args.modes)),
        args.channels_last,
        getattr(args, "official", None),
    )


def _check(settings: Settings, args: argparse.Namespace) -> None:
    if settings.device == "cuda" and not torch.cuda.is_available():
        raise UserError("--device cuda: torch finds no CUDA device here")
    if not settings.budget_s > 0:
        raise UserError(f"--budget {settings.budget_s:g}: expected a positive number of seconds")
    if settings.official is not None:
        load_authors_class(find_authors_file(settings.official))
    if args.topic in ("networks", "backbones"):
        require("timm")


@contextmanager
def _conditions(settings: Settings) -> Iterator[None]:
    """The run's threads, and float32 that is float32; both as they were in the end."""
    threads = torch.get_num_threads()
    matmul, cudnn = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.set_num_threads(settings.threads)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = matmul, cudnn


def _measure(args: argparse.Namespace, settings: Settings) -> int:
    planned = list(contests(args, settings))
    args.output.mkdir(parents=True, exist_ok=True)
    progress = _Progress()
    origin = describe_origin(settings, args.words)
    progress.tell("measuring what the machine can do")
    bench = Bench(settings, measure_limits(settings), progress.tell)
    done: list[Contest] = []
    stopped: BaseException | None = None
    try:
        for make in planned:
            contest = make()
            done.append(contest)
            bench.measure(contest)
    except (KeyboardInterrupt, UserError) as reason:
        stopped = reason
    progress.clear()
    record = Record(
        SCHEMA,
        args.topic,
        stopped is None,
        origin,
        _spoken(settings),
        bench.limits,
        [contest.case for contest in done],
        {contest.case.name: contest.yardstick for contest in done},
        bench.rows,
    )
    if bench.rows:
        _publish(record, args.output / f"{name_of(record, args.batch)}.json")
    if stopped is not None:
        raise stopped
    for name in bench.wrong:
        sys.stderr.write(f"acmix: {name}\n")
    return 1 if bench.wrong else 0


def _spoken(settings: Settings) -> Conditions:
    """The settings as a record has them."""
    return Conditions(
        settings.device,
        settings.dtype_name,
        settings.threads,
        settings.turns,
        settings.budget_s,
        list(settings.modes),
        settings.channels_last,
    )


def _publish(record: Record, path: Path) -> None:
    """Writes record and picture, prints the tables."""
    write_record(record, path)
    blocks = [describe_run(record), details(record), summary_text(record), f"wrote {path}"]
    sys.stdout.write("\n\n".join(block for block in blocks if block) + "\n")
    if missing("matplotlib"):
        sys.stdout.write("no picture: matplotlib is not installed\n")
        return
    try:
        draw_record(record, path.with_suffix(".png"))
        sys.stdout.write(f"wrote {path.with_suffix('.png')}\n")
    except ValueError as error:
        sys.stdout.write(f"no picture: {error}\n")


def _draw(paths: list[Path], output: Path | None) -> int:
    require("matplotlib")
    for path in paths:
        try:
            record = read_record(path)
        except (OSError, ValueError) as error:
            raise UserError(str(error)) from error
        target = (output or path.parent) / f"{path.stem}.png"
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            draw_record(record, target)
        except ValueError as error:
            raise UserError(f"{path}: {error}") from error
        sys.stdout.write(f"{describe_run(record)}\n\n{summary_text(record)}\n\nwrote {target}\n")
    return 0


class _Progress:
    """What happens now, on one line of standard error; a line each where that is no terminal."""

    def __init__(self) -> None:
        self._terminal = sys.stderr.isatty()

    def tell(self, line: str) -> None:
        """Shows what happens now."""
        if self._terminal:
            sys.stderr.write(f"\r\x1b[K{line[:100]}")
        elif ": turn " not in line:
            sys.stderr.write(f"{line}\n")
        sys.stderr.flush()

    def clear(self) -> None:
        """Leaves an empty line."""
        if self._terminal:
            sys.stderr.write("\r\x1b[K")
