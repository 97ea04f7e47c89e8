"""The deployed networks as plain NumPy arrays: what `convert` returns. No torch in a forward.

Requantization, the one rule: an int32 accumulator a becomes the next layer's code

    q = clamp((a m + b + 2^(r-1)) >> r, low, top)

with a 31-bit multiplier m ~ 2^r s / s_next and b ~ 2^r z_next, int64 in between; ties are
rounded up (towards +infinity). low is the code of zero after a ReLU, else 0.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from qbench.types import FloatArray, IntArray

Arrays = dict[str, npt.NDArray[Any]]
MAX_SHIFT = 46
"""Larger shifts would let b overflow; below 2^-46 a multiplier moves no code by 2^-15."""


def pack_int4(codes: IntArray) -> npt.NDArray[np.uint8]:
    """Two codes in [-8, 7] per byte, low nibble first; an odd count is padded with 0."""
    nibbles = np.append(codes.ravel(), [0] * (codes.size % 2)).astype(np.int8).view(np.uint8) & 15
    return (nibbles[0::2] | nibbles[1::2] << 4).astype(np.uint8)


def unpack_int4(packed: npt.NDArray[np.uint8], shape: tuple[int, ...]) -> npt.NDArray[np.int8]:
    """Inverse of `pack_int4`."""
    nibbles = np.stack([packed & 15, packed >> 4], axis=-1).ravel()[: int(np.prod(shape))]
    return ((nibbles.astype(np.int8) ^ 8) - 8).reshape(shape)


@dataclass(frozen=True, kw_only=True)
class IntegerLinear:
    """Integers of one layer, and of the requantization that follows it (none after the last)."""

    weight: npt.NDArray[np.int8]  # [out, in]
    bias: npt.NDArray[np.int32]  # [out], the input's zero point folded in
    bits: int  # of the weights
    multiplier: npt.NDArray[np.int32] | None = None  # m [out]
    shift: npt.NDArray[np.int32] | None = None  # r [out]
    offset: npt.NDArray[np.int64] | None = None  # b [out]
    low: int = 0
    top: int = 0

    def accumulate(self, codes: FloatArray) -> FloatArray:
        """int32 accumulators [B, out], carried in float64.

        BLAS sums float64 25-40x faster than NumPy sums int32, and exactly: construction
        asserts that no partial sum leaves int32, far below 2^53.
        """
        return codes @ self.weight.T.astype(np.float64) + self.bias

    def requantize(self, accumulator: FloatArray) -> FloatArray:
        """The next layer's codes [B, out], by the rule above."""
        assert self.multiplier is not None and self.shift is not None and self.offset is not None
        half = np.int64(1) << (self.shift.astype(np.int64) - 1)
        scaled = accumulator.astype(np.int64) * self.multiplier + self.offset + half
        return np.clip(scaled >> self.shift, self.low, self.top).astype(np.float64)


@dataclass(frozen=True, kw_only=True)
class IntegerNetwork:
    """An agent in integers between the input's quantization and the output's dequantization."""

    input_inverse_scale: npt.NDArray[np.float32]  # [F] or [1]
    input_zero: npt.NDArray[np.float32]  # as input_inverse_scale
    input_top: int  # 2^bits - 1
    layers: tuple[IntegerLinear, ...]
    output_scale: npt.NDArray[np.float32]  # [A]

    def __call__(self, obs: FloatArray, /) -> FloatArray:
        """Outputs [B, A] float32 at obs [B, F]."""
        return self.trace(obs)[-1]

    def trace(self, obs: FloatArray) -> list[FloatArray]:
        """Codes at every layer's input, then the outputs [B, A] float32."""
        scaled = obs.astype(np.float32) * self.input_inverse_scale + self.input_zero
        seen = [np.clip(np.rint(scaled), 0, self.input_top).astype(np.float64)]
        for layer in self.layers[:-1]:
            seen.append(layer.requantize(layer.accumulate(seen[-1])))
        accumulator = self.layers[-1].accumulate(seen[-1])
        return [*seen, accumulator.astype(np.float32) * self.output_scale]

    def arrays(self) -> Arrays:
        """Everything that has to be stored; weights of 4 bits and fewer are packed in pairs."""
        stored: Arrays = {
            "input_inverse_scale": self.input_inverse_scale,
            "input_zero": self.input_zero,
            "input_top": np.array([self.input_top], np.uint8),
            "output_scale": self.output_scale,
        }
        for i, layer in enumerate(self.layers):
            weight = pack_int4(layer.weight) if layer.bits <= 4 else layer.weight
            stored |= {f"{i}.weight": weight, f"{i}.bias": layer.bias}
            if layer.multiplier is not None and layer.shift is not None:
                stored |= {f"{i}.multiplier": layer.multiplier, f"{i}.offset": layer.offset}  # type: ignore[dict-item]
                stored |= {f"{i}.shift": layer.shift.astype(np.uint8)}
            stored[f"{i}.format"] = np.array(
                [layer.bits, *layer.weight.shape, layer.low, layer.top], np.int32
            )
        return stored

    @classmethod
    def from_arrays(cls, stored: Arrays) -> "IntegerNetwork":
        """Inverse of `arrays`."""
        count = sum(name.endswith(".format") for name in stored)
        return cls(
            input_inverse_scale=stored["input_inverse_scale"],
            input_zero=stored["input_zero"],
            input_top=int(stored["input_top"][0]),
            layers=tuple(_layer_from_arrays(stored, f"{i}.") for i in range(count)),
            output_scale=stored["output_scale"],
        )


def _layer_from_arrays(stored: Arrays, prefix: str) -> IntegerLinear:
    bits, fan_out, fan_in, low, top = (int(n) for n in stored[prefix + "format"])
    weight = stored[prefix + "weight"]
    shift = stored.get(prefix + "shift")
    return IntegerLinear(
        weight=unpack_int4(weight, (fan_out, fan_in)) if bits <= 4 else weight,
        bias=stored[prefix + "bias"],
        bits=bits,
        multiplier=stored.get(prefix + "multiplier"),
        shift=None if shift is None else shift.astype(np.int32),
        offset=stored.get(prefix + "offset"),
        low=low,
        top=top,
    )


@dataclass(frozen=True)
class FloatNetwork:
    """A float32 agent as plain arrays: (weight [out, in], bias [out], ReLU follows)."""

    layers: tuple[tuple[npt.NDArray[np.float32], npt.NDArray[np.float32], bool], ...]

    def __call__(self, obs: FloatArray, /) -> FloatArray:
        """Outputs [B, A] float32 at obs [B, F]."""
        x = obs.astype(np.float32)
        for weight, bias, has_relu in self.layers:
            x = x @ weight.T + bias
            x = np.maximum(x, 0.0) if has_relu else x
        return x

    def arrays(self) -> Arrays:
        """Weights and biases, and one flag per layer for its ReLU."""
        stored: Arrays = {"relu": np.array([relu for *_, relu in self.layers])}
        for i, (weight, bias, _) in enumerate(self.layers):
            stored |= {f"{i}.weight": weight, f"{i}.bias": bias}
        return stored

    @classmethod
    def from_arrays(cls, stored: Arrays) -> "FloatNetwork":
        """Inverse of `arrays`."""
        flags = enumerate(stored["relu"])
        return cls(tuple((stored[f"{i}.weight"], stored[f"{i}.bias"], bool(r)) for i, r in flags))
