"""A chain whose values are known, learned in float and in 8 bits."""

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces

from qbench import streams
from qbench.algo.dqn import DQN
from qbench.algo.exploration import EpsilonGreedy
from qbench.collect import Collector
from qbench.env.stepping import SerialEnvs
from qbench.quant.none import NoQuant
from qbench.replay import ReplayBuffer, ReplaySampler
from qbench.train.acting import behaviour_policy
from qbench.types import EnvSpec
from tests.quant.test_qat import scheme
from tests.toys import q_population

LENGTH, GAMMA = 10, 0.9


class Chain(gymnasium.Env):
    """States 0..9 one-hot; action 1 goes right, 0 left; reward 1 for leaving at the right end."""

    observation_space = spaces.Box(0, 1, (LENGTH,))
    action_space = spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.state = int(self.np_random.integers(LENGTH))
        self.t = 0
        return self._obs(), {}

    def step(self, action):
        self.t += 1
        self.state = max(self.state + (1 if action else -1), 0)
        over = self.state == LENGTH
        return self._obs(), float(over), over, self.t == 20 and not over, {}

    def _obs(self):
        return np.eye(LENGTH + 1, LENGTH, dtype=np.float32)[self.state]


@pytest.mark.slow
@pytest.mark.parametrize(("quant", "tolerance"), [(NoQuant(), 0.02), (scheme(8), 0.03)])
def test_the_values_of_a_chain_are_learned(quant, tolerance):
    seeds = [0, 1, 2]
    spec = EnvSpec(id="chain", obs_shape=(LENGTH,), num_actions=2, max_episode_steps=20)
    learner = DQN(
        network=quant.prepare(q_population(seeds, LENGTH, (32,))),
        learning_rate=3e-3,
        gamma=GAMMA,
        double=True,
        target_network=True,
        loss="huber",
        max_grad_norm=10.0,
    )
    replay = ReplayBuffer(capacity=5000, num_seeds=3, spec=spec, device=torch.device("cpu"))
    collector = Collector(
        envs=SerialEnvs([Chain() for _ in seeds]),
        env_seeds=seeds,
        policy=behaviour_policy(learner, spec, acting="fake", refresh_updates=1),
        explore=EpsilonGreedy(
            start=0.5, end=0.5, env_steps=1, learning_starts=200, spec=spec, seeds=seeds
        ),
        replay=replay,
    )
    sampler = ReplaySampler(
        replay=replay, uniforms=streams.Uniforms(seeds, "replay"), batch_size=32
    )
    collector.collect(200)
    for i in range(4000):
        collector.collect(1)
        learner.set_learning_rate(3e-3 * (1 - i / 4000))
        learner.update(sampler.sample(1)[0])
        learner.sync_target(0.05)
    with torch.no_grad():
        q = learner.network.eval()(torch.eye(LENGTH).expand(3, -1, -1))  # [S, 10, A]
    right = torch.tensor([GAMMA ** (LENGTH - 1 - s) for s in range(LENGTH)])
    assert (q[..., 1] - right).abs().max() < tolerance
    assert (q.argmax(-1) == 1).all()
