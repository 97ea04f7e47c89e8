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
from typing import TYPE_CHECKING, Any, NamedTuple

from omegaconf import DictConfig, OmegaConf

from qbench.train import cells
from qbench.train.cells import is_ours
from qbench.train.errors import ConfigError, Incompatible

if TYPE_CHECKING:
    from gymnasium import Space

    from qbench.types import EnvSpec

# Action space that an algorithm needs, and the algorithm for the other one.
ACTION_SPACES = {"DQN": ("Discrete", "algo=ddpg"), "DDPG": ("Box", "algo=dqn")}

# Our extras, by how Gymnasium or an env id calls them.
EXTRAS = {"ale": "atari", "atari": "atari", "mujoco": "mujoco", "minatar": "minatar"}

# What takes env ids that Gymnasium does not know by itself.
FAMILIES = {"ALE": "env=atari with the same env.id", "MinAtar": "env=minatar_breakout or a sibling"}


class Described(NamedTuple):
    """An env as it is played."""

    obs: "Space[Any]"
    action: "Space[Any]"
    spec: "EnvSpec"


def check_env_id(cfg: DictConfig) -> None:
    """The id must be given where the env's file leaves it open, and only there."""
    choice = cells.canonical_choice(cfg, "env")
    env_id = OmegaConf.select(cfg, "env.id")
    own_id = cells.file_content(cells.choice_file(cfg, "env", choice)).get("id")
    if own_id == "???" and env_id is None:
        example = "ALE/Asterix-v5" if choice == "atari" else "Acrobot-v1"
        raise ConfigError(f"env={choice} needs env.id=<a registered id>, such as {example}.")
    if own_id not in (None, "???", env_id):
        raise ConfigError(
            f"env.id={env_id} cannot be combined with env={choice}, whose settings are tuned"
            f" for {own_id}: use env=gym env.id={env_id}."
        )
    if env_id is not None and not isinstance(env_id, str):
        raise ConfigError(f"env.id={env_id} will not do: it must be a name such as CartPole-v1.")
    family = str(env_id).partition("/")[0]
    if choice == "gym" and family in FAMILIES:
        raise ConfigError(f"env.id={env_id} is not one of env=gym: use {FAMILIES[family]}.")
    if ":" in str(env_id) and not any("env.id=" in o for o in cfg.hydra.overrides.task):
        raise ConfigError(
            f"env.id={env_id} would import a module: that is only allowed on the command line."
        )


def check_spaces(cfg: DictConfig) -> None:
    """The env's spaces must suit the algorithm and the network, and its replay fit in memory."""
    if not is_ours(cfg, "env"):
        return
    node = OmegaConf.to_container(cfg.env, resolve=True)
    found = _describe(json.dumps(node, sort_keys=True))
    _check_action_space(cfg, found.action)
    _check_obs_space(cfg, found)
    _check_memory(cfg, found.spec)


def env_name(cfg: DictConfig) -> str:
    """What messages call the env: its id, or its choice where it has none."""
    return str(OmegaConf.select(cfg, "env.id") or cells.canonical_choice(cfg, "env"))


def _check_action_space(cfg: DictConfig, space: "Space[Any]") -> None:
    algo = _class_name(cfg, "algo.learner")
    needed, remedy = ACTION_SPACES.get(algo, (None, None))
    if getattr(space, "start", 0) != 0:
        raise Incompatible(
            f"{env_name(cfg)} counts its actions from {space.start}, not from 0:"  # type: ignore[attr-defined]
            " wrap it and register that env."
        )
    if needed is not None and type(space).__name__ != needed:
        other = type(space).__name__ in ("Discrete", "Box")
        raise Incompatible(
            f"{algo} needs a {needed} action space; {env_name(cfg)} has {_described(space)}."
            f" Try {remedy if other else 'another env'}."
        )
    if needed == "Box" and not (space.is_bounded() and len(space.shape or ()) == 1):  # type: ignore[attr-defined]
        raise Incompatible(
            f"{algo} needs a one-dimensional Box of actions with finite bounds; {env_name(cfg)}"
            f" has {_described(space)} from {space.low.min():g} to {space.high.max():g}."  # type: ignore[attr-defined]
            " Rescale its actions by a gymnasium wrapper and register that env."
        )


def _check_obs_space(cfg: DictConfig, found: Described) -> None:
    network = _class_name(cfg, "network") if is_ours(cfg, "network") else ""
    is_box = type(found.obs).__name__ == "Box"
    is_vector = is_box and len(found.obs.shape or ()) == 1
    is_image = is_box and len(found.obs.shape or ()) == 3 and found.spec.obs_high is not None
    if is_image and _class_name(cfg, "env") == "GymnasiumEnv":
        raise Incompatible(
            f"env=gym takes vectors of observations; {env_name(cfg)} has images,"
            f" {_described(found.obs)}. Try env=atari or env=cartpole_pixels."
        )
    choice = cells.canonical_choice(cfg, "network")
    if network == "MLP" and not is_vector:
        remedy = f"network={_cnn_of(found.spec.obs_shape)}" if is_image else "env=cartpole"
        raise Incompatible(
            f"network={choice} takes a one-dimensional Box of observations; {env_name(cfg)} has"
            f" {_described(found.obs)}. Try {remedy}."
        )
    if network == "CNN" and not is_image:
        raise Incompatible(
            f"network={choice} takes images of bytes [planes, height, width]; {env_name(cfg)} has"
            f" {_described(found.obs)}. Try network=mlp."
        )
    if network == "CNN":
        _check_kernels(cfg, found.spec.obs_shape)
    if _class_name(cfg, "algo.learner") == "DDPG" and found.spec.obs_high is not None:
        raise Incompatible(
            f"DDPG takes float32 vectors of observations; {env_name(cfg)} has bytes."
        )


def _cnn_of(obs_shape: tuple[int, ...]) -> str:
    """A network that images of this size fit: Nature's needs 36 pixels."""
    return "cnn" if min(obs_shape[1:]) >= 36 else "cnn_minatar"


def _check_kernels(cfg: DictConfig, obs_shape: tuple[int, ...]) -> None:
    size = min(obs_shape[1:])
    for kernel, stride in zip(cfg.network.kernel_sizes, cfg.network.strides, strict=True):
        if kernel > size:
            raise Incompatible(
                f"network.kernel_sizes={list(cfg.network.kernel_sizes)} do not fit the"
                f" {obs_shape[1]}x{obs_shape[2]} images of {env_name(cfg)}: a kernel of {kernel}"
                f" meets {size} pixels. Try network=cnn_minatar."
            )
        size = (size - kernel) // stride + 1


def _class_name(cfg: DictConfig, key: str) -> str:
    return str(OmegaConf.select(cfg, f"{key}._target_")).rpartition(".")[2]


def _check_memory(cfg: DictConfig, spec: "EnvSpec") -> None:
    """The replay is the one thing that grows with seeds; it must fit before it is allocated."""
    if not is_ours(cfg, "replay"):
        return
    row_bytes = _transition_bytes(cfg, spec)
    per_seed = cfg.replay.capacity * row_bytes
    have = available_bytes()
    if have is None or cfg.num_seeds * per_seed <= have:
        return
    fitting = have // per_seed
    remedy = (
        f"num_seeds={fitting} is the most that fits"
        if fitting
        else f"replay.capacity={have // row_bytes} is the most that fits one seed"
    )
    raise ConfigError(
        f"num_seeds={cfg.num_seeds} x replay.capacity={cfg.replay.capacity} needs"
        f" {_gib(cfg.num_seeds * per_seed)} of memory and {_gib(have)} are available: {remedy}."
    )


def _transition_bytes(cfg: DictConfig, spec: "EnvSpec") -> int:
    """Bytes of one seed's transition as `replay.dtype` stores it."""
    if cfg.replay.dtype == "float32":
        return spec.transition_bytes
    if spec.obs_high is not None:
        raise Incompatible(
            f"replay.dtype={cfg.replay.dtype} is for vectors of floats; the observations of"
            f" {env_name(cfg)} are stored as bytes anyway: leave it out."
        )
    return spec.transition_bytes - (4 - 1) * 2 * math.prod(spec.obs_shape)


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
def _describe(node: str) -> Described:
    """Spaces and spec, read off an instance: some depend on the kwargs."""
    from hydra.utils import instantiate

    config = json.loads(node)
    try:
        with warnings.catch_warnings(action="ignore"):
            factory = instantiate(config, _convert_="all")
            env = factory.make()
            found = Described(env.observation_space, env.action_space, factory.describe())
            env.close()
    except Exception as error:  # A foreign constructor may raise anything.
        cause = error.__cause__ or error
        raise ConfigError(_why_not(str(config.get("id")), cause)) from error
    return found


def _why_not(env_id: str, error: BaseException) -> str:
    """Why `gymnasium.make` refused, and what to do about it."""
    from gymnasium import error as gym_error

    said = " ".join(str(error).split())
    if said.startswith("env.") or "pip install" in said:
        return said  # It is a sentence of ours, or as good as one.
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
