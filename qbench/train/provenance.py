"""Where numbers come from: versions, machine, commit."""

import os
import platform
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from qbench import product
from qbench.quant import kernels
from qbench.train.process import HUGE_PAGES, TUNABLES

PACKAGES = ("torch", "pytorch-lightning", "gymnasium", "hydra-core", "numpy", "wandb")


def describe(*, on_gpu: bool = False) -> dict[str, Any]:
    """What summary.json says of versions, machine, commit and what a job's process was given."""
    versions = {name: version(name) for name in PACKAGES}
    return {
        "versions": {"python": platform.python_version(), **versions},
        "machine": {
            "platform": platform.platform(),
            "processor": processor(),
            "num_cores": os.cpu_count(),
            "numpy_is_wider": product.IS_WIDER,
            **({"gpu": torch.cuda.get_device_name()} if on_gpu else {}),
        },
        "used_compiled_loops": kernels.were_used(),
        "asks_for_huge_pages": HUGE_PAGES in os.environ.get(TUNABLES, ""),
        "git_commit": _git_commit(),
        # Peaks of processes that were started in different ways are not compared.
        "start_method": "subprocess",
    }


def processor() -> str:
    """The processor's name."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((li.split(":", 1)[1].strip() for li in lines if li.startswith("model name")), "")


def _git_commit() -> str | None:
    """Commit of the qbench sources; None outside a checkout."""
    folder = Path(sys.modules["qbench"].__path__[0])
    command = ["git", "-C", str(folder), "rev-parse", "HEAD"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
