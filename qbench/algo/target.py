"""Target networks."""

import copy
from typing import Protocol

import torch
from torch import Tensor, nn

from qbench.layers import flatten_parameters


class Target(Protocol):
    """A network that follows another."""

    network: nn.Module

    def sync(self, online_flat: Tensor, tau: float) -> None:
        """Move towards the online network, whose parameters are [S, P]; tau=1 copies it."""
        ...


class TargetNetwork:
    """A copy of a network that follows it; always in eval mode, without gradients.

    Args:
        online: network with a seed axis.
    """

    def __init__(self, online: nn.Module) -> None:
        self.network = copy.deepcopy(online).eval().requires_grad_(False)
        self._flat = flatten_parameters(self.network)
        self._online = online

    @torch.no_grad()
    def sync(self, online_flat: Tensor, tau: float) -> None:
        """Parameters <- (1 - tau) target + tau online; range buffers are copied whole.

        Args:
            online_flat: the online network's parameters, [S, P].
            tau: weight of the online network; 1 copies it (Mnih et al. 2015), small values
                follow it softly (Lillicrap et al. 2016).
        """
        self._flat.lerp_(online_flat[:, : self._flat.shape[1]], tau)  # Padding may be longer.
        buffers = zip(self.network.buffers(), self._online.buffers(), strict=True)
        for target, online in buffers:
            target.copy_(online)
        # Quantized layers cache their weights in eval mode; entering it anew drops the cache.
        self.network.eval()
