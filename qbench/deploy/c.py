"""The integer network as one C99 file without allocation, and that file compiled.

    obs -> policy_quantize -> codes_0 -> policy_run: codes_1, ..., sums -> policy_dequantize

`policy_run` is integers alone, by the one rule of `qbench.quant.integer`. A convolution gathers
each patch and is then a linear layer on it. Weights of 4 bits and fewer lie two in a byte, every
row at a byte of its own.
"""

import ctypes
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from qbench.deploy.checks import check_obs
from qbench.quant.integer import IntegerLayer, IntegerNetwork, pack_int4
from qbench.types import EnvSpec, FloatArray, IntegerPolicy, ObsArray

FLAGS = ("-std=c99", "-O3", "-Wall", "-Wextra", "-Werror", "-pedantic")
"""C99 itself, not GNU's: there a product and a sum may not be fused, so floats round as NumPy's."""

HEADER = """\
/* {title}: a policy in integers, written by qbench. */
#ifndef POLICY_H
#define POLICY_H

#include <stdint.h>

#define POLICY_INPUTS {inputs}
#define POLICY_OUTPUTS {outputs}

/* All that a step writes to; its size is the RAM that a policy takes. */
typedef struct {{
{fields}
}} policy_memory;

/* Observation to codes; 0, or -1 if a value is not finite. */
int policy_quantize(const {obs_type} *obs, policy_memory *memory);
/* Codes to sums: integers alone. */
void policy_run(policy_memory *memory);
/* Sums to {meaning}. */
void policy_dequantize(const policy_memory *memory, float *output);

#endif
"""

RUNTIME = """\
#include "policy.h"

#include <math.h>

/* Right shifts of negative numbers are arithmetic here, as on every two's complement machine. */
static uint8_t requantized(int32_t sum, int32_t multiplier, int shift, int64_t offset, int low,
                           int top)
{
    int64_t code = ((int64_t)sum * multiplier + offset + ((int64_t)1 << (shift - 1))) >> shift;
    if (code < low) code = low;
    if (code > top) code = top;
    return (uint8_t)code;
}
"""

DOT8 = """
static int32_t dot8(const int8_t *weight, const uint8_t *x, int count)
{
    int32_t sum = 0;
    for (int i = 0; i < count; ++i) sum += (int32_t)weight[i] * (int32_t)x[i];
    return sum;
}
"""

DOT4 = """
/* A nibble is a signed weight; two a byte, the low one first. */
static int32_t nibble(int bits)
{
    return (int32_t)(bits ^ 8) - 8;
}

static int32_t dot4(const uint8_t *weight, const uint8_t *x, int count)
{
    int32_t sum = 0;
    for (int i = 0; i < count / 2; ++i) {
        int32_t low = nibble(weight[i] & 15), high = nibble(weight[i] >> 4);
        sum += low * (int32_t)x[2 * i] + high * (int32_t)x[2 * i + 1];
    }
    if (count & 1) sum += nibble(weight[count / 2] & 15) * (int32_t)x[count - 1];
    return sum;
}
"""

GATHER = """
static void gather(const uint8_t *image, uint8_t *patch, int planes, int height, int width,
                   int rows, int columns, int top, int left)
{
    for (int p = 0; p < planes; ++p)
        for (int i = 0; i < rows; ++i)
            for (int j = 0; j < columns; ++j)
                *patch++ = image[(p * height + top + i) * width + left + j];
}
"""


class SourceError(ValueError):
    """The network has no form in C."""


class Source(NamedTuple):
    """policy.h and policy.c, and the bytes of their constants."""

    header: str
    code: str
    const_bytes: int


class _Layout(NamedTuple):
    """Shapes that an observation takes on its way: [F] or [planes, height, width]."""

    shapes: list[tuple[int, ...]]  # of every layer's input codes
    patch: int  # bytes of the largest patch, 0 without a convolution


def _layout(network: IntegerNetwork, spec: EnvSpec) -> _Layout:
    shapes, patch = [tuple(spec.obs_shape)], 0
    for layer in network.layers[:-1]:
        out = len(layer.weight)
        if layer.stride is None:
            shapes.append((out,))
            continue
        kernel = layer.weight.shape[2:]
        patch = max(patch, int(np.prod(layer.weight.shape[1:])))
        size = [
            (n - k) // s + 1 for n, k, s in zip(shapes[-1][1:], kernel, layer.stride, strict=True)
        ]
        shapes.append((out, *size))
    return _Layout(shapes, patch)


def write(network: IntegerPolicy, spec: EnvSpec) -> Source:
    """The C source of one agent.

    Raises:
        SourceError: a float network, or one that ends in a convolution.
    """
    if not isinstance(network, IntegerNetwork):
        raise SourceError(f"c takes integer networks only, not a {type(network).__name__}.")
    if network.layers[-1].stride is not None:
        last, shape = len(network.layers) - 1, "x".join(map(str, network.layers[-1].weight.shape))
        raise SourceError(
            f"c takes networks that end in a linear layer, and layer {last} (weights {shape}) is"
            " a convolution."
        )
    layout = _layout(network, spec)
    constants = _Constants()
    body = [_quantize(network, spec, constants), _run(network, layout, constants)]
    body.append(_dequantize(network, constants))
    pieces = [RUNTIME]
    pieces += [DOT8] if any(layer.bits > 4 for layer in network.layers) else []
    pieces += [DOT4] if any(layer.bits <= 4 for layer in network.layers) else []
    pieces += [GATHER] if layout.patch else []
    code = "".join([*pieces, "\n", *constants.lines, *body])
    return Source(_header(network, spec, layout), code, constants.total_bytes)


def _header(network: IntegerNetwork, spec: EnvSpec, layout: _Layout) -> str:
    fields = [(f"uint8_t codes_{i}", int(np.prod(s))) for i, s in enumerate(layout.shapes)]
    fields += [("uint8_t patch", layout.patch)] if layout.patch else []
    num_outputs = len(network.output_scale)
    fields.append(("int32_t sums", num_outputs))
    return HEADER.format(
        title=spec.id,
        inputs=int(np.prod(spec.obs_shape)),
        outputs=num_outputs,
        fields="\n".join(f"    {name}[{count}];" for name, count in fields),
        obs_type="float" if spec.obs_high is None else "uint8_t",
        meaning="action values" if network.box is None else "an action within its bounds",
    )


class _Constants:
    """Const arrays, in order."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.total_bytes = 0

    def add(self, name: str, array: npt.NDArray[Any]) -> str:
        """Declare an array; its name."""
        flat = array.ravel()
        if array.dtype == np.float32:
            kind, texts = "float", [f"{float(x).hex()}F" for x in flat]
        else:
            kind, texts = f"{array.dtype}_t", [str(x) for x in flat.tolist()]
        rows = [", ".join(texts[i : i + 16]) for i in range(0, len(texts), 16)]
        self.lines.append(f"static const {kind} {name}[{len(flat)}] = {{\n    ")
        self.lines.append(",\n    ".join(rows) + "};\n")
        self.total_bytes += array.nbytes
        return name


def _quantize(network: IntegerNetwork, spec: EnvSpec, constants: _Constants) -> str:
    is_bytes = spec.obs_high is not None
    inverse = constants.add("INVERSE", network.input_inverse_scale)
    zero = constants.add("ZERO", network.input_zero)
    index = "i" if len(network.input_inverse_scale) > 1 else "0"
    check = "" if is_bytes else "        if (!isfinite(obs[i])) return -1;\n"
    return f"""
int policy_quantize(const {"uint8_t" if is_bytes else "float"} *obs, policy_memory *memory)
{{
    for (int i = 0; i < POLICY_INPUTS; ++i) {{
{check}        float code = rintf((float)obs[i] * {inverse}[{index}] + {zero}[{index}]);
        if (code < 0.0F) code = 0.0F;
        if (code > {network.input_top}.0F) code = {network.input_top}.0F;
        memory->codes_0[i] = (uint8_t)code;
    }}
    return 0;
}}
"""


def _run(network: IntegerNetwork, layout: _Layout, constants: _Constants) -> str:
    loops = []
    for i, layer in enumerate(network.layers):
        sum_at = _sum(i, layer, constants)
        write_at = _store(i, layer, constants, is_last=i == len(network.layers) - 1)
        loops.append(_loop(i, layer, layout, sum_at, write_at))
    return "\nvoid policy_run(policy_memory *memory)\n{\n" + "".join(loops) + "}\n"


def _sum(i: int, layer: IntegerLayer, constants: _Constants) -> str:
    """The accumulator of output unit o as an expression; {x} is its input."""
    rows = layer.weight.reshape(len(layer.weight), -1)
    count = rows.shape[1]
    bias = constants.add(f"BIAS_{i}", layer.bias)
    if layer.bits > 4:
        weight = constants.add(f"WEIGHT_{i}", rows)
        return f"{bias}[o] + dot8(&{weight}[o * {count}], {{x}}, {count})"
    packed = pack_int4(np.pad(rows, ((0, 0), (0, count % 2))))
    weight = constants.add(f"WEIGHT_{i}", packed)
    return f"{bias}[o] + dot4(&{weight}[o * {(count + 1) // 2}], {{x}}, {count})"


def _store(i: int, layer: IntegerLayer, constants: _Constants, *, is_last: bool) -> str:
    """What becomes of output unit o's accumulator, as a statement; {y} is its place."""
    if is_last:
        return "memory->sums[o] = {sum};"
    assert layer.multiplier is not None and layer.shift is not None and layer.offset is not None
    multiplier = constants.add(f"MULTIPLIER_{i}", layer.multiplier)
    shift = constants.add(f"SHIFT_{i}", layer.shift.astype(np.uint8))
    offset = "0"
    if layer.offset.any():
        offset = constants.add(f"OFFSET_{i}", layer.offset) + "[o]"
    return (
        f"memory->codes_{i + 1}[{{y}}] =\n            requantized({{sum}}, {multiplier}[o], "
        f"{shift}[o], {offset}, {layer.low}, {layer.top});"
    )


def _loop(i: int, layer: IntegerLayer, layout: _Layout, sum_at: str, store: str) -> str:
    out = len(layer.weight)
    if layer.stride is None:
        line = store.format(sum=sum_at.format(x=f"memory->codes_{i}"), y="o")
        return f"    for (int o = 0; o < {out}; ++o)\n        {line}\n"
    planes, height, width = layout.shapes[i]
    _, rows, columns = layout.shapes[i + 1]
    kernel = layer.weight.shape[2:]
    down, right = layer.stride
    line = store.format(sum=sum_at.format(x="memory->patch"), y=f"o * {rows * columns} + at")
    return f"""    for (int at = 0; at < {rows * columns}; ++at) {{
        gather(memory->codes_{i}, memory->patch, {planes}, {height}, {width},
               {kernel[0]}, {kernel[1]}, at / {columns} * {down}, at % {columns} * {right});
        for (int o = 0; o < {out}; ++o)
            {line}
    }}
"""


def _dequantize(network: IntegerNetwork, constants: _Constants) -> str:
    scale = constants.add("OUTPUT_SCALE", network.output_scale)
    value = f"(float)memory->sums[o] * {scale}[o]"
    if network.box is not None:
        box_scale = constants.add("BOX_SCALE", network.box.scale)
        offset = constants.add("BOX_OFFSET", network.box.offset)
        value = f"tanhf({value}) * {box_scale}[o] + {offset}[o]"
    return f"""
void policy_dequantize(const policy_memory *memory, float *output)
{{
    for (int o = 0; o < POLICY_OUTPUTS; ++o) output[o] = {value};
}}
"""


def save(folder: Path, network: IntegerPolicy, spec: EnvSpec) -> int:
    """Write policy.h and policy.c; the bytes of their constants."""
    source = write(network, spec)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "policy.h").write_text(source.header, encoding="utf-8")
    (folder / "policy.c").write_text(source.code, encoding="utf-8")
    return source.const_bytes


def require_same(folder: Path, network: IntegerPolicy, spec: EnvSpec) -> None:
    """Refuse stored C that is not, byte for byte, what qbench writes from the network.

    A compiler runs over what it is given, and so does the machine: C of a stranger is not
    compiled.

    Raises:
        SourceError: a file is missing or differs.
    """
    source = write(network, spec)
    for name, text in (("policy.h", source.header), ("policy.c", source.code)):
        path = folder / name
        if not path.exists() or path.read_bytes() != text.encode():
            what = "is not what qbench writes" if path.exists() else "is missing; it is written"
            raise SourceError(
                f"{path} {what} from policy.npz beside it: write it anew with"
                " python -m qbench.deploy RUN --format c."
            )


def compiler() -> str | None:
    """gcc, where there is one."""
    return shutil.which("gcc")


class CompiledPolicy:
    """A network as C, compiled for this machine and loaded.

    What is compiled is written here from the network, and never read from a run folder, which
    may come from anywhere (see `require_same`).

    Args:
        network: a FloatNetwork is refused.
        spec: of its env.

    Raises:
        SourceError: no gcc, or no form in C.
    """

    def __init__(self, network: IntegerPolicy, spec: EnvSpec) -> None:
        gcc = compiler()
        if gcc is None:
            raise SourceError("c needs gcc, which is not on the PATH.")
        layout = _layout(network, spec) if isinstance(network, IntegerNetwork) else None
        with tempfile.TemporaryDirectory() as folder:
            save(Path(folder), network, spec)
            library = Path(folder) / "policy.so"
            target = ["-march=native", "-shared", "-fPIC", "policy.c", "-o", str(library), "-lm"]
            command = [gcc, *FLAGS, *target]
            subprocess.run(command, cwd=folder, check=True)
            loaded = ctypes.CDLL(str(library))
        assert layout is not None and isinstance(network, IntegerNetwork)
        self._memory = _memory_type(layout, len(network.output_scale))()
        self._address = ctypes.addressof(self._memory)
        self._quantize = _taking(loaded.policy_quantize, 2)
        self._run = _taking(loaded.policy_run, 1)
        self._dequantize = _taking(loaded.policy_dequantize, 2)
        self._spec = spec
        self._dtype = np.float32 if spec.obs_high is None else np.uint8
        self._num_outputs = len(network.output_scale)
        self._num_layers = len(network.layers)

    def __call__(self, obs: ObsArray, /) -> FloatArray:
        """Outputs [B, A] float32 at obs [B, *obs_shape].

        Raises:
            ValueError: another shape, or a value that is not finite.
        """
        # The compiled code reads as many values as it was written for, whatever it is given.
        check_obs(obs, self._spec)
        rows = np.ascontiguousarray(obs, self._dtype)
        outputs = np.empty((len(rows), self._num_outputs), np.float32)
        address, to = rows.ctypes.data, outputs.ctypes.data
        for i in range(len(rows)):
            self._act(address + i * rows.strides[0], to + i * outputs.strides[0])
        return outputs

    def trace(self, obs: ObsArray) -> list[npt.NDArray[Any]]:
        """Codes [F] at every layer's input and the sums int32 [A], of one observation."""
        self(obs[None])
        codes = [np.array(getattr(self._memory, f"codes_{i}")) for i in range(self._num_layers)]
        return [*codes, np.array(self._memory.sums)]

    def _act(self, obs: int, output: int) -> None:
        """One observation's output, by their addresses."""
        if self._quantize(obs, self._address):
            raise ValueError("The observation holds a value that is not finite.")
        self._run(self._address)
        self._dequantize(self._address, output)


def _taking(function: Any, num_addresses: int) -> Any:
    """A loaded function that takes addresses: ctypes would cut them to an int's 32 bits."""
    function.argtypes = [ctypes.c_void_p] * num_addresses
    return function


def _memory_type(layout: _Layout, num_outputs: int) -> type[ctypes.Structure]:
    fields: list[tuple[str, Any]] = [
        (f"codes_{i}", ctypes.c_uint8 * int(np.prod(s))) for i, s in enumerate(layout.shapes)
    ]
    fields += [("patch", ctypes.c_uint8 * layout.patch)] if layout.patch else []
    fields.append(("sums", ctypes.c_int32 * num_outputs))
    return type("PolicyMemory", (ctypes.Structure,), {"_fields_": fields})
