"""Post-training quantization: of the agents of the `none` cell, calibrated on their replay."""

from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor, nn

from qbench.quant.convert import integer_network
from qbench.quant.integer import IntegerNetwork
from qbench.quant.layer import QuantLayer
from qbench.quant.spec import Activations, Weights, swap_quantized


class PTQ:
    """Static: ranges are those of the calibration observations.

    Krishnamoorthi (2018), section 3.1, https://arxiv.org/abs/1806.08342.

    Args:
        weights: fields of `spec.Weights`.
        activations: fields of `spec.Activations`.
    """

    def __init__(self, *, weights: Mapping[str, Any], activations: Mapping[str, Any]) -> None:
        self.weights = Weights(**weights)
        self.activations = Activations(**activations)

    def prepare(self, module: nn.Module) -> nn.Module:
        """Every layer on quantized inputs and weights; keys are added for the ranges only."""
        return swap_quantized(module, self.weights, self.activations)

    def calibrate(self, module: nn.Module, batches: Iterable[Tensor]) -> None:
        """Set the ranges from batches of obs [S, B, *obs_shape]; averages are over batches."""
        module.train()
        layers = [m for m in module.modules() if isinstance(m, QuantLayer)]
        for i, batch in enumerate(batches):
            for layer in layers:
                layer.momentum = 1 / (i + 1)
            module(batch)
        module.eval()

    def convert(self, module: nn.Module) -> IntegerNetwork:
        """The integers of one agent.

        Raises:
            ConversionError: an operation that has no integer form.
        """
        return integer_network(module)
