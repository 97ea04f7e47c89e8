"""CartPoleEnvs against gymnasium's own env, bit for bit."""

import numpy as np
import pytest

from qbench.env.cartpole import CartPoleEnvs
from qbench.env.gym import GymnasiumEnv
from tests.env.steps import actions, assert_same_play, play


def balancing(theta_and_velocity):
    """A policy that lasts beyond the time limit."""
    return (theta_and_velocity @ np.array([1.0, 1.0]) > 0).astype(np.int64)


@pytest.mark.parametrize("num_seeds", [1, 5, 8])
def test_random_play_is_that_of_serial_envs(num_seeds):
    env = GymnasiumEnv(id="CartPole-v1", kwargs={}, stepping="serial")
    acts = actions(env.describe(), 2000, num_seeds)
    serial = play(env.make_training(num_seeds), acts, range(7, 7 + num_seeds))
    vector = play(CartPoleEnvs(num_seeds), acts, range(7, 7 + num_seeds))
    assert sum(step.ended.sum() for step in serial[1]) > 50 * num_seeds
    assert_same_play(serial, vector)


def test_the_time_limit_truncates_at_500_steps_as_serially():
    env = GymnasiumEnv(id="CartPole-v1", kwargs={}, stepping="serial")
    serial, vector = env.make_training(3), CartPoleEnvs(3)
    obs, other = serial.reset([0, 1, 2]), vector.reset([0, 1, 2])
    truncations = 0
    for _ in range(1600):
        action = balancing(obs[:, 2:])
        left, right = serial.step(action), vector.step(action)
        assert_same_play((obs, [left]), (other, [right]))
        obs, other = left.obs, right.obs
        truncations += int((right.ended & ~right.terminated).sum())
    assert truncations >= 3


def test_an_earlier_answer_is_not_overwritten():
    envs = CartPoleEnvs(2)
    first = envs.reset([0, 1])
    kept = first.copy()
    envs.step(np.array([0, 1]))
    np.testing.assert_array_equal(first, kept)
