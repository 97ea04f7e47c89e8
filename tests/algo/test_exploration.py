"""Epsilon-greedy: when it explores, how often, and with whose random numbers."""

import numpy as np
import pytest

from qbench.algo.exploration import EpsilonGreedy
from qbench.schedule import Linear
from qbench.streams import Uniforms

GREEDY = 7  # no random action of three looks like it


def explorer(epsilon, learning_starts=0, seeds=(0, 1)):
    return EpsilonGreedy(
        epsilon=epsilon,
        learning_starts=learning_starts,
        num_actions=3,
        uniforms=Uniforms(seeds, "explore"),
    )


def never():
    raise AssertionError("the greedy action is not needed here")


def test_warm_up_is_random_whatever_epsilon():
    explore = explorer(lambda env_step: 0.0, learning_starts=10)
    for env_step in range(10):
        assert (explore(never, env_step) < 3).all()
    assert explore(lambda: np.full(2, GREEDY), 10).tolist() == [GREEDY, GREEDY]


def test_epsilon_one_never_asks_for_the_greedy_action():
    explore = explorer(lambda env_step: 1.0)
    drawn = np.stack([explore(never, t) for t in range(3000)])
    counts = np.bincount(drawn.ravel(), minlength=3)
    assert counts.sum() == 6000 and counts.min() > 1800  # 2000 +- 5 standard deviations of 37


@pytest.mark.parametrize(("env_step", "epsilon"), [(50, 0.55), (1000, 0.1)])
def test_the_share_of_random_actions_follows_the_schedule(env_step, epsilon):
    explore = explorer(Linear(start=1.0, end=0.1, env_steps=100))
    drawn = np.stack([explore(lambda: np.full(2, GREEDY), env_step) for _ in range(3000)])
    assert (drawn != GREEDY).mean() == pytest.approx(epsilon, abs=0.035)


def test_a_seeds_actions_do_not_depend_on_the_population_or_on_epsilon():
    def actions(seeds, first_epsilon):
        explore = explorer(lambda t: first_epsilon if t == 0 else 0.5, seeds=seeds)
        return np.stack([explore(lambda: np.full(len(seeds), GREEDY), t) for t in range(200)])

    alone, crowd = actions([5], 1.0), actions([4, 5], 0.0)
    assert np.array_equal(alone[1:, 0], crowd[1:, 1])
