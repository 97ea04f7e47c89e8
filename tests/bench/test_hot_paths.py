"""`make bench`: what one env step and one update cost, eight seeds at once.

Only `min` and ratios within one run mean anything on a shared machine.
"""

import pytest
import torch

from tests.bench import workload

NUM_SEEDS = 8
SCHEMES = ["none", "qat8", "qat4"]


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def warm_parts(quant: str):
    """Parts whose replay is past `learning_starts` and whose network has learned a little."""
    parts = workload.build_parts(workload.cartpole(NUM_SEEDS, 1, quant))
    parts.collector.collect(workload.LEARNING_STARTS)
    for batch in parts.sampler.sample(10):
        parts.learner.update(batch)
    return parts


@pytest.mark.parametrize("quant", SCHEMES)
def test_update(benchmark, quant):
    benchmark.group = "one update of 8 seeds"
    parts = warm_parts(quant)
    (batch,) = parts.sampler.sample(1)
    benchmark(parts.learner.update, batch)


@pytest.mark.parametrize("quant", SCHEMES)
def test_collect(benchmark, quant):
    benchmark.group = "one env step of 8 seeds, acting included"
    parts = warm_parts(quant)
    benchmark(parts.collector.collect, 1)


def test_sample(benchmark):
    benchmark.group = "one minibatch of 8 seeds"
    parts = warm_parts("none")
    benchmark(parts.sampler.sample, 1)


@pytest.mark.parametrize("quant", SCHEMES)
def test_training_step(benchmark, quant):
    benchmark.group = "100 env steps and updates of 8 seeds"
    advance = workload.qbench_runner(workload.cartpole(NUM_SEEDS, 1, quant))
    advance(workload.LEARNING_STARTS)
    benchmark(advance, 100)
