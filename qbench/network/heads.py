"""Heads: what an algorithm puts on a torso.

`make_torso` builds the network of conf/network for the shape of its input.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from qbench.layers import ScaleBytes, Sequential, TanhToBox
from qbench.types import EnvSpec

MakeTorso = Callable[[tuple[int, ...]], nn.Module]


class QNetwork(Sequential):
    """Action values Q(s, .) of a discrete action space: a torso and one linear layer.

    [..., *obs_shape] -> [..., num_actions].
    """

    def __init__(self, *, make_torso: MakeTorso, spec: EnvSpec) -> None:
        super().__init__()
        self.input = _input(spec)
        self.torso = make_torso(spec.obs_shape)
        self.head = nn.Linear(self.torso.out_features, spec.num_actions)  # type: ignore[arg-type]


class Actor(Sequential):
    """Deterministic policy mu(s) within the bounds of a Box (Lillicrap et al. 2016).

    [..., *obs_shape] -> [..., A].
    """

    def __init__(self, *, make_torso: MakeTorso, spec: EnvSpec) -> None:
        super().__init__()
        self.input = _input(spec)
        self.torso = make_torso(spec.obs_shape)
        self.head = nn.Linear(self.torso.out_features, len(spec.action_low))  # type: ignore[arg-type]
        self.box = TanhToBox(spec.action_low, spec.action_high)


class Critic(nn.Module):
    """Q(s, a) of a Box: the torso takes observation and action side by side."""

    def __init__(self, *, make_torso: MakeTorso, spec: EnvSpec) -> None:
        super().__init__()
        self.torso = make_torso((spec.obs_shape[0] + len(spec.action_low),))
        self.head = nn.Linear(self.torso.out_features, 1)  # type: ignore[arg-type]

    def forward(self, obs: Tensor, action: Tensor) -> Tensor:
        """[..., obs], [..., A] -> [...]."""
        return self.head(self.torso(torch.cat([obs, action], dim=-1))).squeeze(-1)


def _input(spec: EnvSpec) -> nn.Module:
    return nn.Identity() if spec.obs_high is None else ScaleBytes(spec.obs_high)
