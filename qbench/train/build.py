"""The only place where config becomes objects."""

from dataclasses import dataclass
from typing import Any

import torch
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from torch import nn

from qbench import layers, streams
from qbench.algo.exploration import EpsilonGreedy
from qbench.collect import Collector
from qbench.env.gym import GymnasiumEnv
from qbench.network.heads import QNetwork
from qbench.quant.trace import ConversionError, stages
from qbench.replay import ReplayBuffer, ReplaySampler
from qbench.schedule import Linear
from qbench.train.errors import ConfigError
from qbench.types import EnvSpec, Learner, QuantScheme


@dataclass(frozen=True, kw_only=True)
class Loop:
    """When things happen, in env steps of one seed (`algo.loop`)."""

    batch_size: int
    train_frequency: int
    gradient_steps: int
    learning_starts: int
    target_update_interval: int
    tau: float
    learning_rate: Linear


@dataclass(frozen=True, kw_only=True)
class Parts:
    """Everything that one cell's training is made of."""

    seeds: list[int]
    env: GymnasiumEnv
    spec: EnvSpec
    scheme: QuantScheme
    learner: Learner
    replay: ReplayBuffer
    sampler: ReplaySampler
    collector: Collector
    epsilon: Linear
    loop: Loop


def build(cfg: DictConfig) -> Parts:
    """The parts of a cell from its composed and checked config."""
    seeds = list(range(cfg.seed, cfg.seed + cfg.num_seeds))
    device = torch.device("cuda" if cfg.trainer.accelerator == "gpu" else "cpu")
    env: GymnasiumEnv = create(cfg.env)
    spec = env.describe()
    scheme: QuantScheme = create(cfg.quant)
    network = scheme.prepare(build_network(cfg, spec, seeds)).to(device)
    check_convertible(network)
    learner: Learner = create(cfg.algo.learner, network=network)
    replay = create(cfg.replay, num_seeds=len(seeds), spec=spec, device=device)
    uniforms = streams.Uniforms(seeds, "replay")
    loop = cfg.algo.loop
    epsilon = Linear(**_plain(loop.exploration))
    return Parts(
        seeds=seeds,
        env=env,
        spec=spec,
        scheme=scheme,
        learner=learner,
        replay=replay,
        sampler=ReplaySampler(replay=replay, uniforms=uniforms, batch_size=loop.batch_size),
        collector=_build_collector(seeds, env, spec, learner, epsilon, replay, loop),
        epsilon=epsilon,
        loop=build_loop(cfg),
    )


def build_network(cfg: DictConfig, spec: EnvSpec, seeds: list[int]) -> nn.Module:
    """The float network of every seed, with a leading seed axis."""

    def make() -> nn.Module:
        torso: nn.Module = create(cfg.network, obs_shape=spec.obs_shape)
        return QNetwork(torso=torso, num_actions=spec.num_actions)

    return layers.populate(make, [streams.integer(seed, "weights") for seed in seeds])


def check_convertible(network: nn.Module) -> None:
    """Refuse, before any training, a network that could not be deployed and scored.

    Raises:
        ConfigError: names the operation that has no integer form.
    """
    try:
        stages(network)
    except ConversionError as error:
        raise ConfigError(f"network: {error}") from error


def build_loop(cfg: DictConfig) -> Loop:
    """`algo.loop`, with the learning rate's decay over the whole budget."""
    loop = _plain(cfg.algo.loop)
    del loop["exploration"]
    learning_rate = Linear(
        start=cfg.algo.learner.learning_rate,
        end=loop.pop("final_learning_rate"),
        env_steps=cfg.total_env_steps,
    )
    return Loop(learning_rate=learning_rate, **loop)


def create(node: DictConfig, **parts: Any) -> Any:
    """The object that a YAML describes: its `_target_` with its keys and the built parts."""
    # In two steps: Hydra would turn parts that are dataclasses into config.
    try:
        make = instantiate(node, _convert_="all", _partial_=True)
    except InstantiationException as error:
        raise ConfigError(
            f"{node._target_} cannot be imported: add its folder to PYTHONPATH, or mend _target_."
        ) from error
    return make(**parts)


def _plain(node: DictConfig) -> dict[str, Any]:
    content = OmegaConf.to_container(node, resolve=True)
    return {str(key): value for key, value in dict(content).items()}  # type: ignore[arg-type]


def _build_collector(
    seeds: list[int],
    env: GymnasiumEnv,
    spec: EnvSpec,
    learner: Learner,
    epsilon: Linear,
    replay: ReplayBuffer,
    loop: DictConfig,
) -> Collector:
    explore = EpsilonGreedy(
        epsilon=epsilon,
        learning_starts=loop.learning_starts,
        num_actions=spec.num_actions,
        uniforms=streams.Uniforms(seeds, "explore"),
    )
    return Collector(
        envs=[env.make() for _ in seeds],
        env_seeds=[streams.integer(seed, "env") for seed in seeds],
        learner=learner,
        explore=explore,
        replay=replay,
    )
