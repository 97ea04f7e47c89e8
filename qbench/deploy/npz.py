"""The deployed network as a NumPy archive: arrays only, nothing that could execute code."""

import os
import zlib
from pathlib import Path
from typing import Any, NamedTuple
from zipfile import BadZipFile

import numpy as np

from qbench.quant.dynamic import DynamicNetwork
from qbench.quant.integer import FloatNetwork, IntegerNetwork
from qbench.types import IntegerPolicy

FORMATS: dict[str, Any] = {
    "float32": FloatNetwork,
    "integer": IntegerNetwork,
    "dynamic": DynamicNetwork,
}
DAMAGES = (
    ArithmeticError, BadZipFile, EOFError, LookupError, MemoryError, NotImplementedError, OSError,
    TypeError, ValueError, zlib.error,
)  # fmt: skip
"""What a changed archive was seen to raise."""


class ArtifactBytes(NamedTuple):
    """Bytes on disk of one agent: the whole file, and the weights in it."""

    total: int
    weights: int


def save(path: Path, network: IntegerPolicy) -> ArtifactBytes:
    """Write the arrays of `network` atomically."""
    arrays = network.arrays()
    name = next(name for name, cls in FORMATS.items() if isinstance(network, cls))
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp.npz")
    np.savez(temporary, format=np.array(name), **arrays)  # type: ignore[arg-type]
    os.replace(temporary, path)
    weights = sum(array.nbytes for key, array in arrays.items() if key.endswith(".weight"))
    return ArtifactBytes(path.stat().st_size, weights)


def load(path: Path) -> IntegerPolicy:
    """The network that `save` wrote.

    Raises:
        ValueError: the file is not such an archive.
    """
    try:
        with np.load(path, allow_pickle=False) as stored:
            arrays = dict(stored)
        network: IntegerPolicy = FORMATS[str(arrays.pop("format"))].from_arrays(arrays)
    except DAMAGES as error:
        raise ValueError(f"{path} is not a policy that qbench wrote: {error}") from error
    return network
