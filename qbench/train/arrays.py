"""The fully connected network of a population at one observation each, in NumPy.

With one row per seed a call of torch takes many times as long as its arithmetic: an MLP 4-120-84-2
of eight seeds acts in a fifth of the time.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor, nn

from qbench import layers
from qbench.quant import fake
from qbench.quant.integer import TanhToBox
from qbench.quant.layer import QuantLayer
from qbench.quant.trace import ConversionError, Stage, chain
from qbench.types import FloatArray, ObsArray


class ArrayNetwork:
    """What `module` computes in eval mode, [S, *obs_shape] -> [S, A]: by the same numbers, always.

    Float layers are followed in place, quantized ones by the codes that they cache.

    Args:
        module: a population of `layers.Linear` and `QuantLayer` on a CPU.

    Raises:
        ConversionError: anything else.
    """

    def __init__(self, module: nn.Module) -> None:
        found = chain(module)
        if found.input_high is not None or any(p.device.type != "cpu" for p in module.parameters()):
            raise ConversionError("acting in arrays takes float32 observations, on a CPU.")
        self._module = module
        self._has_codes = any(isinstance(stage.layer, QuantLayer) for stage in found.stages)
        self._layers = [_in_arrays(stage) for stage in found.stages]
        self._box: TanhToBox | None = None
        if found.box is not None:
            scale, offset = (_array(t)[:, 0] for t in (found.box.scale, found.box.offset))
            self._box = TanhToBox(scale=scale, offset=offset)  # [S, A]

    def __call__(self, obs: ObsArray, /) -> FloatArray:
        """Outputs [S, A] at obs [S, *obs_shape]."""
        if self._has_codes and self._module.training:
            self._module.eval()  # Those of before the last update are dropped.
        x: FloatArray = obs
        with np.errstate(all="ignore"):  # A diverged seed is frozen by its learner.
            for layer in self._layers:
                x = layer(x)
            return x if self._box is None else self._box(x)


def _in_arrays(stage: Stage) -> Callable[[FloatArray], FloatArray]:
    match stage.layer:
        case layers.Linear():
            return _Linear(stage.layer, has_relu=stage.has_relu)
        case QuantLayer(stride=None):
            return _FakeQuantLinear(stage.layer, has_relu=stage.has_relu)
    raise ConversionError(f"acting in arrays has no form for {type(stage.layer).__name__}.")


class _Linear:
    """x W^T + b, [S, in] -> [S, out], and perhaps a ReLU."""

    def __init__(self, layer: layers.Seeded, *, has_relu: bool) -> None:
        self._weight, self._bias = _array(layer.weight), _array(layer.bias)
        self._has_relu = has_relu

    def __call__(self, x: FloatArray) -> FloatArray:
        out = _product(self._weight, x)
        out += self._bias
        return np.maximum(out, 0, out=out) if self._has_relu else out


class _FakeQuantLinear:
    """`fake.accumulate` of `fake.encode`: sums of codes are exact, so that no bit differs."""

    def __init__(self, layer: QuantLayer, *, has_relu: bool) -> None:
        self._layer = layer
        self._float = _Linear(layer, has_relu=has_relu)
        self._has_relu = has_relu
        self._taken: tuple[fake.Grid, fake.Codes] | None = None

    def __call__(self, x: FloatArray) -> FloatArray:
        if not self._layer.is_quantizing:
            return self._float(x)
        self._take()
        raw = x * self._inverse
        raw += self._zero
        np.rint(raw, out=raw)
        np.maximum(raw, 0, out=raw)
        np.minimum(raw, self._top, out=raw)
        raw -= self._centre
        out = _product(self._weight, raw)
        out += self._bias
        out *= self._scale
        return np.maximum(out, 0, out=out) if self._has_relu else out

    def _take(self) -> None:
        """The layer's codes as arrays, where it has made them anew."""
        taken = self._layer.codes()
        if taken is self._taken:
            return
        self._taken = grid, codes = taken
        self._weight, self._bias, self._scale = (_array(t) for t in codes)
        self._inverse, self._zero, self._centre = (
            _array(t)[:, 0] for t in (grid.inverse, grid.zero, grid.centre)
        )
        self._top = grid.top


def _product(weight: FloatArray, x: FloatArray) -> FloatArray:
    """Rows x [S, in] by weight [S, out, in] -> [S, out]."""
    out: FloatArray = np.matmul(weight, x[..., None])[..., 0]
    return out


def _array(tensor: Tensor) -> npt.NDArray[Any]:
    return tensor.detach().numpy()
