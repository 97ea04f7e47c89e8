"""Makes the launcher and the sweeper known to Hydra."""

import sys
from types import ModuleType

from hydra.core.plugins import Plugins

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
