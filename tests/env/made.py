"""Env classes as the config makes them."""

from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.utils import instantiate

from qbench.train.conf import conf_dir


def made(*overrides: str) -> Any:
    """The env class of a composed config."""
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        return instantiate(compose("config", list(overrides)).env, _convert_="all")
