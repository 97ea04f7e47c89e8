"""Quantization-aware training."""

from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor, nn

from qbench.quant.convert import integer_network
from qbench.quant.integer import IntegerNetwork
from qbench.quant.spec import Activations, Weights, swap_quantized


class QAT:
    """Trains through fake-quantized weights, biases and activations (Jacob et al. 2018).

    Args:
        weights: fields of `spec.Weights`.
        activations: fields of `spec.Activations`.
        scope: "actor", the network that acts and is deployed, or "all", a critic too.
    """

    def __init__(
        self, *, weights: Mapping[str, Any], activations: Mapping[str, Any], scope: str
    ) -> None:
        self.scope = scope
        self.weights = Weights(**weights)
        self.activations = Activations(**activations)

    def prepare(self, module: nn.Module) -> nn.Module:
        """Every layer on quantized inputs and weights; keys are added for the ranges only."""
        return swap_quantized(module, self.weights, self.activations)

    def calibrate(self, module: nn.Module, batches: Iterable[Tensor]) -> None:
        """Nothing: the ranges were learned in training."""

    def convert(self, module: nn.Module) -> IntegerNetwork:
        """The integers that training computed with, as an integer network of one agent.

        Raises:
            ConversionError: an operation that has no integer form.
        """
        return integer_network(module)
