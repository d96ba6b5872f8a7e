"""The authors' window attention with ACmix, recorded: output and every gradient."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from acmix.nn import ShiftedWindowACmix
from acmix.nn.authors_keys import WINDOW_KEYS

GOLDEN = Path(__file__).resolve().parents[3] / "shared" / "golden"
# Relative to a recording's largest entry.
TOLERANCES = {torch.float64: 1e-10, torch.float32: 1e-5}

pytestmark = pytest.mark.skipif(
    not (GOLDEN / "swin_window.npz").is_file(), reason="needs the recordings beside the repository"
)


@pytest.mark.parametrize("dtype", TOLERANCES, ids=lambda dtype: str(dtype).removeprefix("torch."))
@pytest.mark.parametrize("impl", ["auto", "torch", "reference"])
def test_swin_window(impl: str, dtype: torch.dtype) -> None:
    spec = importlib.util.spec_from_file_location("golden_weights", GOLDEN / "weights.py")
    assert spec is not None
    assert spec.loader is not None
    weights = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(weights)
    case = json.loads((GOLDEN / "manifest.json").read_text())["swin_window"]
    arguments = case["args"]
    layer = ShiftedWindowACmix(
        arguments["dim"], arguments["num_heads"], arguments["window_size"], impl=impl, dtype=dtype
    ).eval()
    state = {key: torch.from_numpy(weights.weight_array(key, tuple(shape))) for key, shape in case["shapes"].items()}
    layer.load_state_dict(state, strict=True)
    x = torch.from_numpy(weights.input_array(tuple(case["shape"]), seed=case["seed"])).to(dtype).requires_grad_()
    y = layer(x)
    (y * torch.from_numpy(weights.input_array(tuple(y.shape), seed=99)).to(dtype)).sum().backward()
    assert x.grad is not None
    own = dict(layer.named_parameters())
    gradients = {f"d.{theirs}": own[ours].grad for theirs, ours in WINDOW_KEYS.items() if ours in own}
    ours = {"y": y.detach(), "dx": x.grad, **gradients}
    with np.load(GOLDEN / "swin_window.npz", allow_pickle=False) as recording:
        assert set(recording.files) == set(ours)
        for name in recording.files:
            expected, came = recording[name], ours[name]
            assert came is not None, name
            difference = np.abs(came.double().numpy() - expected).max()
            assert difference <= TOLERANCES[dtype] * np.abs(expected).max(), name
