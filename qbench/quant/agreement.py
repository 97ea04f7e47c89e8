"""How far the integer network agrees with the fake-quantized one it was converted from."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from qbench.quant import fake
from qbench.quant.integer import CHUNK, IntegerNetwork
from qbench.quant.layer import QuantLayer
from qbench.types import FloatArray, ObsArray


class Agreement(NamedTuple):
    """Differences over N observations of one agent."""

    rows: int
    rows_with_a_differing_code: float  # fraction
    max_tie_distance: float  # in codes, of the first differing codes from a rounding tie
    max_output_error: float  # in steps of an 8-bit grid over the outputs' range
    differing_argmax: int  # rows
    unexplained_argmax: int  # of these, with best two outputs further apart than any row's error

    @property
    def holds(self) -> bool:
        """At most 0.5 % of rows differ, each at a tie; outputs within one 8-bit step."""
        return (
            self.rows_with_a_differing_code <= 0.005
            and self.max_tie_distance <= 1e-3
            and self.max_output_error <= 1.0
            and self.unexplained_argmax == 0
        )


class OutputAgreement(NamedTuple):
    """Differences between the outputs of two forms of one agent over N observations."""

    max_error: float  # in steps of an 8-bit grid over the outputs' range
    differing_argmax: int  # rows
    unexplained_argmax: int  # of these, with best two outputs further apart than any row's error


class Observer(Protocol):
    """Another form of the network, which sees the same observations."""

    def __call__(self, obs: ObsArray, traced: list[FloatArray], output: FloatArray) -> None:
        """Compare with what `IntegerNetwork.trace` and fake quantization gave."""
        ...


def measure(
    module: nn.Module,
    network: IntegerNetwork,
    obs: ObsArray,
    observers: Sequence[Observer] = (),
) -> Agreement:
    """Compare a prepared population of one with its converted network.

    Args:
        module: what `network` was converted from.
        network: the integer network.
        obs: [N, *obs_shape], float32 or uint8.
        observers: see every chunk of the observations with both results.
    """
    chunks = [
        _compare(module, network, obs[i : i + CHUNK], observers) for i in range(0, len(obs), CHUNK)
    ]
    differs, distances, outputs, integer_outputs = zip(*chunks, strict=True)
    found = compare_outputs(
        np.concatenate(outputs), np.concatenate(integer_outputs), is_actor=network.box is not None
    )
    return Agreement(
        rows=len(obs),
        rows_with_a_differing_code=float(np.concatenate(differs).mean()),
        max_tie_distance=max(distances),
        max_output_error=found.max_error,
        differing_argmax=found.differing_argmax,
        unexplained_argmax=found.unexplained_argmax,
    )


def compare_outputs(output: FloatArray, other: FloatArray, *, is_actor: bool) -> OutputAgreement:
    """Compare outputs [N, A]; an actor's are actions, of which none is the best one."""
    step = max(float(np.ptp(output)), 1e-12) / 255
    error = np.abs(output - other).max(axis=1)
    is_ranking = not is_actor and output.shape[1] > 1
    flipped = (output.argmax(1) != other.argmax(1)) & is_ranking
    best = np.sort(output, axis=1)
    gap = best[:, -1] - best[:, -2] if is_ranking else np.full(len(output), np.inf)
    return OutputAgreement(
        max_error=float(error.max() / step),
        differing_argmax=int(flipped.sum()),
        unexplained_argmax=int((flipped & (gap > error.max())).sum()),
    )


class _Compared(NamedTuple):
    differs: npt.NDArray[np.bool_]  # [N]
    tie_distance: float
    output: FloatArray
    integer_output: FloatArray


@torch.no_grad()
def _compare(
    module: nn.Module, network: IntegerNetwork, obs: ObsArray, observers: Sequence[Observer]
) -> _Compared:
    raw, output = _trace(module, obs)
    traced = network.trace(obs)
    for observe in observers:
        observe(obs, traced, output)
    *codes, integer_output = traced
    tops = [network.input_top, *(layer.top for layer in network.layers[:-1])]
    rows = [
        (r.reshape(len(obs), -1), c.reshape(len(obs), -1)) for r, c in zip(raw, codes, strict=True)
    ]
    differs, distance = _first_differences(
        [(*pair, top) for pair, top in zip(rows, tops, strict=True)]
    )
    return _Compared(differs, distance, output, integer_output)


def _trace(module: nn.Module, obs: ObsArray) -> tuple[list[FloatArray], FloatArray]:
    """Unrounded codes at every quantized layer's input, and the outputs, of fake quantization."""
    raw: list[FloatArray] = []

    def record(layer: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        grid: fake.Grid = layer.codes()[0]  # type: ignore[operator]
        raw.append(fake.position(inputs[0], grid)[0].numpy())

    layers = [m for m in module.modules() if isinstance(m, QuantLayer)]
    hooks = [layer.register_forward_pre_hook(record) for layer in layers]
    output = module.eval()(torch.from_numpy(obs).unsqueeze(0))[0].numpy()
    for hook in hooks:
        hook.remove()
    return raw, output


def _first_differences(
    pairs: list[tuple[FloatArray, FloatArray, int]],
) -> tuple[np.ndarray, float]:
    """Rows with a differing code, and the largest distance from a tie where a row first differs.

    Later layers of such a row differ because their input does, which is no rounding of theirs.
    """
    seen = np.zeros(len(pairs[0][0]), dtype=bool)
    largest = 0.0
    for raw, codes, top in pairs:
        differs = np.clip(np.rint(raw), 0, top) != codes
        new = differs & ~seen[:, None]
        if new.any():
            beyond = np.abs(np.clip(raw, 0, top) - codes) - 0.5
            largest = max(largest, float(beyond[new].max()))
        seen |= differs.any(axis=1)
    return seen, largest
