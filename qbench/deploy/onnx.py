"""The deployed network as an ONNX file that runs in integers (QDQ form).

Everything is in units of codes. A layer's int8 weights are dequantized by the ratio that
requantizes its accumulator (`qbench.quant.integer`), so that the float between two layers,
which no runtime computes, is the next layer's code before rounding:

    x -> Mul, Add -> QuantizeLinear(1, 0) -> Clip         the observation's codes
    DequantizeLinear(1, z) -> Gemm | Conv -> Relu -> QuantizeLinear(1, z') -> Clip
    DequantizeLinear(1, z) -> Gemm                        float32 outputs

ONNX Runtime fuses each line's integers into QGemm or QLinearConv. Ties differ from the one rule
of `qbench.quant.integer`: ONNX rounds them to even.
"""

import tempfile
from collections import Counter
from itertools import pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
from google.protobuf.message import DecodeError
from onnx import TensorProto, helper

from qbench.deploy.checks import check_obs
from qbench.deploy.cost import input_shapes
from qbench.deploy.onnx_dynamic import dynamic
from qbench.deploy.onnx_graph import INPUT, OUTPUT, Graph
from qbench.quant.agreement import Agreement, Tally
from qbench.quant.dynamic import DynamicNetwork
from qbench.quant.integer import (
    FloatLayer,
    FloatNetwork,
    IntegerLayer,
    IntegerNetwork,
    TanhToBox,
)
from qbench.types import EnvSpec, FloatArray, IntegerPolicy, ObsArray

FLOAT_PRODUCTS = {"Gemm", "FusedGemm", "Conv", "FusedConv", "MatMul", "FusedMatMul"}
ERRORS_ONLY = 3
ORT_ERRORS = (
    ort.capi.onnxruntime_pybind11_state.InvalidProtobuf,
    ort.capi.onnxruntime_pybind11_state.InvalidGraph,
    ort.capi.onnxruntime_pybind11_state.InvalidArgument,
    ort.capi.onnxruntime_pybind11_state.Fail,
    ort.capi.onnxruntime_pybind11_state.NotImplemented,
    ort.capi.onnxruntime_pybind11_state.RuntimeException,
)


class ExportError(ValueError):
    """The network has no form in this format."""


def export(network: IntegerPolicy, spec: EnvSpec, *, shows_codes: bool = False) -> onnx.ModelProto:
    """The ONNX model of one agent: obs [B, *obs_shape] -> output [B, A] float32.

    Args:
        network: a FloatNetwork, an IntegerNetwork or a DynamicNetwork.
        spec: of its env; images come in as uint8.
        shows_codes: whether the codes at the layers' inputs are outputs too, for comparisons.

    Raises:
        ExportError: a hidden layer's grid has a real-valued offset.
    """
    graph = Graph()
    if isinstance(network, IntegerNetwork):
        last = _integer(graph, network, spec)
    elif isinstance(network, FloatNetwork):
        last = _float(graph, network, spec)
    elif isinstance(network, DynamicNetwork):
        last = dynamic(graph, network)
    else:
        raise ExportError(f"onnx cannot take a {type(network).__name__}.")
    _box(graph, last, network.box)
    shown = _shown(graph, network, spec) if shows_codes else []
    return graph.model(spec, num_outputs=len(network.layers[-1].bias), shown=shown)


def _shown(graph: Graph, network: IntegerPolicy, spec: EnvSpec) -> list[onnx.ValueInfoProto]:
    """The codes at the layers' inputs as outputs; bytes that are their own codes are none."""
    shapes = input_shapes(network, spec)[-len(graph.codes) :]
    return [
        helper.make_tensor_value_info(name, TensorProto.UINT8, ["batch", *shape])
        for name, shape in zip(graph.codes, shapes, strict=True)
    ]


def save(path: Path, network: IntegerPolicy, spec: EnvSpec) -> int:
    """Write `export`'s model; bytes on disk."""
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(export(network, spec), path)
    return path.stat().st_size


def require_same(path: Path, network: IntegerPolicy, spec: EnvSpec) -> None:
    """Refuse a stored model that is not the one that qbench writes from the network.

    ONNX Runtime executes no code of a file. But what another model plays is not what this run
    has trained, and a model may name other files for its weights.

    Raises:
        ExportError: the file is missing or damaged, or it differs.
    """
    remedy = "write it anew with python -m qbench.deploy RUN --format onnx"
    if not path.exists():
        raise ExportError(f"{path} is missing: {remedy}.")
    try:
        found = onnx.ModelProto.FromString(path.read_bytes())
    except (OSError, DecodeError) as error:
        raise ExportError(f"{path} is not a policy that qbench wrote: {error}.") from error
    if found != export(network, spec):
        raise ExportError(f"{path} is not what qbench writes from policy.npz beside it: {remedy}.")


def _integer(graph: Graph, network: IntegerNetwork, spec: EnvSpec) -> str:
    codes, zero = _input_codes(graph, network, spec), 0
    graph.codes += [] if codes == INPUT else [codes]
    for number, (layer, following) in enumerate(pairwise(network.layers)):
        codes, zero = _requantized(graph, number, layer, _product(graph, codes, zero, layer))
        graph.codes.append(codes)
        if layer.stride is not None and following.stride is None:
            codes = graph.add("Flatten", codes)
    last = network.layers[-1]
    return _product(graph, codes, zero, last, ratio=network.output_scale)


def _input_codes(graph: Graph, network: IntegerNetwork, spec: EnvSpec) -> str:
    """uint8 codes of the observation; bytes that are their own codes are taken as they are."""
    inverse, zero = network.input_inverse_scale, network.input_zero
    is_bytes = spec.obs_high is not None
    if is_bytes and spec.obs_high == network.input_top and np.all(inverse == 1) and not zero.any():
        return INPUT
    x = graph.add("Cast", INPUT, to=TensorProto.FLOAT) if is_bytes else INPUT
    x = graph.add("Mul", x, graph.constant(inverse))
    x = graph.add("Add", x, graph.constant(zero))
    return _quantized(graph, x, 0, 0, network.input_top)


def _quantized(graph: Graph, x: str, zero: int, low: int, top: int) -> str:
    one, shift = graph.constant(np.float32(1)), graph.constant(np.uint8(zero))
    codes = graph.add("QuantizeLinear", x, one, shift)
    if (low, top) == (0, 255):
        return codes
    return graph.add("Clip", codes, graph.constant(np.uint8(low)), graph.constant(np.uint8(top)))


def _product(
    graph: Graph,
    codes: str,
    zero: int,
    layer: IntegerLayer,
    ratio: npt.NDArray[np.float32] | None = None,
) -> str:
    """The layer's sums in units of the next layer's codes, or of the outputs."""
    if ratio is None:
        assert layer.multiplier is not None and layer.shift is not None
        ratio = np.ldexp(layer.multiplier.astype(np.float64), -layer.shift).astype(np.float32)
    one = graph.constant(np.float32(1))
    x = graph.add("DequantizeLinear", codes, one, graph.constant(np.uint8(zero)))
    # The stored bias counts codes from 0; ONNX counts them from their zero point.
    counts = layer.weight.reshape(len(layer.weight), -1).astype(np.int64).sum(1)
    bias = (layer.bias + zero * counts).astype(np.int32)
    scale = graph.constant(ratio)
    stored = graph.codes_of(layer.weight, layer.bits)
    # ONNX Runtime leaves a product in float whose weights have no zero points.
    zeros = graph.constant(np.zeros(len(bias), np.int8))
    w = graph.add("DequantizeLinear", stored, scale, zeros, axis=0)
    b = graph.add("DequantizeLinear", graph.constant(bias), scale, axis=0)
    return _gemm_or_conv(graph, x, w, b, layer.stride)


def _gemm_or_conv(graph: Graph, x: str, w: str, b: str, stride: tuple[int, int] | None) -> str:
    if stride is None:
        return graph.add("Gemm", x, w, b, transB=1)
    return graph.add("Conv", x, w, b, strides=list(stride))


def _requantized(graph: Graph, number: int, layer: IntegerLayer, x: str) -> tuple[str, int]:
    """The next layer's codes and their zero point."""
    assert layer.offset is not None and layer.shift is not None
    zeros = np.ldexp(layer.offset.astype(np.float64), -layer.shift)
    zero = int(np.rint(zeros[0]))
    if not 0 <= zero <= 255 or np.abs(zeros - zero).max() > 2**-12:
        raise ExportError(
            f"onnx has no real-valued offset, which layer {number} (weights"
            f" {'x'.join(map(str, layer.weight.shape))}) is followed by ({zeros[0]:.3f}):"
            " set quant.activations.grid=zero_point."
        )
    if layer.low == zero:
        x = graph.add("Relu", x)
    return _quantized(graph, x, zero, 0, layer.top), zero


def _float(graph: Graph, network: FloatNetwork, spec: EnvSpec) -> str:
    x = INPUT
    if network.input_high is not None:
        x = graph.add("Cast", x, to=TensorProto.FLOAT)
        x = graph.add("Mul", x, graph.constant(np.float32(1 / network.input_high)))
    for layer, following in zip(network.layers, [*network.layers[1:], None], strict=True):
        x = _float_layer(graph, x, layer)
        if layer.stride is not None and following is not None and following.stride is None:
            x = graph.add("Flatten", x)
    return x


def _float_layer(graph: Graph, x: str, layer: FloatLayer) -> str:
    w, b = (graph.number(a, layer.number_format) for a in (layer.weight, layer.bias))
    x = _gemm_or_conv(graph, x, w, b, layer.stride)
    return graph.add("Relu", x) if layer.has_relu else x


def _box(graph: Graph, x: str, box: TanhToBox | None) -> None:
    """An actor's tanh and rescaling; then the model's output."""
    if box is not None:
        x = graph.add("Tanh", x)
        x = graph.add("Mul", x, graph.constant(box.scale))
        x = graph.add("Add", x, graph.constant(box.offset))
    graph.add("Identity", x, output=OUTPUT)


class OnnxPolicy:
    """An ONNX model of one agent in ONNX Runtime, on one thread of the CPU.

    Args:
        model: what `export` returned, or a file of it.
        spec: of its env.

    Raises:
        ExportError: the file is damaged, or its inputs are not this env's observations.
    """

    def __init__(self, model: onnx.ModelProto | Path, spec: EnvSpec) -> None:
        self._spec = spec
        self._dtype = np.dtype(np.float32 if spec.obs_high is None else np.uint8)
        options = ort.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = ERRORS_ONLY
        with tempfile.TemporaryDirectory() as folder:
            optimized = Path(folder) / "optimized.onnx"
            options.optimized_model_filepath = str(optimized)
            try:
                given = model.read_bytes() if isinstance(model, Path) else model.SerializeToString()
                self._session = ort.InferenceSession(given, options, ["CPUExecutionProvider"])
                self._check_input()
            except (OSError, ValueError, *ORT_ERRORS) as error:
                raise ExportError(f"{model} is not a policy that qbench wrote: {error}") from error
            self.operators = Counter(node.op_type for node in onnx.load(optimized).graph.node)

    def _check_input(self) -> None:
        found = [(i.name, i.type, i.shape[1:]) for i in self._session.get_inputs()]
        kind = "tensor(float)" if self._dtype == np.float32 else "tensor(uint8)"
        expected = [(INPUT, kind, list(self._spec.obs_shape))]
        if found != expected:
            raise ValueError(f"its inputs are {found}, not {expected}")

    @property
    def is_integer(self) -> bool:
        """Whether the optimized graph holds no product of floats."""
        return not FLOAT_PRODUCTS & set(self.operators)

    def __call__(self, obs: ObsArray, /) -> FloatArray:
        """Outputs [B, A] float32 at obs [B, *obs_shape].

        Raises:
            ValueError: another shape, or a value that is not finite.
        """
        return self.run(obs)[0]

    def run(self, obs: ObsArray) -> list[FloatArray]:
        """All outputs of the model: those of the agent, then the codes if it shows them."""
        check_obs(obs, self._spec)
        return list(self._session.run(None, {INPUT: obs.astype(self._dtype, copy=False)}))


class Compared:
    """ONNX Runtime's codes and outputs, tallied against the integer network's.

    The codes are those of a second session on the same graph that also shows them; the outputs
    are the deployed file's own.

    Args:
        policy: the deployed file.
        network: what it was written from.
        spec: of its env.
    """

    def __init__(self, policy: OnnxPolicy, network: IntegerNetwork, spec: EnvSpec) -> None:
        self._policy = policy
        self._shown = OnnxPolicy(export(network, spec, shows_codes=True), spec)
        self._num_layers = len(network.layers)
        self._tally = Tally(network)

    def __call__(self, obs: ObsArray, traced: list[FloatArray]) -> None:
        """Add some observations, with what the network's `trace` gave."""
        codes = [shown.astype(np.float32) for shown in self._shown.run(obs)[1:]]
        if len(codes) < self._num_layers:  # Bytes that are their own codes are no output.
            codes = [obs.astype(np.float32), *codes]
        self._tally.add(obs, traced, codes, self._policy(obs))

    @property
    def agreed(self) -> Agreement:
        """Over all observations seen."""
        return self._tally.result()

    @property
    def is_integer(self) -> bool:
        """Whether the file's optimized graph holds no product of floats."""
        return self._policy.is_integer
