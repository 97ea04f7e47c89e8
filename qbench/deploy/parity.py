"""Whether every form of an agent computes the same: fake quantization, NumPy, C, ONNX Runtime."""

from typing import Any, Protocol

from torch import nn

from qbench.deploy.c import CompiledPolicy
from qbench.quant import agreement
from qbench.quant.integer import IntegerNetwork
from qbench.types import FloatArray, ObsArray


class Form(agreement.Observer, Protocol):
    """Another form of the network, compared while it sees the observations."""

    @property
    def agreed(self) -> agreement.Agreement:
        """Over all observations seen."""
        ...

    @property
    def is_integer(self) -> bool:
        """Whether it multiplies no floats."""
        ...


class ParityError(RuntimeError):
    """A deployed form does not compute what was trained."""


def measure(
    module: nn.Module,
    network: IntegerNetwork,
    obs: ObsArray,
    *,
    compiled: CompiledPolicy | None,
    in_onnx: "Form | None",
) -> dict[str, Any]:
    """Compare all forms over N observations [N, *obs_shape] of the agent's own replay.

    Returns:
        `fields` of fake quantization; `c_differing_integers` over all layers; and of ONNX
        Runtime the same fields, with onnx_ before their names, and `onnx_is_integer`.
    """
    in_c = _InC(compiled, network) if compiled else None
    observers = [form for form in (in_c, in_onnx) if form is not None]
    found = fields(agreement.measure(module, network, obs, observers))
    if in_c is not None:
        found["c_differing_integers"] = in_c.differing
    if in_onnx is not None:
        found |= {f"onnx_{name}": value for name, value in fields(in_onnx.agreed).items()}
        found["onnx_is_integer"] = in_onnx.is_integer
    return found


def fields(agreed: agreement.Agreement) -> dict[str, Any]:
    """Those of an agreement, and whether it `holds`."""
    return {"holds": agreed.holds, **agreed._asdict()}


def refuse(found: dict[str, Any]) -> None:
    """Let no agent pass whose forms differ by more than the ties that are counted.

    Args:
        found: what `measure` or `fields` gave.

    Raises:
        ParityError: C has another integer than NumPy somewhere, ONNX Runtime multiplies floats,
            or it or fake quantization does not agree (`qbench.quant.agreement`).
    """
    if found.get("c_differing_integers"):
        raise ParityError(f"C and NumPy differ in {found['c_differing_integers']} integers.")
    if not found.get("onnx_is_integer", True):
        raise ParityError("ONNX Runtime computes a product of this network in floats.")
    for prefix, form in (("", "Fake quantization"), ("onnx_", "ONNX Runtime")):
        if not found.get(f"{prefix}holds", True):
            raise ParityError(f"{form} and NumPy do not agree: {_figures(found, prefix)}.")


def _figures(found: dict[str, Any], prefix: str) -> str:
    limits = {
        "differing_codes": agreement.DIFFERING_CODES,
        "max_tie_distance": agreement.TIE_DISTANCE,
        "max_rounding_error": agreement.ROUNDING,
        "unexplained_argmax": 0,
    }
    return ", ".join(
        f"{name} {found[prefix + name]:.3g} (at most {limit:g})" for name, limit in limits.items()
    )


class _InC:
    """Counts integers that C and NumPy do not share, layer by layer."""

    def __init__(self, compiled: CompiledPolicy, network: IntegerNetwork) -> None:
        self._compiled = compiled
        self._last = network.layers[-1]
        self.differing = 0

    def __call__(self, obs: ObsArray, traced: list[FloatArray]) -> None:
        expected = [*traced[:-1], self._last.accumulate(traced[-2])]
        for i, row in enumerate(obs):
            for integers, codes in zip(self._compiled.trace(row), expected, strict=True):
                self.differing += int((integers != codes[i].ravel()).sum())
