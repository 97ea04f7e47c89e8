"""Heads: what an algorithm puts on a torso."""

from torch import Tensor, nn


class QNetwork(nn.Module):
    """Action values Q(s, .) of a discrete action space: a torso and one linear layer."""

    def __init__(self, *, torso: nn.Module, num_actions: int) -> None:
        super().__init__()
        self.torso = torso
        self.head = nn.Linear(torso.out_features, num_actions)  # type: ignore[arg-type]

    def forward(self, obs: Tensor) -> Tensor:
        """[..., *obs_shape] -> [..., num_actions]."""
        return self.head(self.torso(obs))
