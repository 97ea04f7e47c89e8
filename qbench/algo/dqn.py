"""Deep Q-networks."""

import copy

import torch
from torch import Tensor, nn

from qbench import td
from qbench.algo.optimizer import PopulationAdam
from qbench.layers import flatten_parameters
from qbench.types import Metrics, Transition


class DQN:
    """DQN of S seeds: Mnih et al. (2015), Algorithm 1, https://www.nature.com/articles/nature14236.

    Args:
        network: Q-network with a seed axis, [S, B, *obs_shape] -> [S, B, A].
        learning_rate: Adam's step size at the start.
        gamma: discount in [0, 1].
        double: the online network chooses the target's action (van Hasselt et al. 2016).
        target_network: False bootstraps from the online network (Mnih et al. 2013, equation 2).
        loss: "huber" or "squared".
        max_grad_norm: per-seed gradient clipping; None: none.
    """

    def __init__(
        self,
        *,
        network: nn.Module,
        learning_rate: float,
        gamma: float,
        double: bool,
        target_network: bool,
        loss: str,
        max_grad_norm: float | None,
    ) -> None:
        self.network = network
        self.target_network = copy.deepcopy(network).eval() if target_network else None
        if self.target_network is not None:
            self._target_flat = flatten_parameters(self.target_network.requires_grad_(False))
        self.optimizer = PopulationAdam(
            network, learning_rate=learning_rate, max_grad_norm=max_grad_norm
        )
        self.set_learning_rate = self.optimizer.set_learning_rate
        self.gamma = gamma
        self._has_buffers = False
        self.double = double
        self._error = td.LOSSES[loss]

    @property
    def alive(self) -> Tensor:
        """[S] bool: seeds that have not diverged."""
        return self.optimizer.alive

    def update(self, batch: Transition) -> Metrics:
        """One gradient step for every seed on its own minibatch of B transitions."""
        self.network.train()
        loss, metrics = self.loss(batch)
        self.optimizer.step(loss)
        return metrics

    def loss(self, batch: Transition) -> tuple[Tensor, Metrics]:
        """Temporal-difference loss [S], and what is reported of it."""
        # The online forward comes first: double DQN's second one then finds its layers' caches.
        q = self.network(batch.obs).gather(-1, batch.action[..., None])[..., 0]  # [S, B]
        self._copy_first_buffers()
        target = self._target(batch)  # [S, B]
        loss = self._error(q, target).mean(-1)  # [S]
        return loss, {"loss": loss.detach(), "q_mean": q.detach().mean(-1)}

    @torch.no_grad()
    def _target(self, batch: Transition) -> Tensor:
        next_q = (self.target_network or self.network)(batch.next_obs)  # [S, B, A]
        if not (self.double and self.target_network):
            return td.q_learning_target(batch.reward, batch.terminated, next_q, self.gamma)
        return td.double_q_learning_target(
            batch.reward, batch.terminated, next_q, self.network(batch.next_obs), self.gamma
        )

    def _copy_first_buffers(self) -> None:
        """Ranges do not wait for the first sync: a range that has seen nothing is no range."""
        if not self._has_buffers:
            self._has_buffers = True
            self._copy_buffers()

    @torch.no_grad()
    def _copy_buffers(self) -> None:
        if self.target_network is None:
            return
        buffers = zip(self.target_network.buffers(), self.network.buffers(), strict=True)
        for target, online in buffers:
            target.copy_(online)
        # Quantized layers cache their weights in eval mode; entering it anew drops the cache.
        self.target_network.eval()

    @torch.no_grad()
    def act(self, obs: Tensor) -> Tensor:
        """Greedy actions [S, B] at obs [S, B, *obs_shape]."""
        if self.network.training:
            self.network.eval()
        return self.network(obs).argmax(dim=-1)

    @torch.no_grad()
    def sync_target(self, tau: float) -> None:
        """Target parameters <- (1 - tau) target + tau online; range buffers are copied whole."""
        if self.target_network is None:
            return
        self._target_flat.lerp_(self.optimizer.flat, tau)
        self._copy_buffers()
