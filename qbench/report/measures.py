"""What a summary says of a cell, read so that a missing or a hand-edited number is None."""

import math
from collections.abc import Mapping
from typing import Any

from qbench import records
from qbench.report.folders import Cell

RUNTIME_FORMS = ("onnx", "onnx_float")
"""Keys of latency_us that are timed in ONNX Runtime: the integer network, the float one."""


def number(node: Any, *path: str) -> float | None:
    """The number at a path of keys; None if there is none, or it is not finite."""
    for key in path:
        node = node.get(key) if isinstance(node, Mapping) else None
    if isinstance(node, bool) or not isinstance(node, int | float):
        return None
    try:
        return float(node) if math.isfinite(node) else None
    except OverflowError:
        return None


def deployed_bytes(cell: Cell) -> int | None:
    """Bytes of the deployed network on disk: `npz`, or the smallest format there is."""
    sizes = (cell.summary or {}).get("artifact_bytes", {})
    known = {name: size for name in sizes if (size := number(sizes, name)) is not None}
    size = known.get("npz", min(known.values(), default=None))
    return None if size is None else int(size)


def ledger_bytes(cell: Cell) -> dict[str, int] | None:
    """Bytes per seed of training, by records.MEMORY_KEYS.

    None where nothing was trained: the job of a post-training scheme only calibrates.
    """
    if cell.summary is None or cell.is_post_training:
        return None
    counts = {key: number(cell.summary, "memory_bytes", key) for key in records.MEMORY_KEYS}
    known = {key: int(count) for key, count in counts.items() if count is not None}
    return known if len(known) == len(counts) else None


def total_ledger_bytes(cell: Cell) -> int | None:
    """The ledger's sum, per seed."""
    ledger = ledger_bytes(cell)
    return None if ledger is None else sum(ledger.values())


def trained_number(cell: Cell, *path: str) -> float | None:
    """A number of training; None where nothing was trained."""
    return None if cell.is_post_training else number(cell.summary, *path)


def latency_us(cell: Cell) -> float | None:
    """Microseconds per action in ONNX Runtime, one observation, one thread.

    Of the integer network, or of the float one where the cell is not quantized. A cell that
    was not timed there has none: other runtimes are not compared with it.
    """
    form = RUNTIME_FORMS[0] if cell.axes["quant"] != "none" else RUNTIME_FORMS[1]
    return number(cell.summary, "latency_us", form, "1")


def bit_operations(cell: Cell) -> float | None:
    """Bit operations of one action: sum over layers of MACs x weight bits x input bits."""
    return number(cell.summary, "cost", "bit_operations")


def bits(cell: Cell) -> tuple[int, int] | None:
    """Bits of weights and of activations in the middle of a quantized network."""
    weights = number(cell.config, "quant", "weights", "bits")
    activations = number(cell.config, "quant", "activations", "bits")
    if activations is None:  # as schemes without calibrated ranges have it
        activations = number(cell.config, "quant", "activation_bits")
    return None if weights is None or activations is None else (int(weights), int(activations))
