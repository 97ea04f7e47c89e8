"""An ONNX graph in the making: nodes and constants, in order."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from qbench.quant.integer import NUMBER_FORMATS, pack_int4
from qbench.types import EnvSpec, FloatArray

OPSET = 21
"""The first one with INT4 tensors."""
IR_VERSION = 10
INPUT, OUTPUT = "obs", "output"
HALVES = {"float16": TensorProto.FLOAT16, "bfloat16": TensorProto.BFLOAT16}


class Graph:
    """Nodes and constants, in order."""

    def __init__(self) -> None:
        self._nodes: list[onnx.NodeProto] = []
        self._constants: list[onnx.TensorProto] = []
        self.codes: list[str] = []  # at the layers' inputs

    def add(self, operator: str, *inputs: str, output: str | None = None, **attributes: Any) -> str:
        """Append a node; the name of its output."""
        name = output or f"{operator}_{len(self._nodes)}"
        self._nodes.append(helper.make_node(operator, list(inputs), [name], name, **attributes))
        return name

    def constant(self, array: npt.NDArray[Any] | np.generic) -> str:
        """Store an array; its name."""
        name = f"constant_{len(self._constants)}"
        self._constants.append(numpy_helper.from_array(np.asarray(array), name))
        return name

    def int4(self, codes: npt.NDArray[np.int8]) -> str:
        """Store codes in [-8, 7], two a byte; their name as int8."""
        name = f"constant_{len(self._constants)}"
        packed = pack_int4(codes).tobytes()
        tensor = helper.make_tensor(name, TensorProto.INT4, codes.shape, packed, raw=True)
        self._constants.append(tensor)
        # INT4 straight into DequantizeLinear would leave the product in float.
        return self.add("Cast", name, to=TensorProto.INT8)

    def number(self, array: FloatArray, number_format: str) -> str:
        """Store float32 numbers in the format that they have been rounded to; their name."""
        if number_format == "float32":
            return self.constant(array)
        name, kind = f"constant_{len(self._constants)}", HALVES[number_format]
        # Rounded numbers lose nothing: the bytes are those of the format itself.
        packed = NUMBER_FORMATS[number_format](array).tobytes()
        self._constants.append(helper.make_tensor(name, kind, array.shape, packed, raw=True))
        return self.add("Cast", name, to=TensorProto.FLOAT)

    def codes_of(self, weight: npt.NDArray[np.int8], bits: int) -> str:
        """Store integer weights, 4 bits and fewer two a byte; their name as int8."""
        return self.int4(weight) if bits <= 4 else self.constant(weight)

    def model(
        self, spec: EnvSpec, num_outputs: int, shown: Sequence[onnx.ValueInfoProto]
    ) -> onnx.ModelProto:
        """The checked model."""
        dtype = TensorProto.FLOAT if spec.obs_high is None else TensorProto.UINT8
        obs = helper.make_tensor_value_info(INPUT, dtype, ["batch", *spec.obs_shape])
        shape: list[str | int | None] = ["batch", num_outputs]
        outputs = [helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, shape)]
        graph = helper.make_graph(self._nodes, spec.id, [obs], [*outputs, *shown], self._constants)
        model = helper.make_model(
            graph, producer_name="qbench", opset_imports=[helper.make_opsetid("", OPSET)]
        )
        model.ir_version = IR_VERSION
        onnx.checker.check_model(model, full_check=True)
        return model
