"""The deployed networks as plain NumPy arrays: what `convert` returns. No torch in a forward.

Requantization, the one rule: an int32 accumulator a becomes the next layer's code

    q = clamp((a m + b + 2^(r-1)) >> r, low, top)

with a 31-bit multiplier m ~ 2^r s / s_next and b ~ 2^r z_next, int64 in between; ties are
rounded up (towards +infinity). low is the code of zero after a ReLU, else 0. An actor ends
in float, after the output is dequantized: tanh, rescaled to its Box.
"""

import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from qbench.types import FloatArray, IntArray, ObsArray

Arrays = dict[str, npt.NDArray[Any]]
Stride = tuple[int, int] | None
MAX_SHIFT = 46
"""Larger shifts would let b overflow; below 2^-46 a multiplier moves no code by 2^-15."""
CHUNK = 250
"""Images at a time: a convolution's patches take 16 times the memory of its input."""


def pack_int4(codes: IntArray) -> npt.NDArray[np.uint8]:
    """Two codes in [-8, 7] per byte, low nibble first; an odd count is padded with 0."""
    nibbles = np.append(codes.ravel(), [0] * (codes.size % 2)).astype(np.int8).view(np.uint8) & 15
    return (nibbles[0::2] | nibbles[1::2] << 4).astype(np.uint8)


def unpack_int4(packed: npt.NDArray[np.uint8], shape: tuple[int, ...]) -> npt.NDArray[np.int8]:
    """Inverse of `pack_int4`."""
    nibbles = np.stack([packed & 15, packed >> 4], axis=-1).ravel()[: int(np.prod(shape))]
    return ((nibbles.astype(np.int8) ^ 8) - 8).reshape(shape)


def product(
    x: FloatArray, weight: FloatArray, shape: tuple[int, ...], stride: Stride
) -> FloatArray:
    """The product of inputs and weights of a layer.

    Args:
        x: [B, ...]; flattened in C order for a linear layer.
        weight: [out, in * kh * kw].
        shape: of the weights, [out, in] or [out, in, kh, kw].
        stride: of a convolution; None: a linear layer.

    Returns:
        [B, out], or [B, out, H', W'].
    """
    if stride is None:
        return x.reshape(len(x), -1) @ weight.T
    windows = np.lib.stride_tricks.sliding_window_view(x, shape[2:], axis=(2, 3))
    windows = windows[:, :, :: stride[0], :: stride[1]].transpose(0, 2, 3, 1, 4, 5)
    patches = windows.reshape(*windows.shape[:3], -1)  # [B, H', W', in * kh * kw]
    return np.moveaxis(patches @ weight.T, -1, 1)


@dataclass(frozen=True, kw_only=True)
class TanhToBox:
    """tanh(x) scale + offset, float32 [A]."""

    scale: npt.NDArray[np.float32]
    offset: npt.NDArray[np.float32]

    def __call__(self, x: FloatArray) -> FloatArray:
        """[B, A] -> [B, A]."""
        return np.tanh(x) * self.scale + self.offset


@dataclass(frozen=True, kw_only=True)
class IntegerLayer:
    """Integers of one layer, and of the requantization that follows it (none after the last)."""

    weight: npt.NDArray[np.int8]  # [out, in], or [out, in, kh, kw]
    bias: npt.NDArray[np.int32]  # [out], the input's zero point folded in
    bits: int  # of the weights
    stride: Stride = None  # of a convolution
    multiplier: npt.NDArray[np.int32] | None = None  # m [out]
    shift: npt.NDArray[np.int32] | None = None  # r [out]
    offset: npt.NDArray[np.int64] | None = None  # b [out]
    low: int = 0
    top: int = 0

    @functools.cached_property
    def _carried(self) -> FloatArray:
        """The weights [out, in * kh * kw] in the float type that holds every sum exactly.

        BLAS sums floats 25-40x faster than NumPy sums int32. Conversion asserts that no
        sum leaves int32, which float64 holds; where none reaches 2^24, float32 does.
        """
        weight = self.weight.reshape(len(self.weight), -1)
        reach = 255 * np.abs(weight.astype(np.int64)).sum(1) + np.abs(self.bias.astype(np.int64))
        return weight.astype(np.float32 if reach.max() < 2**24 else np.float64)

    def accumulate(self, codes: FloatArray) -> FloatArray:
        """int32 accumulators [B, out, ...], carried in floats."""
        carried = self._carried
        x = codes.astype(carried.dtype, copy=False)
        sums = product(x, carried, self.weight.shape, self.stride)
        return sums + self._per_channel(self.bias.astype(carried.dtype), sums)

    def requantize(self, accumulator: FloatArray) -> FloatArray:
        """The next layer's codes [B, out, ...], by the rule above."""
        assert self.multiplier is not None and self.shift is not None and self.offset is not None
        shift = self.shift.astype(np.int64)
        offset = self._per_channel(self.offset + (np.int64(1) << (shift - 1)), accumulator)
        scaled = accumulator.astype(np.int64)
        scaled *= self._per_channel(self.multiplier.astype(np.int64), accumulator)
        scaled += offset
        scaled >>= self._per_channel(shift, accumulator)
        return np.clip(scaled, self.low, self.top, out=scaled).astype(np.float32)

    def _per_channel(self, values: npt.NDArray[Any], like: FloatArray) -> npt.NDArray[Any]:
        return values.reshape(-1, *[1] * (like.ndim - 2))

    def arrays(self) -> Arrays:
        """What has to be stored; weights of 4 bits and fewer are packed in pairs."""
        stored: Arrays = {
            "weight": pack_int4(self.weight) if self.bits <= 4 else self.weight,
            "bias": self.bias,
            "format": np.array(
                [self.bits, self.low, self.top, *(self.stride or (0, 0)), *self.weight.shape],
                np.int32,
            ),
        }
        if self.multiplier is not None and self.shift is not None and self.offset is not None:
            stored |= {"multiplier": self.multiplier, "offset": self.offset}
            stored |= {"shift": self.shift.astype(np.uint8)}
        return stored

    @classmethod
    def from_arrays(cls, stored: Arrays) -> "IntegerLayer":
        """Inverse of `arrays`."""
        bits, low, top, *rest = (int(n) for n in stored["format"])
        stride, shape = (rest[0], rest[1]), tuple(rest[2:])
        packed = stored["weight"]
        shift = stored.get("shift")
        return cls(
            weight=unpack_int4(packed, shape) if bits <= 4 else packed,
            bias=stored["bias"],
            bits=bits,
            stride=None if stride == (0, 0) else stride,
            multiplier=stored.get("multiplier"),
            shift=None if shift is None else shift.astype(np.int32),
            offset=stored.get("offset"),
            low=low,
            top=top,
        )


@dataclass(frozen=True, kw_only=True)
class IntegerNetwork:
    """An agent in integers between the input's quantization and the output's dequantization."""

    input_inverse_scale: npt.NDArray[np.float32]  # [F] or [1]
    input_zero: npt.NDArray[np.float32]  # as input_inverse_scale
    input_top: int  # 2^bits - 1
    layers: tuple[IntegerLayer, ...]
    output_scale: npt.NDArray[np.float32]  # [A]
    box: TanhToBox | None = None

    def __call__(self, obs: ObsArray, /) -> FloatArray:
        """Outputs [B, A] float32 at obs [B, *obs_shape]."""
        return np.concatenate([self.trace(rows)[-1] for rows in chunks(obs)])

    def trace(self, obs: ObsArray) -> list[FloatArray]:
        """Codes at every layer's input, then the outputs [B, A] float32."""
        scaled = obs.astype(np.float32) * self.input_inverse_scale + self.input_zero
        seen: list[FloatArray] = [np.clip(np.rint(scaled), 0, self.input_top)]
        for layer in self.layers[:-1]:
            seen.append(layer.requantize(layer.accumulate(seen[-1])))
        accumulator = self.layers[-1].accumulate(seen[-1])
        output = accumulator.astype(np.float32) * self.output_scale
        return [*seen, output if self.box is None else self.box(output)]

    def arrays(self) -> Arrays:
        """Everything that has to be stored."""
        stored: Arrays = {
            "input_inverse_scale": self.input_inverse_scale,
            "input_zero": self.input_zero,
            "input_top": np.array([self.input_top], np.uint8),
            "output_scale": self.output_scale,
        }
        return stored | stored_layers(self.layers) | stored_box(self.box)

    @classmethod
    def from_arrays(cls, stored: Arrays) -> "IntegerNetwork":
        """Inverse of `arrays`."""
        return cls(
            input_inverse_scale=stored["input_inverse_scale"],
            input_zero=stored["input_zero"],
            input_top=int(stored["input_top"][0]),
            layers=tuple(IntegerLayer.from_arrays(layer) for layer in layers_in(stored)),
            output_scale=stored["output_scale"],
            box=box_in(stored),
        )


def _upper_half(array: FloatArray) -> npt.NDArray[Any]:
    """bfloat16, which NumPy lacks: the upper 16 bits of float32 numbers that fit them."""
    return (np.ascontiguousarray(array).view(np.uint32) >> 16).astype(np.uint16)


def _float32(stored: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    if stored.dtype == np.uint16:
        return (stored.astype(np.uint32) << 16).view(np.float32)
    return stored.astype(np.float32)


NUMBER_FORMATS: dict[str, Callable[[FloatArray], npt.NDArray[Any]]] = {
    "float32": lambda array: array,
    "float16": lambda array: array.astype(np.float16),
    "bfloat16": _upper_half,
}


@dataclass(frozen=True, kw_only=True)
class FloatLayer:
    """A layer computed in float32, and whether a ReLU follows it."""

    weight: npt.NDArray[np.float32]  # [out, in], or [out, in, kh, kw]
    bias: npt.NDArray[np.float32]
    has_relu: bool
    stride: Stride = None
    number_format: str = "float32"  # what is stored, of NUMBER_FORMATS

    def __call__(self, x: FloatArray) -> FloatArray:
        """[B, ...] -> [B, out, ...]."""
        weight = self.weight.reshape(len(self.weight), -1)
        y = product(x, weight, self.weight.shape, self.stride)
        y = y + self.bias.reshape(-1, *[1] * (y.ndim - 2))
        return np.maximum(y, 0.0) if self.has_relu else y

    def arrays(self) -> Arrays:
        """Weights, biases, the ReLU's flag and the stride."""
        described = np.array([self.has_relu, *(self.stride or (0, 0))], np.int32)
        pack = NUMBER_FORMATS[self.number_format]
        return {"weight": pack(self.weight), "bias": pack(self.bias), "format": described}

    @classmethod
    def from_arrays(cls, stored: Arrays) -> "FloatLayer":
        """Inverse of `arrays`."""
        has_relu, *stride = (int(n) for n in stored["format"])
        dtype = stored["weight"].dtype
        return cls(
            weight=_float32(stored["weight"]),
            bias=_float32(stored["bias"]),
            has_relu=bool(has_relu),
            stride=(stride[0], stride[1]) if stride[0] else None,
            number_format="bfloat16" if dtype == np.uint16 else str(dtype),
        )


@dataclass(frozen=True, kw_only=True)
class FloatNetwork:
    """An agent in float32 as plain arrays."""

    layers: tuple[FloatLayer, ...]
    input_high: int | None = None  # observations are bytes up to this, scaled to 1
    box: TanhToBox | None = None

    def __call__(self, obs: ObsArray, /) -> FloatArray:
        """Outputs [B, A] float32 at obs [B, *obs_shape]."""
        return np.concatenate([self._outputs(rows) for rows in chunks(obs)])

    def _outputs(self, obs: ObsArray) -> FloatArray:
        x: FloatArray = obs.astype(np.float32)
        if self.input_high is not None:
            x = x * np.float32(1 / self.input_high)
        for layer in self.layers:
            x = layer(x)
        return x if self.box is None else self.box(x)

    def arrays(self) -> Arrays:
        """Everything that has to be stored."""
        stored: Arrays = {"input_high": np.array([self.input_high or 0], np.uint8)}
        return stored | stored_layers(self.layers) | stored_box(self.box)

    @classmethod
    def from_arrays(cls, stored: Arrays) -> "FloatNetwork":
        """Inverse of `arrays`."""
        return cls(
            layers=tuple(FloatLayer.from_arrays(layer) for layer in layers_in(stored)),
            input_high=int(stored["input_high"][0]) or None,
            box=box_in(stored),
        )


def chunks(obs: ObsArray) -> Iterator[ObsArray]:
    """Vectors all at once, images some at a time."""
    size = CHUNK if obs.ndim == 4 else max(len(obs), 1)
    for start in range(0, max(len(obs), 1), size):
        yield obs[start : start + size]


class StoredLayer(Protocol):
    """A layer that can be stored."""

    def arrays(self) -> Arrays:
        """Its arrays, `format` among them."""
        ...


def stored_layers(layers: Sequence[StoredLayer]) -> Arrays:
    """The arrays of all layers, each name behind its layer's number."""
    numbered = enumerate(layers)
    return {f"{i}.{name}": a for i, layer in numbered for name, a in layer.arrays().items()}


def layers_in(stored: Arrays) -> Iterator[Arrays]:
    """Inverse of `stored_layers`."""
    for i in range(sum(name.endswith(".format") for name in stored)):
        prefix = f"{i}."
        yield {n.removeprefix(prefix): a for n, a in stored.items() if n.startswith(prefix)}


def stored_box(box: TanhToBox | None) -> Arrays:
    """What ends an actor."""
    return {} if box is None else {"box_scale": box.scale, "box_offset": box.offset}


def box_in(stored: Arrays) -> TanhToBox | None:
    """Inverse of `stored_box`."""
    if "box_scale" not in stored:
        return None
    return TanhToBox(scale=stored["box_scale"], offset=stored["box_offset"])
