"""Runs of the command line on a network and a data set so small that a run takes a second."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from acmix.cli import main

TINY = ["--config", str(Path(__file__).with_name("tiny.yaml"))]


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    """Networks this small are faster on one thread."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def fit(tmp_path: Path) -> Callable[..., int]:
    """Trains a tiny network into `tmp_path / name`; the command line's further words come last."""

    def run(name: str, *words: str) -> int:
        return main(["fit", *TINY, "--output", str(tmp_path / name), *words])

    return run


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run, not to be changed."""
    folder = tmp_path_factory.mktemp("trained") / "run"
    assert main(["fit", *TINY, "--output", str(folder)]) == 0
    return folder
