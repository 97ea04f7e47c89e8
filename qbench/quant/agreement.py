"""How far the integer network agrees with the fake-quantized one it was converted from."""

from typing import NamedTuple

import numpy as np
import torch
from torch import nn

from qbench.quant import fake
from qbench.quant.integer import IntegerNetwork
from qbench.quant.linear import QuantLinear
from qbench.types import FloatArray


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


@torch.no_grad()
def measure(module: nn.Module, network: IntegerNetwork, obs: FloatArray) -> Agreement:
    """Compare a prepared population of one with its converted network.

    Args:
        module: what `network` was converted from.
        network: the integer network.
        obs: [N, F] float32.
    """
    raw, output = _trace(module, obs)
    *codes, integer_output = network.trace(obs)
    pairs = zip(raw, codes, network_tops(network), strict=True)
    differs, distance = _first_differences(list(pairs))
    step = max(float(np.ptp(output)), 1e-12) / 255
    error = np.abs(output - integer_output).max(axis=1)
    flipped = output.argmax(1) != integer_output.argmax(1)
    best = np.sort(output, axis=1)
    gap = best[:, -1] - best[:, -2] if output.shape[1] > 1 else np.full(len(obs), np.inf)
    return Agreement(
        rows=len(obs),
        rows_with_a_differing_code=float(differs.mean()),
        max_tie_distance=distance,
        max_output_error=float(error.max() / step),
        differing_argmax=int(flipped.sum()),
        unexplained_argmax=int((flipped & (gap > error.max())).sum()),
    )


def network_tops(network: IntegerNetwork) -> list[int]:
    """Largest code at every layer's input."""
    return [network.input_top, *(layer.top for layer in network.layers[:-1])]


def _trace(module: nn.Module, obs: FloatArray) -> tuple[list[FloatArray], FloatArray]:
    """Unrounded codes at every quantized layer's input, and the outputs, of fake quantization."""
    raw: list[FloatArray] = []

    def record(layer: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        grid: fake.Grid = layer.codes()[0]  # type: ignore[operator]
        raw.append(fake.position(inputs[0], grid)[0].numpy())

    layers = [m for m in module.modules() if isinstance(m, QuantLinear)]
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
