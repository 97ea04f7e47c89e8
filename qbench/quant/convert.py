"""From a trained network to plain arrays. Codes are those that training computed with."""

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from qbench.quant import grids
from qbench.quant.integer import (
    MAX_SHIFT,
    FloatLayer,
    FloatNetwork,
    IntegerLayer,
    IntegerNetwork,
    TanhToBox,
)
from qbench.quant.layer import QuantLayer
from qbench.quant.trace import Chain, ConversionError, Stage, chain


def float_network(module: nn.Module, number_format: str = "float32") -> FloatNetwork:
    """The float32 network of one agent (see `layers.take_seed`).

    Args:
        module: a population of one.
        number_format: what its numbers are stored in; they have been rounded to it.
    """
    found = chain(module)
    layers = [
        FloatLayer(
            weight=_array(layer.weight),
            bias=_array(layer.bias),
            has_relu=has_relu,
            stride=_stride(layer),
            number_format=number_format,
        )
        for layer, has_relu in found.stages
    ]
    return FloatNetwork(layers=tuple(layers), input_high=found.input_high, box=box_of(found))


@torch.no_grad()
def integer_network(module: nn.Module) -> IntegerNetwork:
    """The integer network of one agent.

    Raises:
        ConversionError: an operation has no integer form, a layer was left in float, or a
            layer's sums could leave int32.
    """
    found = chain(module)
    for layer, _ in found.stages:
        if not isinstance(layer, QuantLayer):
            raise ConversionError(f"convert found a {type(layer).__name__} layer left in float.")
    first, last = found.stages[0].layer, found.stages[-1].layer
    grid, scale = first.codes()[0], last.codes()[1].scale  # type: ignore[operator]
    inverse = grid.inverse[0, 0].flatten()
    following = [*found.stages[1:], None]
    return IntegerNetwork(
        # The bytes of an image are taken as they are: their scaling is part of the grid.
        input_inverse_scale=_array(inverse * (1.0 / (found.input_high or 1))),
        input_zero=_array(grid.zero[0, 0].flatten()),
        input_top=grid.top,
        layers=tuple(_layer(*pair) for pair in zip(found.stages, following, strict=True)),
        output_scale=_array(scale[0]),
        box=box_of(found),
    )


def _layer(stage: Stage, following: Stage | None) -> IntegerLayer:
    grid, codes = stage.layer.codes()  # type: ignore[operator]
    weight = _finite(codes.weight[0])
    flat = weight.flatten(1)
    # The integer network's input codes are unsigned: their centre moves into the bias.
    bias = _finite(codes.bias[0]) - (flat * _finite(grid.centre[0]).flatten()).sum(-1)
    reach = flat.abs().sum(-1) * grid.top + bias.abs()
    if reach.max() >= 2**31:
        raise ConversionError(f"convert: a sum of up to {int(reach.max())} does not fit int32.")
    return IntegerLayer(
        weight=_array(weight).astype(np.int8),
        bias=_array(bias).astype(np.int32),
        bits=stage.layer.spec.weight_bits,  # type: ignore[union-attr, arg-type]
        stride=_stride(stage.layer),
        **({} if following is None else _requantization(codes.scale[0], stage, following)),
    )


def _stride(layer: nn.Module) -> tuple[int, int] | None:
    stride: tuple[int, int] | None = getattr(layer, "stride", None)
    return stride


def box_of(found: Chain) -> TanhToBox | None:
    """What ends an actor; None of a Q-network."""
    if found.box is None:
        return None
    return TanhToBox(
        scale=_array(found.box.scale).reshape(-1), offset=_array(found.box.offset).reshape(-1)
    )


def _requantization(scale: Tensor, stage: Stage, following: Stage) -> dict[str, Any]:
    grid: grids.Grid = following.layer.codes()[0]  # type: ignore[operator]
    point = fixed_point(scale[None], grid, has_relu=stage.has_relu)
    return {
        "multiplier": point.multiplier[0].astype(np.int32),
        "shift": point.shift[0].astype(np.int32),
        "offset": point.offset[0],
        "low": int(point.low[0]),
        "top": grid.top,
    }


class FixedPoint(NamedTuple):
    """Requantization (`quant.integer`) after a layer of S seeds, int64."""

    multiplier: npt.NDArray[np.int64]  # [S, out]
    shift: npt.NDArray[np.int64]  # [S, out]
    offset: npt.NDArray[np.int64]  # [S, out]
    low: npt.NDArray[np.int64]  # [S]


def fixed_point(scale: Tensor, grid: grids.Grid, *, has_relu: bool) -> FixedPoint:
    """From accumulators of `scale` [S, out] to codes on the next layer's `grid`."""
    if grid.scale[0].numel() != 1:
        raise ConversionError("convert takes one range per feature for the observation only.")
    sums, inverse, zero = (_double(t) for t in (scale, grid.inverse, grid.zero))
    zero, ratio = _number(zero), _number(sums * inverse)
    ratio = np.minimum(np.maximum(ratio, 2.0**-MAX_SHIFT), 2.0**29)
    # frexp: ratio = f 2^e with f in [0.5, 1), so that the multiplier has 31 bits.
    shift = np.minimum(31 - np.frexp(ratio)[1].astype(np.int64), MAX_SHIFT)
    multiplier = np.minimum(np.rint(np.ldexp(ratio, shift)), 2**31 - 1)
    low = np.rint(zero[:, 0]).clip(0, grid.top) if has_relu else np.zeros(len(zero))
    return FixedPoint(
        multiplier=multiplier.astype(np.int64),
        shift=shift,
        offset=np.rint(np.ldexp(zero, shift)).astype(np.int64),
        low=low.astype(np.int64),
    )


def _double(tensor: Tensor) -> npt.NDArray[np.float64]:
    """[S, ...] -> [S, n] float64."""
    array: npt.NDArray[np.float64] = tensor.detach().cpu().numpy().astype(np.float64)
    return array.reshape(len(array), -1)


def _number(array: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """With zeros for what is no number, as `_finite`."""
    is_finite = np.isfinite(array)
    return array if is_finite.all() else np.where(is_finite, array, 0.0)


def _finite(tensor: Tensor) -> Tensor:
    """float64, with zeros for what a diverged seed left that is no number: it is scored as is."""
    return torch.nan_to_num(tensor.double(), nan=0.0, posinf=0.0, neginf=0.0)


def _array(tensor: Any) -> npt.NDArray[Any]:
    return tensor.detach().cpu().numpy().copy()
