"""The contests that a command line asks for, and the name of their record."""

import argparse
from collections.abc import Callable, Iterator
from functools import partial

from acmix.bench.case import Case, Kind
from acmix.bench.contest import Contest, OperatorContest
from acmix.bench.networks import NetworkContest
from acmix.bench.record import Record
from acmix.bench.settings import Settings
from acmix.errors import UserError

__all__ = ["contests", "name_of"]


def contests(args: argparse.Namespace, settings: Settings) -> Iterator[Callable[[], Contest]]:
    """What is to be measured, one after the other; each is made when its turn comes.

    Args:
        args: what `acmix.bench.arguments` declares.
        settings: of the run.

    Raises:
        UserError: the channels are no multiple of the heads, or two cases are the same.
    """
    if args.topic in ("networks", "backbones"):
        features = args.topic == "backbones"
        for pair in dict.fromkeys(args.pairs):
            case = Case(f"{pair.network} : {pair.yardstick}", "network", args.batch, 3, args.image_size, 1, 0, 0)
            yield partial(NetworkContest, case, settings, pair, features=features)
        return
    names = tuple(dict.fromkeys(args.only))
    for case in dict.fromkeys(_operators(args)):
        if case.channels % case.heads:
            raise UserError(f"{case.channels} channels are no multiple of {case.heads} heads; change --heads")
        yield partial(OperatorContest, case, settings, names)


def _operators(args: argparse.Namespace) -> Iterator[Case]:
    if args.topic == "sizes":
        for size in args.sizes:
            yield Case(f"{size}x{size}", "layer", args.batch, args.channels, size, 1, args.window, args.heads)
    elif args.topic == "windows":
        channels, size, stride = args.shape
        for window in args.windows:
            yield Case(f"K = {window}", "layer", args.batch, channels, size, stride, window, args.heads)
    else:
        kind: Kind = "attention" if args.topic == "attention" else "layer"
        for channels, size, stride in args.shapes:
            name = f"{channels}x{size}" + (f"/{stride}" if stride > 1 else "")
            yield Case(name, kind, args.batch, channels, size, stride, args.window, args.heads)


def name_of(record: Record, batch: int) -> str:
    """A file name that says what was measured and when: "layers-cpu-float32-b8-20260131T120000"."""
    conditions = record.conditions
    when = record.origin.started[:19].replace("-", "").replace(":", "")
    last = "-channels_last" if conditions.channels_last else ""
    return f"{record.topic}-{conditions.device}-{conditions.dtype}{last}-b{batch}-{when}"
