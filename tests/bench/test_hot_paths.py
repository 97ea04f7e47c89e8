"""`make bench`: everything that `benchmarks.py` names, by pytest-benchmark.

Only `min` and ratios within one run mean anything on a shared machine.
"""

import time

import pytest
import torch

from tests.bench.benchmarks import BENCHMARKS


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.benchmark(timer=time.process_time, max_time=0.5, min_rounds=5)
@pytest.mark.parametrize("name", BENCHMARKS)
def test_hot_path(benchmark, name):
    benchmark.group = name.partition("/")[0]
    benchmark.extra_info["name"] = name
    benchmark(BENCHMARKS[name].make())
