"""Post-training quantization."""

from collections.abc import Iterable

from torch import Tensor, nn

from qbench.quant.qat import QAT


class PTQ(QAT):
    """Quantizes the agents of the `none` cell, with ranges from their own replay.

    Static PTQ: Krishnamoorthi (2018), section 3.1, https://arxiv.org/abs/1806.08342.
    """

    def calibrate(self, module: nn.Module, batches: Iterable[Tensor]) -> None:
        """Set the ranges from batches of obs [S, B, *obs_shape]."""
        module.train()
        for batch in batches:
            module(batch)
        module.eval()
