"""DDPG against numbers worked by hand on two states, and the laws of a population."""

import copy

import pytest
import torch
from torch import nn

from qbench import layers
from qbench.algo.ddpg import DDPG
from qbench.network.heads import Actor, Critic
from qbench.types import EnvSpec, Transition
from tests.toys import mlp

BOX = EnvSpec(id="box", obs_shape=(3,), action_low=(-2.0,), action_high=(2.0,))


class LinearActor(nn.Module):
    """mu(s) = w . s over two one-hot states."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(2, 1)
        self.layer.weight.data = torch.tensor([[0.5, -1.0]])
        self.layer.bias.data.zero_()

    def forward(self, obs):
        return self.layer(obs)


class LinearCritic(nn.Module):
    """Q(s, a) = v . s + c a."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 1)
        self.layer.weight.data = torch.tensor([[1.0, 3.0, 2.0]])
        self.layer.bias.data.zero_()

    def forward(self, obs, action):
        return self.layer(torch.cat([obs, action], -1))[..., 0]


def make_learner(actor, critic, **changes):
    settings = {
        "learning_rate": 0.1,
        "gamma": 0.9,
        "policy_frequency": 1,
        "max_grad_norm": None,
    }
    return DDPG(actor=actor, critic=critic, **(settings | changes))


def two_states(**changes):
    return make_learner(
        layers.populate(LinearActor, [0]), layers.populate(LinearCritic, [0]), **changes
    )


def one_transition(terminated=False):
    """From state 0 by a = 0.25 to state 1, reward 1."""
    return Transition(
        obs=torch.tensor([[[1.0, 0.0]]]),
        action=torch.tensor([[[0.25]]]),
        reward=torch.tensor([[1.0]]),
        terminated=torch.tensor([[terminated]]),
        next_obs=torch.tensor([[[0.0, 1.0]]]),
    )


@pytest.mark.parametrize("terminated", [False, True])
def test_targets_and_losses_by_hand(terminated):
    learner = two_states()
    critic_loss, actor_loss = learner.losses(one_transition(terminated))
    # Q(s, a) = 1 + 2 * 0.25 = 1.5; mu(s') = -1, so Q'(s', mu(s')) = 3 - 2 = 1.
    y = 1.0 if terminated else 1.0 + 0.9 * 1.0
    assert critic_loss.item() == pytest.approx((y - 1.5) ** 2)
    # mu(s) = 0.5, so the actor's loss is -(1 + 2 * 0.5).
    assert actor_loss.item() == pytest.approx(-2.0)


def test_gradients_by_hand():
    learner = two_states()
    critic_loss, actor_loss = learner.losses(one_transition())
    (grad,) = torch.autograd.grad(critic_loss.sum(), learner.critic.layer.weight)
    # d/dw (1.9 - Q)^2 = -2 * 0.4 * (s, a).
    assert grad[0, 0].tolist() == pytest.approx([-0.8, 0.0, -0.2])
    (grad,) = torch.autograd.grad(actor_loss.sum(), learner.actor.layer.weight)
    # d/dw -(v . s + c mu) = -c s.
    assert grad[0, 0].tolist() == pytest.approx([-2.0, 0.0])


def test_targets_use_the_target_networks():
    learner = two_states()
    with torch.no_grad():  # The online networks now say something else at s'.
        learner.actor.layer.weight.fill_(7.0)
        learner.critic.layer.weight[0, 0, 1] = 11.0
    critic_loss, _ = learner.losses(one_transition())
    assert critic_loss.item() == pytest.approx((1.9 - 1.5) ** 2)


def test_the_actors_step_leaves_the_critic_as_it_is():
    learner = two_states()
    before = learner.critic_optimizer.flat.clone()
    _, actor_loss = learner.losses(one_transition())
    learner.actor_optimizer.step(actor_loss)
    assert torch.equal(learner.critic_optimizer.flat, before)
    assert all(p.requires_grad for p in learner.critic.parameters())
    assert learner.actor.layer.weight[0, 0].tolist() == pytest.approx([0.6, -1.0])


def test_the_actor_waits_for_its_turn():
    learner = two_states(policy_frequency=3)
    moved = []
    for _ in range(6):
        before = learner.actor_optimizer.flat.clone()
        metrics = learner.update(one_transition())
        moved.append(not torch.equal(before, learner.actor_optimizer.flat))
        assert ("actor_loss" in metrics) == moved[-1]
    assert moved == [False, False, True] * 2


def test_sync_blends_both_targets():
    learner = two_states()
    with torch.no_grad():
        learner.actor.layer.weight.fill_(10.0)
        learner.critic.layer.weight.fill_(10.0)
    learner.sync_target(0.1)
    actor, critic = learner.targets().values()
    assert actor.layer.weight[0, 0].tolist() == pytest.approx([0.9 * 0.5 + 1, -0.9 + 1])
    assert critic.layer.weight[0, 0].tolist() == pytest.approx([1.9, 3.7, 2.8])


def population(seeds):
    actor = layers.populate(lambda: Actor(make_torso=mlp([24, 16]), spec=BOX), seeds)
    critic = layers.populate(lambda: Critic(make_torso=mlp([24, 16]), spec=BOX), seeds)
    return make_learner(actor, critic, learning_rate=1e-3, policy_frequency=2)


def random_batch(num_seeds, first_seed):
    members = []
    for k in range(num_seeds):
        g = torch.Generator().manual_seed(first_seed + k)
        members.append(
            Transition(
                obs=torch.randn(32, 3, generator=g),
                action=4 * torch.rand(32, 1, generator=g) - 2,
                reward=torch.randn(32, generator=g),
                terminated=torch.rand(32, generator=g) < 0.2,
                next_obs=torch.randn(32, 3, generator=g),
            )
        )
    return Transition(*(torch.stack(field) for field in zip(*members, strict=True)))


@pytest.mark.usefixtures("either_library")
def test_a_seed_is_bit_identical_in_any_population_over_100_updates():
    alone, crowd = population([11]), population([11, 12, 13])
    for i in range(100):
        alone.update(random_batch(1, i))
        crowd.update(random_batch(3, i))
        alone.sync_target(0.01)
        crowd.sync_target(0.01)
    for one, many in zip(alone.optimizers(), crowd.optimizers(), strict=True):
        assert torch.equal(one.flat[0], many.flat[0])


def test_a_diverged_seed_is_frozen_whole_and_the_others_bits_do_not_change():
    healthy, stricken = population([0, 1]), population([0, 1])
    for i in range(20):
        batch = random_batch(2, i)
        healthy.update(batch)
        if i == 9:
            frozen = [o.flat[1].clone() for o in stricken.optimizers()]
        if i >= 9:
            batch.reward[1, 3] = float("nan")
        stricken.update(batch)
    assert stricken.alive.tolist() == [True, False]
    for ours, others, kept in zip(stricken.optimizers(), healthy.optimizers(), frozen, strict=True):
        assert torch.equal(ours.flat[1], kept)
        assert torch.equal(ours.flat[0], others.flat[0])


def plain_updates(actor, critic, batches):
    """CleanRL's ddpg_continuous_action.py, one seed, the actor and targets every second update."""
    target_actor, target_critic = copy.deepcopy(actor), copy.deepcopy(critic)
    optimizers = [torch.optim.Adam(net.parameters(), lr=1e-3) for net in (actor, critic)]

    def descend(optimizer, loss):
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    for number, (obs, action, reward, terminated, next_obs) in enumerate(batches, 1):
        with torch.no_grad():
            next_q = target_critic(next_obs, target_actor(next_obs))
            y = reward + (1 - terminated.float()) * 0.9 * next_q
        descend(optimizers[1], nn.functional.mse_loss(critic(obs, action), y))
        if number % 2 == 0:
            descend(optimizers[0], -critic(obs, actor(obs)).mean())
            for net, target in ((actor, target_actor), (critic, target_critic)):
                for ours, theirs in zip(net.parameters(), target.parameters(), strict=True):
                    theirs.data.copy_(0.005 * ours.data + (1 - 0.005) * theirs.data)


def test_a_seeds_updates_are_those_of_the_plain_algorithm():
    learner = population([3, 4])
    actor, critic = layers.take_seed(learner.actor, 1), layers.take_seed(learner.critic, 1)
    batches = [random_batch(2, i) for i in range(50)]
    for number, batch in enumerate(batches, 1):
        learner.update(batch)
        if number % 2 == 0:
            learner.sync_target(0.005)
    plain_updates(actor, critic, [[field[1] for field in batch] for batch in batches])
    for mine, plain in ((learner.actor, actor), (learner.critic, critic)):
        for p, q in zip(mine.parameters(), plain.parameters(), strict=True):
            assert torch.allclose(p[1], q, rtol=0, atol=1e-6)


def test_the_learning_rate_is_that_of_both_optimizers():
    learner = two_states()
    learner.set_learning_rate(0.01)
    learner.update(one_transition())
    # Adam's first step is the learning rate: the critic's towards a larger Q, the actor's too.
    assert learner.critic.layer.weight[0, 0].tolist() == pytest.approx([1.01, 3.0, 2.01])
    assert learner.actor.layer.weight[0, 0].tolist() == pytest.approx([0.51, -1.0])
