"""Whether another form of an agent computes what its integer network does.

The statement, for every form (fake quantization, ONNX Runtime) and every bit width:

    Layer by layer, at the very codes that the form itself has at a layer's input, the form's
    codes at its output are the exact values (a m + b) / 2^r, rounded: each lies within 1e-3 of
    half a code of it. Where it is not the integer network's own code it is a tie, and of all
    codes at most 1 in 20,000 may be. The outputs lie within 1e-5 of their range of the last
    layer's sums at the form's own codes.

So every difference between the outputs follows from ties that were counted. How far a tie moves
an output depends on the bits: one code of 255 by a fraction of an 8-bit step, one of 3 by many.
Outputs end to end and the actions that differ are therefore recorded and not limited, except
that an action may only differ in a row with a tie, or where the best two outputs are closer
than float rounding.
"""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from qbench.quant import grids
from qbench.quant.integer import CHUNK, IntegerLayer, IntegerNetwork
from qbench.quant.layer import QuantLayer
from qbench.types import FloatArray, ObsArray

DIFFERING_CODES = 5e-5
"""Of all codes, those that may be rounded the other way. 0.5 % of the rows of a 4-64-64 network."""
TIE_DISTANCE = 1e-3
"""In codes. float32 holds a position on a grid of 255 codes to 2e-5, times a few operations."""
ROUNDING = 1e-5
"""Of the outputs' range."""


class Agreement(NamedTuple):
    """Differences between the integer network and another form over N observations of one agent."""

    rows: int
    rows_with_a_differing_code: float  # fraction
    differing_codes: (
        float  # fraction of all codes, each at the form's own codes of the layer before
    )
    max_tie_distance: float  # in codes, of those from a rounding tie
    max_rounding_error: float  # of outputs at the form's own last codes, a share of their range
    max_output_error: float  # end to end, in steps of an 8-bit grid over the outputs' range
    differing_argmax: int  # rows
    unexplained_argmax: int  # of these, without a tie, the best two outputs not within rounding

    @property
    def holds(self) -> bool:
        """The module's statement."""
        return (
            self.differing_codes <= DIFFERING_CODES
            and self.max_tie_distance <= TIE_DISTANCE
            and self.max_rounding_error <= ROUNDING
            and self.unexplained_argmax == 0
        )


class Observer(Protocol):
    """Another form of the network, which sees the same observations."""

    def __call__(self, obs: ObsArray, traced: list[FloatArray]) -> None:
        """Compare with what `IntegerNetwork.trace` gave."""
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
        observers: see every chunk of the observations with the integer network's results.
    """
    tally = Tally(network)
    for start in range(0, len(obs), CHUNK):
        rows = obs[start : start + CHUNK]
        traced = network.trace(rows)
        for observe in observers:
            observe(rows, traced)
        tally.add(rows, traced, *_trace(module, rows))
    return tally.result()


class Tally:
    """Adds up how far another form agrees with an integer network, some observations at a time."""

    def __init__(self, network: IntegerNetwork) -> None:
        self._network = network
        self._num_codes = 0
        self._num_differing = 0
        self._tie_distance = 0.0
        self._differs: list[npt.NDArray[np.bool_]] = []
        self._outputs: list[tuple[FloatArray, FloatArray, FloatArray]] = []

    def add(
        self, obs: ObsArray, traced: list[FloatArray], codes: list[FloatArray], output: FloatArray
    ) -> None:
        """Compare some observations.

        Args:
            obs: [N, *obs_shape].
            traced: what the integer network's `trace` gave.
            codes: the form's own codes at every layer's input, each [N, ...].
            output: the form's own outputs [N, A].
        """
        own = [c.reshape(t.shape) for c, t in zip(codes, traced, strict=False)]
        differs = np.zeros(len(obs), np.bool_)
        for t, c in zip(traced, own, strict=False):
            differs |= (t != c).reshape(len(obs), -1).any(axis=1)
        explained = traced[-1].copy()
        if differs.any():
            explained[differs] = self._explain(obs[differs], [c[differs] for c in own])
        self._num_codes += sum(c.size for c in own)
        self._differs.append(differs)
        self._outputs.append((output, traced[-1], explained))

    def _explain(self, obs: ObsArray, codes: list[FloatArray]) -> FloatArray:
        """Count the form's ties; the integer network's outputs at the form's last codes."""
        network = self._network
        scaled = obs.astype(np.float32) * network.input_inverse_scale + network.input_zero
        exact = np.clip(scaled, 0, network.input_top)
        self._count(exact, np.rint(exact), codes[0])
        for layer, taken, given in zip(network.layers[:-1], codes, codes[1:], strict=False):
            sums = layer.accumulate(taken)
            rounded = layer.requantize(sums).reshape(given.shape)
            self._count(exact_codes(layer, sums).reshape(given.shape), rounded, given)
        output = network.layers[-1].accumulate(codes[-1]).astype(np.float32) * network.output_scale
        return output if network.box is None else network.box(output)

    def _count(self, exact: FloatArray, rounded: FloatArray, codes: FloatArray) -> None:
        differs = rounded != codes
        if differs.any():
            self._num_differing += int(differs.sum())
            distance = float(np.abs(exact - codes)[differs].max()) - 0.5
            self._tie_distance = max(self._tie_distance, distance)

    def result(self) -> Agreement:
        """Of everything added."""
        differs = np.concatenate(self._differs)
        output, reference, explained = (
            np.concatenate(parts) for parts in zip(*self._outputs, strict=True)
        )
        spread = max(float(np.ptp(reference)), 1e-12)
        flipped, gap = _rankings(output, reference, is_actor=self._network.box is not None)
        return Agreement(
            rows=len(differs),
            rows_with_a_differing_code=float(differs.mean()),
            differing_codes=self._num_differing / self._num_codes,
            max_tie_distance=self._tie_distance,
            max_rounding_error=float(np.abs(output - explained).max()) / spread,
            max_output_error=float(np.abs(output - reference).max()) / spread * 255,
            differing_argmax=int(flipped.sum()),
            unexplained_argmax=int((flipped & ~differs & (gap > 2 * ROUNDING * spread)).sum()),
        )


def exact_codes(layer: IntegerLayer, sums: FloatArray) -> FloatArray:
    """(a m + b) / 2^r of accumulators a [B, out, ...], clamped but not rounded, in float64."""
    assert layer.multiplier is not None and layer.shift is not None and layer.offset is not None
    shape = (-1, *[1] * (sums.ndim - 2))
    ratio, zero = (
        np.ldexp(values.astype(np.float64), -layer.shift.astype(np.int64)).reshape(shape)
        for values in (layer.multiplier, layer.offset)
    )
    return np.clip(sums * ratio + zero, layer.low, layer.top)


def _rankings(
    output: FloatArray, other: FloatArray, *, is_actor: bool
) -> tuple[npt.NDArray[np.bool_], FloatArray]:
    """Rows [N] with another best output, and by how much the best exceeds the second.

    An actor's outputs are actions, of which none is the best one.
    """
    if is_actor or output.shape[1] == 1:
        return np.zeros(len(output), np.bool_), np.zeros(len(output))
    ordered = np.sort(output, axis=1)
    return output.argmax(axis=1) != other.argmax(axis=1), ordered[:, -1] - ordered[:, -2]


@torch.no_grad()
def _trace(module: nn.Module, obs: ObsArray) -> tuple[list[FloatArray], FloatArray]:
    """Codes at every quantized layer's input, and the outputs, of fake quantization."""
    codes: list[FloatArray] = []

    def record(layer: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        grid: grids.Grid = layer.codes()[0]  # type: ignore[operator]
        codes.append(grids.encode(inputs[0], grid)[0].numpy())

    layers = [m for m in module.modules() if isinstance(m, QuantLayer)]
    hooks = [layer.register_forward_pre_hook(record) for layer in layers]
    output = module.eval()(torch.from_numpy(obs).unsqueeze(0))[0].numpy()
    for hook in hooks:
        hook.remove()
    return codes, output
