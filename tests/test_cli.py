"""The table of commands, and how mistakes reach the user."""

import subprocess
import sys
from importlib import import_module
from types import ModuleType

import pytest

from acmix.cli import COMMANDS, Command, main
from acmix.errors import UserError


@pytest.fixture
def raising(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """A command `go` whose `run` is set by the test."""
    monkeypatch.setitem(COMMANDS, "go", Command("for tests", "acmix_test_command", reads_arguments=True))
    monkeypatch.setitem(sys.modules, "acmix_test_command", ModuleType("acmix_test_command"))
    return monkeypatch


def _run_raises(patch: pytest.MonkeyPatch, error: BaseException) -> None:
    def run(words: list[str]) -> int:
        raise error

    patch.setattr(sys.modules["acmix_test_command"], "run", run, raising=False)


@pytest.mark.parametrize("words", [[], ["--help"], ["help"]])
def test_help_lists_every_command(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 0
    out = capsys.readouterr().out
    assert [name for name in COMMANDS if f"\n    {name} " not in out] == []


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("acmix ")


@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)
def test_every_row_of_the_table_is_there(command: Command) -> None:
    module = import_module(command.module)
    assert callable(module.run)
    assert command.reads_arguments or callable(module.add_arguments)


def test_an_unknown_command_gets_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tset"]) == 2
    assert capsys.readouterr().err == "acmix: error: no command 'tset'; did you mean test?\n"


def test_an_unknown_option_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", "--colour"]) == 2
    assert capsys.readouterr().err == (
        "acmix: error: unrecognized arguments: --colour; `acmix info --help` lists the options\n"
    )


def test_a_missing_package_is_named(raising: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    raising.setitem(COMMANDS, "go", Command("for tests", "no_such_package.module"))
    assert main(["go"]) == 2
    assert capsys.readouterr().err == (
        "acmix: error: `acmix go` needs the package 'no_such_package', which is not installed: "
        "pip install 'acmix[training]'\n"
    )


def _caused() -> Exception:
    error = RuntimeError("outer")
    error.__cause__ = UserError("inner")
    return error


def _from_worker() -> Exception:
    return UserError(
        "Caught UserError in DataLoader worker process 0.\nOriginal Traceback (most recent call last):\n"
        '  File "data.py", line 1, in read\nacmix.errors.UserError: inner\n'
    )


@pytest.mark.parametrize("error", [UserError("inner"), _caused(), _from_worker()], ids=["plain", "cause", "worker"])
def test_a_user_error_is_one_line_wherever_it_stands(
    error: Exception, raising: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _run_raises(raising, error)
    assert main(["go"]) == 2
    assert capsys.readouterr().err == "acmix: error: inner\n"


def test_a_bug_keeps_its_traceback(raising: pytest.MonkeyPatch) -> None:
    _run_raises(raising, ZeroDivisionError("a bug"))
    with pytest.raises(ZeroDivisionError, match="a bug"):
        main(["go"])


def test_ctrl_c(raising: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    _run_raises(raising, KeyboardInterrupt())
    assert main(["go"]) == 130
    assert capsys.readouterr().err == "acmix: interrupted\n"


def test_the_command_line_loads_nothing_heavy() -> None:
    code = "import sys, acmix.cli; print([n for n in ('timm', 'lightning', 'matplotlib') if n in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_module_runs_as_a_program() -> None:
    done = subprocess.run([sys.executable, "-m", "acmix", "fti"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (2, "acmix: error: no command 'fti'; did you mean fit?\n")
