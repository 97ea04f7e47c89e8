"""Lightning, loaded without torchmetrics.

Lightning makes metrics of torchmetrics of what a module logs through it, and qbench logs nothing
so. Importing that package takes 1.1 s and 97 MiB of every job, for scipy.signal and, where it is
installed, matplotlib. A stand-in takes its place while Lightning is imported; whoever imports
torchmetrics later gets it, but `self.log` needs it imported before.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

from torch import nn

__all__ = ["Callback", "LightningDataModule", "LightningModule", "Trainer"]


class Metric(nn.Module):
    """No object is one."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        raise RuntimeError(
            "qbench loads Lightning without torchmetrics, which `log` needs: import torchmetrics"
            " before qbench.train."
        )


class MetricCollection(nn.ModuleDict):
    """No object is one."""


@contextmanager
def _without_torchmetrics() -> Iterator[None]:
    name = "torchmetrics"
    if name in sys.modules:  # loaded is loaded
        yield
        return
    stand_in = ModuleType(name)
    vars(stand_in).update(Metric=Metric, MetricCollection=MetricCollection)
    sys.modules[name] = stand_in
    try:
        yield
    finally:
        del sys.modules[name]


with _without_torchmetrics():
    from pytorch_lightning import Callback, LightningDataModule, LightningModule, Trainer
