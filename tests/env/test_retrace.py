"""Envs that are put back where they were go on as if nothing had happened."""

import io

import gymnasium
import numpy as np
import pytest
import torch

from qbench.env.stepping import ProcessEnvs, SerialEnvs
from qbench.train.checkpoint import _stored
from tests.env.made import made
from tests.toys import Counter

# Env steps before and after; every env ends episodes within them but Pong.
ENVS = {
    "cartpole": 150, "lunarlander": 250, "pendulum": 250, "mountaincar": 230, "hopper": 60,
    "minatar_breakout": 80, "minatar_asterix": 80, "lunarlander_pixels": 100, "breakout": 120,
}  # fmt: skip
LONG = {"bipedalwalker": 1700, "halfcheetah": 1100, "minatar_seaquest": 300, "pong": 1000}


def stored(state):
    """A state as it comes back from a checkpoint."""
    file = io.BytesIO()
    torch.save(_stored(state), file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def goes_on(make, act, num_env_steps):
    """Whether envs put back into others go on as they would have."""
    envs, others = make(), make()
    envs.reset([3, 4])
    others.reset([103, 104])
    for _ in range(num_env_steps):
        last = envs.step(act())
    for _ in range(7):
        others.step(act())
    obs, is_same = others.load_state(stored(envs.state()))
    assert is_same.all()
    np.testing.assert_array_equal(obs, last.obs)
    for _ in range(num_env_steps):
        action = act()
        for ours, theirs in zip(others.step(action), envs.step(action), strict=True):
            np.testing.assert_array_equal(ours, theirs)
    envs.close()
    others.close()
    return True


def random_actions(spec):
    rng = np.random.default_rng(0)
    if spec.num_actions is not None:
        return lambda: rng.integers(spec.num_actions, size=2)
    low, high = np.float32(spec.action_low), np.float32(spec.action_high)
    return lambda: (low + (high - low) * rng.random((2, len(low)))).astype(np.float32)


@pytest.mark.parametrize(
    ("name", "num_env_steps"),
    [*ENVS.items(), *(pytest.param(*pair, marks=pytest.mark.slow) for pair in LONG.items())],
)
def test_every_env_goes_on_from_where_it_was(name, num_env_steps):
    extras = {"minatar": "minatar", "breakout": "ale_py", "pong": "ale_py", "hopper": "mujoco"}
    pytest.importorskip(extras.get(name.partition("_")[0], "numpy"))
    sticky = ["env.emulator.repeat_action_probability=0.25"] if name == "breakout" else []
    factory = made(f"env={name}", *sticky)
    act = random_actions(factory.describe())
    assert goes_on(lambda: factory.make_training(2), act, num_env_steps)


def test_cartpoles_as_arrays_go_on():
    from qbench.env.cartpole import CartPoleEnvs

    rng = np.random.default_rng(0)
    assert goes_on(lambda: CartPoleEnvs(2), lambda: rng.integers(2, size=2), 100)


def test_envs_in_processes_go_on():
    rng = np.random.default_rng(0)

    def make():
        return ProcessEnvs(make_cartpole, num_seeds=2, num_processes=2)

    assert goes_on(make, lambda: rng.integers(2, size=2), 60)


def make_cartpole():
    return gymnasium.make("CartPole-v1")


def test_an_env_that_remembers_earlier_episodes_is_found_out():
    envs, others = SerialEnvs([Counter()]), SerialEnvs([Counter()])
    envs.reset([0])
    for _ in range(12):  # Into the fourth episode, whose number the observation tells.
        last = envs.step(np.array([1]))
    others.reset([1])
    obs, _ = others.load_state(stored(envs.state()))
    assert obs[0, 0] != last.obs[0, 0]
