"""Whether every form of an agent computes the same: fake quantization, NumPy, C, ONNX Runtime."""

from typing import Any

import numpy as np
from torch import nn

from qbench.deploy.c import CompiledPolicy
from qbench.deploy.onnx import OnnxPolicy
from qbench.quant import agreement
from qbench.quant.integer import IntegerNetwork
from qbench.types import FloatArray, ObsArray

SAME = 1e-5
"""Outputs further apart than this share of their range are another code somewhere."""


class ParityError(RuntimeError):
    """A deployed form does not compute what was trained."""


def measure(
    module: nn.Module,
    network: IntegerNetwork,
    obs: ObsArray,
    *,
    compiled: CompiledPolicy | None,
    onnx: OnnxPolicy | None,
) -> dict[str, Any]:
    """Compare all forms over N observations [N, *obs_shape] of the agent's own replay.

    Returns:
        The fields of `agreement.Agreement` with `holds`; `c_differing_integers` over all layers;
        of ONNX Runtime, `onnx_differing_rows` (a share), `onnx_max_output_error`,
        `onnx_differing_argmax`, `onnx_unexplained_argmax` and `onnx_is_integer`.

    Raises:
        ParityError: C has another integer than NumPy somewhere, or ONNX Runtime multiplies floats.
    """
    in_c = _InC(compiled, network) if compiled else None
    in_onnx = _InOnnx(onnx) if onnx else None
    observers = [form for form in (in_c, in_onnx) if form is not None]
    agreed = agreement.measure(module, network, obs, observers)
    found: dict[str, Any] = {"holds": agreed.holds, **agreed._asdict()}
    if in_c is not None:
        found["c_differing_integers"] = in_c.differing
    if in_onnx is not None:
        found |= in_onnx.result(is_actor=network.box is not None)
    _refuse(found)
    return found


def _refuse(found: dict[str, Any]) -> None:
    if found.get("c_differing_integers"):
        raise ParityError(f"C and NumPy differ in {found['c_differing_integers']} integers.")
    if not found.get("onnx_is_integer", True):
        raise ParityError("ONNX Runtime computes a product of this network in floats.")


class _InC:
    """Counts integers that C and NumPy do not share, layer by layer."""

    def __init__(self, compiled: CompiledPolicy, network: IntegerNetwork) -> None:
        self._compiled = compiled
        self._last = network.layers[-1]
        self.differing = 0

    def __call__(self, obs: ObsArray, traced: list[FloatArray], output: FloatArray) -> None:
        expected = [*traced[:-1], self._last.accumulate(traced[-2])]
        for i, row in enumerate(obs):
            for integers, codes in zip(self._compiled.trace(row), expected, strict=True):
                self.differing += int((integers != codes[i].ravel()).sum())


class _InOnnx:
    """Collects ONNX Runtime's outputs beside those of fake quantization and of NumPy."""

    def __init__(self, policy: OnnxPolicy) -> None:
        self._policy = policy
        self._outputs: list[tuple[FloatArray, FloatArray, FloatArray]] = []

    def __call__(self, obs: ObsArray, traced: list[FloatArray], output: FloatArray) -> None:
        self._outputs.append((output, traced[-1], self._policy(obs)))

    def result(self, *, is_actor: bool) -> dict[str, Any]:
        fake, reference, onnx = (
            np.concatenate(parts) for parts in zip(*self._outputs, strict=True)
        )
        found = agreement.compare_outputs(fake, onnx, is_actor=is_actor)
        limit = SAME * max(float(np.ptp(reference)), 1e-12)
        return {
            "onnx_differing_rows": float((np.abs(onnx - reference).max(axis=1) > limit).mean()),
            "onnx_max_output_error": found.max_error,
            "onnx_differing_argmax": found.differing_argmax,
            "onnx_unexplained_argmax": found.unexplained_argmax,
            "onnx_is_integer": self._policy.is_integer,
        }
