"""`make bench`: one action of each deployed form, B=1, one thread.

Only `min` and ratios within one run mean anything on a shared machine.
"""

import pytest
import torch

from qbench.deploy import c, latency
from tests.deploy.networks import SPECS, integer_policy, observations

pytest.importorskip("onnxruntime", reason="the deploy extra is not installed")
from qbench.deploy import onnx as export


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def form(runtime, policy, spec):
    match runtime:
        case "torch_float":
            return latency.TorchPolicy(latency.float_twin(policy, spec))
        case "onnx_float":
            return export.OnnxPolicy(export.export(latency.float_twin(policy, spec), spec), spec)
        case "onnx":
            return export.OnnxPolicy(export.export(policy, spec), spec)
    if c.compiler() is None:
        pytest.skip("no gcc")
    return c.CompiledPolicy(policy, spec)


@pytest.mark.parametrize("runtime", ["torch_float", "onnx_float", "onnx", "c"])
@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("name", ["mlp", "cnn"])
def test_one_action(benchmark, name, bits, runtime):
    benchmark.group = f"one action, {name}, {bits} bits"
    policy = integer_policy(name, bits, hidden_sizes=(256, 256))
    benchmark(form(runtime, policy, SPECS[name]), observations(name, 1))
