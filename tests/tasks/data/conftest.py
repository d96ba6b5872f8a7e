"""Small folders of generated images."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

MakeFolder = Callable[..., Path]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Tiny tensors in parallel test processes: more threads only wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def make_folder(tmp_path: Path) -> MakeFolder:
    """Writes `root/<part>/<class>/<number>.png`, every image of its own random pixels."""

    def make(parts: dict[str, dict[str, int]], size: tuple[int, int] = (8, 8), suffix: str = ".png") -> Path:
        root = tmp_path / "data"
        rng = np.random.default_rng(0)
        for part, classes in parts.items():
            for name, count in classes.items():
                folder = root / part / name
                folder.mkdir(parents=True)
                for number in range(count):
                    pixels = rng.integers(0, 256, (*size, 3), dtype=np.uint8)
                    Image.fromarray(pixels).save(folder / f"{number:03d}{suffix}")
        return root

    return make
