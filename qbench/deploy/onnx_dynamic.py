"""A dynamically quantized network in ONNX: the operations of `qbench.quant.dynamic`, one by one.

ONNX's own DynamicQuantizeLinear takes one range of a whole batch; here each row has its own.
"""

import numpy as np
from onnx import TensorProto

from qbench.deploy.onnx_graph import INPUT, Graph
from qbench.quant.dynamic import SMALLEST_SCALE, DynamicLayer, DynamicNetwork


def dynamic(graph: Graph, network: DynamicNetwork) -> str:
    """Append the network; the name of its output."""
    x = INPUT
    for number, layer in enumerate(network.layers):
        if number and layer.stride is None and network.layers[number - 1].stride is not None:
            x = graph.add("Flatten", x)
        if layer.top:
            x = _ranged(graph, x, layer)
        else:  # Bytes are their own codes.
            scale = graph.constant(np.float32(1 / (network.input_high or 1)))
            x = _scaled(graph, _sums(graph, x, layer), scale, layer)
    return x


def _ranged(graph: Graph, x: str, layer: DynamicLayer) -> str:
    """A layer on the codes of its input over each row's range."""
    axes = graph.constant(np.arange(1, layer.weight.ndim, dtype=np.int64))
    nothing, top = graph.constant(np.float32(0)), graph.constant(np.float32(layer.top))
    low = graph.add("Min", graph.add("ReduceMin", x, axes), nothing)
    high = graph.add("Max", graph.add("ReduceMax", x, axes), nothing)
    scale = graph.add("Div", graph.add("Sub", high, low), top)
    scale = graph.add("Max", scale, graph.constant(SMALLEST_SCALE))
    zero = graph.add("Round", graph.add("Div", graph.add("Neg", low), scale))
    position = graph.add("Round", graph.add("Add", graph.add("Div", x, scale), zero))
    codes = graph.add("Cast", graph.add("Clip", position, nothing, top), to=TensorProto.UINT8)
    # The zero's share of a sum is taken off in integers, which a float could not hold.
    counts = layer.weight.reshape(len(layer.weight), -1).sum(1, dtype=np.int32)
    counts = counts.reshape(-1, *[1] * (layer.weight.ndim - 2))
    share = graph.add("Mul", graph.add("Cast", zero, to=TensorProto.INT32), graph.constant(counts))
    sums = graph.add("Sub", _sums(graph, codes, layer), share)
    return _scaled(graph, sums, scale, layer)


def _sums(graph: Graph, codes: str, layer: DynamicLayer) -> str:
    """Sums of uint8 codes by int8 weights, int32."""
    if layer.stride is None:
        weight = graph.codes_of(np.ascontiguousarray(layer.weight.T), layer.bits)
        return graph.add("MatMulInteger", codes, weight)
    weight = graph.codes_of(layer.weight, layer.bits)
    return graph.add("ConvInteger", codes, weight, strides=list(layer.stride))


def _scaled(graph: Graph, sums: str, scale: str, layer: DynamicLayer) -> str:
    """Sums as floats, with the bias and the ReLU."""
    per_channel = (-1, *[1] * (layer.weight.ndim - 2))
    y = graph.add("Mul", graph.add("Cast", sums, to=TensorProto.FLOAT), scale)
    y = graph.add("Mul", y, graph.constant(layer.scale.reshape(per_channel)))
    y = graph.add("Add", y, graph.constant(layer.bias.reshape(per_channel)))
    return graph.add("Relu", y) if layer.has_relu else y
