"""Layers of Keras as single operations of torch.

Keras spells a convolution with a bias as a convolution and an addition, and BatchNorm as three
steps with permutations between. Rules are about whole linear maps, so that the loaded model (ours
alone) runs them as torch does: the outputs are the same, the operations are those of a torch net.
"""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

from torch import Tensor
from torch.nn import functional as F

from salience.models._onnx.windows import WINDOWS

Layer = Any  # of Keras, which has no types; a model is one, too


def use_torch_operations(keras: ModuleType, model: Layer) -> None:
    """Let the Dense, convolution and BatchNormalization layers of a model run whole operations."""
    layers = keras.layers
    convolutions = (
        layers.Conv1D,
        layers.Conv2D,
        layers.Conv3D,
        layers.DepthwiseConv1D,
        layers.DepthwiseConv2D,
    )
    whole: dict[int, Layer] = {}  # BatchNormalization layers that their convolution runs
    for part in model._flatten_layers():
        if hasattr(part, "outputs") and hasattr(part, "_layers"):
            whole |= _followed(keras, part, convolutions)
    for layer in model._flatten_layers():
        if isinstance(layer, layers.Dense) and type(layer).call is layers.Dense.call:
            layer.call = _dense(layer)
        elif isinstance(layer, convolutions) and layer.padding in ("same", "valid"):
            layer.call = _convolution(layer, whole.get(id(layer)))
        elif isinstance(layer, layers.BatchNormalization):
            run_before = any(layer is norm for norm in whole.values())
            layer.call = _same if run_before else _batch_normalization(layer)


def _followed(keras: ModuleType, part: Layer, convolutions: tuple[type, ...]) -> dict[int, Layer]:
    """Convolution (its id) -> the BatchNormalization that alone reads it."""
    found: dict[int, Layer] = {}
    outputs = [id(output) for output in part.outputs or []]
    for layer in part.layers:
        readers = getattr(layer, "_outbound_nodes", [])
        if not isinstance(layer, convolutions) or len(readers) != 1:
            continue
        norm = readers[0].operation
        once = len(layer._inbound_nodes) == 1 and layer.padding in ("same", "valid")
        plain = layer.activation is keras.activations.linear and id(layer.output) not in outputs
        if not (once and plain and isinstance(norm, keras.layers.BatchNormalization)):
            continue
        channels = 1 if layer.data_format == "channels_first" else layer.rank + 1
        if len(norm._inbound_nodes) == 1 and norm.axis % (layer.rank + 2) == channels:
            found[id(layer)] = norm
    return found


def _same(x: Tensor, *rest: object, **more: object) -> Tensor:
    return x


def _dense(layer: Layer) -> Callable[..., Tensor]:
    def call(x: Tensor, *rest: object, **more: object) -> Tensor:
        bias = None if layer.bias is None else layer.bias.value
        y = F.linear(x, layer.kernel.value.T, bias)
        return y if layer.activation is None else layer.activation(y)

    return call


def _convolution(layer: Layer, norm: Layer | None) -> Callable[..., Tensor]:
    depthwise = hasattr(layer, "depth_multiplier")
    last = layer.data_format == "channels_last"

    def call(x: Tensor, *rest: object, **more: object) -> Tensor:
        kernel = layer.kernel.value  # (k, ..., in, out)
        if depthwise:  # (k, ..., in, multiplier)
            kernel = kernel.flatten(-2).unsqueeze(-2)
        spatial = range(kernel.ndim - 2)
        weight = kernel.permute(-1, -2, *spatial)
        x = _first(x) if last else x
        settings = {
            "strides": list(layer.strides),
            "dilations": list(layer.dilation_rate),
            "auto_pad": "SAME_UPPER" if layer.padding == "same" else "VALID",
            "group": x.shape[1] // weight.shape[1],
        }
        bias = layer.bias.value if layer.use_bias else None
        y = WINDOWS["Conv"]([x, weight, bias], settings, 0)
        y = y if norm is None else _normalized(y, norm)
        y = _last(y) if last else y
        return y if layer.activation is None else layer.activation(y)

    return call


def _batch_normalization(layer: Layer) -> Callable[..., Tensor]:
    def call(x: Tensor, *rest: object, **more: object) -> Tensor:
        axis = layer.axis % x.ndim
        if axis == 1:
            return _normalized(x, layer)
        return _normalized(x.transpose(1, axis), layer).transpose(1, axis)

    return call


def _normalized(x: Tensor, norm: Layer) -> Tensor:
    """x: (B, C, ...)"""
    scale = norm.gamma.value if norm.scale else None
    shift = norm.beta.value if norm.center else None
    mean, variance = norm.moving_mean.value, norm.moving_variance.value
    return F.batch_norm(x, mean, variance, scale, shift, False, 0.0, norm.epsilon)


def _first(x: Tensor) -> Tensor:
    return x.permute(0, -1, *range(1, x.ndim - 1))


def _last(x: Tensor) -> Tensor:
    return x.permute(0, *range(2, x.ndim), 1)
