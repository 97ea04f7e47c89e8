"""Dynamic networks and 16-bit weights in ONNX Runtime compute what the NumPy arrays compute."""

import numpy as np
import pytest

from qbench import layers
from qbench.quant.cast import PTQCast
from tests.deploy.networks import SPECS, observations, population
from tests.quant.test_dynamic import dynamic

pytest.importorskip("onnxruntime", reason="the deploy extra is not installed")
from qbench.deploy import onnx as export

NAMES = list(SPECS)


def played(policy, name):
    return export.OnnxPolicy(export.export(policy, SPECS[name]), SPECS[name])


def converted(quant, name):
    return quant.convert(layers.take_seed(quant.prepare(population(name)), 0))


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("name", NAMES)
def test_a_dynamic_network_has_no_product_in_float_and_the_arrays_outputs(name, bits):
    policy, obs = converted(dynamic(bits), name), observations(name, 60, seed=4)
    in_onnx = played(policy, name)
    assert in_onnx.is_integer
    linear = sum(layer.stride is None for layer in policy.layers)
    assert in_onnx.operators["MatMulInteger"] + in_onnx.operators["DynamicQuantizeMatMul"] == linear
    expected = policy(obs)
    close = np.abs(in_onnx(obs) - expected).max(1) <= 1e-4 * np.ptp(expected) + 1e-5
    assert close.mean() >= 0.9  # The others differ by a code at a tie, which is one of 255.
    np.testing.assert_allclose(in_onnx(obs), expected, atol=0.02 * np.ptp(expected) + 1e-3)


@pytest.mark.parametrize("number_format", ["float16", "bfloat16"])
@pytest.mark.parametrize("name", NAMES)
def test_16_bit_weights_take_half_the_bytes_and_give_the_arrays_outputs(name, number_format):
    policy = converted(PTQCast(number_format=number_format), name)
    obs = observations(name, 20)
    np.testing.assert_allclose(played(policy, name)(obs), policy(obs), rtol=1e-3, atol=1e-4)
    whole = export.export(converted(PTQCast(number_format="float16"), name), SPECS[name])
    twin = sum(4 * (layer.weight.size + layer.bias.size) for layer in policy.layers)
    assert twin / 2 < len(whole.SerializeToString()) < 0.52 * twin + 2000
