"""Atari 2600 games of the Arcade Learning Environment, preprocessed as DQN is fed."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.wrappers import AtariPreprocessing, FrameStackObservation

from qbench.env.extras import load, load_cv2
from qbench.env.gym import spec_of
from qbench.env.stepping import check_stepping, make_envs
from qbench.types import Envs, EnvSpec, ObsArray, State

NOOP, FIRE = 0, 1


@dataclass(frozen=True, kw_only=True)
class Emulator:
    """What `env.emulator` sets; fields are documented in conf/env/atari.yaml."""

    repeat_action_probability: float
    full_action_space: bool
    max_episode_frames: int


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """What `env.preprocessing` sets."""

    frame_skip: int
    screen_size: int
    frame_stack: int
    noop_max: int
    fire_on_reset: bool


@dataclass(frozen=True, kw_only=True)
class Training:
    """What `env.training` sets: how training differs from the game."""

    terminal_on_life_loss: bool
    clip_reward: bool


class AtariEnv:
    """An Atari game: grey 84x84 pictures of every fourth frame, four of them stacked.

    Training may end an episode with each life and clip rewards; the agent's score is the
    game's own and is told beside them. Evaluation plays whole games through the same lives.

    ale_py's AtariVectorEnv is not used: 0.12.1 refuses AutoresetMode.DISABLED, resets the game
    at a lost life, presses FIRE for one frame only, and costs no less CPU time (450 us a step).

    Args:
        id: id of the game, such as "ALE/Pong-v5".
        emulator: fields of `Emulator`.
        preprocessing: fields of `Preprocessing`.
        training: fields of `Training`.
        stepping: how the envs of a population are stepped: serial or processes.
    """

    def __init__(
        self,
        *,
        id: str,
        emulator: Mapping[str, Any],
        preprocessing: Mapping[str, Any],
        training: Mapping[str, Any],
        stepping: str,
    ) -> None:
        check_stepping(stepping, id)
        self._id = id
        self._emulator = Emulator(**emulator)
        self._preprocessing = Preprocessing(**preprocessing)
        self._training = Training(**training)
        self._stepping = stepping

    def make(self) -> gymnasium.Env[Any, Any]:
        """One env that plays whole games for their own score."""
        return WholeGames(self._make_lives())

    def make_training(self, num_seeds: int) -> Envs:
        """The envs of a population, with the ends and rewards that are learned from."""
        return make_envs(self._stepping, self._make_lives, num_seeds)

    def describe(self) -> EnvSpec:
        """Shapes and limits, read off an instance."""
        env = self.make()
        how = self._preprocessing
        limit = self._emulator.max_episode_frames // how.frame_skip
        spec = spec_of(env, id=self._id, frame_stack=how.frame_stack, max_episode_steps=limit)
        env.close()
        return spec

    def _make_lives(self) -> gymnasium.Env[Any, Any]:
        how = self._preprocessing
        env: gymnasium.Env[Any, Any] = AtariPreprocessing(
            self._make_emulator(),
            noop_max=how.noop_max,
            frame_skip=how.frame_skip,
            screen_size=how.screen_size,
        )
        env = Lives(env, training=self._training, fires=how.fire_on_reset)
        return FrameStackObservation(env, how.frame_stack)

    def _make_emulator(self) -> gymnasium.Env[Any, Any]:
        load_cv2()
        ale_py = load("ale_py", "atari")
        ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)  # else it greets on stderr
        gymnasium.register_envs(ale_py)
        env: gymnasium.Env[Any, Any] = gymnasium.make(
            self._id,
            disable_env_checker=True,
            obs_type="ram",
            frameskip=1,
            repeat_action_probability=self._emulator.repeat_action_probability,
            full_action_space=self._emulator.full_action_space,
            max_num_frames_per_episode=self._emulator.max_episode_frames,
        )
        # AtariPreprocessing reads the frames it needs from the emulator; an RGB observation
        # of every frame would cost a quarter more time. It asks for the screen's shape only.
        screen = env.unwrapped.ale.getScreenDims()  # type: ignore[attr-defined]
        env.observation_space = spaces.Box(0, 255, screen, np.uint8)
        return env


class Lives(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Starts lives, ends episodes with them, clips rewards; keeps the game's score in info.

    Lost lives and FIRE as in Stable-Baselines3's EpisodicLifeEnv and FireResetEnv, which
    CleanRL uses: a lost life that leaves another goes on with one no-op instead of a reset,
    and each start presses actions 1 and 2. What is scored during a start counts with the
    next step, and a game that ends during one is over with that step.

    Args:
        env: a preprocessed game.
        training: whether lives end episodes, and whether rewards are clipped.
        fires: whether starts press FIRE, in games that have it.
    """

    def __init__(self, env: gymnasium.Env[Any, Any], *, training: Training, fires: bool) -> None:
        super().__init__(env)
        meanings = env.unwrapped.get_action_meanings()  # type: ignore[attr-defined]
        has_fire = len(meanings) > 2 and meanings[FIRE] == "FIRE"
        self._start = (FIRE, 2) if fires and has_fire else ()
        self._training = training
        self._ale = env.unwrapped.ale  # type: ignore[attr-defined]
        self._is_over = True
        self._num_lives = 0
        self._score = 0.0
        self._ended: tuple[ObsArray, bool, bool] | None = None  # during a start

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[ObsArray, dict[str, Any]]:
        """Begin the next life of a running game, or a new game if it is over or seeded."""
        if self._is_over or seed is not None:
            self._score, self._ended = 0.0, None
            obs, _ = self.env.reset(seed=seed, options=options)
        else:
            obs = self._press(NOOP)
        for action in self._start:
            if self._ended is None:
                obs = self._press(action)
        self._is_over = False
        self._num_lives = self._ale.lives()
        return obs, {}

    def random_state(self) -> State:
        """The random numbers of the no-ops and, in the emulator's state, of its sticky actions."""
        emulator = self._ale.cloneState(include_rng=True).serialize()
        generator = self.unwrapped.np_random.bit_generator
        return {"emulator": list(emulator), "np_random": generator.state}

    def load_random_state(self, state: State) -> None:
        """Go on with them: the next reset begins a game."""
        self._ale.restoreState(type(self._ale.cloneState())(bytes(state["emulator"])))
        self.unwrapped.np_random.bit_generator.state = state["np_random"]
        self._is_over = True

    def _press(self, action: int) -> ObsArray:
        obs, reward, terminated, truncated, _ = self.env.step(action)
        self._score += float(reward)
        if terminated or truncated:
            self._ended = obs, terminated, truncated
        return obs

    def step(self, action: Any) -> tuple[ObsArray, Any, bool, bool, dict[str, Any]]:
        """Step the game; info tells its `score` and whether it `is_over`."""
        if self._ended is not None:
            return self._end_at_start()
        obs, reward, terminated, truncated, _ = self.env.step(action)
        self._is_over = terminated or truncated
        info = {"score": self._score + float(reward), "is_over": self._is_over}
        self._score = 0.0
        terminated = terminated or self._has_lost_life()
        if self._training.clip_reward:
            reward = float(np.sign(float(reward)))
        return obs, reward, terminated, truncated, info

    def _end_at_start(self) -> tuple[ObsArray, Any, bool, bool, dict[str, Any]]:
        """What a game that was over before its life had begun answers to the first step."""
        assert self._ended is not None
        obs, terminated, truncated = self._ended
        self._ended, self._is_over = None, True
        info = {"score": self._score, "is_over": True}
        self._score = 0.0
        return obs, 0.0, terminated, truncated, info

    def _has_lost_life(self) -> bool:
        """Whether a life has ended that leaves another."""
        before, self._num_lives = self._num_lives, self._ale.lives()
        return self._training.terminal_on_life_loss and 0 < self._num_lives < before


class WholeGames(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Joins the lives of a game to one episode, whose rewards are the game's own score.

    The agent sees each life start as it did in training: where training pressed FIRE for
    it, a greedy policy may never have learned to.
    """

    def step(self, action: Any) -> tuple[ObsArray, Any, bool, bool, dict[str, Any]]:
        """Step the game, into its next life if one ends."""
        obs, _, terminated, truncated, info = self.env.step(action)
        if terminated and not info["is_over"]:
            obs, _ = self.env.reset()
            terminated = False
        return obs, info["score"], terminated, truncated, info
