"""`acmix info`: what is here, and what a network costs layer by layer."""

import argparse
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch

from acmix.analysis.arguments import add_model_args
from acmix.analysis.backends import OPS, available_devices, backend_answers, layer_backends
from acmix.analysis.complexity import Complexity, UnitComplexity, count_complexity, count_units
from acmix.analysis.environment import describe_environment
from acmix.analysis.trained import build_untrained
from acmix.errors import UserError
from acmix.nn.two_paths import TwoPaths
from acmix.packages import how_to_install, missing
from acmix.tables import format_count, format_table

if TYPE_CHECKING:
    from torch import nn

__all__ = ["add_arguments", "run"]

_IMAGE_SIZE = 224
_COUNTED = "MACs: multiply-adds of convolutions, matrix products and attention in one forward pass of one image."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments of `acmix info`."""
    parser.description = "Without MODEL: versions, backends and all models. With MODEL: its layers."
    parser.add_argument("model", nargs="?", metavar="MODEL", help="name of a network, such as acmix_resnet26")
    parser.add_argument(
        "--image-size",
        type=int,
        default=_IMAGE_SIZE,
        metavar="N",
        help="side of the square image for which MACs are counted (default: %(default)s)",
    )
    add_model_args(parser, "with MODEL")


def run(args: argparse.Namespace) -> int:
    """Runs `acmix info`.

    Args:
        args: what `add_arguments` declares.

    Returns:
        The exit status 0.

    Raises:
        UserError: there is no such model, or it cannot take images of that size.
    """
    if args.image_size < 1:
        raise UserError(f"--image-size {args.image_size}: expected at least 1")
    if args.model is None and args.model_args:
        raise UserError("--model-args belong to one network; name it: acmix info MODEL --model-args ...")
    if args.model is None:
        text = _overview(args.image_size)
    else:
        text = _model_page(args.model, dict(args.model_args), args.image_size)
    sys.stdout.write(text + "\n")
    return 0


def _overview(image_size: int) -> str:
    return "\n\n".join(
        [describe_environment(), _backends(), _models(image_size), "Next: acmix info MODEL lists a model's layers."]
    )


def _models(image_size: int) -> str:
    if missing("timm"):
        return f"The networks are not available: {how_to_install('timm')}"
    from acmix.models import list_models

    rows = []
    for name in list_models():
        complexity = _count(name, _build(name, {}), _input_size({}, image_size))
        rows.append((name, f"{complexity.parameters:,}", format_count(complexity.macs)))
    table = format_table(("model", "parameters", "MACs"), rows)
    return f"Models, 1000 classes, MACs at 3 x {image_size} x {image_size}:\n\n{table}\n\n{_COUNTED}"


def _backends() -> str:
    blocks = []
    for device in available_devices():
        answers = backend_answers(device)
        names = list(answers[OPS[0]])
        rows = [(op, *("no" if answers[op][name] else "yes" for name in names)) for op in OPS]
        lines = [f'Backends on {device} (impl="auto" takes the first that can run):', ""]
        lines.append(format_table(("operator", *names), rows, left=range(len(names) + 1)))
        for name in names:
            reasons = dict.fromkeys(reason for op in OPS for reason in answers[op][name] if not _is_absence(reason))
            lines += [f"{name} cannot run: {reason}" for reason in reasons]
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks)


def _is_absence(reason: str) -> bool:
    """Whether a backend has no such operator, which the table shows and nobody can mend."""
    return reason.startswith("it has no ")


def _model_page(name: str, model_args: Mapping[str, Any], image_size: int) -> str:
    model = _build(name, model_args)
    input_size = _input_size(model_args, image_size)
    total = _count(name, model, input_size)
    device = available_devices()[0]
    units = count_units(model, input_size)
    worked = [unit for unit in units if unit.complexity.macs]
    rows = [_row(unit, model, total, device) for unit in worked]
    rest = total.parameters - sum(unit.complexity.parameters for unit in worked)
    header = ("layer", "kind", "input", "output", "parameters", "MACs", "share", f"backend on {device}")
    return "\n".join(
        [
            f"{name}: {total.parameters:,} parameters, {format_count(total.macs)} MACs "
            f"({total.macs:,}) at {' x '.join(map(str, input_size))}",
            "",
            format_table(header, rows, left=(0, 1, 7)),
            "",
            f"Norms and other layers without multiply-adds hold {rest:,} parameters.",
            _COUNTED,
        ]
    )


def _row(unit: UnitComplexity, model: "nn.Module", total: Complexity, device: str) -> tuple[str, ...]:
    module = model.get_submodule(unit.name)
    backends = layer_backends(module, device) if isinstance(module, TwoPaths) else {}
    return (
        unit.name,
        unit.kind,
        _shape(unit.input_shape),
        _shape(unit.output_shape),
        f"{unit.complexity.parameters:,}",
        format_count(unit.complexity.macs),
        f"{unit.complexity.macs / total.macs:.1%}",
        # One word where both paths get the same backend.
        ", ".join(dict.fromkeys(backends.values())),
    )


def _shape(shape: Sequence[int]) -> str:
    return " x ".join(str(size) for size in shape[1:])


def _input_size(model_args: Mapping[str, Any], image_size: int) -> tuple[int, int, int]:
    return (int(model_args.get("in_chans", 3)), image_size, image_size)


def _build(name: str, model_args: Mapping[str, Any]) -> "nn.Module":
    """Builds a network without memory for its weights."""
    with torch.device("meta"):
        return build_untrained(name, model_args)


def _count(name: str, model: "nn.Module", input_size: tuple[int, int, int]) -> Complexity:
    try:
        return count_complexity(model, input_size)
    except (AssertionError, ValueError, RuntimeError) as error:
        # timm's fixed-size transformers assert; convolutions raise RuntimeError where a map vanishes.
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"{name} cannot take a {' x '.join(map(str, input_size))} image: {reason}") from error
