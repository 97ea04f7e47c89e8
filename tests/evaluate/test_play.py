"""Greedy episodes: held-out seeds, first episodes, the same ones for every agent."""

import gc
import sys
import weakref

import gymnasium
import numpy as np
import pytest

from qbench import streams
from qbench.evaluate import EVAL_ENV_SEED, greedy, play
from qbench.types import EnvSpec
from tests.toys import Counter


class Recorded(Counter):
    """Remembers its resets; its first episode lasts two steps."""

    instances: list["Recorded"]

    def __init__(self):
        super().__init__()
        self.seeds = []
        self.instances.append(self)

    def reset(self, *, seed=None, options=None):
        self.seeds.append(seed)
        return super().reset(seed=seed, options=options)


def test_episode_i_is_the_first_episode_of_env_i_for_every_agent():
    Recorded.instances = []
    played = play(
        lambda obs: np.ones(obs.shape[:2], np.int64), Recorded, num_seeds=2, num_episodes=3
    )
    expected = [[EVAL_ENV_SEED + i] for i in range(3)] * 2
    assert [env.seeds for env in Recorded.instances] == expected
    assert played.returns.tolist() == [[2.0] * 3] * 2
    assert played.lengths.tolist() == [[2] * 3] * 2


def test_each_agent_acts_in_its_own_envs():
    Recorded.instances = []
    policy = lambda obs: np.broadcast_to(np.array([[0], [1]]), obs.shape[:2])  # noqa: E731
    played = play(policy, Recorded, num_seeds=2, num_episodes=2)
    assert played.returns.tolist() == [[0.0, 0.0], [2.0, 2.0]]


def test_greedy_takes_each_agents_best_action():
    policies = [lambda obs: np.array([[0.0, 1.0]] * len(obs)), lambda obs: -obs]
    obs = np.array([[[3.0, 4.0]], [[3.0, 4.0]]])
    spec = EnvSpec(id="toy", obs_shape=(2,), num_actions=2)
    assert greedy(policies, spec)(obs).tolist() == [[1], [0]]


def test_outputs_are_the_actions_of_a_box():
    spec = EnvSpec(id="toy", obs_shape=(2,), action_low=(0, 0), action_high=(1, 1))
    obs = np.array([[[0.25, 0.5]]])
    assert greedy([lambda rows: rows / 2], spec)(obs).tolist() == [[[0.125, 0.25]]]


def test_more_episodes_than_envs_at_once_are_played_in_waves(monkeypatch):
    monkeypatch.setattr(sys.modules["qbench.evaluate.play"], "MAX_ENVS", 4)
    Recorded.instances = []
    policy = lambda obs: np.ones(obs.shape[:2], np.int64)  # noqa: E731
    played = play(policy, Recorded, num_seeds=2, num_episodes=5)
    assert [env.seeds[0] - EVAL_ENV_SEED for env in Recorded.instances] == [
        0, 1, 0, 1, 2, 3, 2, 3, 4, 4,
    ]  # fmt: skip
    assert played.returns.tolist() == [[2.0] * 5] * 2


class Knotted(Counter):
    """Refers to itself, as a Box2D world does."""

    made: list[weakref.ref["Knotted"]]

    def __init__(self):
        super().__init__()
        self.myself = self
        self.made.append(weakref.ref(self))


def test_envs_in_reference_cycles_are_freed_and_nothing_else_is_looked_at():
    Knotted.made = []
    older = Knotted()
    is_gone = weakref.ref(older)
    gc.collect()
    del older
    policy = lambda obs: np.ones(obs.shape[:2], np.int64)  # noqa: E731
    gc.disable()
    try:
        play(policy, Knotted, num_seeds=2, num_episodes=3)
        assert [env() for env in Knotted.made[1:]] == [None] * 6
        assert is_gone() is not None
        assert gc.get_freeze_count() == 0
    finally:
        gc.enable()
    gc.collect()
    assert is_gone() is None


def test_a_play_that_fails_leaves_the_collector_as_it_was():
    with pytest.raises(ZeroDivisionError):
        play(lambda obs: 1 / 0, Counter, num_seeds=1, num_episodes=1)
    assert gc.get_freeze_count() == 0


def test_returns_are_those_of_one_env_played_alone():
    def act(obs):
        return (obs[..., 2] + 0.3 * obs[..., 3] > 0).astype(np.int64)

    played = play(act, lambda: gymnasium.make("CartPole-v1"), num_seeds=1, num_episodes=3)
    for i in range(3):
        env = gymnasium.make("CartPole-v1")
        obs, _ = env.reset(seed=EVAL_ENV_SEED + i)
        total, over = 0.0, False
        while not over:
            obs, reward, terminated, truncated, _ = env.step(int(act(obs.astype(np.float32))))
            total, over = total + float(reward), terminated or truncated
        assert played.returns[0, i] == total


def test_no_training_env_is_seeded_like_an_evaluation_env():
    training = {streams.integer(seed, "env") for seed in range(1000)}
    assert not training & set(range(EVAL_ENV_SEED, EVAL_ENV_SEED + 10_000))
