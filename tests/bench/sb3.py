"""Stable-Baselines3's side of the comparisons: one seed, no logging, a single call of `learn`."""

import time
from collections.abc import Callable

import gymnasium
import numpy as np
from stable_baselines3 import DDPG, DQN
from stable_baselines3.common.atari_wrappers import AtariWrapper
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.noise import NormalActionNoise
from stable_baselines3.common.vec_env import DummyVecEnv, VecFrameStack

from tests.bench import workload


class Clock(BaseCallback):
    """Remembers the CPU time at the end of the warm-up."""

    def __init__(self, warm_up_env_steps: int) -> None:
        super().__init__()
        self._warm_up_env_steps = warm_up_env_steps
        self.warm_cpu_s = 0.0

    def _on_step(self) -> bool:
        if self.num_timesteps == self._warm_up_env_steps:
            self.warm_cpu_s = time.process_time()
        return True


def speed(make: Callable[[], DQN | DDPG], warm_up_env_steps: int, env_steps: int) -> float:
    """Env steps per CPU-second after a warm-up."""
    clock = Clock(warm_up_env_steps)
    make().learn(warm_up_env_steps + env_steps, callback=clock, log_interval=None)
    return env_steps / (time.process_time() - clock.warm_cpu_s)


def cartpole(train_frequency: int) -> DQN:
    """The same work as `workload.cartpole`."""
    return _dqn(
        "MlpPolicy",
        gymnasium.make(workload.CARTPOLE_ID, disable_env_checker=True),
        learning_rate=workload.CARTPOLE_LEARNING_RATE,
        buffer_size=workload.CARTPOLE_BUFFER_SIZE,
        batch_size=workload.CARTPOLE_BATCH_SIZE,
        train_freq=train_frequency,
        target_update_interval=workload.CARTPOLE_TARGET_UPDATE_INTERVAL,
        policy_kwargs={"net_arch": workload.HIDDEN_SIZES},
    )


def pendulum() -> DDPG:
    """The same work as `workload.pendulum`; actions are scaled to [-1, 1] in its noise."""
    return DDPG(
        "MlpPolicy",
        gymnasium.make(workload.PENDULUM_ID, disable_env_checker=True),
        learning_rate=workload.PENDULUM_LEARNING_RATE,
        buffer_size=workload.PENDULUM_BUFFER_SIZE,
        batch_size=workload.PENDULUM_BATCH_SIZE,
        learning_starts=workload.LEARNING_STARTS,
        tau=workload.PENDULUM_TAU,
        gamma=workload.GAMMA,
        train_freq=1,
        gradient_steps=1,
        action_noise=NormalActionNoise(np.zeros(1), np.full(1, workload.PENDULUM_NOISE)),
        policy_kwargs={"net_arch": workload.PENDULUM_HIDDEN_SIZES},
        device="cpu",
        seed=0,
        verbose=0,
    )


def pong(buffer_size: int, learning_starts: int = workload.LEARNING_STARTS) -> DQN:
    """The same work as `workload.pong`, preprocessed by Stable-Baselines3's own wrappers."""

    def make_env() -> gymnasium.Env:
        import ale_py

        gymnasium.register_envs(ale_py)
        env = gymnasium.make(workload.PONG_ID, frameskip=1, disable_env_checker=True)
        return AtariWrapper(Monitor(env))

    return _dqn(
        "CnnPolicy",
        VecFrameStack(DummyVecEnv([make_env]), n_stack=4),
        learning_rate=workload.PONG_LEARNING_RATE,
        buffer_size=buffer_size,
        batch_size=workload.PONG_BATCH_SIZE,
        train_freq=workload.PONG_TRAIN_FREQUENCY,
        target_update_interval=workload.PONG_TARGET_UPDATE_INTERVAL,
        learning_starts=learning_starts,
    )


def _dqn(policy, env, **settings) -> DQN:
    shared = {
        "learning_starts": workload.LEARNING_STARTS,
        "tau": 1.0,
        "gamma": workload.GAMMA,
        "gradient_steps": 1,
        "exploration_initial_eps": workload.EPSILON,
        "exploration_final_eps": workload.EPSILON,
        "max_grad_norm": workload.MAX_GRAD_NORM,
        "device": "cpu",
        "seed": 0,
        "verbose": 0,
    }
    return DQN(policy, env, **(shared | settings))
