"""Deep Q-networks."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from qbench import td
from qbench.algo.optimizer import PopulationAdam
from qbench.algo.state import learner_state, load_learner_state
from qbench.algo.target import Target, TargetNetwork
from qbench.types import Metrics, State, Transition


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
        moments_dtype: of Adam's moments, "float32" or "uint8".
        make_target: online network -> what follows it.
    """

    turn = 0

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
        moments_dtype: str = "float32",
        make_target: Callable[[nn.Module], Target] = TargetNetwork,
    ) -> None:
        self.network = network
        self.target = make_target(network) if target_network else None
        self.optimizer = PopulationAdam(
            network,
            learning_rate=learning_rate,
            max_grad_norm=max_grad_norm,
            moments_dtype=moments_dtype,
        )
        self.set_learning_rate = self.optimizer.set_learning_rate
        self.alive = self.optimizer.alive
        self.gamma = gamma
        self.double = double
        self._error = td.LOSSES[loss]
        self._has_ranges = False

    def trained(self) -> dict[str, nn.Module]:
        """The Q-network."""
        return {"network": self.network}

    def targets(self) -> dict[str, nn.Module]:
        """Its target, if there is one."""
        return {} if self.target is None else {"target_network": self.target.network}

    def optimizers(self) -> list[PopulationAdam]:
        """Adam."""
        return [self.optimizer]

    def state(self) -> State:
        """Everything that updates change."""
        return {**learner_state(self), "has_ranges": self._has_ranges}

    def load_state(self, state: State) -> None:
        """Go on from there."""
        load_learner_state(self, state)
        self._has_ranges = state["has_ranges"]

    def count_update(self) -> None:
        """Nothing: all updates are alike."""

    def losses(self, batch: Transition) -> Iterator[Tensor]:
        """The one loss [S] of an update."""
        self.network.train()
        yield self.loss(batch)[0]

    def update(self, batch: Transition) -> Metrics:
        """One gradient step for every seed on its own minibatch of B transitions."""
        if not self.network.training:
            self.network.train()
        loss, metrics = self.loss(batch)
        self.optimizer.step(loss)
        return metrics

    def loss(self, batch: Transition) -> tuple[Tensor, Metrics]:
        """Temporal-difference loss [S], and what is reported of it."""
        # The online forward comes first: it makes anew the codes that quantized layers cache, which
        # the others without gradients (double DQN's, or all without a target network) then find.
        q = self.network(batch.obs).gather(-1, batch.action[..., None]).squeeze(-1)  # [S, B]
        if self.target is not None and not self._has_ranges:
            # Ranges do not wait for the first sync: one that has seen nothing is no range.
            self._has_ranges = True
            self.sync_target(1.0)
        target = self._target(batch)  # [S, B]
        loss = self._error(q, target).mean(-1)  # [S]
        return loss, {"loss": loss.detach(), "q_mean": q.detach().mean(-1)}

    @torch.no_grad()
    def _target(self, batch: Transition) -> Tensor:
        if self.target is None:
            next_q = self.network(batch.next_obs)  # [S, B, A]
            return td.q_learning_target(batch.reward, batch.terminated, next_q, self.gamma)
        next_q = self.target.network(batch.next_obs)  # [S, B, A]
        if not self.double:
            return td.q_learning_target(batch.reward, batch.terminated, next_q, self.gamma)
        return td.double_q_learning_target(
            batch.reward, batch.terminated, next_q, self.network(batch.next_obs), self.gamma
        )

    @torch.no_grad()
    def act(self, obs: Tensor) -> Tensor:
        """Greedy actions [S, B] at obs [S, B, *obs_shape]."""
        if self.network.training:
            self.network.eval()
        return self.network(obs).argmax(dim=-1)

    def sync_target(self, tau: float) -> None:
        """Move the target network towards the online one."""
        if self.target is not None:
            self.target.sync(self.optimizer.flat, tau)
