"""The command line: one table of commands, each loaded when it is used."""

import argparse
import os
import sys
from collections.abc import Sequence
from difflib import get_close_matches
from importlib import import_module
from importlib.metadata import version
from typing import NamedTuple, NoReturn

from acmix.errors import UserError

__all__ = ["COMMANDS", "Command", "entry_point", "main"]

_INTERRUPTED = 130


class Command(NamedTuple):
    """A row of the table.

    Attributes:
        help: What the command does, in one line.
        module: Where it is: `run(args) -> int` and, unless it reads the command line itself, `add_arguments(parser)`.
        reads_arguments: Whether `run` gets the words of the command line instead of parsed arguments.
    """

    help: str
    module: str
    reads_arguments: bool = False


COMMANDS = {
    "demo": Command(
        "train on embedded handwriting, a classifier or a detector, and draw what it learned",
        "acmix.tasks.demo",
    ),
    "fit": Command("train a network, or go on with a training that stopped", "acmix.tasks.command", True),
    "validate": Command("evaluate a checkpoint on the validation data", "acmix.tasks.command", True),
    "test": Command("evaluate a checkpoint on the test data", "acmix.tasks.command", True),
    "predict": Command("write a checkpoint's answers: a table, boxes, or masks", "acmix.tasks.command", True),
    "analyze": Command("show what a trained network learned: alpha, beta, where it looks", "acmix.analysis.command"),
    "bench": Command("time operators and networks against what they replace", "acmix.bench.command"),
    "info": Command("list models, backends and what a model costs", "acmix.analysis.info_command"),
    "import": Command(
        "turn a checkpoint of the authors' code into weights of this library", "acmix.models.import_command"
    ),
}


class _Parser(argparse.ArgumentParser):
    """A parser whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; `{self.prog} --help` lists the options")


def main(args: Sequence[str] | None = None) -> int:
    """Runs a command line.

    Args:
        args: The words after `acmix`; the process's own by default.

    Returns:
        The exit code: 0, 2 for a mistake that the user can mend (said in one line on standard error), 130 after Ctrl-C.
    """
    try:
        return _dispatch(list(sys.argv[1:] if args is None else args))
    except KeyboardInterrupt:
        _complain("interrupted")
        return _INTERRUPTED
    except BrokenPipeError:
        # The reader, such as `head`, has what it wanted. Python would complain once more when it closes the pipe.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        line = _user_error(error)
        if line is None:
            raise
        _complain(f"error: {line}")
        return 2


def entry_point() -> NoReturn:
    """The `acmix` program."""
    sys.exit(main())


def _dispatch(words: list[str]) -> int:
    if not words or words[0] in {"-h", "--help", "help"}:
        _top_parser().print_help()
        return 0
    if words[0] in {"-V", "--version"}:
        print(f"acmix {version('acmix')}")
        return 0
    name = words[0]
    if name not in COMMANDS:
        close = get_close_matches(name, COMMANDS, n=1)
        hint = f"did you mean {close[0]}?" if close else f"commands: {', '.join(COMMANDS)}"
        raise UserError(f"no command {name!r}; {hint}")
    command = COMMANDS[name]
    try:
        module = import_module(command.module)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] == "acmix":
            raise
        raise UserError(
            f"`acmix {name}` needs the package {error.name!r}, which is not installed: pip install 'acmix[training]'"
        ) from error
    if command.reads_arguments:
        return int(module.run(words))
    parser = _Parser(prog=f"acmix {name}", description=command.help)
    parser.set_defaults(words=words)  # records say what was asked for
    module.add_arguments(parser)
    return int(module.run(parser.parse_args(words[1:])))


def _top_parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="acmix",
        description="ACmix: self-attention and convolution in one operator.",
        epilog="`acmix COMMAND --help` lists a command's options.",
    )
    parser.add_argument("-V", "--version", action="store_true", help="print the version")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")
    for name, command in COMMANDS.items():
        commands.add_parser(name, help=command.help)
    return parser


def _user_error(error: BaseException | None) -> str | None:
    """The message of the first `UserError` in an exception's chain, in one line."""
    while error is not None:
        if isinstance(error, UserError):
            # One that was raised in a data worker comes with the worker's traceback before it.
            line = str(error).strip().splitlines()[-1]
            return line.removeprefix(f"{UserError.__module__}.{UserError.__qualname__}: ")
        error = error.__cause__ or error.__context__
    return None


def _complain(text: str) -> None:
    print(f"acmix: {text}", file=sys.stderr)
