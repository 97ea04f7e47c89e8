"""What a scheme's YAML configures, and the layer swap that follows from it."""

from dataclasses import dataclass

from torch import nn

from qbench import layers
from qbench.quant.layer import LayerSpec, QuantLayer
from qbench.quant.trace import seeded_layers


@dataclass(frozen=True, kw_only=True)
class Weights:
    """`quant.weights`: symmetric grids, 2..8 bits."""

    bits: int
    output_bits: int | None  # of the last layer; None: as bits
    granularity: str  # channel | tensor


@dataclass(frozen=True, kw_only=True)
class Activations:
    """`quant.activations`: unsigned grids, 2..8 bits, on every layer's input."""

    bits: int
    input_bits: int  # of the observation, which has one range per feature
    range: str  # min_max | moving_average
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
        output_bits = weights.output_bits or weights.bits
        first_range = "unit" if takes_bytes else "min_max"
        spec = LayerSpec(
            weight_bits=output_bits if is_last else weights.bits,
            input_bits=activations.input_bits if is_first else activations.bits,
            per_channel=weights.granularity == "channel",
            per_feature=is_first and isinstance(layer, layers.Linear) and not takes_bytes,
            range=first_range if is_first else activations.range,
            grid=activations.grid,
        )
        return QuantLayer(layer, spec)

    return layers.swap_layers(module, swap)
