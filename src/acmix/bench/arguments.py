"""The arguments of `acmix bench`."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import torch

from acmix.bench.case import STAGES, STRIDED, parse_shape
from acmix.bench.contenders import CONTENDERS
from acmix.bench.networks import NETWORK_PAIRS, TABLE_5_PAIRS, parse_pair
from acmix.bench.settings import DTYPES, MODES

__all__ = ["add_subcommands"]

_T = TypeVar("_T")

_SIZES = (14, 28, 56, 112, 224, 448)
_WINDOWS = (3, 5, 7, 9, 11, 13)
# Those whose memory does not grow with the window: the others do not reach the large maps.
_LEAN = ("ours", "torch")


def add_subcommands(parser: argparse.ArgumentParser) -> None:
    """Declares what can be measured, and how."""
    topics = parser.add_subparsers(dest="topic", metavar="WHAT", required=True, title="what to measure")
    for name, words in (
        ("layers", "the layer at the sizes of ResNet-50's stages, against the 3x3 convolution that it replaces"),
        ("attention", "window attention alone, against the same convolution"),
    ):
        topic = topics.add_parser(name, help=words, description=f"Measures {words}.")
        shapes = STAGES + STRIDED if name == "layers" else STAGES
        topic.add_argument(
            "--shapes",
            nargs="+",
            type=_read(parse_shape),
            default=[parse_shape(shape) for shape in shapes],
            metavar="CxH",
            help=f"channels x side of the map, and /stride (default: {' '.join(shapes)})",
        )
        _add_operator(topic, list(CONTENDERS), batch=8)
    sizes = topics.add_parser("sizes", help="the layer's time and memory against the size of the map")
    sizes.add_argument("--channels", type=_positive, default=64, metavar="C", help="channels (default: %(default)s)")
    sizes.add_argument(
        "--sizes", nargs="+", type=_positive, default=list(_SIZES), metavar="H", help="sides (default: 14 to 448)"
    )
    _add_operator(sizes, list(_LEAN), batch=1)
    windows = topics.add_parser("windows", help="the layer's time and memory against the attention window")
    windows.add_argument(
        "--shape", type=_read(parse_shape), default=parse_shape(STAGES[0]), metavar="CxH", help="(default: 64x56)"
    )
    windows.add_argument(
        "--windows", nargs="+", type=_odd, default=list(_WINDOWS), metavar="K", help="sides (default: 3 to 13)"
    )
    _add_operator(windows, [*_LEAN, "reference", "sdpa"], batch=8)
    _add_networks(topics.add_parser("networks", help="whole networks, in pairs"), NETWORK_PAIRS, size=224, batch=8)
    backbones = topics.add_parser("backbones", help="backbones of detectors, in pairs (the paper's Table 5)")
    _add_networks(backbones, TABLE_5_PAIRS, size=576, batch=1)
    backbones.set_defaults(modes=["inference"])
    draw = topics.add_parser("draw", help="pictures and tables of records")
    draw.add_argument("records", nargs="+", type=Path, metavar="RECORD", help="JSON files that other runs have written")
    draw.add_argument("--output", type=Path, metavar="DIR", help="folder for pictures (default: beside the record)")


def _add_operator(parser: argparse.ArgumentParser, names: list[str], *, batch: int) -> None:
    parser.add_argument(
        "--only",
        nargs="+",
        choices=list(CONTENDERS),
        default=names,
        metavar="NAME",
        help=f"contenders beside the convolution, of {', '.join(CONTENDERS)} (default: {' '.join(names)})",
    )
    parser.add_argument(
        "--official",
        type=Path,
        metavar="PATH",
        help="checkout of the authors' code, or its file with the layer, which is run where it lies",
    )
    parser.add_argument("--window", type=_odd, default=7, metavar="K", help="attention window (default: %(default)s)")
    parser.add_argument("--heads", type=_positive, default=4, metavar="N", help="heads (default: %(default)s)")
    _add_common(parser, batch)


def _add_networks(parser: argparse.ArgumentParser, pairs: tuple[str, ...], *, size: int, batch: int) -> None:
    parser.add_argument(
        "pairs",
        nargs="*",
        type=_read(parse_pair),
        default=[parse_pair(pair) for pair in pairs],
        metavar="A:B",
        help=f"network and the one that it is compared with (default: {' '.join(pairs)})",
    )
    parser.add_argument(
        "--image-size", type=_positive, default=size, metavar="N", help="side of the images (default: %(default)s)"
    )
    _add_common(parser, batch)


def _add_common(parser: argparse.ArgumentParser, batch: int) -> None:
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="(default: %(default)s)")
    parser.add_argument("--dtype", choices=list(DTYPES), default="float32", help="(default: %(default)s)")
    parser.add_argument("--batch", type=_positive, default=batch, metavar="B", help="images (default: %(default)s)")
    parser.add_argument("--channels-last", action="store_true", help="maps in channels-last memory format")
    parser.add_argument(
        "--threads", type=_positive, default=torch.get_num_threads(), metavar="N", help="(default: as torch has it)"
    )
    parser.add_argument("--turns", type=_positive, default=30, metavar="N", help="at most (default: %(default)s)")
    parser.add_argument(
        "--budget",
        type=float,
        default=20.0,
        metavar="SECONDS",
        help="for one contender in one mode of one case; slow ones get fewer turns (default: %(default)s)",
    )
    parser.add_argument("--modes", nargs="+", choices=MODES, default=list(MODES), help="(default: both)")
    parser.add_argument(
        "--output", type=Path, default=Path("runs/bench"), metavar="DIR", help="for record and picture (%(default)s)"
    )


def _read(parse: Callable[[str], _T]) -> Callable[[str], _T]:
    """For argparse, which shows the message of its own error only."""

    def read(text: str) -> _T:
        try:
            return parse(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from error

    return read


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}: expected a whole number, 1 or more")
    return int(text)


def _odd(text: str) -> int:
    if _positive(text) % 2 == 0:
        raise argparse.ArgumentTypeError(f"{text!r}: expected an odd number")
    return int(text)
