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
from pytorch_lightning.trainer.connectors.logger_connector.result import _ResultMetric
try:
    _ResultMetric(None, True)
except RuntimeError as error:
    print(error)
"""


def test_a_job_does_not_load_torchmetrics_and_others_still_can():
    command = [sys.executable, "-c", PROGRAM]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    said = done.stdout.splitlines()
    assert said[0] == "['pytorch_lightning'] True 2.0"
    assert said[1].endswith("import torchmetrics before qbench.train.")
