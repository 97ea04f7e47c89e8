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
import math
import platform
import subprocess
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from qbench.product import CPU_INFO
from qbench.quant.grids import Codes, Grid
from qbench.types import FloatArray

SOURCE = Path(__file__).with_name("kernels.c")
CACHE = SOURCE.with_name("__pycache__")
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
    "mask": "ppppnnnn",
    "observe": "pnnnnfp",
    "finish": "pppnnnn",
    "infer": "ppppnnnnfpppnpp",
}
"""Function of `kernels.c` -> its arguments: addresses, whole numbers, floats."""
MOST_FEATURES = 2**16  # of an observation with ranges of their own, for which there is a stack

log = logging.getLogger(__name__)


@functools.cache
def library() -> Any:
    """The compiled loops; None, and a warning, where there is no compiler for them."""
    try:
        loaded = _load()
    except (OSError, subprocess.CalledProcessError) as error:
        said = (getattr(error, "stderr", None) or str(error)).strip().splitlines()
        reason = "there is no gcc" if isinstance(error, FileNotFoundError) else " ".join(said[-1:])
        log.warning("Quantized layers train slower, to the same numbers: %s.", reason)
        return None
    for name, letters in SIGNATURES.items():
        function = getattr(loaded, name)
        function.argtypes, function.restype = [TYPES[letter] for letter in letters], None
    return loaded


def were_used() -> bool:
    """Whether this process has come by a tensor that the loops take, and has them."""
    return library.cache_info().currsize > 0 and library() is not None


def _load() -> ctypes.CDLL:
    kept = CACHE / f"kernels-{_fingerprint()}.so"
    with contextlib.suppress(OSError):  # It is not there, or broken.
        return ctypes.CDLL(str(kept))
    with _folder() as folder:
        made = Path(folder) / kept.name
        command = ["gcc", *FLAGS, str(SOURCE), "-o", str(made), "-lm"]
        subprocess.run(command, check=True, capture_output=True, text=True)
        with contextlib.suppress(OSError):  # A cache that is not ours to write.
            made = made.replace(kept)
        return ctypes.CDLL(str(made))


def _folder() -> tempfile.TemporaryDirectory[str]:
    """One in the cache, from where a file can be moved at once, or where such folders are."""
    try:
        CACHE.mkdir(exist_ok=True)
        return tempfile.TemporaryDirectory(dir=CACHE)
    except OSError:
        return tempfile.TemporaryDirectory()


def _fingerprint() -> str:
    """Of the source, the flags, and the processor, which another machine's folder may not share."""
    lines = CPU_INFO.read_text().splitlines() if CPU_INFO.exists() else [platform.processor()]
    of_cpu = {line for line in lines if line.startswith(("model name", "flags", "Features"))}
    text = "\n".join([SOURCE.read_text(), *FLAGS, platform.machine(), *sorted(of_cpu)])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def take(*tensors: Tensor) -> bool:
    """Whether the loops take these: float32, dense, on a CPU, in one thread."""
    for t in tensors:  # A generator and `all` take half as long again, dozens of times an update.
        if t.dtype is not torch.float32 or not _is_dense(t):
            return False
    return _are_at_hand()


def take_inputs(x: Tensor, grid: Grid) -> bool:
    """As `take`, for inputs of a layer and their grid, [S, ...] each."""
    return take(x) and _fits(x, grid.zero) and (grid.is_compiled or take(*grid.tensors))


def take_observed(x: Tensor, low_high: Tensor) -> bool:
    """As `take`, for inputs of a layer and their ranges."""
    return take(x, low_high) and _fits(x, low_high)


def take_kept(kept: Tensor, *of_grid: Tensor) -> bool:
    """As `take_inputs`, for what is kept of inputs in whole numbers."""
    is_whole = kept.dtype in (torch.int16, torch.uint8)
    return is_whole and _is_dense(kept) and _fits(kept, of_grid[0]) and take(*of_grid)


def take_strided(*tensors: Tensor) -> bool:
    """As `take`, for tensors [S, ...] whose seeds may lie apart: views of all parameters."""
    return (
        all(
            t.is_cpu and t.dtype is torch.float32 and t.stride()[1:] == _dense_strides(t.shape[1:])
            for t in tensors
        )
        and _are_at_hand()
    )


def _are_at_hand() -> bool:
    return torch.get_num_threads() == 1 and library() is not None


def _fits(x: Tensor, of_grid: Tensor) -> bool:
    """Whether inputs have the seeds of a grid, and its features if it has some."""
    num_seeds, _, *features = of_grid.shape
    num_features = math.prod(features)
    has_features = num_features == 1 or x.shape[2:] == of_grid.shape[2:]
    return x.shape[0] == num_seeds and has_features and num_features <= MOST_FEATURES


def _is_dense(t: Tensor) -> bool:
    """Row by row, or images with innermost channels: with one grid their order is no matter."""
    if not t.is_cpu:
        return False
    return t.is_contiguous() or (
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
) -> tuple[Grid, Codes]:
    """The grid of inputs with ranges [S, 2, ...], and a layer's integers.

    The codes of biases on an affine grid are not rounded, and lack their last term.
    """
    new = torch.empty
    shape = (bias.shape[0], 1, *low_high.shape[2:])
    scale, inverse, zero = new(shape), new(shape), new(shape)
    centre = new(shape) if settings.is_affine else zero
    num_seeds, out = size = bias.shape
    codes = Codes(new(weight.shape), new(size), new(size))
    library().encode_layer(
        low_high.data_ptr(), weight.data_ptr(), bias.data_ptr(), weight.stride(0), bias.stride(0),
        num_seeds, out, weight.numel() // bias.numel(), _num_features(scale), *settings,
        scale.data_ptr(), inverse.data_ptr(), zero.data_ptr(), centre.data_ptr(),
        *(t.data_ptr() for t in codes),
    )  # fmt: skip
    grid = Grid(
        scale, inverse, zero, centre, settings.input_top, not settings.is_affine, is_compiled=True
    )
    return grid, codes


def encode(x: Tensor, grid: Grid, kept: Tensor | None = None) -> Tensor:
    """Centred codes of `x` [S, ...]; those before clamping go to `kept`, int16 or uint8."""
    centred = torch.empty_like(x)
    function = library().encode if kept is None else _of_type("encode", kept)
    function(
        x.data_ptr(), grid.inverse.data_ptr(), grid.zero.data_ptr(), grid.centre.data_ptr(),
        *_sizes(x, grid.zero), grid.top,
        centred.data_ptr(), None if kept is None else kept.data_ptr(),
    )  # fmt: skip
    return centred


def decode(kept: Tensor, scale: Tensor, zero: Tensor, top: int) -> Tensor:
    """The values of what `encode` kept, clamped."""
    values = torch.empty_like(kept, dtype=torch.float32)
    pointers = kept.data_ptr(), scale.data_ptr(), zero.data_ptr()
    _of_type("decode", kept)(*pointers, *_sizes(kept, zero), top, values.data_ptr())
    return values


def mask(grad: Tensor, kept: Tensor, scale: Tensor, top: int, relu: Tensor | None = None) -> Tensor:
    """The gradient by inputs, in place, from that by their codes: zero where one was clamped.

    Of inputs that a ReLU gave, `relu`, it is that by what the ReLU got.
    """
    of_relu = None if relu is None else relu.data_ptr()
    pointers = grad.data_ptr(), kept.data_ptr(), of_relu, scale.data_ptr()
    library().mask(*pointers, *_sizes(kept, scale), top)
    return grad


def observe(x: Tensor, low_high: Tensor, *, is_average: bool, momentum: float) -> None:
    """Move ranges [S, 2, ...] by inputs [S, ...], as `QuantLayer._observe_plainly` does."""
    num_seeds = x.shape[0]
    num_features = low_high.numel() // (2 * num_seeds)
    library().observe(
        x.data_ptr(), num_seeds, x.numel() // (num_seeds * num_features), num_features,
        is_average, momentum, low_high.data_ptr(),
    )  # fmt: skip


def finish(sums: Tensor, bias_codes: Tensor, unit: Tensor, *, has_relu: bool) -> Tensor:
    """(sums [S, B, out] + bias_codes [S, out]) unit [S, out], in place, and perhaps a ReLU."""
    pointers = sums.data_ptr(), bias_codes.data_ptr(), unit.data_ptr()
    library().finish(*pointers, *sums.shape, has_relu)
    return sums


def infer(x: FloatArray, grid: Grid, codes: Codes, *, has_relu: bool) -> FloatArray:
    """Outputs [S, out] of a linear layer at one input per seed [S, F]."""
    x = np.ascontiguousarray(x, np.float32)
    num_seeds, out, size = codes.weight.shape
    centred, y = np.empty_like(x), np.empty((num_seeds, out), np.float32)
    library().infer(
        x.ctypes.data, grid.inverse.data_ptr(), grid.zero.data_ptr(), grid.centre.data_ptr(),
        num_seeds, out, size, _num_features(grid.zero), grid.top,
        *(t.data_ptr() for t in codes), has_relu,
        centred.ctypes.data, y.ctypes.data,
    )  # fmt: skip
    return y


def _of_type(name: str, kept: Tensor) -> Any:
    """The loop for what is kept in this type."""
    return getattr(library(), f"{name}_{'int16' if kept.dtype is torch.int16 else 'uint8'}")


def _sizes(x: Tensor, of_grid: Tensor) -> tuple[int, int, int]:
    """Seeds, rows and features."""
    num_seeds, num_grids = of_grid.shape[0], of_grid.numel()
    return num_seeds, x.numel() // num_grids, num_grids // num_seeds


def _num_features(of_grid: Tensor) -> int:
    return of_grid.numel() // of_grid.shape[0]
