"""The integer networks of a population at one observation each: what acts in integers.

The same integers as `quant.integer` computes agent by agent, for all seeds at once and from
the codes as the layers hold them. Sums are carried in float32 BLAS, in parts of at most
2^24 each, which float32 holds exactly, and added up in int64.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from qbench.quant.convert import FixedPoint, fixed_point
from qbench.quant.integer import TanhToBox
from qbench.quant.layer import QuantLayer
from qbench.quant.trace import Chain, ConversionError, Stage, chain
from qbench.types import FloatArray, ObsArray

Array = npt.NDArray[Any]


class IntegerPopulation:
    """S integer networks, [S, *obs_shape] -> [S, A].

    Args:
        module: a prepared population, of which `refresh` takes the integers.

    Raises:
        ConversionError: an operation that has no integer form, or a layer left in float.
    """

    def __init__(self, module: nn.Module) -> None:
        self._module = module
        found = chain(module)
        self._input_high = found.input_high
        self._input: _Input | None = None
        following = [*found.stages[1:], None]
        self._layers = [_Layer(*pair) for pair in zip(found.stages, following, strict=True)]
        self._box = box_in_arrays(found)

    @torch.no_grad()
    def refresh(self) -> None:
        """Take the integers of the module as it stands."""
        if self._module.training:
            self._module.eval()  # Codes of before the last update are dropped.
        for layer in self._layers:
            layer.refresh()
        grid = self._layers[0].grid
        inverse = as_array(grid.inverse[:, 0] * (1.0 / (self._input_high or 1)))
        found = _Input(inverse, as_array(grid.zero[:, 0]), grid.top, takes_bytes=False)
        self._input = found._replace(takes_bytes=found.leaves_bytes(self._input_high))

    def __call__(self, obs: ObsArray, /) -> FloatArray:
        """Outputs [S, A] float32 at obs [S, *obs_shape]."""
        assert self._input is not None
        x = self._input.encode(obs)
        for layer in self._layers:
            x = layer(x)
        return x if self._box is None else self._box(x)

    @property
    def num_bytes(self) -> int:
        """Bytes of what `refresh` has taken."""
        return sum(array.nbytes for layer in self._layers for array in layer.arrays())

    def state(self) -> list[Any]:
        """What `restore` needs, tensors and plain numbers; empty before the first refresh."""
        if self._input is None:
            return []
        return [_stored(self._input), *(layer.state() for layer in self._layers)]

    def restore(self, state: list[Any]) -> None:
        """Inverse of `state`."""
        if not state:
            return
        self._input = _Input(*_loaded(state[0]))
        for layer, stored in zip(self._layers, state[1:], strict=True):
            layer.restore(stored)


def box_in_arrays(found: Chain) -> TanhToBox | None:
    """What ends a population of actors, with bounds [S, A]."""
    if found.box is None:
        return None
    scale, offset = (as_array(t)[:, 0] for t in (found.box.scale, found.box.offset))
    return TanhToBox(scale=scale, offset=offset)


def encoded(scaled: FloatArray, zero: Array, top: int) -> FloatArray:
    """`grids.encode` of what is divided by the grid's scale already, in place."""
    scaled += zero
    np.rint(scaled, out=scaled)
    np.maximum(scaled, 0, out=scaled)
    return np.minimum(scaled, top, out=scaled)


class _Input(NamedTuple):
    """The quantization of observations."""

    inverse: Array  # 1 / scale, [S, F] or [S, 1, ...]
    zero: Array  # as inverse
    top: int
    takes_bytes: bool  # a byte's code is the byte

    def encode(self, obs: ObsArray) -> FloatArray:
        """Codes [S, *obs_shape], carried in float32."""
        codes: FloatArray = obs.astype(np.float32)
        if self.takes_bytes:
            return codes
        codes *= self.inverse
        return encoded(codes, self.zero, self.top)

    def leaves_bytes(self, high: int | None) -> bool:
        """Whether every byte up to `high` is its own code: so with 8 bits and images to 255."""
        if high is None:
            return False
        every = np.arange(high + 1, dtype=np.float32)
        shape = (len(self.inverse), *[1] * (self.inverse.ndim - 2), len(every))
        return bool((self.encode(np.broadcast_to(every, shape)) == every).all())


class _Layer:
    """One layer of every seed; a linear one is a convolution with one position."""

    def __init__(self, stage: Stage, following: Stage | None) -> None:
        self._layer = _quantized(stage)
        self._has_relu = stage.has_relu
        self._following = None if following is None else _quantized(following)
        num_seeds, out, *rest = self._layer.weight.shape
        self._kernel = tuple(rest[1:])
        self._stride = self._layer.stride
        spec = self._layer.spec
        largest = (2**spec.input_bits - 1) * max(2 ** (spec.weight_bits - 1) - 1, 1)
        num_parts = _num_parts(math.prod(rest), 2**24 // largest)
        self._parts = (num_seeds, num_parts, math.prod(rest) // num_parts)
        self._weight = np.empty((num_seeds, out, *self._parts[1:]), np.float32)
        self._weight_of_parts = self._weight.transpose(0, 2, 1, 3)  # [S, parts, out, size]
        self._sums = np.empty((num_seeds, out, 0), np.int64)
        self._added = np.zeros((num_seeds, out, 1), np.int64)
        self._scale = np.zeros((num_seeds, out), np.float32)
        self._point: FixedPoint | None = None
        self._top = 0

    def refresh(self) -> None:
        """Take the layer's codes."""
        self.grid, codes = self._layer.codes()
        weight, bias, scale = (as_array(t) for t in codes)
        centre = as_array(self.grid.centre).reshape(len(bias), 1, -1)
        if not np.isfinite(scale).all():
            # A diverged seed's codes are no numbers: they count as 0, as `convert` has it.
            weight, bias, centre = (_number(array) for array in (weight, bias, centre))
        # Copied: an array that is freed and had anew at every refresh costs more than this.
        np.copyto(self._weight, weight.reshape(self._weight.shape))
        folded = self._folded(bias, centre)  # [S, out]
        self._scale, self._point, self._added = scale, None, folded[..., None]
        if self._following is not None:
            grid = self._following.codes()[0]
            point = fixed_point(codes.scale, grid, has_relu=self._has_relu)
            # The bias and the rounding's half go into the offset: (a + b) m = a m + b m.
            half = np.left_shift(1, point.shift - 1)
            self._added = (folded * point.multiplier + point.offset + half)[..., None]
            self._point, self._top = point, grid.top

    def _folded(self, bias: Array, centre: Array) -> Array:
        """Bias codes [S, out] int64 with the input's centre in them: codes are unsigned."""
        bias = bias.astype(np.float64)
        if centre.any():
            flat = self._weight.reshape(*bias.shape, -1)
            bias -= (flat.astype(np.float64) * centre).sum(-1)
        return bias.astype(np.int64)

    def __call__(self, x: FloatArray) -> FloatArray:
        """Codes [S, in, ...] -> codes [S, out, ...], or outputs [S, out] of the last layer."""
        inputs, image = self._inputs(x)
        sums = self._summed(inputs)
        if self._point is None:
            sums += self._added
            return sums[..., 0].astype(np.float32) * self._scale
        requantized = self._requantize(sums, self._point).astype(np.float32)
        return requantized.reshape(*requantized.shape[:2], *image)

    def _inputs(self, x: FloatArray) -> tuple[FloatArray, tuple[int, ...]]:
        """What every output position sees [S, parts, size, positions], and the image's size."""
        if self._stride is None:
            return x.reshape(*self._parts, 1), ()
        windows = np.lib.stride_tricks.sliding_window_view(x, self._kernel, axis=(2, 3))
        windows = windows[:, :, :: self._stride[0], :: self._stride[1]]
        image = windows.shape[2:4]
        return windows.transpose(0, 1, 4, 5, 2, 3).reshape(*self._parts, -1), image

    def _summed(self, inputs: FloatArray) -> Array:
        """Accumulators without the bias, int64 [S, out, positions]; a buffer that is reused."""
        parts = np.matmul(self._weight_of_parts, inputs)
        if self._sums.shape[2] != parts.shape[3]:
            self._sums = np.empty((len(parts), *parts.shape[2:]), np.int64)
        if parts.shape[1] == 1:
            np.copyto(self._sums, parts[:, 0], casting="unsafe")
        else:
            np.sum(parts, axis=1, dtype=np.int64, out=self._sums)
        return self._sums

    def _requantize(self, sums: Array, point: FixedPoint) -> Array:
        sums *= point.multiplier[..., None]
        sums += self._added
        sums >>= point.shift[..., None]
        np.maximum(sums, point.low[:, None, None], out=sums)
        return np.minimum(sums, self._top, out=sums)

    def arrays(self) -> list[Array]:
        """What is kept between refreshes."""
        return [self._weight, self._added, self._scale, *(self._point or ())]

    def state(self) -> list[Any]:
        """What `restore` needs."""
        return _stored([self._top, *self.arrays()])

    def restore(self, state: list[Any]) -> None:
        """Inverse of `state`."""
        self._top, weight, self._added, self._scale, *point = _loaded(state)
        np.copyto(self._weight, weight)
        self._point = FixedPoint(*point) if point else None


def _stored(values: Sequence[Any]) -> list[Any]:
    """Arrays as tensors, copied."""
    return [torch.from_numpy(np.array(v)) if isinstance(v, np.ndarray) else v for v in values]


def _loaded(values: Sequence[Any]) -> list[Any]:
    return [as_array(value) if isinstance(value, Tensor) else value for value in values]


def _quantized(stage: Stage) -> QuantLayer:
    if not isinstance(stage.layer, QuantLayer):
        raise ConversionError("acting in integers found a layer left in float.")
    return stage.layer


def _num_parts(size: int, limit: int) -> int:
    """Into how many equal parts a sum of `size` products falls, of at most `limit` each."""
    return next(n for n in range(1, size + 1) if size % n == 0 and size // n <= limit)


def _number(array: Array) -> Array:
    """With zeros for what is no number."""
    return np.nan_to_num(array, nan=0.0, posinf=0.0, neginf=0.0)


def as_array(tensor: Tensor) -> Array:
    """A view of a tensor on a CPU, a copy of another."""
    return tensor.detach().cpu().numpy()
