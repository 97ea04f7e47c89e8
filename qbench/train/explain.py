"""One sentence for each thing that Hydra, OmegaConf or the disk can object to."""

import difflib
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from qbench.records import RunFolderError
from qbench.train.errors import ConfigError


def explain(error: BaseException | None, arguments: Sequence[str], conf_dir: Path) -> str | None:
    """What is wrong and what to do; None if it is not the user's doing."""
    match error:
        case ConfigError() | RunFolderError():
            return str(error)
        case MissingConfigException():
            return _unknown_choice(error)
        case OverrideParseException():
            return _malformed(error)
        case HydraException() | OmegaConfBaseException():
            return _composition(error, arguments, conf_dir)
        case OSError() if error.strerror:
            return f"{error.filename or 'The run folder'} cannot be used: {error.strerror}."
        case ValueError() if "Config group override" in str(error):
            return _nameless_choice(arguments, conf_dir)
        case ValueError() if str(error) == "No trials are completed yet.":  # optuna
            return "No cell of the search was done: the lines above say why of each."
    return None


def _unknown_choice(error: MissingConfigException) -> str:
    group, _, choice = str(error.missing_cfg_file).rpartition("/")
    if not error.options:
        return f"{error.missing_cfg_file} is not a config file: {str(error).splitlines()[0]}"
    choices = sorted(error.options)
    return (
        f"{group}={choice} is unknown{_nearest(choice, choices)}:"
        f" the choices are {', '.join(choices)}."
    )


def _malformed(error: OverrideParseException) -> str:
    if error.override is not None and "=" not in error.override:
        return f"{error.override} is not of the form key=value (see python -m qbench --help)."
    reason = str(error).splitlines()[0]
    return f"{error.override} cannot be read as key=value: {reason}."


def _nameless_choice(arguments: Sequence[str], conf_dir: Path) -> str:
    groups = {"", *_groups(conf_dir)}
    suspects = [argument for argument in arguments if argument.partition("=")[0] in groups]
    return (
        f"{' '.join(suspects)} does not name a choice of each group:"
        " python -m qbench --help lists the choices."
    )


def _composition(error: BaseException, arguments: Sequence[str], conf_dir: Path) -> str:
    said = _flat(error)
    if found := re.search(r"Could not override '([^']+)'", said):
        return _unknown_key(found[1], arguments, conf_dir)
    if found := re.search(r"Ambiguous value for argument '([^']+)'", said):
        return f"{found[1]} has several values: add -m to train them all."
    if found := re.search(r"An item is already at '([^']+)'", said):
        return f"{found[1]} is there already: leave out the + before it."
    cause = f" ({_flat(error.__cause__)})" if error.__cause__ else ""
    return f"{said.rstrip('.')}{cause}."


def _unknown_key(key: str, arguments: Sequence[str], conf_dir: Path) -> str:
    if key.startswith("env.kwargs"):
        return f"{key} is new there, and new keys take a +: +env.kwargs.<name>=<value>."
    cfg = _composed(arguments, conf_dir)
    group = key.partition(".")[0]
    choice = cfg.hydra.runtime.choices.get(group) if group != key else None
    owner = f"a key of {group}={choice}" if choice else "a key here"
    known = [other for other in _keys(cfg) if not other.startswith("hydra.")]
    return (
        f"{key} is not {owner}{_nearest(key, known)}:"
        " python -m qbench --cfg job with the same choices shows all keys."
    )


def _nearest(word: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(word, known, n=3, cutoff=0.6)
    return f", did you mean {' or '.join(near)}" if near else ""


def _composed(arguments: Sequence[str], conf_dir: Path) -> DictConfig:
    """The config of the user's choices, or the default one if they do not compose."""
    groups = _groups(conf_dir)
    choices = [a.partition(",")[0] for a in arguments if a.partition("=")[0] in groups]
    try:
        return _compose(choices, conf_dir)
    except (HydraException, OmegaConfBaseException):
        return _compose([], conf_dir)


def _compose(overrides: list[str], conf_dir: Path) -> DictConfig:
    # The command that failed may have left Hydra's global state behind.
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(conf_dir), version_base="1.3"):
        return compose("config", overrides, return_hydra_config=True)


def _groups(conf_dir: Path) -> set[str]:
    return {path.name for path in conf_dir.iterdir() if path.is_dir()}


def _keys(node: DictConfig, prefix: str = "") -> Iterator[str]:
    for key in (key for key in node if key != "_target_"):
        yield f"{prefix}{key!s}"
        child = node._get_node(key)
        if isinstance(child, DictConfig) and not child._is_none():
            yield from _keys(child, f"{prefix}{key!s}.")


def _flat(error: BaseException | None) -> str:
    return " ".join(str(error).split())
