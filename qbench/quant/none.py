"""No quantization: the float32 reference."""

from collections.abc import Iterable

from torch import Tensor, nn

from qbench.quant.convert import float_network
from qbench.quant.integer import FloatNetwork


class NoQuant:
    """Leaves the network as it is; its deployed form is the same float32 arithmetic."""

    def prepare(self, module: nn.Module) -> nn.Module:
        """The module itself."""
        return module

    def calibrate(self, module: nn.Module, batches: Iterable[Tensor]) -> None:
        """Nothing: there are no ranges."""

    def convert(self, module: nn.Module) -> FloatNetwork:
        """The float32 network of one agent as plain arrays."""
        return float_network(module)
