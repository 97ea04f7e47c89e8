"""The S envs of a population: one after the other, or in worker processes."""

import multiprocessing
import os
import signal
import traceback
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from typing import Any

import gymnasium
import numpy as np
import numpy.typing as npt

from qbench.env.retrace import Retraced
from qbench.types import ActionArray, Envs, ObsArray, State, Stepped

MakeEnv = Callable[[], gymnasium.Env[Any, Any]]

SERIAL, PROCESSES, VECTOR = "serial", "processes", "vector"


def check_stepping(stepping: str, env: str, *, has_vector: bool = False) -> None:
    """Refuse what `env.stepping` cannot be for this env.

    Raises:
        ValueError: with what it can be.
    """
    if stepping not in (SERIAL, PROCESSES, VECTOR):
        raise ValueError(f"env.stepping={stepping} must be one of serial, processes, vector.")
    if stepping == VECTOR and not has_vector:
        raise ValueError(
            f"env.stepping=vector is written for CartPole-v1 without kwargs; {env} takes serial"
            " or processes."
        )


def make_envs(stepping: str, make: MakeEnv, num_seeds: int) -> Envs:
    """Envs of `num_seeds` seeds, stepped one after the other or in worker processes."""
    if stepping == PROCESSES:
        return ProcessEnvs(make, num_seeds=num_seeds)
    return SerialEnvs([make() for _ in range(num_seeds)])


class SerialEnvs:
    """Steps S envs one after the other; implements `types.Envs`.

    An env whose rewards and ends for learning are not its own says what they are in its
    info: `score` and `is_over`.

    Args:
        envs: one env per seed, without autoreset.
    """

    def __init__(self, envs: Sequence[gymnasium.Env[Any, Any]]) -> None:
        self._envs = [Retraced(env) for env in envs]
        space = envs[0].observation_space
        self._shape = (len(self._envs), *(space.shape or ()))
        self._dtype = np.uint8 if space.dtype == np.uint8 else np.float32

    def reset(self, seeds: Sequence[int]) -> ObsArray:
        """First observations [S, *obs_shape]; seeds the generators."""
        obs = np.empty(self._shape, self._dtype)
        for k, (env, seed) in enumerate(zip(self._envs, seeds, strict=True)):
            obs[k] = env.reset(seed)
        return obs

    def step(self, action: ActionArray) -> Stepped:
        """Step every env; `obs` is `next_obs` itself where no episode has ended."""
        num_envs = len(self._envs)
        next_obs = np.empty(self._shape, self._dtype)
        reward, score = np.empty(num_envs, np.float32), np.empty(num_envs)
        terminated, ended, is_over = np.empty((3, num_envs), np.bool_)
        for k, env in enumerate(self._envs):
            next_obs[k], earned, terminated[k], truncated, info = env.step(action[k])
            ended[k] = terminated[k] or truncated
            reward[k], score[k] = earned, info.get("score", earned)
            is_over[k] = info.get("is_over", ended[k])
        obs = self._reset_ended(next_obs, ended)
        return Stepped(next_obs, obs, reward, terminated, ended, score, is_over)

    def _reset_ended(self, next_obs: ObsArray, ended: npt.NDArray[np.bool_]) -> ObsArray:
        if not ended.any():
            return next_obs
        obs = next_obs.copy()
        for k in np.flatnonzero(ended):
            obs[k] = self._envs[k].reset()
        return obs

    def state(self) -> list[State]:
        """The way to where each env stands."""
        return [env.state() for env in self._envs]

    def load_state(self, states: Sequence[State]) -> tuple[ObsArray, npt.NDArray[np.bool_]]:
        """Go each way again: observations [S, ...], and whether rewards were the same [S]."""
        obs, is_same = np.empty(self._shape, self._dtype), np.empty(len(states), np.bool_)
        for k, (env, state) in enumerate(zip(self._envs, states, strict=True)):
            obs[k], is_same[k] = env.load_state(state)
        return obs, is_same

    def close(self) -> None:
        """Close the envs."""
        for env in self._envs:
            env.close()


class ProcessEnvs:
    """Steps S envs in worker processes, each worker a `SerialEnvs` of some of them.

    Workers end when their pipe does, so that none outlives its parent, however that dies.

    Args:
        make: builds one env; must be picklable.
        num_seeds: S.
        num_processes: workers among which the seeds are split; null: one per core.
    """

    def __init__(self, make: MakeEnv, *, num_seeds: int, num_processes: int | None = None) -> None:
        num_workers = min(num_seeds, num_processes or os.cpu_count() or 1)
        parts = np.array_split(np.arange(num_seeds), num_workers)
        self._slices = [slice(int(part[0]), int(part[-1]) + 1) for part in parts]
        # Forked workers would hold each other's pipes open, and threads of torch or wandb.
        has_forkserver = "forkserver" in multiprocessing.get_all_start_methods()
        context = multiprocessing.get_context("forkserver" if has_forkserver else "spawn")
        if has_forkserver:
            context.set_forkserver_preload([__name__])
        self._connections: list[Connection] = []
        self._processes: list[multiprocessing.process.BaseProcess] = []
        for part in parts:
            ours, theirs = context.Pipe()
            process = context.Process(  # type: ignore[attr-defined]
                target=_serve, args=(theirs, make, len(part)), daemon=True
            )
            process.start()
            theirs.close()
            self._connections.append(ours)
            self._processes.append(process)

    def reset(self, seeds: Sequence[int]) -> ObsArray:
        """First observations [S, *obs_shape]; seeds the generators."""
        return np.concatenate(self._ask("reset", list(seeds)))

    def step(self, action: ActionArray) -> Stepped:
        """Step every env by its action [S, *action_shape]."""
        parts = self._ask("step", action)
        return Stepped(*(np.concatenate(fields) for fields in zip(*parts, strict=True)))

    def state(self) -> list[State]:
        """The way to where each env stands."""
        return [state for part in self._ask("state") for state in part]

    def load_state(self, states: Sequence[State]) -> tuple[ObsArray, npt.NDArray[np.bool_]]:
        """Go each way again: observations [S, ...], and whether rewards were the same [S]."""
        obs, is_same = zip(*self._ask("load_state", list(states)), strict=True)
        return np.concatenate(obs), np.concatenate(is_same)

    def _ask(self, method: str, argument: Any = None) -> list[Any]:
        """What each worker answers to its part of the argument."""
        try:
            for connection, part in zip(self._connections, self._slices, strict=True):
                connection.send((method, () if argument is None else (argument[part],)))
            replies = [connection.recv() for connection in self._connections]
        except (EOFError, OSError) as error:
            raise RuntimeError("A worker process of the envs died; was memory short?") from error
        for reply in replies:
            if isinstance(reply, str):
                raise RuntimeError(f"An env failed in its worker process.\n{reply}")
        return replies

    def close(self) -> None:
        """End the workers, also those in the middle of a step."""
        # A worker that waits to be read would never see a message: closing the pipe ends it.
        for connection in self._connections:
            connection.close()
        for process in self._processes:
            process.join(timeout=5)
            if process.is_alive():
                process.kill()


def _serve(connection: Connection, make: MakeEnv, num_envs: int) -> None:
    """A worker: answers until the pipe ends, or with a traceback."""
    # Ctrl-C is for the parent, which ends its workers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        envs = SerialEnvs([make() for _ in range(num_envs)])
        while True:
            method, arguments = connection.recv()
            connection.send(getattr(envs, method)(*arguments))
    except (EOFError, ConnectionError):
        return
    except Exception:
        connection.send(traceback.format_exc())
