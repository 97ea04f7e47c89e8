"""When exploration explores, how much, and with whose random numbers."""

import numpy as np
import pytest

from qbench.algo.exploration import EpsilonGreedy, GaussianNoise
from qbench.types import EnvSpec

GREEDY = 7  # no random action of three looks like it


def explorer(start, end=None, env_steps=1, learning_starts=0, seeds=(0, 1)):
    return EpsilonGreedy(
        start=start,
        end=start if end is None else end,
        env_steps=env_steps,
        learning_starts=learning_starts,
        spec=EnvSpec(id="toy", obs_shape=(1,), num_actions=3),
        seeds=seeds,
    )


def never():
    raise AssertionError("the greedy action is not needed here")


def test_warm_up_is_random_whatever_epsilon():
    explore = explorer(0.0, learning_starts=10)
    for env_step in range(10):
        assert (explore(never, env_step) < 3).all()
    assert explore(lambda: np.full(2, GREEDY), 10).tolist() == [GREEDY, GREEDY]


def test_epsilon_one_never_asks_for_the_greedy_action():
    explore = explorer(1.0)
    drawn = np.stack([explore(never, t) for t in range(3000)])
    counts = np.bincount(drawn.ravel(), minlength=3)
    assert counts.sum() == 6000 and counts.min() > 1800  # 2000 +- 5 standard deviations of 37


@pytest.mark.parametrize(("env_step", "epsilon"), [(50, 0.55), (1000, 0.1)])
def test_the_share_of_random_actions_follows_the_schedule(env_step, epsilon):
    explore = explorer(1.0, 0.1, 100)
    drawn = np.stack([explore(lambda: np.full(2, GREEDY), env_step) for _ in range(3000)])
    assert (drawn != GREEDY).mean() == pytest.approx(epsilon, abs=0.035)


def test_a_seeds_actions_do_not_depend_on_the_population_or_on_epsilon():
    def actions(seeds, first_epsilon):
        explore = explorer(first_epsilon, 0.5, 1, seeds=seeds)
        return np.stack([explore(lambda: np.full(len(seeds), GREEDY), t) for t in range(200)])

    alone, crowd = actions([5], 1.0), actions([4, 5], 0.0)
    assert np.array_equal(alone[1:, 0], crowd[1:, 1])


def noisy(noise=0.1, learning_starts=0, seeds=(0, 1)):
    spec = EnvSpec(id="toy", obs_shape=(1,), action_low=(-2.0, 0.0), action_high=(2.0, 1.0))
    return GaussianNoise(noise=noise, learning_starts=learning_starts, spec=spec, seeds=seeds)


def test_noise_has_its_deviation_in_half_widths_of_the_box():
    explore = noisy(0.1)
    middle = np.tile(np.float32([0.0, 0.5]), (2, 1))
    drawn = np.stack([explore(lambda: middle, t) for t in range(5000)])  # [T, S, A]
    assert drawn.dtype == np.float32
    assert drawn.std(axis=(0, 1)) == pytest.approx([0.2, 0.05], rel=0.05)
    assert drawn.mean(axis=(0, 1)) == pytest.approx([0.0, 0.5], abs=0.01)


def test_actions_never_leave_the_box():
    explore = noisy(3.0)
    edge = np.tile(np.float32([2.0, 0.0]), (2, 1))
    drawn = np.stack([explore(lambda: edge, t) for t in range(1000)])
    assert drawn.min(axis=(0, 1)).tolist() == [-2.0, 0.0]
    assert drawn.max(axis=(0, 1)).tolist() == [2.0, 1.0]


def test_warm_up_is_uniform_over_the_box():
    explore = noisy(learning_starts=4000)
    drawn = np.stack([explore(never, t) for t in range(4000)])
    widths = drawn.max(axis=(0, 1)) - drawn.min(axis=(0, 1))
    assert widths == pytest.approx([4.0, 1.0], rel=0.01)
    assert drawn.std(axis=(0, 1)) == pytest.approx([4 / 12**0.5, 1 / 12**0.5], rel=0.03)


def test_a_seeds_noise_does_not_depend_on_the_population():
    alone, crowd = noisy(seeds=[5]), noisy(seeds=[4, 5])
    zeros = [np.zeros((n, 2), np.float32) for n in (1, 2)]
    for t in range(100):
        assert np.array_equal(alone(lambda: zeros[0], t)[0], crowd(lambda: zeros[1], t)[1])
