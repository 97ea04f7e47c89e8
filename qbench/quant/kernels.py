"""Fake quantization on a CPU in compiled loops, `kernels.c`: torch's bits in fewer passes.

An operator of torch reads and writes all of its memory and takes some microseconds to call; a
layer has dozens of them. gcc compiles the loops for the processor at hand in half a second, once:
they are kept beside Python's own compiled files. Where they do not apply (no gcc, a GPU, several
threads, other types) callers compute the same by torch.
"""

import contextlib
import ctypes
import functools
import hashlib
import logging
import os
import platform
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from qbench.quant.grids import Grid
from qbench.types import FloatArray

SOURCE = Path(__file__).with_name("kernels.c")
CACHE = SOURCE.with_name("__pycache__")
CPU_INFO = Path("/proc/cpuinfo")
# No product is fused into a sum and no sum is reordered, unless the source says so: the same bits.
FLAGS = ["-std=gnu11", "-O3", "-march=native", "-ffp-contract=off", "-fno-math-errno",
         "-fno-trapping-math", "-fopenmp-simd", "-shared", "-fPIC"]  # fmt: skip

TYPES = {"p": ctypes.c_void_p, "n": ctypes.c_int64, "f": ctypes.c_float}
SIGNATURES = {
    "encode_layer": "pppnnnnnnfnfffnppppppp",
    "encode": "ppppnnnfpp",
    "encode_int16": "ppppnnnfpp",
    "encode_uint8": "ppppnnnfpp",
    "decode_int16": "pppnnnnp",
    "decode_uint8": "pppnnnnp",
    "mask": "pppnnnn",
    "observe": "pnnnnfp",
    "finish": "pppnnn",
    "infer": "ppppnnnnfpppnpp",
}
"""Function of `kernels.c` -> its arguments: addresses, whole numbers, floats."""
DTYPES = (torch.float32, torch.int16, torch.uint8)

log = logging.getLogger(__name__)


@functools.cache
def library() -> Any:
    """The compiled loops; None, and a warning, where there is no compiler for them."""
    try:
        loaded = _load()
    except (OSError, subprocess.CalledProcessError) as error:
        reason = str(getattr(error, "stderr", None) or error).strip().splitlines()[-1]
        log.warning("Quantized layers train slower, to the same numbers: no gcc, or %s", reason)
        return None
    for name, letters in SIGNATURES.items():
        function = getattr(loaded, name)
        function.argtypes, function.restype = [TYPES[letter] for letter in letters], None
    return loaded


def _load() -> ctypes.CDLL:
    name = f"kernels-{_fingerprint()}.so"
    if (CACHE / name).exists():
        return ctypes.CDLL(str(CACHE / name))
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder) / name
        command = ["gcc", *FLAGS, str(SOURCE), "-o", str(made), "-lm"]
        subprocess.run(command, check=True, capture_output=True, text=True)
        with contextlib.suppress(OSError):  # A folder that is not ours to write: compiled anew.
            CACHE.mkdir(exist_ok=True)
            kept = shutil.copy(made, CACHE / f"{name}.{os.getpid()}")
            os.replace(kept, CACHE / name)
        return ctypes.CDLL(str(made))


def _fingerprint() -> str:
    """Of the source, the flags, and the processor, which another machine's folder may not share."""
    lines = CPU_INFO.read_text().splitlines() if CPU_INFO.exists() else [platform.processor()]
    of_cpu = sorted(
        {line for line in lines if line.startswith(("model name", "flags", "Features"))}
    )
    text = "\n".join([SOURCE.read_text(), *FLAGS, platform.machine(), *of_cpu])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def take(*tensors: Tensor) -> bool:
    """Whether the loops take these: dense, on a CPU, of their types, in one thread."""
    return _are_at_hand() and all(
        t.is_cpu and t.dtype in DTYPES and (t.is_contiguous() or _is_channels_last(t))
        for t in tensors
    )


def take_strided(*tensors: Tensor) -> bool:
    """As `take`, for tensors [S, ...] whose seeds may lie apart: views of all parameters."""
    return _are_at_hand() and all(
        t.is_cpu and t.dtype is torch.float32 and t.stride()[1:] == _dense_strides(t.shape[1:])
        for t in tensors
    )


def _are_at_hand() -> bool:
    return torch.get_num_threads() == 1 and library() is not None


def _is_channels_last(t: Tensor) -> bool:
    """Images with innermost channels: with one grid per seed the order is no matter."""
    return (
        t.ndim == 5
        and t.stride(0) == t[0].numel()
        and t[0].is_contiguous(memory_format=torch.channels_last)
    )


@functools.cache
def _dense_strides(shape: torch.Size) -> tuple[int, ...]:
    return torch.empty(shape, device="meta").stride()


class Settings(NamedTuple):
    """What `encode_layer` is told of a layer beside its tensors, in the order of its arguments."""

    widened: float  # share of its width by which a range is widened at either end
    is_affine: bool  # of the input's grid
    input_top: int  # 2^bits - 1 of the input
    top: int  # largest code of a weight
    bias_code_limit: int
    per_channel: bool


def encode_layer(
    low_high: Tensor, weight: Tensor, bias: Tensor, settings: Settings
) -> tuple[Grid, tuple[Tensor, Tensor, Tensor]]:
    """The grid on ranges [S, 2, ...], and codes of weights and biases with their scale.

    The codes of biases on an affine grid are not rounded, and lack their last term.
    """
    new = torch.empty
    shape = (len(weight), 1, *low_high.shape[2:])
    scale, inverse, zero = new(shape), new(shape), new(shape)
    centre = new(shape) if settings.is_affine else zero
    num_seeds, out = size = bias.shape
    codes, bias_codes, unit = new(weight.shape), new(size), new(size)
    library().encode_layer(
        low_high.data_ptr(), weight.data_ptr(), bias.data_ptr(), weight.stride(0), bias.stride(0),
        num_seeds, out, weight.numel() // bias.numel(), _num_features(scale), *settings,
        scale.data_ptr(), inverse.data_ptr(), zero.data_ptr(), centre.data_ptr(),
        codes.data_ptr(), bias_codes.data_ptr(), unit.data_ptr(),
    )  # fmt: skip
    grid = Grid(scale, inverse, zero, centre, settings.input_top, not settings.is_affine)
    return grid, (codes, bias_codes, unit)


def encode(x: Tensor, grid: Grid, kept: Tensor | None = None) -> Tensor:
    """Centred codes of `x` [S, ...]; those before clamping go to `kept`, int16 or uint8."""
    centred = torch.empty_like(x)
    name = {None: "encode", torch.int16: "encode_int16", torch.uint8: "encode_uint8"}
    function = getattr(library(), name[None if kept is None else kept.dtype])
    function(
        x.data_ptr(), grid.inverse.data_ptr(), grid.zero.data_ptr(), grid.centre.data_ptr(),
        *_sizes(x, grid.zero), grid.top,
        centred.data_ptr(), None if kept is None else kept.data_ptr(),
    )  # fmt: skip
    return centred


def decode(kept: Tensor, scale: Tensor, zero: Tensor, top: int) -> Tensor:
    """The values of what `encode` kept, clamped."""
    values = torch.empty_like(kept, dtype=torch.float32)
    function = library().decode_int16 if kept.dtype is torch.int16 else library().decode_uint8
    pointers = kept.data_ptr(), scale.data_ptr(), zero.data_ptr()
    function(*pointers, *_sizes(kept, zero), top, values.data_ptr())
    return values


def mask(grad: Tensor, kept: Tensor, scale: Tensor, top: int) -> Tensor:
    """A gradient over the grid's scale, in place: zero where a code was clamped."""
    pointers = grad.data_ptr(), kept.data_ptr(), scale.data_ptr()
    library().mask(*pointers, *_sizes(kept, scale), top)
    return grad


def observe(x: Tensor, low_high: Tensor, *, is_average: bool, momentum: float) -> None:
    """Move ranges [S, 2, ...] by inputs [S, ...], as `QuantLayer._observe` does."""
    num_seeds, num_features = len(x), low_high.numel() // (2 * len(x))
    library().observe(
        x.data_ptr(), num_seeds, x.numel() // (num_seeds * num_features), num_features,
        is_average, momentum, low_high.data_ptr(),
    )  # fmt: skip


def finish(sums: Tensor, bias_codes: Tensor, unit: Tensor) -> Tensor:
    """(sums [S, B, out] + bias_codes [S, out]) unit [S, out], in place."""
    num_seeds, num_rows, out = sums.shape
    pointers = sums.data_ptr(), bias_codes.data_ptr(), unit.data_ptr()
    library().finish(*pointers, num_seeds, num_rows, out)
    return sums


def infer(
    x: FloatArray, grid: Grid, codes: tuple[Tensor, Tensor, Tensor], *, has_relu: bool
) -> FloatArray:
    """Outputs [S, out] of a linear layer at one input per seed [S, F]."""
    x = np.ascontiguousarray(x, np.float32)
    weight, bias, scale = codes
    num_seeds, out, size = weight.shape
    centred, y = np.empty_like(x), np.empty((num_seeds, out), np.float32)
    library().infer(
        x.ctypes.data, grid.inverse.data_ptr(), grid.zero.data_ptr(), grid.centre.data_ptr(),
        num_seeds, out, size, _num_features(grid.zero), grid.top,
        weight.data_ptr(), bias.data_ptr(), scale.data_ptr(), has_relu,
        centred.ctypes.data, y.ctypes.data,
    )  # fmt: skip
    return y


def _sizes(x: Tensor, of_grid: Tensor) -> tuple[int, int, int]:
    """Seeds, rows and features."""
    num_features = _num_features(of_grid)
    return len(x), x.numel() // (len(x) * num_features), num_features


def _num_features(of_grid: Tensor) -> int:
    return of_grid.numel() // len(of_grid)
