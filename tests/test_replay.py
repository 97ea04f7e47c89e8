"""Replay: what goes in comes out, for each seed its own."""

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.wrappers import FrameStackObservation

from qbench.env.stepping import SerialEnvs
from qbench.replay import CodedReplay, FrameReplay, ReplayBuffer, ReplaySampler
from qbench.streams import Uniforms
from qbench.types import EnvSpec

SPEC = EnvSpec(id="toy", obs_shape=(2,), num_actions=3)


def make_replay(capacity=4, num_seeds=2):
    device = torch.device("cpu")
    return ReplayBuffer(capacity=capacity, num_seeds=num_seeds, spec=SPEC, device=device)


def add(replay, t, num_seeds=2):
    """A transition whose every field tells its seed k and its time t."""
    k = np.arange(num_seeds)
    obs = np.stack([k * 100 + t, -(k * 100.0) - t], axis=1)
    is_even = (t + k) % 2 == 0
    replay.add(obs, (t + k) % 3, k * 1000.0 + t, is_even, obs + 0.5, is_even)


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


def test_what_is_gathered_from_is_a_copy_where_the_rows_are_elsewhere():
    # As on a GPU, whose copy is another tensor.
    def moved(replay):
        replay._gathered, replay._is_elsewhere = replay._stored.clone(), True
        return replay

    replay, plain = moved(make_replay(capacity=4)), make_replay(capacity=4)
    assert replay.num_bytes == 2 * plain.num_bytes
    for t in range(6):
        for each in (replay, plain):
            add(each, t)
    continued = moved(make_replay(capacity=4))
    continued.load_state(replay.state())
    continued.arrays()["rows"][:] = replay.arrays()["rows"]
    add(plain, 6)
    for each in (replay, continued):
        index = np.array([[0, 1, 2, 3], [3, 2, 1, 0]])
        each.gather(index)
        add(each, 6)
        for ours, known in zip(each.gather(index), plain.gather(index), strict=True):
            assert torch.equal(ours, known)


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
    assert SPEC.transition_bytes == 4 * (2 + 2 + 3)
    assert make_replay(capacity=4, num_seeds=2).num_bytes == 2 * 4 * 28


def test_observations_of_one_seed():
    replay = make_replay()
    for t in range(3):
        add(replay, t)
    assert replay.observations(1, np.array([2, 0])).tolist() == [[102, -102], [100, -100]]


FRAMES = EnvSpec(id="frames", obs_shape=(4, 3, 2), obs_high=255, frame_stack=4, num_actions=2)


class Frames(gymnasium.Env):
    """Random 3x2 images; episodes of 1 to 12 steps, terminated or truncated by chance."""

    observation_space = spaces.Box(0, 255, (3, 2), np.uint8)
    action_space = spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.left = int(self.np_random.integers(1, 13))
        return self._image(), {}

    def step(self, action):
        self.left -= 1
        over, by_time = self.left == 0, bool(self.np_random.integers(2))
        return self._image(), float(action), over and not by_time, over and by_time, {}

    def _image(self):
        return self.np_random.integers(256, size=(3, 2), dtype=np.uint8)


def fill(capacity, num_env_steps, seeds=(3, 8), device="cpu"):
    """A frame replay after some steps, and all that went in, in Gymnasium's own stacks."""
    replay = FrameReplay(
        capacity=capacity, num_seeds=len(seeds), spec=FRAMES, device=torch.device(device)
    )
    envs = SerialEnvs([FrameStackObservation(Frames(), 4) for _ in seeds])
    obs = envs.reset(seeds)
    actions = np.random.default_rng(0).integers(2, size=(num_env_steps, len(seeds)))
    told = []
    for action in actions:
        stepped = envs.step(action)
        entry = (obs, action, stepped.reward, stepped.terminated, stepped.next_obs)
        replay.add(*entry, stepped.ended)
        told.append(entry)
        obs = stepped.obs
    return replay, [np.stack(field, axis=1) for field in zip(*told, strict=True)]


@pytest.mark.parametrize("num_env_steps", [1, 3, 700, 10_000])
def test_stacks_are_gymnasiums_across_episode_ends_and_wrap_around(num_env_steps):
    replay, told = fill(900, num_env_steps)
    assert replay.size == min(900, num_env_steps)
    stored = replay.gather(np.tile(np.arange(replay.size), (2, 1)))
    for field, expected in zip(stored, told, strict=True):
        assert np.array_equal(field.numpy(), expected[:, -replay.size :])
    assert stored.obs.dtype == stored.next_obs.dtype == torch.uint8


def test_frames_are_right_at_every_step_of_the_wrap_around():
    for num_env_steps in range(1, 40):
        replay, told = fill(13, num_env_steps, seeds=(5,))
        stored = replay.gather(np.arange(replay.size)[None])
        for field, expected in zip(stored, told, strict=True):
            assert np.array_equal(field.numpy(), expected[:, -replay.size :])


def test_frame_replays_answer_like_row_replays_to_many_minibatches():
    replay, told = fill(50, 120)
    index = np.random.default_rng(1).integers(50, size=(3, 2, 7))  # [G, S, B]
    batch = replay.gather(index)
    assert batch.obs.shape == (3, 2, 7, 4, 3, 2)
    seed = np.arange(2)[:, None]
    assert np.array_equal(batch.next_obs.numpy(), told[4][seed, index + 70])
    assert np.array_equal(batch.reward.numpy(), told[2][seed, index + 70])
    assert np.array_equal(replay.observations(1, index[0, 1]), told[0][1, index[0, 1] + 70])


def test_a_frame_is_stored_once():
    pong = EnvSpec(id="pong", obs_shape=(4, 84, 84), obs_high=255, frame_stack=4, num_actions=6)
    replay = FrameReplay(capacity=1000, num_seeds=2, spec=pong, device=torch.device("cpu"))
    # 84 * 84 bytes, int32 action, float32 reward; terminated, age and ended a byte each.
    assert pong.transition_bytes == 7056 + 4 + 4 + 3
    assert replay.num_bytes == 2 * (1000 + 4) * 7067
    assert replay.num_bytes / 2 / 1000 < 7200


def test_final_frames_are_counted_and_forgotten():
    replay, _ = fill(100, 3000)
    ends = replay.num_bytes - 2 * (100 + 4) * FRAMES.transition_bytes
    # Only the ring's own episodes: 6.5 steps on average, so about 2 * 104 / 6.5 = 32 of 6 bytes.
    assert 20 * 6 < ends < 50 * 6


def test_continuous_actions_come_back_as_they_went_in():
    spec = EnvSpec(id="box", obs_shape=(1,), action_low=(-1, -1), action_high=(1, 1))
    replay = ReplayBuffer(capacity=3, num_seeds=1, spec=spec, device=torch.device("cpu"))
    action = np.float32([[0.1, -0.7]])
    no = np.array([False])
    replay.add(np.float32([[1]]), action, np.float32([2]), no, np.float32([[3]]), no)
    batch = replay.gather(np.array([[0]]))
    assert batch.action.shape == (1, 1, 2) and batch.action.dtype == torch.float32
    assert np.array_equal(batch.action[0].numpy(), action)
    assert (batch.obs.item(), batch.next_obs.item(), batch.reward.item()) == (1, 3, 2)
    assert spec.transition_bytes == 4 * (1 + 1 + 2 + 1 + 1)


def coded(capacity=50, num_seeds=2):
    device = torch.device("cpu")
    return CodedReplay(capacity=capacity, num_seeds=num_seeds, spec=SPEC, device=device)


def fill_both(values, capacity=50):
    """A coded replay and a float one with the same obs [T, S, 2]; next_obs is the next of them."""
    both = coded(capacity, values.shape[1]), make_replay(capacity, values.shape[1])
    no = np.zeros(values.shape[1], np.bool_)
    for t in range(len(values) - 1):
        action, reward = np.full(len(no), t % 3), np.full(len(no), t / 7)
        for replay in both:
            replay.add(values[t], action, reward, no, values[t + 1], no)
    return both


@pytest.mark.parametrize("capacity", [50, 7])
def test_coded_observations_are_off_by_at_most_a_step_however_the_grid_grew(capacity):
    # Two features: one that drifts up in jumps, one that swings wider and wider.
    t = np.arange(40)[:, None]
    values = np.stack(
        [np.exp(t / 4.0) + np.array([0, 3]), (-1.0) ** t * t * np.array([1, 100])], axis=-1
    )
    values = values.astype(np.float32)
    code, plain = fill_both(values, capacity)
    index = np.tile(np.arange(plain.size), (2, 1))
    found, expected = code.gather(index), plain.gather(index)
    step = torch.from_numpy(code._step.astype(np.float32))[:, None]
    for name in ("obs", "next_obs"):
        error = (getattr(found, name) - getattr(expected, name)).abs()
        assert (error <= 1.001 * step).all()
    for name in ("action", "reward", "terminated"):
        assert torch.equal(getattr(found, name), getattr(expected, name))
    # A grid is at most twice as wide as a growing range needs in one direction, four in both.
    spread = values.max(0) - values.min(0)
    assert (255 * code._step <= 4 * spread).all()
    assert np.array_equal(code.observations(1, index[1]), found.obs[1].numpy())


def test_a_grid_widens_by_hand():
    replay, no = coded(num_seeds=1), np.array([False])

    def add_value(x):
        replay.add(np.full((1, 2), x), np.array([0]), np.array([0.0]), no, np.full((1, 2), x), no)

    add_value(1.0)  # [1, 1 + 1/1024]
    assert replay._codes[0, 0].tolist() == [[0, 0], [0, 0]]
    add_value(3.0)  # upwards: 2 is 2^11 widths, [1, 3]
    assert replay._low[0].tolist() == [1, 1] and replay._step[0].tolist() == [2 / 255] * 2
    assert replay._codes[0, :2, 0, 0].tolist() == [0, 255]
    add_value(-1.5)  # downwards: 4.5 is 2.25 widths, four of them, [-5, 3]
    assert replay._low[0].tolist() == [-5, -5] and replay._step[0].tolist() == [8 / 255] * 2
    assert replay._codes[0, :3, 0, 0].tolist() == [191, 255, 112]


def test_a_coded_seed_is_the_same_in_any_population():
    values = np.random.default_rng(0).normal(size=(30, 3, 2)).astype(np.float32).cumsum(0)
    crowd, alone = fill_both(values)[0], fill_both(values[:, 1:2])[0]
    index = np.arange(29)[None]
    assert torch.equal(crowd.gather(index.repeat(3, 0)).obs[1], alone.gather(index).obs[0])


def test_coded_bytes_by_hand():
    # Two observations of two bytes, a discrete action, reward and terminated; grids of 2 x 8 bytes.
    assert coded(capacity=50, num_seeds=2).num_bytes == 2 * (50 * (2 * 2 + 4 * 3) + 2 * 2 * 8)


def test_an_observation_that_is_not_finite_has_no_code():
    replay, no = coded(num_seeds=1), np.array([False])
    bad = np.array([[1.0, np.nan]])
    with pytest.raises(ValueError, match="no code for an observation that is not finite"):
        replay.add(bad, np.array([0]), np.array([0.0]), no, bad, no)
