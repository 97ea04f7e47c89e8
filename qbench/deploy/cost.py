"""What one action costs: shapes on the way, multiply-accumulates, bit operations, bytes."""

import math
from collections.abc import Sequence
from typing import NamedTuple

from qbench.quant.dynamic import DynamicLayer, DynamicNetwork
from qbench.quant.integer import FloatLayer, IntegerLayer, IntegerNetwork
from qbench.types import EnvSpec, IntegerPolicy

Shape = tuple[int, ...]
Layer = FloatLayer | IntegerLayer | DynamicLayer
FLOAT_BITS = 32
NUMBER_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}


class Cost(NamedTuple):
    """Of one action of one agent."""

    macs: int  # multiply-accumulates
    bit_operations: int  # sum over layers of MACs x weight bits x input bits
    activation_bytes: int  # largest sum of a layer's input and output, in whole bytes per value


def input_shapes(network: IntegerPolicy, spec: EnvSpec) -> list[Shape]:
    """Shape of every layer's input, [features] or [planes, height, width]."""
    shapes = [tuple(spec.obs_shape)]
    for layer in layers_of(network)[:-1]:
        shapes.append(_output_shape(layer, shapes[-1]))
    return shapes


def cost(network: IntegerPolicy, spec: EnvSpec) -> Cost:
    """Count by the layers' shapes and bits; a float layer has 32 bits everywhere."""
    layers, shapes = layers_of(network), input_shapes(network, spec)
    outputs = [*shapes[1:], (len(layers[-1].weight),)]
    macs = [
        math.prod(output) * math.prod(layer.weight.shape[1:])
        for layer, output in zip(layers, outputs, strict=True)
    ]
    bits = bits_of(network)
    value_bytes = 1 if isinstance(network, IntegerNetwork) else 4
    held = [
        (math.prod(shape), math.prod(output)) for shape, output in zip(shapes, outputs, strict=True)
    ]
    sizes = [value_bytes * (taken + given) for taken, given in held[:-1]]
    sizes.append(value_bytes * held[-1][0] + 4 * held[-1][1])  # sums, or floats
    return Cost(
        macs=sum(macs),
        bit_operations=sum(m * w * x for m, (w, x) in zip(macs, bits, strict=True)),
        activation_bytes=max(sizes),
    )


def layers_of(network: IntegerPolicy) -> Sequence[IntegerLayer | FloatLayer]:
    """The layers in order."""
    layers: Sequence[IntegerLayer | FloatLayer] = network.layers  # type: ignore[attr-defined]
    return layers


def _output_shape(layer: IntegerLayer | FloatLayer, shape: Shape) -> Shape:
    out = len(layer.weight)
    if layer.stride is None:
        return (out,)
    kernel = layer.weight.shape[2:]
    size = [(n - k) // s + 1 for n, k, s in zip(shape[1:], kernel, layer.stride, strict=True)]
    return (out, *size)


def bits_of(network: IntegerPolicy) -> list[tuple[int, int]]:
    """Bits of every layer's weights and inputs."""
    layers = layers_of(network)
    if isinstance(network, IntegerNetwork):
        tops = [network.input_top, *(layer.top for layer in network.layers[:-1])]
        return [(layer.bits, top.bit_length()) for layer, top in zip(layers, tops, strict=True)]  # type: ignore[union-attr]
    if isinstance(network, DynamicNetwork):
        # Bytes that are taken as they are have 8 bits.
        return [(layer.bits, layer.top.bit_length() or 8) for layer in network.layers]
    return [(8 * NUMBER_BYTES[layer.number_format], FLOAT_BITS) for layer in layers]  # type: ignore[union-attr]
