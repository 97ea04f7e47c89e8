"""Replay: what goes in comes out, for each seed its own."""

import numpy as np
import torch

from qbench.replay import ReplayBuffer, ReplaySampler, row_bytes
from qbench.streams import Uniforms
from qbench.types import EnvSpec

SPEC = EnvSpec(id="toy", obs_shape=(2,), num_actions=3, max_episode_steps=None)


def make_replay(capacity=4, num_seeds=2):
    device = torch.device("cpu")
    return ReplayBuffer(capacity=capacity, num_seeds=num_seeds, spec=SPEC, device=device)


def add(replay, t, num_seeds=2):
    """A transition whose every field tells its seed k and its time t."""
    k = np.arange(num_seeds)
    obs = np.stack([k * 100 + t, -(k * 100.0) - t], axis=1)
    replay.add(obs, (t + k) % 3, k * 1000.0 + t, (t + k) % 2 == 0, obs + 0.5)


def test_fields_come_back_as_they_went_in():
    replay = make_replay()
    for t in range(3):
        add(replay, t)
    batch = replay.gather(np.array([[0, 2], [1, 1]]))
    assert batch.obs.tolist() == [[[0, 0], [2, -2]], [[101, -101], [101, -101]]]
    assert torch.equal(batch.next_obs, batch.obs + 0.5)
    assert batch.action.tolist() == [[0, 2], [2, 2]] and batch.action.dtype == torch.int64
    assert batch.reward.tolist() == [[0, 2], [1001, 1001]]
    assert batch.terminated.tolist() == [[True, True], [True, True]]
    assert batch.terminated.dtype == torch.bool


def test_the_oldest_transition_is_overwritten():
    replay = make_replay(capacity=4)
    for t in range(6):
        add(replay, t)
    assert replay.size == 4
    stored = replay.gather(np.tile(np.arange(4), (2, 1)))
    assert sorted(stored.reward[0].tolist()) == [2, 3, 4, 5]


def test_sampling_is_uniform_over_what_is_stored():
    replay = make_replay(capacity=10)
    for t in range(5):
        add(replay, t)
    sampler = ReplaySampler(replay=replay, uniforms=Uniforms([0, 1], "replay"), batch_size=1000)
    rewards = sampler.sample(1)[0].reward[0]
    values, counts = rewards.unique(return_counts=True)
    assert values.tolist() == [0, 1, 2, 3, 4]
    assert counts.min() > 150 and counts.max() < 250  # 200 +- 4 standard deviations of 12.6


def test_many_minibatches_at_once_are_the_same_as_one_by_one():
    replay = make_replay(capacity=10)
    for t in range(7):
        add(replay, t)
    samplers = [
        ReplaySampler(replay=replay, uniforms=Uniforms([0, 1], "replay"), batch_size=3)
        for _ in range(2)
    ]
    together = samplers[0].sample(4)
    single = [samplers[1].sample(1)[0] for _ in range(4)]
    for one, other in zip(together, single, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_a_seed_samples_the_same_rows_in_any_population():
    crowd, alone = make_replay(10, 2), make_replay(10, 1)
    for t in range(7):
        add(crowd, t, 2)
        add(alone, t, 1)
    drawn = [
        ReplaySampler(replay=r, uniforms=Uniforms(seeds, "replay"), batch_size=5).sample(1)[0]
        for r, seeds in ((crowd, [0, 1]), (alone, [0]))
    ]
    assert torch.equal(drawn[0].reward[0], drawn[1].reward[0])


def test_bytes_by_hand():
    assert row_bytes((2,)) == 4 * (2 + 2 + 3)
    assert make_replay(capacity=4, num_seeds=2).num_bytes == 2 * 4 * 28


def test_observations_of_one_seed():
    replay = make_replay()
    for t in range(3):
        add(replay, t)
    assert replay.observations(1, np.array([2, 0])).tolist() == [[102, -102], [100, -100]]
