"""`acmix import`: a checkpoint of the authors' code becomes a file of this library's weights."""

import argparse
import sys
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from acmix.errors import UserError
from acmix.interop import MisfitError, load_official, read_state_dict
from acmix.models.registry import create_model

__all__ = ["add_arguments", "run"]

_SUFFIX = ".safetensors"
# What the classifier is called: by the authors in Swin, here in Swin, by both in ResNet.
_HEADS = ("head.weight", "head.fc.weight", "fc.weight")
_WITH_BIAS = {"conv_bias": True}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments of `acmix import`."""
    parser.description = (
        "Reads a checkpoint of the authors' code (ResNet, Swin) without running code from it, and writes its weights "
        "under this library's names as safetensors, for `acmix analyze`, `acmix fit` and timm's `checkpoint_path`."
    )
    parser.add_argument("checkpoint", type=Path, metavar="CHECKPOINT", help="file of torch.save, or safetensors")
    parser.add_argument("--model", required=True, metavar="NAME", help="the same network here, such as acmix_swin_tiny")
    parser.add_argument("--output", required=True, type=Path, metavar="FILE", help=f"file to write, {_SUFFIX}")


def run(args: argparse.Namespace) -> int:
    """Runs `acmix import`.

    Args:
        args: what `add_arguments` declares.

    Returns:
        The exit status 0.

    Raises:
        UserError: the checkpoint cannot be read or holds another network, there is no such network, or the output
            cannot be written.
    """
    output: Path = args.output
    if output.suffix != _SUFFIX:
        raise UserError(f"--output {output}: expected a name that ends in {_SUFFIX}")
    if output.exists() and args.checkpoint.exists() and output.samefile(args.checkpoint):
        raise UserError(f"--output {output} is the checkpoint itself; give another name")
    if not output.parent.is_dir():
        raise UserError(f"--output {output}: there is no folder {output.parent}; make it first")
    theirs = read_state_dict(args.checkpoint)
    try:
        model, options = _loaded(args.model, theirs)
    except MisfitError as error:
        told = f"{args.checkpoint} does not fit {args.model}, nothing was written: {error.misfits.told(None)}"
        raise UserError(f"{told}; is {args.model} its network?") from error
    _write(model.state_dict(), output)
    count = sum(parameter.numel() for parameter in model.parameters())
    sys.stdout.write(
        f"{args.checkpoint}: {args.model}, {count:,} parameters in {len(model.state_dict())} tensors, "
        f"{model.num_classes} classes\nWritten: {output}\n"
    )
    if options:
        sys.stdout.write(f"It fits create_model({args.model!r}, {options}): no other parameter can carry its biases\n")
    return 0


def _loaded(name: str, theirs: dict[str, Tensor]) -> tuple[nn.Module, str]:
    """The network with the checkpoint's weights and number of classes, and options that its own file needs besides."""
    classes = [int(theirs[head].shape[0]) for head in _HEADS if head in theirs]
    options: dict[str, Any] = {"num_classes": classes[0]} if classes else {}
    model = create_model(name, **options)
    plain = model.state_dict().keys()
    load_official(model, theirs)
    if model.state_dict().keys() == plain:
        return model, ""
    return load_official(create_model(name, **options, acmix=_WITH_BIAS), theirs), f"acmix={_WITH_BIAS}"


def _write(state: dict[str, Tensor], output: Path) -> None:
    from safetensors.torch import save_file

    partial = output.with_name(f".{output.name}.partial")
    try:
        save_file({name: value.contiguous() for name, value in state.items()}, partial, metadata={"format": "pt"})
        partial.replace(output)
    except OSError as error:
        raise UserError(f"cannot write {output} ({error.strerror}); give another --output") from error
    finally:
        partial.unlink(missing_ok=True)
