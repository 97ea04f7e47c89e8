"""The policy that collects: what it computes in, and when it is taken from the learner."""

import copy
import itertools

import numpy as np
import pytest
import torch

from qbench import layers
from qbench.network.cnn import CNN
from qbench.network.heads import QNetwork
from qbench.train.acting import LearnerPolicy, ModuleNetwork, RefreshedPolicy, behaviour_policy
from qbench.types import EnvSpec
from tests.algo.test_ddpg import BOX, population
from tests.algo.test_dqn import random_batch
from tests.quant.test_qat import learner_of, observations, scheme
from tests.toys import q_population

SPEC = EnvSpec(id="toy", obs_shape=(4,), num_actions=2)


def quantized_learner(bits=8):
    learner = learner_of(scheme(bits).prepare(q_population([0, 1])), learning_rate=0.02)
    learner.update(random_batch(2))
    return learner


def policy_of(learner, acting, refresh_updates=1):
    return behaviour_policy(learner, SPEC, acting=acting, refresh_updates=refresh_updates)


def actions(policy, obs):
    return np.stack([policy(obs[:, i]) for i in range(obs.shape[1])], axis=1)


def update(learner, policy, first_seed):
    learner.update(random_batch(2, first_seed=first_seed))
    policy.count_updates(1)


OBS = observations(2, 60).numpy()


@pytest.mark.parametrize("bits", [8, 2])
def test_acting_in_integers_takes_the_actions_of_the_converted_networks(bits):
    learner, quant = quantized_learner(bits), scheme(bits)
    policy = policy_of(learner, "integer")
    for i in range(5):
        update(learner, policy, i)
        found = actions(policy, OBS)
        converted = [quant.convert(layers.take_seed(learner.network, k)) for k in range(2)]
        expected = [net(rows).argmax(-1) for net, rows in zip(converted, OBS, strict=True)]
        assert np.array_equal(found, np.stack(expected))


def test_fake_acting_is_the_learners_own():
    learner = quantized_learner()
    policy = policy_of(learner, "fake")
    assert isinstance(policy, LearnerPolicy) and policy.num_bytes == 0
    copied = RefreshedPolicy(ModuleNetwork(learner.network, is_copied=True), SPEC, 1)
    for i in range(5):
        update(learner, copied, i)
        expected = learner.act(torch.from_numpy(OBS)).numpy()
        assert np.array_equal(actions(policy, OBS), expected)
        assert np.array_equal(actions(copied, OBS), expected)


def test_images_are_acted_on_by_the_codes_of_now():
    spec = EnvSpec(id="toy", obs_shape=(1, 10, 10), num_actions=4, obs_high=1)
    torso = lambda obs_shape: CNN(  # noqa: E731
        obs_shape=obs_shape, channels=[2], kernel_sizes=[3], strides=[1], hidden_size=4
    )
    network = layers.populate(lambda: QNetwork(make_torso=torso, spec=spec), [0, 1])
    learner = learner_of(scheme(2).prepare(network), learning_rate=0.05)
    policy = behaviour_policy(learner, spec, acting="fake", refresh_updates=1)
    rng = np.random.default_rng(0)
    obs = rng.integers(0, 2, (2, 30, *spec.obs_shape), np.uint8)
    for i in range(5):
        images = torch.from_numpy(rng.integers(0, 2, (2, 16, *spec.obs_shape), np.uint8))
        learner.update(random_batch(2, 16, first_seed=i)._replace(obs=images, next_obs=images))
        found = actions(policy, obs)
        assert np.array_equal(found, learner.act(torch.from_numpy(obs)).numpy())


@pytest.mark.parametrize("quant", [None, scheme()], ids=["none", "qat8"])
def test_an_actors_outputs_are_the_actions(quant):
    learner = population([0, 1])
    if quant is not None:
        learner.actor = learner.network = quant.prepare(learner.actor)
    policy = behaviour_policy(learner, BOX, acting="fake", refresh_updates=1)
    obs = OBS[..., : BOX.obs_shape[0]]
    expected = learner.act(torch.from_numpy(obs)).numpy()
    np.testing.assert_allclose(actions(policy, obs), expected, rtol=1e-5, atol=1e-6)


def test_float_acting_takes_the_unquantized_weights_of_now():
    learner = quantized_learner(bits=2)
    policy = policy_of(learner, "float")
    assert policy.num_bytes == 0
    plain = q_population([5, 6])
    differ = 0
    for i in range(5):
        update(learner, policy, i)
        plain.load_state_dict(learner.network.state_dict(), strict=False)
        with torch.no_grad():
            expected = plain(torch.from_numpy(OBS)).argmax(-1).numpy()
        assert np.array_equal(actions(policy, OBS), expected)
        differ += (expected != learner.act(torch.from_numpy(OBS)).numpy()).sum()
    assert differ > 0


@pytest.mark.parametrize("acting", ["fake", "integer", "float"])
def test_a_policy_is_taken_anew_before_the_action_that_follows_enough_updates(acting):
    learner = quantized_learner(bits=2)
    policy = policy_of(learner, acting, refresh_updates=3)
    snapshots = [actions(policy, OBS)]  # The first action takes it at any rate.
    for i in range(7):
        update(learner, policy, i)
        snapshots.append(actions(policy, OBS))
    stale = [np.array_equal(*pair) for pair in itertools.pairwise(snapshots)]
    assert stale == [True, True, False, True, True, False, True]


@pytest.mark.parametrize("acting", ["fake", "integer", "float"])
def test_a_stored_policy_goes_on_as_it_was(acting):
    learner = quantized_learner(bits=2)
    policy = policy_of(learner, acting, refresh_updates=4)
    actions(policy, OBS)
    for i in range(3):
        update(learner, policy, i)
    again = policy_of(copy.deepcopy(learner), acting, refresh_updates=4)
    again.load_state_dict(policy.state_dict())
    assert np.array_equal(actions(again, OBS), actions(policy, OBS))
    fresh = policy_of(learner, acting, refresh_updates=4)
    assert not np.array_equal(actions(fresh, OBS), actions(policy, OBS))
    again.count_updates(1)
    assert np.array_equal(actions(again, OBS), actions(fresh, OBS))


def test_the_bytes_of_a_policy_by_hand():
    # 4-16-12-2: weights 64 + 192 + 24, biases 30; ranges 2 of 4 features and 2 x 2.
    learner = quantized_learner()
    copied = 4 * 2 * ((64 + 192 + 24 + 30) + (2 * 4 + 2 * 2))
    assert policy_of(learner, "fake", 2).num_bytes == copied
    assert policy_of(learner, "float", 2).num_bytes == 4 * 2 * (64 + 192 + 24 + 30)
    policy = policy_of(learner, "integer")
    policy(OBS[:, 0])
    # Weights in float32; per unit an int64 and a float32 scale; behind each hidden layer
    # multiplier, shift and offset per unit and one lowest code per seed, int64.
    assert policy.num_bytes == 2 * (4 * 280 + 12 * 30 + 8 * (3 * 28 + 2))
