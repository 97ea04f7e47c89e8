"""The Collector across episode ends: one transition per seed and env step, the right next_obs."""

import numpy as np
import torch

from qbench.collect import Collector
from qbench.env.stepping import SerialEnvs
from qbench.replay import ReplayBuffer
from qbench.types import EnvSpec
from tests.toys import Counter

SPEC = EnvSpec(id="counter", obs_shape=(3,), num_actions=2)


class ActsOne:
    """Always takes action 1."""

    def __call__(self, obs):
        return np.ones(len(obs), np.int64)


def collect(num_env_steps, env_seeds=(5, 6), explore=lambda greedy, env_step: greedy()):
    replay = ReplayBuffer(
        capacity=100, num_seeds=len(env_seeds), spec=SPEC, device=torch.device("cpu")
    )
    collector = Collector(
        envs=SerialEnvs([Counter() for _ in env_seeds]),
        env_seeds=env_seeds,
        policy=ActsOne(),
        explore=explore,
        replay=replay,
    )
    episodes = collector.collect(num_env_steps)
    stored = replay.gather(np.tile(np.arange(replay.size), (len(env_seeds), 1)))
    return collector, episodes, replay, stored


def test_every_env_step_stores_one_transition_per_seed():
    collector, _, replay, _ = collect(17)
    assert collector.env_step == replay.size == 17


def test_next_obs_is_the_final_observation_and_never_that_of_the_next_episode():
    *_, stored = collect(12)
    for obs, next_obs in zip(stored.obs[0].tolist(), stored.next_obs[0].tolist(), strict=True):
        assert next_obs == [obs[0], obs[1] + 1, obs[2]]


def test_the_transition_after_an_end_starts_from_the_reset():
    *_, stored = collect(12)
    episode_and_t = stored.obs[0, :, :2].tolist()
    expected = [[e, t] for e, length in enumerate([2, 3, 4, 2, 3]) for t in range(length)]
    assert episode_and_t == expected[:12]


def test_truncated_transitions_are_not_stored_as_terminated():
    *_, stored = collect(12)
    ends = stored.terminated[0].nonzero()[:, 0].tolist()
    assert ends == [1, 8]  # episodes 0 and 2 terminate after 2 and 2 + 3 + 4 steps; 1 and 3 do not


def test_finished_episodes_are_reported_with_return_and_length():
    _, episodes, *_ = collect(6)
    of_first = [episode for episode in episodes if episode.seed_index == 0]
    assert [(e.env_step, e.episode_return, e.length) for e in of_first] == [(2, 2, 2), (5, 3, 3)]


def test_a_seeds_transitions_do_not_depend_on_the_population():
    alone, crowd = collect(20, (6,))[-1], collect(20, (5, 6))[-1]
    assert torch.equal(alone.obs[0], crowd.obs[1])


def test_exploration_counts_env_steps_from_zero():
    seen = []

    def explore(greedy, env_step):
        seen.append(env_step)
        return greedy()

    collect(17, explore=explore)
    assert seen == list(range(17))
