"""Settings of `quant` that do not go together; imports no torch."""

from typing import Any

from omegaconf import DictConfig, OmegaConf

from qbench.train import cells
from qbench.train.errors import ConfigError

LEARNED = ("learned", "clipped")


def check_quant(cfg: DictConfig) -> None:
    """Refuse what no network could be trained or calibrated with.

    Raises:
        ConfigError: names the keys and the remedy.
    """
    _check_weights(cfg)
    _check_learned(cfg)
    _check_schedule(cfg)
    _check_copies(cfg)


def _check_weights(cfg: DictConfig) -> None:
    bits, chosen = _get(cfg, "weights.bits"), _get(cfg, "weights.range")
    if bits == 1 and chosen != "mean":
        raise ConfigError(
            f"quant.weights.bits=1 has no largest code for quant.weights.range={chosen}:"
            " add quant.weights.range=mean."
        )
    if chosen == "mean" and bits > 2:
        raise ConfigError(
            f"quant.weights.range=mean is for 1 and 2 bits, not for quant.weights.bits={bits}:"
            " use max, mse or learned."
        )


def _check_learned(cfg: DictConfig) -> None:
    for key in ("weights.range", "activations.range"):
        if _get(cfg, key) not in LEARNED:
            continue
        setting = f"quant.{key}={_get(cfg, key)}"
        if cells.needs_base(cfg):
            raise ConfigError(
                f"{setting} is learned in training, and post-training schemes have none:"
                " use another range, or quant=lsq4 or its like."
            )
        if _get(cfg, "activations.grid") != "zero_point":
            raise ConfigError(f"{setting} needs quant.activations.grid=zero_point.")
        if _get(cfg, "schedule.freeze_env_steps") is not None:
            raise ConfigError(
                f"{setting} is moved by the optimizer, which quant.schedule.freeze_env_steps does"
                " not stop: set it to null."
            )


def _check_schedule(cfg: DictConfig) -> None:
    delay, freeze = _get(cfg, "schedule.delay_env_steps"), _get(cfg, "schedule.freeze_env_steps")
    if delay is not None and delay >= cfg.total_env_steps:
        raise ConfigError(
            f"quant.schedule.delay_env_steps={delay} is not below total_env_steps="
            f"{cfg.total_env_steps}, so nothing would be quantized in training: lower it."
        )
    learning_starts = OmegaConf.select(cfg, "algo.loop.learning_starts") or 0
    if freeze is not None and freeze <= learning_starts:
        raise ConfigError(
            f"quant.schedule.freeze_env_steps={freeze} is not above algo.loop.learning_starts="
            f"{learning_starts}, so no range would have seen anything: raise it."
        )


def _check_copies(cfg: DictConfig) -> None:
    """What acts, or follows, as codes has no other phase than being quantized."""
    delay = _get(cfg, "schedule.delay_env_steps") or 0
    acting, updates = _get(cfg, "acting"), _get(cfg, "acting_refresh_updates") or 1
    if delay and (acting == "integer" or (acting == "fake" and updates > 1)):
        raise ConfigError(
            f"quant.acting={acting} with quant.acting_refresh_updates={updates} acts with a copy"
            f" of codes, and there are none before quant.schedule.delay_env_steps={delay}: use"
            " quant.acting=float, or fake refreshed after 1 update, or no delay."
        )
    is_float = _get(cfg, "target_network") == "float"
    if OmegaConf.select(cfg, "algo.loop.target_dtype") == "int8" and (delay or is_float):
        key = (
            "quant.target_network=float" if is_float else f"quant.schedule.delay_env_steps={delay}"
        )
        raise ConfigError(
            f"algo.loop.target_dtype=int8 stores a quantized target's codes, and {key} wants"
            " floats: leave out the one or the other."
        )


def _get(cfg: DictConfig, key: str) -> Any:
    return OmegaConf.select(cfg, f"quant.{key}")
