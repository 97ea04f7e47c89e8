"""CartPole-v1 for S seeds at once."""

from collections.abc import Sequence

import gymnasium
import numpy as np
import numpy.typing as npt
from gymnasium.envs.classic_control.cartpole import CartPoleEnv
from gymnasium.utils import seeding

from qbench.types import ActionArray, FloatArray, IntArray, ObsArray, State, Stepped

ID = "CartPole-v1"


class CartPoleEnvs:
    """S cart-poles as arrays; implements `types.Envs`.

    Bit for bit what S envs from `gymnasium.make("CartPole-v1")` do, time limit included:
    the same operations in the same order, float64 inside, float32 observations. Gymnasium's
    CartPoleVectorEnv draws all resets from one generator and resets one step late.

    Args:
        num_envs: S.
    """

    def __init__(self, num_envs: int) -> None:
        self._physics = physics = CartPoleEnv()
        self._forces = np.array([-physics.force_mag, physics.force_mag])
        self._limits = np.array([[physics.x_threshold], [physics.theta_threshold_radians]])
        self._max_episode_steps = gymnasium.spec(ID).max_episode_steps or 0
        self._state = np.zeros((4, num_envs))  # x, x_dot, theta, theta_dot
        self._length = np.zeros(num_envs, np.int64)
        self._reward, self._score = np.ones(num_envs, np.float32), np.ones(num_envs)

    def reset(self, seeds: Sequence[int]) -> ObsArray:
        """First observations [S, 4]; seeds the generators."""
        self._generators = [seeding.np_random(seed)[0] for seed in seeds]
        self._start(np.arange(len(self._generators)))
        return self._obs()

    def step(self, action: ActionArray) -> Stepped:
        """Step every cart-pole by its action [S]."""
        self._state = self._state + self._physics.tau * self._derivative(action)
        self._length += 1
        is_out = np.abs(self._state[::2]) > self._limits  # of x and theta
        terminated = is_out[0] | is_out[1]
        ended = terminated | (self._length >= self._max_episode_steps)
        next_obs = obs = self._obs()
        if ended.any():
            self._start(np.flatnonzero(ended))
            obs = self._obs()
        return Stepped(next_obs, obs, self._reward, terminated, ended, self._score, ended)

    def _derivative(self, action: ActionArray) -> FloatArray:
        """Time derivative of the state [4, S]: Florian (2007), equations 23 and 24.

        https://coneural.org/florian/papers/05_cart_pole.pdf
        """
        p = self._physics
        _, _, theta, theta_dot = self._state
        cos, sin = np.cos(theta), np.sin(theta)
        temp = self._forces[action] + p.polemass_length * np.square(theta_dot) * sin
        temp /= p.total_mass
        theta_acc = p.gravity * sin - cos * temp
        theta_acc /= p.length * (4.0 / 3.0 - p.masspole * np.square(cos) / p.total_mass)
        derivative = np.empty_like(self._state)
        derivative[::2] = self._state[1::2]
        derivative[1] = temp - p.polemass_length * theta_acc * cos / p.total_mass
        derivative[3] = theta_acc
        return derivative

    def _start(self, indices: IntArray) -> None:
        for k in indices:
            self._state[:, k] = self._generators[k].uniform(low=-0.05, high=0.05, size=(4,))
            self._length[k] = 0

    def _obs(self) -> ObsArray:
        return np.ascontiguousarray(self._state.T, dtype=np.float32)

    def state(self) -> list[State]:
        """Pole, length of the episode and generator of each."""
        return [
            {
                "pole": self._state[:, k],
                "length": int(self._length[k]),
                "generator": generator.bit_generator.state,
            }
            for k, generator in enumerate(self._generators)
        ]

    def load_state(self, states: Sequence[State]) -> tuple[ObsArray, npt.NDArray[np.bool_]]:
        """Go on from there."""
        for k, (state, generator) in enumerate(zip(states, self._generators, strict=True)):
            self._state[:, k] = np.asarray(state["pole"])
            self._length[k] = state["length"]
            generator.bit_generator.state = state["generator"]
        return self._obs(), np.ones(len(states), np.bool_)

    def close(self) -> None:
        """Nothing is held."""
