"""All files of one deployed agent, and what they weigh."""

from collections.abc import Collection
from pathlib import Path

from qbench.deploy import c, npz
from qbench.deploy.latency import float_twin
from qbench.quant.integer import IntegerNetwork
from qbench.types import EnvSpec, IntegerPolicy

FORMATS = ("npz", "onnx", "c")


def faults(policy: IntegerPolicy, spec: EnvSpec, formats: Collection[str]) -> dict[str, str]:
    """Why a network has no form in some of the formats: format -> sentence."""
    found: dict[str, str] = {}
    for name in formats:
        try:
            _try(name, policy, spec)
        except (ImportError, ValueError) as error:
            found[name] = str(error)
    return found


def _try(name: str, policy: IntegerPolicy, spec: EnvSpec) -> None:
    if name == "c":
        c.write(policy, spec)
    elif name == "onnx":
        try:
            from qbench.deploy import onnx
        except ImportError as error:
            raise ImportError('onnx needs pip install ".[deploy]".') from error
        onnx.export(policy, spec)


def write(
    folder: Path, policy: IntegerPolicy, spec: EnvSpec, formats: Collection[str]
) -> dict[str, int]:
    """Write one agent in every format that it has a form in.

    Args:
        folder: where the files go.
        policy: its network.
        spec: of its env.
        formats: of FORMATS; a float network has no C.

    Returns:
        Bytes by name: `npz`, `npz_weights`; `onnx`, and `onnx_float` of a float network of the
        same shapes; `c`, its constants.

    Raises:
        ExportError: ONNX has no form of the network.
        SourceError: C has none.
    """
    sizes: dict[str, int] = {}
    if "npz" in formats:
        stored = npz.save(folder / "policy.npz", policy)
        sizes |= {"npz": stored.total, "npz_weights": stored.weights}
    if "onnx" in formats:
        from qbench.deploy import onnx  # an extra

        sizes["onnx"] = onnx.save(folder / "policy.onnx", policy, spec)
        twin = onnx.export(float_twin(policy, spec), spec)
        sizes["onnx_float"] = len(twin.SerializeToString())
    if "c" in formats and isinstance(policy, IntegerNetwork):
        sizes["c"] = c.save(folder, policy, spec)
    return sizes
