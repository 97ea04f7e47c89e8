"""Checks that need the env: is it registered, do its spaces suit, does its replay fit.

Gymnasium is imported inside functions: help and `--cfg job` never pay for it.
"""

import difflib
import functools
import json
import math
import re
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

from qbench.train import cells
from qbench.train.cells import is_ours
from qbench.train.errors import ConfigError, Incompatible

if TYPE_CHECKING:
    from gymnasium import Space

# Action space that an algorithm needs, and an env to try it on.
ACTION_SPACES = {"DQN": ("Discrete", "env=cartpole"), "DDPG": ("Box", "env=gym env.id=Pendulum-v1")}

# Our extras, by how Gymnasium or an env id calls them.
EXTRAS = {"ale": "atari", "atari": "atari", "mujoco": "mujoco", "minatar": "minatar"}


def check_env_id(cfg: DictConfig) -> None:
    """The id must be given for env=gym, and only there."""
    choice = cells.canonical_choice(cfg, "env")
    env_id = OmegaConf.select(cfg, "env.id")
    if choice == "gym" and env_id is None:
        raise ConfigError("env=gym needs env.id=<a registered id>, such as env.id=CartPole-v0.")
    own_id = cells.file_content(cells.choice_file(cfg, "env", choice)).get("id")
    if choice != "gym" and own_id is not None and env_id != own_id:
        raise ConfigError(
            f"env.id={env_id} cannot be combined with env={choice}, whose settings are tuned"
            f" for {own_id}: use env=gym env.id={env_id}."
        )
    if env_id is not None and not isinstance(env_id, str):
        raise ConfigError(f"env.id={env_id} will not do: it must be a name such as CartPole-v1.")
    if ":" in str(env_id) and not any("env.id=" in o for o in cfg.hydra.overrides.task):
        raise ConfigError(
            f"env.id={env_id} would import a module: that is only allowed on the command line."
        )


def check_spaces(cfg: DictConfig) -> None:
    """The env's spaces must suit the algorithm and the network, and its replay fit in memory."""
    if not is_ours(cfg, "env"):
        return
    kwargs = OmegaConf.to_container(cfg.env.get("kwargs") or OmegaConf.create({}), resolve=True)
    obs_space, action_space = _spaces(cfg.env.id, json.dumps(kwargs, sort_keys=True))
    _check_action_space(cfg, action_space)
    _check_obs_space(cfg, obs_space)
    _check_memory(cfg, obs_space)


def _check_action_space(cfg: DictConfig, space: "Space[Any]") -> None:
    algo = str(OmegaConf.select(cfg, "algo.learner._target_")).rpartition(".")[2]
    needed, remedy = ACTION_SPACES.get(algo, (None, None))
    if needed is not None and type(space).__name__ != needed:
        raise Incompatible(
            f"{algo} needs a {needed} action space; {cfg.env.id} has {_described(space)}."
            f" Try {remedy}."
        )


def _check_obs_space(cfg: DictConfig, space: "Space[Any]") -> None:
    network = str(OmegaConf.select(cfg, "network._target_")).rpartition(".")[2]
    is_vector = type(space).__name__ == "Box" and len(space.shape or ()) == 1
    if network == "MLP" and is_ours(cfg, "network") and not is_vector:
        raise Incompatible(
            f"network=mlp takes a one-dimensional Box of observations; {cfg.env.id} has"
            f" {_described(space)}. Try env=cartpole."
        )


def _check_memory(cfg: DictConfig, obs_space: "Space[Any]") -> None:
    """The replay is the one thing that grows with seeds; it must fit before it is allocated."""
    if not is_ours(cfg, "replay") or obs_space.shape is None:
        return
    per_seed = cfg.replay.capacity * row_bytes(obs_space.shape)
    have = available_bytes()
    if have is None or cfg.num_seeds * per_seed <= have:
        return
    fitting = have // per_seed
    remedy = (
        f"num_seeds={fitting} is the most that fits"
        if fitting
        else f"replay.capacity={have // row_bytes(obs_space.shape)} is the most that fits one seed"
    )
    raise ConfigError(
        f"num_seeds={cfg.num_seeds} x replay.capacity={cfg.replay.capacity} needs"
        f" {_gib(cfg.num_seeds * per_seed)} of memory and {_gib(have)} are available: {remedy}."
    )


def row_bytes(obs_shape: tuple[int, ...]) -> int:
    """Bytes of one stored transition; equal to `qbench.replay.row_bytes`, which imports torch."""
    return 4 * (2 * math.prod(obs_shape) + 3)


def available_bytes() -> int | None:
    """Memory that can still be had, within the container's limit; None where Linux is not."""
    try:
        meminfo = Path("/proc/meminfo").read_text()
    except OSError:
        return None
    found = re.search(r"MemAvailable:\s+(\d+) kB", meminfo)
    if found is None:
        return None
    have = int(found[1]) * 1024
    try:
        limit = Path("/sys/fs/cgroup/memory.max").read_text().strip()
        used = int(Path("/sys/fs/cgroup/memory.current").read_text())
    except OSError:
        return have
    return have if limit == "max" else max(0, min(have, int(limit) - used))


@functools.lru_cache(maxsize=64)
def _spaces(env_id: str, kwargs: str) -> "tuple[Space[Any], Space[Any]]":
    """Observation and action space, read off an instance: some depend on the kwargs."""
    import gymnasium

    try:
        with warnings.catch_warnings(action="ignore"):
            env = gymnasium.make(env_id, disable_env_checker=True, **json.loads(kwargs))
            spaces = env.observation_space, env.action_space
            env.close()
    except Exception as error:  # A foreign constructor may raise anything.
        raise ConfigError(_why_not(env_id, error)) from error
    return spaces


def _why_not(env_id: str, error: Exception) -> str:
    """Why `gymnasium.make` refused, and what to do about it."""
    from gymnasium import error as gym_error

    said = " ".join(str(error).split())
    extra = _missing_extra(env_id, said)
    if isinstance(error, gym_error.DependencyNotInstalled | gym_error.NamespaceNotFound) and extra:
        return f'env.id={env_id} is not installed: pip install "{extra}".'
    if isinstance(error, gym_error.UnregisteredEnv):
        return f"env.id={env_id} is not registered: {_nearest_ids(env_id)}."
    if isinstance(error, ImportError):
        return f"env.id={env_id} needs a module that cannot be imported: {said}"
    if isinstance(error, TypeError) and "keyword argument" in said:
        return f"env.kwargs does not suit {env_id}: {said}"
    return f"env.id={env_id} cannot be made, {type(error).__name__}: {said}"


def _missing_extra(env_id: str, said: str) -> str | None:
    """The requirement to install, ours where we have an extra of that name."""
    named = re.search(r"gymnasium\[([\w-]+)\]", said)
    name = (named[1] if named else env_id.partition("/")[0]).lower()
    if name in EXTRAS:
        return f".[{EXTRAS[name]}]"
    return f"gymnasium[{name}]" if named else None


def _nearest_ids(env_id: str) -> str:
    import gymnasium

    near = difflib.get_close_matches(env_id, gymnasium.registry, n=3, cutoff=0.6)
    if near:
        return f"the nearest ids are {' and '.join(near)}"
    return "python -c 'import gymnasium; gymnasium.pprint_registry()' lists the ids"


def _described(space: "Space[Any]") -> str:
    match type(space).__name__:
        case "Discrete":
            return f"Discrete({space.n})"  # type: ignore[attr-defined]
        case "Box":
            return f"Box{space.shape}"
        case name:
            return name


def _gib(num_bytes: float) -> str:
    return f"{num_bytes / 2**30:.1f} GiB"
