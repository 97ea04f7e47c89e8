"""Lightning without torchmetrics, which is there for whoever wants it."""

import subprocess
import sys

PROGRAM = """
import sys
from qbench.train import cell
loaded = {"pytorch_lightning", "torchmetrics", "matplotlib", "scipy.signal"} & set(sys.modules)
from torchmetrics import Metric, SumMetric
total = SumMetric()
total.update(2.0)
print(sorted(loaded), isinstance(total, Metric), float(total.compute()))
"""


def test_a_job_does_not_load_torchmetrics_and_others_still_can():
    command = [sys.executable, "-c", PROGRAM]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout == "['pytorch_lightning'] True 2.0\n"
