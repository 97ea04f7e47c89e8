"""Plays whole episodes of S agents side by side."""

import gc
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import gymnasium
import numpy as np

from qbench.types import FloatArray, IntArray, IntegerPolicy, Policy

EVAL_ENV_SEED = 10_000_000
"""Episode i is the first episode of the env seeded with EVAL_ENV_SEED + i, for every agent."""


class Played(NamedTuple):
    """Undiscounted returns [S, E] float64 and lengths [S, E] of E episodes of S agents."""

    returns: FloatArray
    lengths: IntArray


def greedy(policies: Sequence[IntegerPolicy]) -> Policy:
    """One policy for S agents from the converted Q-network of each."""

    def act(obs: FloatArray, /) -> IntArray:
        values = [policy(rows) for policy, rows in zip(policies, obs, strict=True)]
        return np.stack([q.argmax(axis=-1) for q in values])

    return act


def play(
    policy: Policy,
    make_env: Callable[[], gymnasium.Env[Any, Any]],
    *,
    num_seeds: int,
    num_episodes: int,
) -> Played:
    """Play the same `num_episodes` episodes with each of `num_seeds` agents.

    Args:
        policy: greedy actions [S, E] at obs [S, E, *obs_shape] float32.
        make_env: builds one env.
        num_seeds: S.
        num_episodes: E.
    """
    envs = [[make_env() for _ in range(num_episodes)] for _ in range(num_seeds)]
    obs = np.stack(
        [[env.reset(seed=EVAL_ENV_SEED + i)[0] for i, env in enumerate(row)] for row in envs]
    ).astype(np.float32)
    returns = np.zeros((num_seeds, num_episodes))
    lengths = np.zeros((num_seeds, num_episodes), np.int64)
    running = [(k, i) for k in range(num_seeds) for i in range(num_episodes)]
    while running:
        action = policy(obs)
        still = []
        for k, i in running:
            obs[k, i], reward, terminated, truncated, _ = envs[k][i].step(action[k, i])
            returns[k, i] += float(reward)
            lengths[k, i] += 1
            if terminated or truncated:
                envs[k][i].close()
            else:
                still.append((k, i))
        running = still
    # Box2D worlds live in reference cycles that hide megabytes from the collector's thresholds.
    del envs
    gc.collect()
    return Played(returns, lengths)
