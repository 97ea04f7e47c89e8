"""Envs and networks small enough to work out by hand."""

import gymnasium
import numpy as np
from gymnasium import spaces

from qbench import layers
from qbench.network.heads import QNetwork
from qbench.network.mlp import MLP
from qbench.types import EnvSpec


class Counter(gymnasium.Env):
    """Observes [episode, t, seed drawn at reset]; terminates or truncates on a schedule.

    Episode e lasts e % 3 + 2 steps; even episodes terminate, odd ones are truncated.
    """

    observation_space = spaces.Box(-np.inf, np.inf, (3,))
    action_space = spaces.Discrete(2)
    spec = None

    def __init__(self):
        self.episode = -1

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.episode += 1
        self.t = 0
        self.draw = float(self.np_random.integers(1000))
        return self._obs(), {}

    def step(self, action):
        self.t += 1
        over = self.t == self.episode % 3 + 2
        is_even = self.episode % 2 == 0
        return self._obs(), float(action), over and is_even, over and not is_even, {}

    def _obs(self):
        return np.array([self.episode, self.t, self.draw], np.float32)


def q_population(seeds, obs_size=4, hidden_sizes=(16, 12), num_actions=2):
    """A population of small float Q-networks."""
    spec = EnvSpec(id="toy", obs_shape=(obs_size,), num_actions=num_actions)
    return layers.populate(lambda: QNetwork(make_torso=mlp(hidden_sizes), spec=spec), seeds)


def mlp(hidden_sizes):
    """A `make_torso` for heads."""
    return lambda obs_shape: MLP(obs_shape=obs_shape, hidden_sizes=hidden_sizes)
