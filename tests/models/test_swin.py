"""Swin-ACmix."""

from typing import Any, ClassVar

import torch

from network_suite import NetworkSuite, awake, images


class TestACmixSwin(NetworkSuite):
    name = "acmix_swin_tiny"
    # Two blocks in a stage: the second one shifts its windows.
    shallow: ClassVar[dict[str, Any]] = {"depths": (2, 1, 1, 1), "embed_dim": 24, "num_heads": (1, 2, 3, 4)}
    channels = (24, 48, 96, 192)
    depth = 7
    reductions = (4, 8, 16, 32)
    layout = "NHWC"
    head = ("norm.", "head.")

    def test_intermediates_are_the_features(self) -> None:
        network, x = awake(self.make()).eval(), images()
        last, intermediates = network.forward_intermediates(x)
        features = self.make(features_only=True).eval()
        # timm flattens the stages of Swin where it lists features.
        body = {k.replace("layers.", "layers_", 1): v for k, v in network.state_dict().items()}
        features.load_state_dict({k: v for k, v in body.items() if not k.startswith(self.head)}, strict=True)
        for ours, theirs in zip(intermediates, features(x), strict=True):
            torch.testing.assert_close(ours, self.nchw(theirs))
        assert torch.equal(last, network.forward_features(x))
