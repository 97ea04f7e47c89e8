"""Deep deterministic policy gradients."""

import functools
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from qbench import td
from qbench.algo.optimizer import PopulationAdam
from qbench.algo.state import learner_state, load_learner_state
from qbench.algo.target import Target, TargetNetwork
from qbench.types import Metrics, State, Transition


class DDPG:
    """DDPG of S seeds: Lillicrap et al. (2016), Algorithm 1, https://arxiv.org/abs/1509.02971.

    In the form of TD3's "OurDDPG" and CleanRL: one Adam each without weight decay, the
    action at the critic's first layer, Gaussian exploration, no normalization layers.

    Args:
        actor: mu(s) with a seed axis, [S, B, *obs_shape] -> [S, B, A].
        critic: Q(s, a) with a seed axis, [S, B, *obs_shape], [S, B, A] -> [S, B].
        learning_rate: Adam's step size of both at the start.
        gamma: discount in [0, 1].
        policy_frequency: updates of the critic per update of the actor (Fujimoto et al. 2018).
        max_grad_norm: per-seed gradient clipping; None: none.
        moments_dtype: of both Adams' moments, "float32" or "uint8".
        make_target: online network -> what follows it.
    """

    def __init__(
        self,
        *,
        actor: nn.Module,
        critic: nn.Module,
        learning_rate: float,
        gamma: float,
        policy_frequency: int,
        max_grad_norm: float | None,
        moments_dtype: str = "float32",
        make_target: Callable[[nn.Module], Target] = TargetNetwork,
    ) -> None:
        self.network = self.actor = actor
        self.critic = critic
        self.target_actor = make_target(actor)
        self.target_critic = make_target(critic)
        adam = functools.partial(
            PopulationAdam,
            learning_rate=learning_rate,
            max_grad_norm=max_grad_norm,
            moments_dtype=moments_dtype,
        )
        self.actor_optimizer = adam(actor)
        self.alive = self.actor_optimizer.alive
        self.critic_optimizer = adam(critic, alive=self.alive)
        self.gamma = gamma
        self.policy_frequency = policy_frequency
        self._num_updates = 0

    def trained(self) -> dict[str, nn.Module]:
        """The actor, which is what acts and is deployed, and the critic."""
        return {"network": self.actor, "critic": self.critic}

    def targets(self) -> dict[str, nn.Module]:
        """Their targets."""
        return {
            "target_network": self.target_actor.network,
            "target_critic": self.target_critic.network,
        }

    def optimizers(self) -> list[PopulationAdam]:
        """One Adam each."""
        return [self.actor_optimizer, self.critic_optimizer]

    def state(self) -> State:
        """Everything that updates change."""
        return {**learner_state(self), "num_updates": self._num_updates}

    def load_state(self, state: State) -> None:
        """Go on from there."""
        load_learner_state(self, state)
        self._num_updates = state["num_updates"]

    @property
    def turn(self) -> int:
        """1 if the actor moves in the next update, else 0."""
        return int((self._num_updates + 1) % self.policy_frequency == 0)

    def count_update(self) -> None:
        """Count an update, which tells whose turn the next one is."""
        self._num_updates += 1

    def losses(self, batch: Transition) -> Iterator[Tensor]:
        """The critic's loss [S], then the actor's."""
        yield self._critic_loss(batch)[0]
        yield self._actor_loss(batch)

    def update(self, batch: Transition) -> Metrics:
        """One step of every seed's critic, and at its turn of the actor."""
        if self._num_updates == 0:
            self._see_first(batch)
        loss, q_mean = self._critic_loss(batch)
        self.critic_optimizer.step(loss)
        metrics = {"loss": loss.detach(), "q_mean": q_mean}
        if self.turn:
            actor_loss = self._actor_loss(batch)
            self.actor_optimizer.step(actor_loss)
            metrics["actor_loss"] = actor_loss.detach()
        self.count_update()
        return metrics

    def _critic_loss(self, batch: Transition) -> tuple[Tensor, Tensor]:
        """Mean of (y - Q(s, a))^2 with y = r + gamma (1 - d) Q'(s', mu'(s')); mean Q."""
        self.critic.train()
        q = self.critic(batch.obs, batch.action)  # [S, B]
        with torch.no_grad():
            next_action = self.target_actor.network(batch.next_obs)  # [S, B, A]
            next_q = self.target_critic.network(batch.next_obs, next_action)  # [S, B]
        target = td.one_step_target(batch.reward, batch.terminated, next_q, self.gamma)
        return td.squared(q, target).mean(-1), q.detach().mean(-1)

    def _actor_loss(self, batch: Transition) -> Tensor:
        """-Q(s, mu(s)), averaged; the critic is frozen and its ranges do not move."""
        self.actor.train()
        self.critic.eval().requires_grad_(False)
        loss = -self.critic(batch.obs, self.actor(batch.obs)).mean(-1)  # [S]
        self.critic.requires_grad_(True)
        return loss

    def _see_first(self, batch: Transition) -> None:
        """Ranges that have seen nothing are none: the first minibatch sets them, targets too."""
        self.actor.train()(batch.obs)
        self.critic.train()(batch.obs, batch.action)
        self.sync_target(1.0)

    @torch.no_grad()
    def act(self, obs: Tensor) -> Tensor:
        """mu(s), [S, B, A] within the bounds, at obs [S, B, *obs_shape]."""
        if self.actor.training:
            self.actor.eval()
        return self.actor(obs)

    def sync_target(self, tau: float) -> None:
        """Move both targets towards their online networks."""
        self.target_actor.sync(self.actor_optimizer.flat, tau)
        self.target_critic.sync(self.critic_optimizer.flat, tau)

    def set_learning_rate(self, learning_rate: float) -> None:
        """Step size of the following updates."""
        for optimizer in self.optimizers():
            optimizer.set_learning_rate(learning_rate)
