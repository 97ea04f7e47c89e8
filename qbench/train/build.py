"""The only place where config becomes objects."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from torch import nn

from qbench import layers, streams
from qbench.collect import Collector
from qbench.quant.stored import StoredTarget
from qbench.quant.trace import ConversionError, chain
from qbench.replay import Replay, ReplaySampler
from qbench.schedule import Linear
from qbench.train.acting import behaviour_policy
from qbench.train.errors import ConfigError
from qbench.train.graphs import RecordedUpdates
from qbench.train.phases import Phases
from qbench.types import (
    EnvFactory,
    EnvSpec,
    Exploration,
    Learner,
    Metrics,
    QuantScheme,
    RecordableLearner,
    Transition,
)


@dataclass(frozen=True, kw_only=True)
class Loop:
    """When things happen, in env steps of one seed (`algo.loop`)."""

    batch_size: int
    train_frequency: int
    gradient_steps: int
    learning_starts: int
    target_update_interval: int
    tau: float
    average_weight: float
    learning_rate: Linear


@dataclass(frozen=True, kw_only=True)
class Parts:
    """Everything that one cell's training is made of."""

    seeds: list[int]
    env: EnvFactory
    spec: EnvSpec
    scheme: QuantScheme
    learner: Learner
    update: Callable[[Transition], Metrics]  # the learner's, or a recording of it
    phases: Phases
    replay: Replay
    sampler: ReplaySampler
    collector: Collector
    explore: Exploration
    loop: Loop


def build(cfg: DictConfig) -> Parts:
    """The parts of a cell from its composed and checked config."""
    seeds = list(range(cfg.seed, cfg.seed + cfg.num_seeds))
    device = torch.device("cuda" if cfg.trainer.accelerator == "gpu" else "cpu")
    # float32 is float32, whatever a container sets: products that round to ten bits are not.
    torch.backends.cuda.matmul.allow_tf32 = False
    env: EnvFactory = create(cfg.env)
    spec = env.describe()
    scheme: QuantScheme = create(cfg.quant)
    learner = _build_learner(cfg, spec, seeds, scheme, device)
    phases = Phases(scheme, learner)
    is_recorded = device.type == "cuda" and bool(cfg.trainer.get("cuda_graphs"))
    replay: Replay = create(cfg.replay, num_seeds=len(seeds), spec=spec, device=device)
    loop = cfg.algo.loop
    explore: Exploration = create(
        loop.exploration, learning_starts=loop.learning_starts, spec=spec, seeds=seeds
    )
    return Parts(
        seeds=seeds,
        env=env,
        spec=spec,
        scheme=scheme,
        learner=learner,
        update=_update_of(learner, phases) if is_recorded else learner.update,
        phases=phases,
        replay=replay,
        sampler=ReplaySampler(
            replay=replay,
            uniforms=streams.Uniforms(seeds, "replay"),
            batch_size=loop.batch_size,
        ),
        collector=Collector(
            envs=env.make_training(len(seeds)),
            env_seeds=[streams.integer(seed, "env") for seed in seeds],
            policy=behaviour_policy(
                learner,
                spec,
                acting=getattr(scheme, "acting", "fake"),
                refresh_updates=getattr(scheme, "acting_refresh_updates", 1),
                recorded_phases=phases if is_recorded else None,
            ),
            explore=explore,
            replay=replay,
        ),
        explore=explore,
        loop=build_loop(cfg),
    )


def _build_learner(
    cfg: DictConfig,
    spec: EnvSpec,
    seeds: list[int],
    scheme: QuantScheme,
    device: torch.device,
) -> Learner:
    """The learner on its prepared networks; the first head is the one that is deployed."""
    scope = getattr(scheme, "scope", "actor")
    heads = {}
    for name in cfg.algo.heads:
        network = build_network(cfg, spec, seeds, name)
        is_quantized = scope == "all" or name == deployed_head(cfg)
        heads[name] = (scheme.prepare(network) if is_quantized else network).to(device)
    check_convertible(heads[deployed_head(cfg)])
    is_stored = OmegaConf.select(cfg, "algo.loop.target_dtype") == "int8"
    parts: dict[str, Any] = {"make_target": StoredTarget} if is_stored else {}
    learner: Learner = create(cfg.algo.learner, **heads, **parts)
    return learner


def _update_of(learner: Learner, phases: Phases) -> Callable[[Transition], Metrics]:
    """A recording of its update, where it says that it can be recorded."""
    if isinstance(learner, RecordableLearner):
        return RecordedUpdates(learner, phases)
    return learner.update


def deployed_head(cfg: DictConfig) -> str:
    """The head that acts: the first of `algo.heads`."""
    return str(next(iter(cfg.algo.heads)))


def build_network(cfg: DictConfig, spec: EnvSpec, seeds: list[int], head: str) -> nn.Module:
    """A float network of every seed, with a leading seed axis."""

    def make_torso(obs_shape: tuple[int, ...]) -> nn.Module:
        torso: nn.Module = create(cfg.network, obs_shape=obs_shape)
        return torso

    def make() -> nn.Module:
        network: nn.Module = create(cfg.algo.heads[head], make_torso=make_torso, spec=spec)
        return network

    purpose = "weights" if head == deployed_head(cfg) else head
    try:
        return layers.populate(make, [streams.integer(seed, purpose) for seed in seeds])
    except (TypeError, AttributeError) as error:
        # A foreign network: a layer without a form, or no out_features.
        raise ConfigError(f"network={cfg.network._target_} cannot be used: {error}") from error


def check_convertible(network: nn.Module) -> None:
    """Refuse, before any training, a network that could not be deployed and scored.

    Raises:
        ConfigError: names the operation that has no integer form.
    """
    try:
        chain(network)
    except ConversionError as error:
        raise ConfigError(f"network: {error}") from error


def build_loop(cfg: DictConfig) -> Loop:
    """`algo.loop`, with the learning rate's decay over the whole budget."""
    loop = _plain(cfg.algo.loop)
    del loop["exploration"]
    loop.pop("target_dtype", None)
    start = cfg.algo.learner.learning_rate
    end = start * loop.pop("learning_rate_left")
    learning_rate = Linear(start=start, end=end, env_steps=cfg.total_env_steps)
    return Loop(learning_rate=learning_rate, **loop)


def create(node: DictConfig, **parts: Any) -> Any:
    """The object that a YAML describes: its `_target_` with its keys and the built parts."""
    if "_target_" not in node:
        raise ConfigError(f"{node._get_full_key(None)}: its YAML names no class, add _target_.")
    # In two steps: Hydra would turn parts that are dataclasses into config.
    try:
        make = instantiate(node, _convert_="all", _partial_=True)
    except InstantiationException as error:
        raise ConfigError(
            f"{node._target_} cannot be imported: add its folder to PYTHONPATH, or mend _target_."
        ) from error
    try:
        return make(**parts)
    except TypeError as error:
        if "__init__()" not in str(error):
            raise
        key = node._get_full_key(None)
        raise ConfigError(f"{key}: its keys do not suit its class, {error}.") from error


def _plain(node: DictConfig) -> dict[str, Any]:
    content = OmegaConf.to_container(node, resolve=True)
    return {str(key): value for key, value in dict(content).items()}  # type: ignore[arg-type]
