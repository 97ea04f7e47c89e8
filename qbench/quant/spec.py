"""What a scheme's YAML configures, and the layer swap that follows from it."""

from dataclasses import dataclass

from torch import nn

from qbench import layers
from qbench.quant.layer import LayerSpec, QuantLayer
from qbench.quant.learned import LearnedLayer
from qbench.quant.trace import seeded_layers


@dataclass(frozen=True, kw_only=True)
class Weights:
    """`quant.weights`: symmetric grids, 1..8 bits."""

    bits: int
    input_bits: int | None  # of the first layer; None: as bits
    output_bits: int | None  # of the last layer; None: as bits
    granularity: str  # channel | tensor
    range: str  # max | mse | mean | learned


@dataclass(frozen=True, kw_only=True)
class Activations:
    """`quant.activations`: unsigned grids, 1..8 bits, on every layer's input."""

    bits: int
    input_bits: int  # of the observation, which has one range per feature
    range: str  # min_max | moving_average | percentile | mse | learned | clipped
    percentile: float
    grid: str  # zero_point | affine


def swap_quantized(module: nn.Module, weights: Weights, activations: Activations) -> nn.Module:
    """Every layer of `module` as a QuantLayer with the same Parameters under the same names.

    The first layer to be executed takes the observation, the last one gives the output. An
    observation's range is always its minimum and maximum, since an outlier that an average
    forgets (a falling pole) is the very input that matters; bytes have theirs from the start.
    """
    found, takes_bytes = seeded_layers(module)

    def swap(layer: layers.Seeded) -> QuantLayer:
        is_first, is_last = layer is found[0], layer is found[-1]
        bits = weight_bits(weights, is_first=is_first, is_last=is_last)
        first_range = "unit" if takes_bytes else "min_max"
        spec = LayerSpec(
            weight_bits=bits,
            input_bits=activations.input_bits if is_first else activations.bits,
            per_channel=weights.granularity == "channel",
            weight_range=weight_range(weights.range, bits),
            per_feature=is_first and isinstance(layer, layers.Linear) and not takes_bytes,
            range=first_range if is_first else activations.range,
            percentile=activations.percentile,
            grid=activations.grid,
        )
        return LearnedLayer(layer, spec) if spec.is_learned else QuantLayer(layer, spec)

    return layers.swap_layers(module, swap)


def weight_bits(weights: Weights, *, is_first: bool, is_last: bool) -> int:
    """Bits of a layer's weights."""
    if is_last and weights.output_bits is not None:
        return weights.output_bits
    if is_first and weights.input_bits is not None:
        return weights.input_bits
    return weights.bits


def weight_range(chosen: str, bits: int) -> str:
    """What the scale of a layer's weights is taken from, of `ranges.SCALES`, or learned.

    One bit has no largest code to take a scale from; means are for one and two bits.
    """
    if bits == 1:
        return "mean"
    return "max" if chosen == "mean" and bits > 2 else chosen
