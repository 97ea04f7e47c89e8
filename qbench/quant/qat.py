"""Quantization-aware training."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import inf
from typing import Any

from torch import Tensor, nn

from qbench.quant.convert import integer_network
from qbench.quant.integer import IntegerNetwork
from qbench.quant.layer import QuantLayer
from qbench.quant.spec import Activations, Weights, swap_quantized


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """`quant.schedule`, in env steps of one seed."""

    delay_env_steps: int  # trained in float until then, while ranges are observed
    freeze_env_steps: int | None  # ranges move no more from then on; None: to the end


class QAT:
    """Trains through fake-quantized weights, biases and activations (Jacob et al. 2018).

    Args:
        weights: fields of `spec.Weights`.
        activations: fields of `spec.Activations`.
        schedule: fields of `Schedule` (Krishnamoorthi 2018, section 3.2.1 and figure 2,
            https://arxiv.org/abs/1806.08342).
        scope: "actor", the network that acts and is deployed, or "all", a critic too.
        target_network: "quantized" as the online one, or "float".
        acting: what the behaviour policy computes in, "fake", "integer" or "float".
        acting_refresh_updates: updates after which the behaviour policy is taken anew.
        saved: what backward keeps of layers' inputs, "codes" or "floats" (`fake.apply`).
    """

    def __init__(
        self,
        *,
        weights: Mapping[str, Any],
        activations: Mapping[str, Any],
        schedule: Mapping[str, Any],
        scope: str,
        target_network: str,
        acting: str,
        acting_refresh_updates: int,
        saved: str,
    ) -> None:
        self.scope = scope
        self.acting = acting
        self.acting_refresh_updates = acting_refresh_updates
        self._saved = saved
        self.weights = Weights(**weights)
        self.activations = Activations(**activations)
        self.schedule = Schedule(**schedule)
        self.target_network = target_network

    def prepare(self, module: nn.Module) -> nn.Module:
        """Every layer on quantized inputs and weights; keys are added for the ranges only."""
        prepared = swap_quantized(module, self.weights, self.activations)
        for layer in prepared.modules():
            if isinstance(layer, QuantLayer):
                layer.saved = self._saved
        return prepared

    def advance(self, module: nn.Module, env_step: float, *, is_target: bool) -> None:
        """Make a prepared network what it is at `env_step`: in float, quantized, frozen."""
        delay, freeze = self.schedule.delay_env_steps, self.schedule.freeze_env_steps
        stays_float = is_target and self.target_network == "float"
        for layer in (m for m in module.modules() if isinstance(m, QuantLayer)):
            layer.set_phase(
                is_quantizing=env_step >= delay and not stays_float,
                is_frozen=freeze is not None and env_step >= freeze,
            )

    def next_change(self, env_step: float) -> float:
        """The next env step of the schedule; infinity if there is none."""
        steps = (self.schedule.delay_env_steps, self.schedule.freeze_env_steps)
        return min((step for step in steps if step is not None and step > env_step), default=inf)

    def calibrate(self, module: nn.Module, batches: Iterable[Tensor]) -> None:
        """Nothing: the ranges were learned in training."""

    def convert(self, module: nn.Module) -> IntegerNetwork:
        """The integers that training computed with, as an integer network of one agent.

        Raises:
            ConversionError: an operation that has no integer form.
        """
        return integer_network(module)
