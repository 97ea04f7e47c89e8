"""Targets in int8: what they hold, what they compute, what they weigh."""

import pytest
import torch

from qbench import layers
from qbench.algo.ddpg import DDPG
from qbench.network.heads import Actor, Critic
from qbench.quant.stored import StoredTarget
from tests.algo.test_ddpg import BOX
from tests.algo.test_ddpg import random_batch as ddpg_batch
from tests.algo.test_dqn import random_batch
from tests.quant.test_conv import images, population, prepared
from tests.quant.test_qat import learner_of, observations, scheme
from tests.toys import mlp, q_population


def test_a_float_weight_is_the_nearest_of_255_steps():
    network = q_population([0], hidden_sizes=(2,))
    first = network.torso.layers[0]
    with torch.no_grad():
        first.weight[0, 0] = torch.tensor([12.7, -12.7, 0.04, 0.16])  # s = 0.1
        first.weight[0, 1] = 0.0
    stored = StoredTarget(network).network.torso.layers[0]
    assert stored.weight[0].tolist() == [[127, -127, 0, 2], [0, 0, 0, 0]]
    assert stored.scale[0, 0].item() == pytest.approx(0.1)
    y = stored(torch.ones(1, 1, 4))
    expected = first.bias[0] + torch.tensor([0.2, 0.0])
    torch.testing.assert_close(y[0, 0], expected)


@pytest.mark.parametrize("bits", [8, 3])
@pytest.mark.parametrize("granularity", ["channel", "tensor"])
def test_a_quantized_learner_computes_the_same_bits_with_it(bits, granularity):
    quant = scheme(bits, granularity=granularity)
    whole, stored = (
        learner_of(quant.prepare(q_population([0, 1])), **changes)
        for changes in ({}, {"make_target": StoredTarget})
    )
    for i in range(30):
        for learner in (whole, stored):
            learner.update(random_batch(2, first_seed=i))
            if i % 5 == 4:
                learner.sync_target(1.0)
    assert torch.equal(whole.optimizer.flat, stored.optimizer.flat)
    obs = observations(2, 50)
    assert torch.equal(whole.target.network(obs), stored.target.network(obs))


def test_a_quantized_cnns_target_computes_the_same_bits():
    module = prepared("planes", num_seeds=2)
    obs = torch.from_numpy(images("planes", 2, 5))
    with torch.no_grad():
        assert torch.equal(StoredTarget(module).network(obs), module(obs))


def test_a_float_cnns_target_differs_by_at_most_half_a_step_per_weight():
    module = population("planes", 2)
    target = StoredTarget(module).network
    obs = torch.from_numpy(images("planes", 2, 5))
    with torch.no_grad():
        error = (target(obs) - module(obs)).abs().max()
        assert 0 < error < 0.02 * module(obs).abs().max()


def test_float_targets_of_actor_and_critic_follow_whole():
    heads = [
        layers.populate(lambda head=head: head(make_torso=mlp([8]), spec=BOX), [0, 1])
        for head in (Actor, Critic)
    ]
    ddpg = DDPG(
        actor=scheme().prepare(heads[0]),
        critic=heads[1],
        learning_rate=1e-2,
        gamma=0.9,
        policy_frequency=1,
        max_grad_norm=None,
        make_target=StoredTarget,
    )
    for i in range(3):
        ddpg.update(ddpg_batch(2, i))
    ddpg.sync_target(1.0)
    obs = ddpg_batch(2, 0).obs
    with torch.no_grad():
        assert torch.equal(ddpg.target_actor.network(obs), ddpg.actor.eval()(obs))
        both = ddpg.target_critic.network(obs, ddpg.act(obs)), ddpg.critic(obs, ddpg.act(obs))
        torch.testing.assert_close(*both, rtol=0.05, atol=0.02)


def test_its_bytes_by_hand():
    # 4-16-12-2: 64 + 192 + 24 weights of a byte, 30 biases and 30 scales of four, two seeds.
    for network in (q_population([0, 1]), scheme().prepare(q_population([0, 1]))):
        target = StoredTarget(network).network
        assert sum(p.nbytes for p in target.parameters()) == 2 * (280 + 4 * 60)


def test_it_does_not_follow_softly():
    target = StoredTarget(q_population([0]))
    with pytest.raises(ValueError, match=r"cannot follow softly, with tau=0.5"):
        target.sync(torch.zeros(1, 1), 0.5)
