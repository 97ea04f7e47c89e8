"""What the env tests share: random play, recorded."""

import numpy as np

from qbench.types import Stepped


def actions(spec, num_steps, num_seeds, seed=0):
    """Random actions [T, S, *action_shape]."""
    rng = np.random.default_rng(seed)
    if spec.num_actions is not None:
        return rng.integers(spec.num_actions, size=(num_steps, num_seeds))
    size = (num_steps, num_seeds, *spec.action_shape)
    return rng.uniform(spec.action_low, spec.action_high, size).astype(np.float32)


def play(envs, actions, seeds):
    """First observations, and every `Stepped` after them."""
    first = envs.reset(seeds)
    steps = [envs.step(action) for action in actions]
    envs.close()
    return first, steps


def assert_same_play(one, other):
    """The same bits and the same types."""
    np.testing.assert_array_equal(one[0], other[0], strict=True)
    for left, right in zip(one[1], other[1], strict=True):
        for name, a, b in zip(Stepped._fields, left, right, strict=True):
            np.testing.assert_array_equal(a, b, err_msg=name, strict=True)


def episode(env, actions, seed):
    """Observations and rewards of one env from its seeded reset, until it ends."""
    obs, rewards = [env.reset(seed=seed)[0]], []
    for action in actions:
        next_obs, reward, terminated, truncated, _ = env.step(action)
        obs.append(next_obs)
        rewards.append(float(reward))
        if terminated or truncated:
            break
    return np.stack(obs), rewards
