"""The script that runs the kernels under compute-sanitizer, with a stand-in for the tool."""

from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def script() -> Iterator[ModuleType]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT / "scripts")
        import sanitize_cuda

        yield sanitize_cuda


@pytest.fixture
def tool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Puts a program of that text into PATH under the tool's name."""

    def make(text: str) -> None:
        path = tmp_path / "compute-sanitizer"
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)
        monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
        monkeypatch.setattr("sys.argv", ["sanitize_cuda.py", "--limit", "20"])

    return make


def test_it_says_that_nothing_was_checked(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(script, "find_sanitizer", lambda environment: None)
    monkeypatch.setattr("sys.argv", ["sanitize_cuda.py"])
    script.main()
    told = capsys.readouterr().out
    assert "NOT checked" in told
    assert "/usr/local/cuda/bin" in told


def test_it_is_looked_for_where_the_toolkit_may_be(script: ModuleType, tmp_path: Path) -> None:
    path = tmp_path / "bin" / "compute-sanitizer"
    path.parent.mkdir()
    path.write_text("")
    path.chmod(0o755)
    assert script.find_sanitizer({"CUDA_HOME": str(tmp_path)}) == str(path)
    assert Path("/usr/local/cuda/bin") in script.folders({})


def test_what_it_is_called_with(
    script: ModuleType, tool: Callable[[str], None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tool(f'echo "$@" "$PYTORCH_NO_CUDA_MEMORY_CACHING" > {tmp_path}/seen')
    script.main()
    assert "memcheck: clean" in capsys.readouterr().out
    seen = (tmp_path / "seen").read_text().split()
    assert seen[-1] == "1"
    assert seen[seen.index("--error-exitcode") + 1] != "0"
    # Tests of this name are there: pytest ends with an error where none is.
    assert f"def test_{seen[seen.index('-k') + 1]}" in (ROOT / seen[-2]).read_text()


def test_faults_and_endless_runs_end_with_an_error(
    script: ModuleType, tool: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    tool("exit 99")
    with pytest.raises(SystemExit, match="memcheck: ended with 99"):
        script.main()
    tool("sleep 100 & wait")
    monkeypatch.setattr("sys.argv", ["sanitize_cuda.py", "--limit", "0.2"])
    with pytest.raises(SystemExit, match=r"not done after 0\.2 seconds"):
        script.main()
