"""What must hold before anything is trained; imports no torch.

Every refusal is one sentence that names the key and the remedy.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

from omegaconf import DictConfig, OmegaConf

from qbench.train import cells, quantization, spaces
from qbench.train.cells import is_ours
from qbench.train.errors import ConfigError as ConfigError
from qbench.train.errors import Incompatible as Incompatible


@dataclass(frozen=True, kw_only=True)
class Number:
    """What a number must be; reads as the end of a sentence."""

    low: float
    high: float = math.inf
    is_whole: bool = True
    is_low_excluded: bool = False
    is_nullable: bool = False

    def admits(self, value: object) -> bool:
        if value is None:
            return self.is_nullable
        if isinstance(value, bool) or not isinstance(value, int if self.is_whole else int | float):
            return False
        if not math.isfinite(value) or (self.is_low_excluded and value == self.low):
            return False
        return self.low <= value <= self.high

    def __str__(self) -> str:
        kind = "a whole number" if self.is_whole else "a number"
        bound = f"above {self.low:g}" if self.is_low_excluded else f"of at least {self.low:g}"
        if math.isfinite(self.high):
            opening = "above" if self.is_low_excluded else "from"
            bound = f"{opening} {self.low:g} up to {self.high:g}"
        return f"{kind} {bound}{' or null' if self.is_nullable else ''}"


@dataclass(frozen=True)
class OneOf:
    """One of a few words; reads as the end of a sentence."""

    words: tuple[object, ...]

    def admits(self, value: object) -> bool:
        return any(type(value) is type(word) and value == word for word in self.words)

    def __str__(self) -> str:
        return " or ".join(str(word).lower() for word in self.words)


COUNT = Number(low=1)
COUNT_OR_ZERO = Number(low=0)
COUNT_OR_NULL = Number(low=1, is_nullable=True)
FRACTION = Number(low=0, high=1, is_whole=False)
POSITIVE = Number(low=0, is_whole=False, is_low_excluded=True)
POSITIVE_OR_NULL = Number(low=0, is_whole=False, is_low_excluded=True, is_nullable=True)
FLAG = OneOf((True, False))
BITS = Number(low=1, high=8)
BITS_OR_NULL = Number(low=1, high=8, is_nullable=True)

RULES: dict[str, Number | OneOf] = {
    "seed": COUNT_OR_ZERO,
    "num_seeds": COUNT,
    "total_env_steps": COUNT,
    "total_episodes": COUNT_OR_NULL,
    "chunk_env_steps": COUNT,
    "log_interval_env_steps": COUNT,
    "eval_interval_env_steps": COUNT_OR_ZERO,
    "interim_eval_episodes": COUNT,
    "eval_episodes": COUNT,
    "checkpoint_interval_env_steps": COUNT,
    "n_jobs": COUNT_OR_NULL,
    "retry_failed": FLAG,
    "fail_fast": FLAG,
    "replay.capacity": COUNT,
    "replay.dtype": OneOf(("float32", "uint8")),
    "trainer.num_threads": COUNT,
    "trainer.accelerator": OneOf(("cpu", "gpu")),
    "trainer.cuda_graphs": FLAG,
    "trainer.precision": OneOf(("float32", "bfloat16")),
    "logger.mode": OneOf(("offline", "online", "disabled")),
}

# By the last part of a key, or the last two, below `algo` and below `quant`.
ALGO_RULES: dict[str, Number | OneOf] = {
    "learning_rate": POSITIVE,
    "learning_rate_left": Number(low=0, high=1, is_whole=False),
    "gamma": FRACTION,
    "tau": Number(low=0, high=1, is_whole=False, is_low_excluded=True),
    "average_weight": Number(low=0, high=1, is_whole=False, is_low_excluded=True),
    "policy_frequency": COUNT,
    "noise": Number(low=0, is_whole=False),
    "max_grad_norm": POSITIVE_OR_NULL,
    "double": FLAG,
    "target_network": FLAG,
    "loss": OneOf(("huber", "squared")),
    "batch_size": COUNT,
    "train_frequency": COUNT,
    "gradient_steps": COUNT,
    "learning_starts": COUNT_OR_ZERO,
    "target_update_interval": COUNT,
    "target_dtype": OneOf(("float32", "int8")),
    "moments_dtype": OneOf(("float32", "uint8")),
    "start": FRACTION,
    "end": FRACTION,
    "env_steps": COUNT,
}

QUANT_RULES: dict[str, Number | OneOf] = {
    "bits": BITS,
    "weights.input_bits": BITS_OR_NULL,
    "weights.output_bits": BITS_OR_NULL,
    "weights.range": OneOf(("max", "mse", "mean", "learned")),
    "granularity": OneOf(("channel", "tensor")),
    "activations.input_bits": BITS,
    "activations.range": OneOf(
        ("min_max", "moving_average", "percentile", "mse", "learned", "clipped")
    ),
    "activation_bits": Number(low=2, high=8),
    "percentile": Number(low=50, high=100, is_whole=False, is_low_excluded=True),
    "grid": OneOf(("zero_point", "affine")),
    "delay_env_steps": COUNT_OR_ZERO,
    "freeze_env_steps": COUNT_OR_NULL,
    "scope": OneOf(("actor", "all")),
    "quant.target_network": OneOf(("quantized", "float")),
    "number_format": OneOf(("float16", "bfloat16")),
    "saved": OneOf(("codes", "floats")),
    "acting": OneOf(("fake", "integer", "float")),
    "acting_refresh_updates": COUNT,
}

# By the key below `env`.
ENV_RULES: dict[str, Number | OneOf] = {
    "stepping": OneOf(("serial", "processes", "vector")),
    "frame_skip": COUNT,
    "frame_stack": COUNT,
    "screen_size": COUNT,
    "invert": FLAG,
    "noop_max": COUNT_OR_ZERO,
    "max_episode_frames": COUNT,
    "max_episode_steps": COUNT,
    "repeat_action_probability": FRACTION,
    "sticky_action_prob": FRACTION,
    "full_action_space": FLAG,
    "fire_on_reset": FLAG,
    "terminal_on_life_loss": FLAG,
    "clip_reward": FLAG,
}

_ABSENT = object()


def check_cell(cfg: DictConfig) -> None:
    """Refuse a composed config that cannot be trained.

    Raises:
        ConfigError: a value is wrong, whatever it is combined with.
        Incompatible: every value is fine, the combination is not.
    """
    _check_top_level(cfg)
    _check_added_and_removed(cfg)
    spaces.check_env_id(cfg)
    _check_nothing_is_missing(cfg)
    for key, rule in RULES.items():
        _check_value(cfg, key, rule)
    if is_ours(cfg, "algo.learner"):
        _check_leaves(cfg, "algo", ALGO_RULES)
    if is_ours(cfg, "quant"):
        _check_leaves(cfg, "quant", QUANT_RULES)
        quantization.check_quant(cfg)
    if is_ours(cfg, "env"):
        _check_leaves(cfg, "env", ENV_RULES)
    _check_sweep_name(cfg)
    _check_formats(cfg)
    _check_network(cfg)
    _check_precision(cfg)
    spaces.check_spaces(cfg)
    if is_ours(cfg, "algo.learner"):
        _check_budget(cfg)


def _check_top_level(cfg: DictConfig) -> None:
    """A key that nobody reads, or one that somebody misses, was added or removed by + or ~."""
    primary = cells.file_content(cells.choice_file(cfg, "", cfg.hydra.job.config_name))
    known = {*cfg.hydra.runtime.choices, *primary}
    for key in sorted(set(cfg) - known):
        raise ConfigError(f"{key} is not a key that anything reads: leave it out.")
    optional = {"hydra", "tune", "experiment", "defaults"}
    for key in sorted(known - set(cfg) - optional):
        if "/" not in key and "@" not in key:
            raise ConfigError(f"{key} was removed but is needed: leave out ~{key}.")


def _check_added_and_removed(cfg: DictConfig) -> None:
    """A YAML's keys are its class's arguments: none may come or go, except in `env.kwargs`."""
    for override in cfg.hydra.overrides.task:
        key = override.lstrip("+~").partition("=")[0].partition("@")[0]
        if "." not in key or key.startswith(("env.kwargs.", "hydra.")):
            continue
        if override.startswith("~"):
            raise ConfigError(f"{key} was removed but is needed: leave out ~{key}.")
        if override.startswith("+") and not override.startswith("++"):
            raise ConfigError(f"{key} is not a key that anything reads: leave it out.")


def _check_nothing_is_missing(cfg: DictConfig) -> None:
    # Not of the whole: Hydra's own node is the larger part, and may lack what it likes.
    for key in sorted(str(key) for key in cfg if key != "hydra"):
        if OmegaConf.is_missing(cfg, key):
            raise ConfigError(f"{key} has no value: add {key}=... to the command.")
        missing = OmegaConf.missing_keys(cfg[key]) if OmegaConf.is_config(cfg[key]) else set()
        for name in sorted(f"{key}.{rest}" for rest in missing):
            raise ConfigError(f"{name} has no value: add {name}=... to the command.")


def _check_value(cfg: DictConfig, key: str, rule: Number | OneOf) -> None:
    value = OmegaConf.select(cfg, key, default=_ABSENT)
    if value is not _ABSENT and not rule.admits(value):
        # YAML reads 1e4 as 10000.0, which is no whole number.
        is_whole = isinstance(value, float) and value.is_integer() and abs(value) < 2**53
        is_meant = is_whole and rule.admits(int(value))
        example = f", such as {value:.0f}" if is_meant else ""
        raise ConfigError(f"{key}={_spelled(value)} will not do: it must be {rule}{example}.")


def _check_leaves(cfg: DictConfig, group: str, rules: dict[str, Number | OneOf]) -> None:
    for key in _leaves(cfg[group], group):
        *_, owner, name = key.split(".")
        rule = rules.get(f"{owner}.{name}") or rules.get(name)
        if rule is not None:
            _check_value(cfg, key, rule)


def _check_sweep_name(cfg: DictConfig) -> None:
    name = cfg.sweep
    if not isinstance(name, str) or name in ("", ".", "..") or set(name) & set("/\\\0"):
        raise ConfigError(
            f"sweep={_spelled(name)} will not do: it must be the name of one folder,"
            " which is made under multirun/."
        )
    if name == "reference" or name.startswith("."):
        raise ConfigError(
            f"sweep={name} will not do: published results are in multirun/reference, and names with"
            " a leading dot are passed over. Take another name."
        )


def _check_formats(cfg: DictConfig) -> None:
    if not OmegaConf.is_list(cfg.formats) or set(cfg.formats) - {"onnx", "c"}:
        raise ConfigError(
            f"formats={_spelled(cfg.formats)} will not do: it must be a list of onnx and c, or []."
        )


def _check_network(cfg: DictConfig) -> None:
    if not is_ours(cfg, "network"):
        return
    lists = ("hidden_sizes", "channels", "kernel_sizes", "strides")
    found = {key: cfg.network[key] for key in lists if key in cfg.network}
    for key, sizes in found.items():
        if not _are_counts(sizes):
            raise ConfigError(
                f"network.{key}={_spelled(sizes)} will not do: it must be a list of"
                " one or more whole numbers of at least 1, such as [128,128]."
            )
    convolutions = {key: len(found[key]) for key in lists[1:] if key in found}
    if len(set(convolutions.values())) > 1:
        raise ConfigError(
            "network.channels, network.kernel_sizes and network.strides need one number per"
            f" convolution each, and have {', '.join(map(str, convolutions.values()))}."
        )
    _check_value(cfg, "network.hidden_size", COUNT)


def _check_precision(cfg: DictConfig) -> None:
    """A grid of bfloat16 has no fake quantization; a scheme that trains nothing does not mind."""
    trains_quantized = cells.canonical_choice(cfg, "quant") != "none" and not cells.needs_base(cfg)
    if trains_quantized and cfg.trainer.precision != "float32":
        raise Incompatible(
            f"trainer.precision={cfg.trainer.precision} rounds what fake quantization computes:"
            " leave it out, or use quant=none or a quant=ptq."
        )


def _are_counts(sizes: Any) -> bool:
    return OmegaConf.is_list(sizes) and bool(sizes) and all(COUNT.admits(size) for size in sizes)


def _check_budget(cfg: DictConfig) -> None:
    batch = OmegaConf.select(cfg, "algo.loop.batch_size") or 0
    if cfg.replay.capacity < batch:
        raise ConfigError(
            f"replay.capacity={cfg.replay.capacity} is smaller than"
            f" algo.loop.batch_size={batch}: raise the one or lower the other."
        )
    loop = cfg.algo.loop
    if loop.target_update_interval < loop.train_frequency:
        raise ConfigError(
            f"algo.loop.target_update_interval={loop.target_update_interval} is shorter than"
            f" algo.loop.train_frequency={loop.train_frequency}, but targets move after updates:"
            " raise the one or lower the other."
        )
    if OmegaConf.select(cfg, "algo.loop.target_dtype") == "int8":
        _check_int8_target(cfg)
    if OmegaConf.select(cfg, "algo.learner.moments_dtype") == "uint8":
        _check_adam8bit(cfg)
    learning_starts = OmegaConf.select(cfg, "algo.loop.learning_starts") or 0
    if learning_starts > cfg.total_env_steps:
        raise ConfigError(
            f"algo.loop.learning_starts={learning_starts} is beyond"
            f" total_env_steps={cfg.total_env_steps}, so nothing would be learned:"
            " lower the one or raise the other."
        )


def _check_int8_target(cfg: DictConfig) -> None:
    """Hard copies only: a soft update moves most weights by less than half a code, so by none."""
    tau = cfg.algo.loop.tau
    if tau != 1:
        raise ConfigError(
            f"algo.loop.target_dtype=int8 cannot follow softly, with algo.loop.tau={tau}:"
            " an update smaller than half a code moves none; set algo.loop.tau=1 with an"
            " algo.loop.target_update_interval of some hundred env steps, or leave it out."
        )
    if OmegaConf.select(cfg, "algo.learner.target_network") is False:
        raise ConfigError(
            "algo.loop.target_dtype=int8 stores a target network, and"
            " algo.learner.target_network=false has none: leave out the one or the other."
        )


def _check_adam8bit(cfg: DictConfig) -> None:
    if find_spec("bitsandbytes") is None:
        raise ConfigError(
            "algo.learner.moments_dtype=uint8 needs bitsandbytes, which is not installed:"
            ' pip install ".[adam8bit]".'
        )
    if cfg.trainer.accelerator == "gpu" and cfg.trainer.get("cuda_graphs"):
        raise ConfigError(
            "algo.learner.moments_dtype=uint8 takes its learning rate from Python, which no CUDA"
            " graph runs: add trainer.cuda_graphs=false."
        )


def _leaves(node: Any, prefix: str) -> Iterator[str]:
    """The dotted keys of everything below `node` that is not a dict."""
    for key in node:
        child = node._get_node(key)
        if isinstance(child, DictConfig) and not child._is_none():
            yield from _leaves(child, f"{prefix}.{key}")
        else:
            yield f"{prefix}.{key}"


def _spelled(value: object) -> str:
    """A value as the user would write it on the command line."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return str(value)
