"""Half-precision weights: the reference points between float32 and integers."""

import copy
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from qbench.quant.convert import float_network
from qbench.quant.integer import FloatNetwork

DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16}


class PTQCast:
    """Weights and biases of the `none` agents rounded to a 16-bit format; computed in float32.

    Args:
        number_format: "float16" or "bfloat16".
    """

    def __init__(self, *, number_format: str) -> None:
        self.number_format = number_format

    def prepare(self, module: nn.Module) -> nn.Module:
        """A copy with rounded parameters; what overflows the format becomes infinite."""
        rounded = copy.deepcopy(module)
        for parameter in rounded.parameters():
            parameter.data = parameter.data.to(DTYPES[self.number_format]).to(torch.float32)
        return rounded

    def calibrate(self, module: nn.Module, batches: Iterable[Tensor]) -> None:
        """Nothing: there are no ranges."""

    def convert(self, module: nn.Module) -> FloatNetwork:
        """The network of one agent as plain arrays, stored in 16 bits."""
        return float_network(module, self.number_format)
