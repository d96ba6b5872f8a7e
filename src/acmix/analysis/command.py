"""`acmix analyze`: the rates of a trained network, and where it looks."""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from acmix.analysis.arguments import add_model_args, read_pixel
from acmix.analysis.attention import LayerView, choose_layers, look_inside
from acmix.analysis.attention_picture import draw_heads, draw_overview
from acmix.analysis.rates import format_rates, layer_rates, write_rates_csv
from acmix.analysis.rates_picture import draw_rates
from acmix.analysis.scene import Scene, digits_preparation, make_scene, read_image, sample_image
from acmix.analysis.trained import TrainedNetwork, load_trained
from acmix.errors import UserError
from acmix.nn import ACmix
from acmix.packages import require

__all__ = ["add_arguments", "run"]

_DRAWABLE = (1, 3)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments of `acmix analyze`."""
    parser.description = (
        "Prints alpha and beta of every ACmix layer, and writes rates.csv, rates.png and, for one checkpoint, pictures "
        "of where the network looks on an image. Several checkpoints are compared by their rates alone."
    )
    parser.add_argument("checkpoints", nargs="+", type=Path, metavar="CHECKPOINT", help="checkpoint of `acmix fit`")
    parser.add_argument("--image", type=Path, metavar="FILE", help="image to look at (default: an embedded one)")
    parser.add_argument(
        "--pixels",
        nargs="+",
        type=read_pixel,
        default=[],
        metavar="Y,X",
        help="rows and columns of pixels on that image, from 0 (default: three places of strong contrast)",
    )
    parser.add_argument(
        "--layers",
        nargs="+",
        default=[],
        metavar="LAYER",
        help="layers to draw: indices, names or stages (default: the last layer of every stage)",
    )
    parser.add_argument("--heads", action="store_true", help="one more picture per layer, with every head by itself")
    parser.add_argument(
        "--output", type=Path, metavar="DIR", help="folder to write to (default: beside the checkpoint)"
    )
    parser.add_argument(
        "--model", metavar="NAME", help="the network's name, for a file of weights that does not say it"
    )
    add_model_args(parser, "for a file that does not say them")
    parser.add_argument(
        "--image-size", type=int, metavar="N", help="shorter side to resize the image to (default: as in training)"
    )


def run(args: argparse.Namespace) -> int:
    """Runs `acmix analyze`.

    Args:
        args: what `add_arguments` declares.

    Returns:
        The exit status 0.

    Raises:
        UserError: a checkpoint, the image, a pixel, a layer or the output folder is not as it should be.
    """
    require("timm", "matplotlib", "sklearn")
    if args.image_size is not None and args.image_size < 1:
        raise UserError(f"--image-size {args.image_size}: expected at least 1")
    if len(args.checkpoints) > 1 and (args.image or args.pixels or args.layers or args.heads):
        raise UserError("--image, --pixels, --layers and --heads look into one network; give one checkpoint")
    networks = {
        name: load_trained(path, args.model, dict(args.model_args))
        for name, path in zip(_run_names(args.checkpoints), args.checkpoints, strict=True)
    }
    rates = {name: layer_rates(network.model) for name, network in networks.items()}
    for (name, network), path in zip(networks.items(), args.checkpoints, strict=True):
        if not rates[name]:
            raise UserError(f"{path} holds {network.name}, which has no ACmix layer; there is nothing to look into")
    output: Path = args.output or args.checkpoints[0].parent / "analysis"
    _make_folder(output)
    seen = _look(next(iter(networks.values())), args) if len(networks) == 1 else None
    for name, network in networks.items():
        _say(f"{network.name} ({name})\n\n{format_rates(rates[name])}\n")
    write_rates_csv(rates, output / "rates.csv")
    draw_rates(rates, output / "rates.png")
    written = [output / "rates.csv", output / "rates.png"]
    if seen is not None:
        written += _draw(*seen, output, heads=args.heads)
    _say("Written:\n" + "\n".join(f"  {path}" for path in written))
    return 0


def _look(network: TrainedNetwork, args: argparse.Namespace) -> tuple[Scene, list[LayerView]] | None:
    preparation = network.preparation
    if args.image is None and preparation.channels == 1 and not network.knows_preparation:
        preparation = digits_preparation()
    if args.image_size is not None:
        preparation = replace(preparation, image_size=args.image_size)
    channels = preparation.channels
    if not any(isinstance(module, ACmix) for module in network.model.modules()):
        _say(f"No picture of attention: {network.name} has no layer of neighbourhood attention.\n")
        return None
    if channels not in _DRAWABLE:
        _say(
            f"No picture of attention: {network.name} takes images of {channels} channels, only 1 or 3 can be drawn.\n"
        )
        return None
    image = sample_image(channels) if args.image is None else read_image(args.image, channels)
    scene = make_scene(image, preparation, tuple(args.pixels))
    try:
        layers = choose_layers(network.model, args.layers)
    except ValueError as error:
        raise UserError(f"--layers: {error}") from error
    return scene, look_inside(network.model, scene.network_input, scene.pixels, layers)


def _draw(scene: Scene, views: Sequence[LayerView], output: Path, *, heads: bool) -> list[Path]:
    overview = output / "attention.png"
    draw_overview(scene, views, overview)
    written = [overview]
    for view in views:
        if heads and view.attention is not None:
            path = output / f"heads-{view.layer.index:02d}-{view.layer.name}.png"
            draw_heads(scene, view, path)
            written.append(path)
    return written


def _make_folder(folder: Path) -> None:
    probe = folder / ".writable"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise UserError(f"cannot write to {folder} ({error.strerror}); give another --output") from error


def _run_names(paths: Sequence[Path]) -> list[str]:
    """Names the runs by those parts of their paths in which they differ; a single one by its file."""
    if len(paths) == 1:
        return [paths[0].stem]
    parts = [path.with_suffix("").parts for path in paths]
    while all(len(own) > 1 for own in parts) and len({own[0] for own in parts}) == 1:
        parts = [own[1:] for own in parts]
    while all(len(own) > 1 for own in parts) and len({own[-1] for own in parts}) == 1:
        parts = [own[:-1] for own in parts]
    names = ["/".join(own) for own in parts]
    if len(set(names)) < len(names):
        raise UserError(f"the same checkpoint twice: {', '.join(map(str, paths))}; name each once")
    return names


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
