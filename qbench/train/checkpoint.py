"""Checkpoint files: tensors and plain values alone, so that loading one executes nothing.

Both kinds of file are zip archives, whose checksums are compared before anything is read.
"""

import os
import struct
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from qbench.types import State

VERSION = 1


class Damaged(Exception):
    """A checkpoint cannot be used: the end of a sentence that begins with its path."""


def write(path: Path, state: State) -> None:
    """Write a state, whole or not at all."""
    partial = path.with_name(f".{path.name}.tmp")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with partial.open("wb") as file:
            torch.save(_stored({"version": VERSION, **state}), file)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def read(path: Path) -> State:
    """A state that was written here; arrays come as tensors, in main memory.

    Raises:
        Damaged: no such file, or its content is not what was written.
    """
    check(path)
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        # torch.load raises whatever its reader stumbles over.
        raise Damaged(f"is not a checkpoint of qbench: {_first_sentence(error)}") from error
    if not isinstance(state, dict):
        raise Damaged("is not a checkpoint of qbench: it holds no dict")
    return state


def check(path: Path) -> None:
    """Compare the checksums of an archive.

    Raises:
        Damaged: one is wrong, or it is no archive.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            wrong = archive.testzip()
    except OSError as error:
        raise Damaged(f"is not a checkpoint of qbench: {error.strerror or error}") from error
    except (ValueError, RuntimeError, EOFError, struct.error, zipfile.BadZipFile, zlib.error) as e:
        raise Damaged(f"is not a checkpoint of qbench: {_first_sentence(e)}") from e
    if wrong is not None:
        raise Damaged(f"is damaged: {wrong} is not what was written")


def write_arrays(path: Path, arrays: Mapping[str, npt.NDArray[Any]]) -> None:
    """Write arrays [S, ...] as an .npz, seed by seed: no second copy of them is made."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                header = {"descr": array.dtype.str, "fortran_order": False, "shape": array.shape}
                np.lib.format.write_array_header_1_0(member, header)
                for row in array:
                    member.write(_as_bytes(np.ascontiguousarray(row)))


def read_arrays(path: Path, arrays: Mapping[str, npt.NDArray[Any]]) -> None:
    """Fill arrays from an .npz of the same names, shapes and types.

    Raises:
        Damaged: they are others.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            for name, array in arrays.items():
                with archive.open(f"{name}.npy") as member:
                    _fill(array, member)
    except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
        raise Damaged(f"does not hold this replay: {_first_sentence(error)}") from error


def _fill(array: npt.NDArray[Any], member: Any) -> None:
    np.lib.format.read_magic(member)
    shape, _, dtype = np.lib.format.read_array_header_1_0(member)
    if shape != array.shape or dtype != array.dtype:
        raise ValueError(f"an array is {shape}, not {array.shape}")
    for row in array:
        # Each seed's part of a replay that is filled in part is contiguous, the whole is not.
        assert row.flags.c_contiguous
        target = _as_bytes(row)
        done = 0
        while done < len(target):
            count = member.readinto(target[done:])
            if not count:
                raise ValueError("an array is shorter than its header says")
            done += count


def _as_bytes(row: npt.NDArray[Any]) -> memoryview:
    flat: Any = row.reshape(-1).view(np.uint8)
    return memoryview(flat)


def _stored(value: Any) -> Any:
    """`value` in what `torch.load(weights_only=True)` takes."""
    match value:
        case np.ndarray():
            return torch.from_numpy(np.ascontiguousarray(value))
        case np.generic():
            return value.item()
        case dict():
            return {key: _stored(item) for key, item in value.items()}
        case list() | tuple():
            return [_stored(item) for item in value]
        case Path():
            return str(value)
    return value


def _first_sentence(error: BaseException) -> str:
    return " ".join(str(error).split()).split(". ")[0].rstrip(".") or type(error).__name__
