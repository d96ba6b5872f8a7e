"""`acmix fit | validate | test | predict`, from the arguments to the exit code."""

import sys
from collections.abc import Sequence

from acmix.tasks.configs import resolve_configs
from acmix.tasks.interruption import Stopped, stop_on_signals
from acmix.tasks.quiet import quiet
from acmix.tasks.run_cli import RunCLI

__all__ = ["run"]


def run(args: Sequence[str]) -> int:
    """Runs one of Lightning's commands.

    Args:
        args: The command line after `acmix`, the command first.

    Returns:
        The exit code: 0, or 128 + the signal's number where a signal stopped the run.

    Raises:
        UserError: Something on the command line, in a file or in the data is wrong.
    """
    with quiet(), stop_on_signals() as request:
        try:
            RunCLI(resolve_configs(args), request)
        except Stopped as stop:
            sys.stderr.write(f"acmix: stopped by {stop}\n")
            return stop.exit_code
    return 0
