"""Plays whole episodes of S agents side by side."""

import gc
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import gymnasium
import numpy as np

from qbench.types import (
    ActionArray,
    EnvSpec,
    FloatArray,
    IntArray,
    ObsArray,
    Policy,
)

EVAL_ENV_SEED = 10_000_000
"""Episode i is the first episode of the env seeded with EVAL_ENV_SEED + i, for every agent."""


MAX_ENVS = 64
"""Envs that are alive at once; an emulator or a rendered window takes megabytes."""


class Played(NamedTuple):
    """Undiscounted returns [S, E] float64 and lengths [S, E] of E episodes of S agents."""

    returns: FloatArray
    lengths: IntArray


def greedy(policies: Sequence[Callable[[ObsArray], FloatArray]], spec: EnvSpec) -> Policy:
    """One policy for S agents from the converted network of each.

    Args:
        policies: S networks in any form; their outputs are action values if the actions are
            discrete.
        spec: of the env they play.
    """
    is_discrete = spec.num_actions is not None

    def act(obs: ObsArray, /) -> ActionArray:
        outputs = [policy(rows) for policy, rows in zip(policies, obs, strict=True)]
        return np.stack([out.argmax(axis=-1) if is_discrete else out for out in outputs])

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
        policy: greedy actions [S, E', *action_shape] at obs [S, E', *obs_shape] of the E' <= 64
            episodes that still run.
        make_env: builds one env.
        num_seeds: S.
        num_episodes: E.
    """
    returns = np.zeros((num_seeds, num_episodes))
    lengths = np.zeros((num_seeds, num_episodes), np.int64)
    wave = max(1, MAX_ENVS // num_seeds)
    for first in range(0, num_episodes, wave):
        chosen = slice(first, min(first + wave, num_episodes))
        with _collected():
            _play_wave(policy, make_env, chosen, returns[:, chosen], lengths[:, chosen])
    return Played(returns, lengths)


@contextmanager
def _collected() -> Iterator[None]:
    """Free the reference cycles that are made inside, and look at no other objects.

    Box2D worlds live in such cycles and hide megabytes from the collector's thresholds. To look at
    all objects takes a tenth of a second where torch is loaded, often longer than to play. The
    collector does so itself at most once afterwards; a freeze of somebody else's ends here.
    """
    gc.freeze()
    try:
        yield
        gc.collect()
    finally:
        gc.unfreeze()


def _play_wave(
    policy: Policy,
    make_env: Callable[[], gymnasium.Env[Any, Any]],
    episodes: slice,
    returns: FloatArray,
    lengths: IntArray,
) -> None:
    """Play some of the episodes, all side by side; fills returns and lengths [S, E]."""
    numbers = range(episodes.start, episodes.stop)
    envs = [[make_env() for _ in numbers] for _ in returns]
    resets = [
        [env.reset(seed=EVAL_ENV_SEED + i)[0] for i, env in zip(numbers, row, strict=True)]
        for row in envs
    ]
    obs = np.array(resets)
    obs = obs if obs.dtype == np.uint8 else obs.astype(np.float32)
    running = np.ones(returns.shape, np.bool_)
    while running.any():
        columns = np.flatnonzero(running.any(axis=0))
        action = policy(obs[:, columns])
        for k, column in np.argwhere(running[:, columns]):
            i = columns[column]
            obs[k, i], reward, terminated, truncated, _ = envs[k][i].step(action[k, column])
            returns[k, i] += float(reward)
            lengths[k, i] += 1
            if terminated or truncated:
                envs[k][i].close()
                running[k, i] = False
