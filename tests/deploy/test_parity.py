"""The forms of one agent: what agrees, and what is refused."""

import dataclasses

import numpy as np
import pytest
import torch

from qbench import layers
from qbench.deploy import c, parity
from qbench.train import deployment
from tests.deploy.networks import SPECS, observations, population
from tests.quant.test_qat import scheme

pytest.importorskip("onnx", reason="the deploy extra is not installed")
pytest.importorskip("onnxruntime", reason="the deploy extra is not installed")
from qbench.deploy import onnx as export


def agent(name, bits):
    """A prepared population of one and its integer network."""
    quant = scheme(bits)
    module = quant.prepare(population(name)).train()
    for seed in range(4):
        module(torch.from_numpy(observations(name, 64, seed)).unsqueeze(0))
    single = layers.take_seed(module.eval(), 0)
    return single, quant.convert(single)


def deploy(name, module, network, folder, count=200):
    return deployment.deploy(
        module,
        network,
        SPECS[name],
        folder=folder,
        formats=["onnx", "c"],
        obs=observations(name, count, seed=9),
        must_agree=True,
    ).agreement


@pytest.mark.parametrize("bits", [8, 4, 2])
@pytest.mark.parametrize("name", list(SPECS))
def test_all_forms_agree_at_every_width(name, bits, tmp_path):
    count = 20 if name == "cnn" else 200
    found = deploy(name, *agent(name, bits), tmp_path, count)
    assert found["holds"] and found["onnx_holds"] and found["onnx_is_integer"]
    assert found["rows"] == found["onnx_rows"] == count
    assert found["max_tie_distance"] <= 2e-5 and found["onnx_max_tie_distance"] <= 2e-5
    if c.compiler():
        assert found["c_differing_integers"] == 0


def changed(network, number, **arrays):
    """`network` with other arrays in one layer."""
    layer = dataclasses.replace(network.layers[number], **arrays)
    before, after = network.layers[:number], network.layers[number + 1 :]
    return dataclasses.replace(network, layers=(*before, layer, *after))


@pytest.mark.parametrize("bits", [8, 2])
def test_an_agent_that_computes_something_else_than_was_trained_is_refused(bits, tmp_path):
    module, network = agent("mlp", bits)
    bias = network.layers[1].bias.copy()
    bias[np.argmax(network.layers[1].multiplier * 0.5 ** network.layers[1].shift)] += 40
    with pytest.raises(parity.ParityError, match="Fake quantization and NumPy do not agree: diff"):
        deploy("mlp", module, changed(network, 1, bias=bias), tmp_path)
    deployed = deployment.deploy(
        module,
        changed(network, 1, bias=bias),
        SPECS["mlp"],
        folder=tmp_path,
        formats=[],
        obs=observations("mlp", 200),
        must_agree=False,
    )
    assert deployed.agreement["holds"] is False


def test_an_onnx_file_of_another_agent_is_refused():
    _, network = agent("mlp", 8)
    bias = network.layers[-1].bias + 1000
    other = export.OnnxPolicy(
        export.export(changed(network, len(network.layers) - 1, bias=bias), SPECS["mlp"]),
        SPECS["mlp"],
    )
    compared = export.Compared(other, network, SPECS["mlp"])
    obs = observations("mlp", 50)
    compared(obs, network.trace(obs))
    found = {f"onnx_{name}": value for name, value in parity.fields(compared.agreed).items()}
    assert found["onnx_differing_codes"] == 0 and found["onnx_max_rounding_error"] > 1e-3
    with pytest.raises(parity.ParityError, match="ONNX Runtime and NumPy do not agree"):
        parity.refuse(found)


@pytest.mark.parametrize(
    ("found", "said"),
    [({"c_differing_integers": 1}, "differ in 1 int"), ({"onnx_is_integer": False}, "in floats")],
)
def test_a_wrong_integer_and_a_float_product_are_refused(found, said):
    with pytest.raises(parity.ParityError, match=said):
        parity.refuse(found)
