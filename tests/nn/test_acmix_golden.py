"""The authors' code, recorded: outputs and every gradient."""

import importlib.util
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from acmix import ACmix
from acmix.nn.authors_keys import AUTHORS_KEYS

GOLDEN = Path(__file__).resolve().parents[3] / "shared" / "golden"
# Relative to a recording's largest entry; absolute for the one gradient whose true value is zero.
TOLERANCES = {torch.float64: (1e-10, 1e-10), torch.float32: (1e-5, 1e-4)}

pytestmark = pytest.mark.skipif(
    not (GOLDEN / "op_basic.npz").is_file(), reason="needs the recordings beside the repository"
)


@pytest.fixture(scope="module")
def weights() -> ModuleType:
    spec = importlib.util.spec_from_file_location("golden_weights", GOLDEN / "weights.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def case() -> dict[str, Any]:
    recorded: dict[str, Any] = json.loads((GOLDEN / "manifest.json").read_text())["op_basic"]
    return recorded


def _layer(case: dict[str, Any], weights: ModuleType, impl: str, dtype: torch.dtype) -> ACmix:
    arguments = case["args"]
    names = ("in_planes", "out_planes", "kernel_att", "head", "kernel_conv", "stride")
    layer = ACmix(*(arguments[name] for name in names), impl=impl, dtype=dtype).eval()
    state = {key: torch.from_numpy(weights.weight_array(key, tuple(shape))) for key, shape in case["shapes"].items()}
    layer.load_state_dict(state, strict=True)
    return layer


def _run(layer: ACmix, x: Tensor, weights: ModuleType) -> dict[str, Tensor]:
    x = x.to(layer.query.weight.dtype).requires_grad_()
    y = layer(x)
    (y * torch.from_numpy(weights.input_array(tuple(y.shape), seed=99)).to(y)).sum().backward()
    own = dict(layer.named_parameters())
    gradients = {f"d.{theirs}": own[ours].grad for theirs, ours in AUTHORS_KEYS.items() if ours in own}
    assert x.grad is not None
    return {"y": y.detach(), "dx": x.grad, **gradients}


@pytest.mark.parametrize("dtype", TOLERANCES, ids=lambda dtype: str(dtype).removeprefix("torch."))
@pytest.mark.parametrize("impl", ["auto", "torch", "reference"])
def test_op_basic(impl: str, dtype: torch.dtype, case: dict[str, Any], weights: ModuleType) -> None:
    relative, absolute = TOLERANCES[dtype]
    x = torch.from_numpy(weights.input_array(tuple(case["shape"]), seed=case["seed"]))
    ours = _run(_layer(case, weights, impl, dtype), x, weights)
    with np.load(GOLDEN / "op_basic.npz", allow_pickle=False) as recording:
        assert set(recording.files) == set(ours)
        for name in recording.files:
            assert ours[name] is not None, name
            expected, came = recording[name], ours[name].double().numpy()
            if name == "d.conv_p.bias":
                assert np.abs(came).max() < absolute
                continue
            assert np.abs(came - expected).max() <= relative * np.abs(expected).max(), name
