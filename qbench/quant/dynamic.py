"""Dynamic quantization: integer weights, and the range of each observation's own activations."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from qbench import layers
from qbench.quant import ranges
from qbench.quant.convert import box_of
from qbench.quant.integer import (
    Arrays,
    Stride,
    TanhToBox,
    box_in,
    chunks,
    layers_in,
    pack_int4,
    product,
    stored_box,
    stored_layers,
    unpack_int4,
)
from qbench.quant.spec import Weights, weight_bits, weight_range
from qbench.quant.trace import chain, seeded_layers
from qbench.types import FloatArray, ObsArray

SMALLEST_SCALE = np.float32(1e-8)
ZERO = np.zeros((), np.float32)


class PTQDynamic:
    """Post-training dynamic quantization of the `none` agents; needs no calibration.

    Weights are quantized once; what comes into a layer is quantized over the range that it has
    there and then, widened to hold 0 (ONNX's DynamicQuantizeLinear; one range per observation,
    so that no observation's outputs depend on its batch). Products are of integers; between
    layers there are floats. Bytes of an image are taken as they are.

    Args:
        weights: fields of `spec.Weights`.
        activation_bits: 2..8.
    """

    def __init__(self, *, weights: Mapping[str, Any], activation_bits: int) -> None:
        self.weights = Weights(**weights)
        self.activation_bits = activation_bits

    def prepare(self, module: nn.Module) -> nn.Module:
        """Every layer on quantized weights and inputs; no key is added."""
        found, takes_bytes = seeded_layers(module)

        def swap(layer: layers.Seeded) -> "DynamicSeeded":
            is_first, is_last = layer is found[0], layer is found[-1]
            return DynamicSeeded(
                layer,
                self.weights,
                bits=weight_bits(self.weights, is_first=is_first, is_last=is_last),
                # Bytes are codes already: they reach the layer as codes / high.
                top=None if is_first and takes_bytes else 2**self.activation_bits - 1,
            )

        return layers.swap_layers(module, swap)

    def calibrate(self, module: nn.Module, batches: Iterable[Tensor]) -> None:
        """Nothing: ranges are those of the moment."""

    def convert(self, module: nn.Module) -> "DynamicNetwork":
        """The network of one agent.

        Raises:
            ConversionError: an operation that has no such form.
        """
        found = chain(module)
        return DynamicNetwork(
            layers=tuple(stage.layer.convert(has_relu=stage.has_relu) for stage in found.stages),  # type: ignore[operator]
            input_high=found.input_high,
            box=box_of(found),
        )


class DynamicSeeded(layers.Seeded):
    """A layer on dynamically quantized inputs, for evaluation alone.

    Args:
        layer: whose Parameters are taken over.
        weights: how they are quantized.
        bits: of these weights.
        top: largest code of the input; None: the input is not quantized here.
    """

    def __init__(
        self, layer: layers.Seeded, weights: Weights, *, bits: int, top: int | None
    ) -> None:
        super().__init__(layer.weight, layer.bias)
        self.stride: Stride = getattr(layer, "stride", None)
        self._weights, self._bits, self._top = weights, bits, top

    def forward(self, x: Tensor) -> Tensor:
        """[S, B, ...] -> [S, B, out, ...]."""
        codes, scale = self._codes()
        weight = codes * scale.view(*scale.shape, *[1] * (codes.ndim - 2))
        x = x if self._top is None else _rounded(x, self._top)
        return layers.apply(x, weight, self.bias, self.stride)

    @torch.no_grad()
    def _codes(self) -> tuple[Tensor, Tensor]:
        """Codes of the weights, and their scales [S, out]."""
        rows, how = self.weight.flatten(2), weight_range(self._weights.range, self._bits)
        dims = (-1,) if self._weights.granularity == "channel" else (-2, -1)
        scale = ranges.SCALES[how](rows, self._bits, dims).clamp_min(1e-12)
        codes = ranges.round_weights(rows / scale, self._bits, can_clip=how != "max")
        return codes.view(self.weight.shape), scale.squeeze(-1).expand(self.bias.shape)

    def convert(self, *, has_relu: bool) -> "DynamicLayer":
        """Seed 0's layer as plain arrays."""
        codes, scale = self._codes()
        return DynamicLayer(
            weight=torch.nan_to_num(codes[0]).numpy().astype(np.int8),
            scale=scale[0].numpy().copy(),
            bias=self.bias[0].detach().numpy().copy(),
            bits=self._bits,
            top=self._top or 0,
            has_relu=has_relu,
            stride=self.stride,
        )

    def take_seed(self, k: int) -> nn.Module:
        """Seed k's layer as a population of one with its own copies."""
        row = (nn.Parameter(p[k : k + 1].detach().clone()) for p in (self.weight, self.bias))
        taken = DynamicSeeded(self, self._weights, bits=self._bits, top=self._top)
        taken.weight, taken.bias = row
        return taken


def _rounded(x: Tensor, top: int) -> Tensor:
    """Inputs [S, B, ...] on the grids of their rows."""
    dims = tuple(range(2, x.ndim))
    low = x.amin(dims, keepdim=True).clamp_max(0.0)
    scale = (x.amax(dims, keepdim=True).clamp_min(0.0) - low).div(top)
    scale = scale.clamp_min(float(SMALLEST_SCALE))
    zero = (-low / scale).round()
    return ((x / scale + zero).round().clamp(0, top) - zero) * scale


@dataclass(frozen=True, kw_only=True)
class DynamicLayer:
    """y = scale_x scale (codes - zero) W^T + bias, codes of x over its own range."""

    weight: npt.NDArray[np.int8]  # [out, in], or [out, in, kh, kw]
    scale: npt.NDArray[np.float32]  # [out]
    bias: npt.NDArray[np.float32]  # [out]
    bits: int  # of the weights
    top: int  # largest code of the input; 0: bytes that are taken as they are
    has_relu: bool
    stride: Stride = None

    def __call__(self, x: FloatArray, input_scale: FloatArray | None = None) -> FloatArray:
        """[B, ...] -> [B, out, ...] float32; `input_scale` is that of bytes."""
        codes, zero, scale = self._encode(x) if input_scale is None else (x, ZERO, input_scale)
        rows = self.weight.reshape(len(self.weight), -1)
        # Sums stay below 2^53, so float64 carries them exactly.
        centred = codes.astype(np.float64) - zero
        sums = product(centred, rows.astype(np.float64), self.weight.shape, self.stride)
        per_channel = (-1, *[1] * (sums.ndim - 2))
        y = sums.astype(np.float32) * (scale.reshape(-1, *[1] * (sums.ndim - 1)))
        y = y * self.scale.reshape(per_channel) + self.bias.reshape(per_channel)
        return np.maximum(y, 0) if self.has_relu else y

    def _encode(self, x: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
        axes = tuple(range(1, x.ndim))
        low = np.minimum(x.min(axes, keepdims=True), np.float32(0))
        scale = (np.maximum(x.max(axes, keepdims=True), np.float32(0)) - low) / np.float32(self.top)
        scale = np.maximum(scale, SMALLEST_SCALE)
        zero = np.rint(-low / scale)
        return np.clip(np.rint(x / scale + zero), 0, self.top), zero, scale

    def arrays(self) -> Arrays:
        """What has to be stored; weights of 4 bits and fewer are packed in pairs."""
        described = [self.bits, self.top, self.has_relu, *(self.stride or (0, 0))]
        return {
            "weight": pack_int4(self.weight) if self.bits <= 4 else self.weight,
            "scale": self.scale,
            "bias": self.bias,
            "format": np.array([*described, *self.weight.shape], np.int32),
        }

    @classmethod
    def from_arrays(cls, stored: Arrays) -> "DynamicLayer":
        """Inverse of `arrays`."""
        bits, top, has_relu, down, right, *shape = (int(n) for n in stored["format"])
        packed = stored["weight"]
        return cls(
            weight=unpack_int4(packed, tuple(shape)) if bits <= 4 else packed,
            scale=stored["scale"],
            bias=stored["bias"],
            bits=bits,
            top=top,
            has_relu=bool(has_relu),
            stride=(down, right) if down else None,
        )


@dataclass(frozen=True, kw_only=True)
class DynamicNetwork:
    """An agent with integer products and floats between its layers."""

    layers: tuple[DynamicLayer, ...]
    input_high: int | None = None  # observations are bytes up to this, scaled to 1
    box: TanhToBox | None = None

    def __call__(self, obs: ObsArray, /) -> FloatArray:
        """Outputs [B, A] float32 at obs [B, *obs_shape]."""
        return np.concatenate([self._outputs(rows) for rows in chunks(obs)])

    def _outputs(self, obs: ObsArray) -> FloatArray:
        first, *others = self.layers
        x: FloatArray = obs.astype(np.float32)
        unit = None if self.input_high is None else np.full(len(x), 1 / self.input_high, np.float32)
        x = first(x, unit)
        for layer in others:
            x = layer(x)
        return x if self.box is None else self.box(x)

    def arrays(self) -> Arrays:
        """Everything that has to be stored."""
        stored: Arrays = {"input_high": np.array([self.input_high or 0], np.uint8)}
        return stored | stored_layers(self.layers) | stored_box(self.box)

    @classmethod
    def from_arrays(cls, stored: Arrays) -> "DynamicNetwork":
        """Inverse of `arrays`."""
        return cls(
            layers=tuple(DynamicLayer.from_arrays(layer) for layer in layers_in(stored)),
            input_high=int(stored["input_high"][0]) or None,
            box=box_in(stored),
        )
