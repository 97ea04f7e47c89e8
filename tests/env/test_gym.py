"""GymnasiumEnv: what it says of envs, and what it refuses."""

import numpy as np
import pytest

from qbench.env.cartpole import CartPoleEnvs
from qbench.env.gym import GymnasiumEnv
from qbench.env.stepping import ProcessEnvs, SerialEnvs
from qbench.types import EnvSpec
from tests.env.steps import episode


def gym_env(id, *, stepping="serial", **kwargs):
    return GymnasiumEnv(id=id, kwargs=kwargs, stepping=stepping)


def test_a_discrete_env_is_described_by_its_number_of_actions():
    spec = gym_env("CartPole-v1").describe()
    assert spec == EnvSpec(id="CartPole-v1", obs_shape=(4,), num_actions=2, max_episode_steps=500)
    assert spec.action_shape == ()


def test_a_box_env_is_described_by_its_bounds():
    spec = gym_env("Pendulum-v1").describe()
    assert spec == EnvSpec(
        id="Pendulum-v1",
        obs_shape=(3,),
        action_low=(-2.0,),
        action_high=(2.0,),
        max_episode_steps=200,
    )
    assert spec.action_shape == (1,)


def test_kwargs_reach_the_env():
    spec = gym_env("LunarLander-v3", continuous=True, max_episode_steps=7).describe()
    assert spec.action_low == (-1.0, -1.0)
    assert spec.max_episode_steps == 7


def test_stepping_picks_the_envs():
    assert isinstance(gym_env("CartPole-v1").make_training(2), SerialEnvs)
    vector = gym_env("CartPole-v1", stepping="vector")
    assert isinstance(vector.make_training(4), CartPoleEnvs)
    assert isinstance(vector.make_training(3), SerialEnvs)  # faster there, and the same bits
    workers = gym_env("CartPole-v1", stepping="processes").make_training(1)
    assert isinstance(workers, ProcessEnvs)
    workers.close()


def test_vector_stepping_is_for_plain_cartpole_only():
    with pytest.raises(ValueError, match=r"env\.stepping=vector .* Acrobot-v1"):
        gym_env("Acrobot-v1", stepping="vector")
    with pytest.raises(ValueError, match="without kwargs"):
        gym_env("CartPole-v1", stepping="vector", sutton_barto_reward=True)


@pytest.mark.parametrize("id", ["CartPole-v1", "LunarLander-v3", "BipedalWalker-v3"])
def test_the_seed_of_a_reset_decides_the_episode(id):
    env = gym_env(id)
    space = env.make().action_space
    space.seed(0)
    acts = [space.sample() for _ in range(100)]
    one, other, unlike = (episode(env.make(), acts, seed) for seed in (3, 3, 4))
    np.testing.assert_array_equal(one[0], other[0])
    assert one[1] == other[1]
    assert not np.array_equal(one[0][0], unlike[0][0])


def test_mujoco_is_described_and_leaves_no_log_behind(tmp_path, monkeypatch):
    pytest.importorskip("mujoco", reason="the mujoco extra is not installed")
    monkeypatch.chdir(tmp_path)
    with pytest.warns(match="settotalmass"):
        spec = gym_env("HalfCheetah-v5").describe()
    assert (spec.obs_shape, spec.action_high) == ((17,), (1.0,) * 6)
    assert list(tmp_path.iterdir()) == []
