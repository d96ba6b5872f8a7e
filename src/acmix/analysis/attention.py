"""What the two paths of chosen layers do on one image: where they look, and how strongly each responds."""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from acmix.analysis.layers import NamedLayer, find_layers
from acmix.analysis.modes import evaluating
from acmix.nn import ACmix
from acmix.ops.attention_weights import whole_pixels

__all__ = ["LayerView", "Pixel", "Window", "choose_layers", "look_inside"]

Pixel = tuple[int, int]
"""Row and column, counted from the upper left corner, from 0."""


@dataclass(frozen=True)
class Window:
    """The keys that one query can see, in cells of the layer's input map: rows top..bottom, columns left..right.

    `bottom` and `right` are the first row and column outside.
    """

    top: int
    left: int
    bottom: int
    right: int


@dataclass(frozen=True)
class LayerView:
    """One layer on one image; N heads, P query pixels, H x W its input map, H' x W' its output map.

    Attributes:
        layer: the layer and its place in the network.
        input_size: H and W.
        attention: softmax weights of the queries over the keys, [N, P, H, W]; None without an attention path.
        queries: where the query pixels lie on the layer's input map.
        windows: the keys that each query can see.
        attention_response: norm over the channels of alpha * attention, [H', W']; None without that path.
        convolution_response: norm over the channels of beta * convolution, [H', W']; None without that path.
    """

    layer: NamedLayer
    input_size: tuple[int, int]
    attention: Tensor | None
    queries: tuple[Pixel, ...]
    windows: tuple[Window, ...]
    attention_response: Tensor | None
    convolution_response: Tensor | None

    @property
    def responses(self) -> list[Tensor]:
        """The responses of the paths that the layer has."""
        return [path for path in (self.attention_response, self.convolution_response) if path is not None]


def choose_layers(model: nn.Module, wanted: Sequence[str] = ()) -> list[NamedLayer]:
    """Picks ACmix layers by index or name.

    Args:
        model: a network with ACmix layers.
        wanted: indices from 1, full names, or stages (which stand for all of their layers); none at all stands for
            the last layer of every stage.

    Returns:
        The chosen layers in network order.

    Raises:
        ValueError: the network has no ACmix layer, or none of that index or name.
    """
    layers = [layer for layer in find_layers(model) if isinstance(layer.module, ACmix)]
    if not layers:
        raise ValueError(f"{type(model).__name__} has no ACmix layer of neighbourhood attention to look into")
    if not wanted:
        return list({layer.stage: layer for layer in layers}.values())
    chosen: set[int] = set()
    for word in wanted:
        matches = {layer.index for layer in layers if word in (str(layer.index), layer.name, layer.stage)}
        if not matches:
            names = ", ".join(f"{layer.index} {layer.name}" for layer in layers)
            raise ValueError(f"no ACmix layer {word!r}; this network has {names}")
        chosen |= matches
    return [layer for layer in layers if layer.index in chosen]


@torch.no_grad()
def look_inside(
    model: nn.Module, image: Tensor, pixels: Sequence[Pixel], layers: Sequence[NamedLayer]
) -> list[LayerView]:
    """Runs the network on one image and asks chosen layers what they did there.

    Args:
        model: the network; it is run in evaluation mode and left as it was.
        image: the network's input as it was prepared in training, [C, H, W].
        pixels: query pixels on the image.
        layers: layers of this network, from `choose_layers`.

    Returns:
        One view per layer, in the same order, on the CPU in float32.

    Raises:
        ValueError: a pixel lies outside of the image, the network did not run a layer, or a layer's attention is not
            over a neighbourhood.
        TypeError: a pixel is not two integers.
    """
    height, width = image.shape[-2:]
    pixels = whole_pixels("look_inside", pixels)
    for y, x in pixels:
        if not (0 <= y < height and 0 <= x < width):
            raise ValueError(
                f"pixel {y},{x} lies outside of the image: rows 0 to {height - 1}, columns 0 to {width - 1}"
            )
    inputs: dict[str, Tensor] = {}
    with evaluating(model), ExitStack() as hooks:
        for layer in layers:

            def keep(_: nn.Module, args: tuple[Tensor, ...], name: str = layer.name) -> None:
                inputs[name] = args[0]

            hooks.callback(layer.module.register_forward_pre_hook(keep).remove)
        model(image[None])
        missing = [layer.name for layer in layers if layer.name not in inputs]
        if missing:
            raise ValueError(f"the network did not run {', '.join(missing)} on this image")
        hooks.close()
        return [_view(layer, inputs[layer.name], (height, width), pixels) for layer in layers]


def _view(layer: NamedLayer, x: Tensor, image_size: tuple[int, int], pixels: Sequence[Pixel]) -> LayerView:
    module = layer.module
    if not isinstance(module, ACmix):
        raise ValueError(f"{layer.name} is a {type(module).__name__}; only neighbourhood attention can be drawn")
    paths = module.forward_paths(x)
    outputs = [path for path in paths if path is not None]
    out_height, out_width = outputs[0].shape[-2:]
    targets = [(y * out_height // image_size[0], x_ * out_width // image_size[1]) for y, x_ in pixels]
    # A strided layer asks for every s-th pixel of its input.
    queries = tuple((y * module.stride, x_ * module.stride) for y, x_ in targets)
    attention = None
    if paths.attention is not None and targets:
        attention = module.attention_maps(x, targets)[0].float().cpu()
    height, width = x.shape[-2:]
    reach = (module.kernel_att - 1) // 2 * module.dilation
    windows = tuple(
        Window(max(y - reach, 0), max(x_ - reach, 0), min(y + reach + 1, height), min(x_ + reach + 1, width))
        for y, x_ in queries
    )
    responses = (_response(paths.attention), _response(paths.convolution))
    return LayerView(layer, (height, width), attention, queries, windows, *responses)


def _response(path: Tensor | None) -> Tensor | None:
    return None if path is None else path[0].float().norm(dim=0).cpu()
