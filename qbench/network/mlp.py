"""Fully connected torso."""

import itertools
from collections.abc import Sequence

from torch import nn

from qbench.layers import Sequential


class MLP(Sequential):
    """Linear and ReLU for every hidden size.

    [..., obs] -> [..., out_features].

    Args:
        obs_shape: shape of one observation; one axis.
        hidden_sizes: units of each hidden layer.

    Raises:
        ValueError: the observation has more than one axis, or there is no hidden layer.
    """

    def __init__(self, *, obs_shape: Sequence[int], hidden_sizes: Sequence[int]) -> None:
        super().__init__()
        if len(obs_shape) != 1 or not hidden_sizes:
            raise ValueError(
                f"network=mlp takes one-dimensional observations and at least one hidden size, "
                f"not obs_shape={tuple(obs_shape)}, hidden_sizes={list(hidden_sizes)}."
            )
        sizes = [obs_shape[0], *hidden_sizes]
        blocks = [
            module
            for fan_in, fan_out in itertools.pairwise(sizes)
            for module in (nn.Linear(fan_in, fan_out), nn.ReLU())
        ]
        self.layers = Sequential(*blocks)
        self.out_features = sizes[-1]
