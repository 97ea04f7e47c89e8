"""The network of a population at one observation each, in NumPy but for its convolutions.

With one row per seed a call of torch takes many times as long as its arithmetic: an MLP 4-120-84-2
of eight seeds acts in a fifth of the time.
"""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from qbench import layers
from qbench.quant import kernels
from qbench.quant.layer import QuantLayer
from qbench.quant.population import as_array, box_in_arrays, encoded
from qbench.quant.trace import ConversionError, Stage, chain
from qbench.types import FloatArray, ObsArray


class ArrayNetwork:
    """What `module` computes in eval mode as it stands, [S, *obs_shape] -> [S, A].

    Weights are followed in place, quantized layers by codes that are made anew after an update.

    Args:
        module: a population of `layers.Linear`, `layers.Conv2d` and linear `QuantLayer`, and of
            nothing else, on a CPU.

    Raises:
        ConversionError: it is something else.
    """

    def __init__(self, module: nn.Module) -> None:
        found = chain(module)
        if any(p.device.type != "cpu" for p in module.parameters()):
            raise ConversionError("acting in arrays is for a CPU.")
        self._scale = None if found.input_high is None else 1.0 / found.input_high
        self._layers = [_in_arrays(stage) for stage in found.stages]
        self._box = box_in_arrays(found)

    def __call__(self, obs: ObsArray, /) -> FloatArray:
        """Outputs [S, A] at obs [S, *obs_shape]."""
        x: FloatArray = obs if self._scale is None else obs.astype(np.float32) * self._scale
        with np.errstate(all="ignore"):  # A diverged seed is frozen by its learner.
            for layer in self._layers:
                x = layer(x)
            return x if self._box is None else self._box(x)


def _in_arrays(stage: Stage) -> Callable[[FloatArray], FloatArray]:
    layer = stage.layer
    # A subclass may compute something else.
    if type(layer) is layers.Linear:
        return _Linear(layer, has_relu=stage.has_relu)
    if type(layer) is layers.Conv2d:
        return _Convolution(layer, has_relu=stage.has_relu)
    if isinstance(layer, QuantLayer) and layer.stride is None and _infers_as_quant_layer(layer):
        return _FakeQuantLinear(layer, has_relu=stage.has_relu)
    raise ConversionError(f"acting in arrays has no form for {type(layer).__name__}.")


def _infers_as_quant_layer(layer: QuantLayer) -> bool:
    kind = type(layer)
    return kind.forward is QuantLayer.forward and kind._infer is QuantLayer._infer


class _Linear:
    """x W^T + b, [S, in] -> [S, out], and perhaps a ReLU."""

    def __init__(self, layer: layers.Seeded, *, has_relu: bool) -> None:
        self._weight, self._bias = as_array(layer.weight), as_array(layer.bias)
        self._has_relu = has_relu

    def __call__(self, x: FloatArray) -> FloatArray:
        out = _product(self._weight, _flat(x))
        out += self._bias
        return np.maximum(out, 0, out=out) if self._has_relu else out


class _Convolution:
    """A convolution [S, in, H, W] -> [S, out, H', W'], which is torch's, and perhaps a ReLU."""

    def __init__(self, layer: layers.Conv2d, *, has_relu: bool) -> None:
        self._layer = layer
        self._has_relu = has_relu

    @torch.no_grad()
    def __call__(self, x: FloatArray) -> FloatArray:
        out = self._layer(torch.from_numpy(x).unsqueeze(1))[:, 0]
        return (out.relu_() if self._has_relu else out).numpy()


class _FakeQuantLinear:
    """`fake.accumulate` of `grids.encode`, bit for bit where sums of codes stay below 2^24."""

    def __init__(self, layer: QuantLayer, *, has_relu: bool) -> None:
        self._layer = layer
        self._known: Tensor | None = None  # the scale of the codes that were taken last
        self._float = _Linear(layer, has_relu=has_relu)
        self._has_relu = has_relu

    def __call__(self, x: FloatArray) -> FloatArray:
        if not self._layer.is_quantizing:
            return self._float(x)
        x = _flat(x)
        grid, codes = self._layer.latest_codes(self._known)
        self._known = codes.scale
        is_population = x.shape == codes.weight.shape[::2]  # [S, F]
        if is_population and kernels.take(*grid.tensors, *codes):
            return kernels.infer(x, grid, codes, has_relu=self._has_relu)
        inverse, zero, centre = (as_array(t)[:, 0] for t in (grid.inverse, grid.zero, grid.centre))
        centred = encoded(x * inverse, zero, grid.top)
        centred -= centre
        out = _product(as_array(codes.weight), centred)
        out += as_array(codes.bias)
        out *= as_array(codes.scale)
        return np.maximum(out, 0, out=out) if self._has_relu else out


def _flat(x: FloatArray) -> FloatArray:
    """Images, or what already are rows, as rows [S, F]."""
    return x.reshape(len(x), -1)


def _product(weight: FloatArray, x: FloatArray) -> FloatArray:
    """Rows x [S, in] by weight [S, out, in] -> [S, out]."""
    out: FloatArray = np.matmul(weight, x[..., None])[..., 0]
    return out
