"""Makes the launcher and the sweeper known to Hydra, and published ones fit for use here."""

import sys
from types import ModuleType

from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins
from omegaconf import OmegaConf

from qbench.train.conf import conf_dir
from qbench.train.launch import LocalLauncher


def register() -> None:
    """Register both.

    Hydra only takes plugins that can be imported from below `hydra_plugins`, a namespace which
    all plugin distributions share. Two classes are not worth a distribution of their own.
    """
    plugins = Plugins.instance()
    # Not before the scan in the line above: it executes the module of BasicSweeper once more,
    # and a subclass of the first BasicSweeper would not be one of the second.
    from qbench.train.sweep import GridSweeper

    if "hydra_plugins" not in sys.modules:
        namespace = ModuleType("hydra_plugins")
        namespace.__path__ = []
        sys.modules[namespace.__name__] = namespace
    module = ModuleType("hydra_plugins.qbench")
    sys.modules[module.__name__] = module
    vars(sys.modules["hydra_plugins"])["qbench"] = module
    for plugin in (LocalLauncher, GridSweeper):
        plugin.__module__ = module.__name__
        setattr(module, plugin.__name__, plugin)
        plugins.register(plugin)
    _set_published()


def _set_published() -> None:
    """Replace what published plugins, where installed, have as their own values.

    A file of the same name in conf/ would not do: Hydra takes theirs for its schema, and
    refuses those that have a defaults list.
    """
    stored = ConfigStore.instance().repo.get("hydra", {})
    for group, choices in OmegaConf.load(conf_dir() / "hydra" / "published.yaml").items():
        for choice, values in choices.items():
            entry = stored.get(group, {}).get(f"{choice}.yaml")
            if entry is not None:
                entry.node.merge_with(values)
