"""Dynamic quantization and 16-bit weights: by hand, against the torch form, and stored."""

import numpy as np
import pytest
import torch

from qbench import layers
from qbench.deploy import npz
from qbench.quant.cast import PTQCast
from qbench.quant.dynamic import DynamicLayer, PTQDynamic
from tests.quant.test_qat import observations
from tests.toys import q_population

WEIGHTS = {"input_bits": None, "output_bits": None, "granularity": "channel", "range": "max"}


def dynamic(bits=8):
    return PTQDynamic(weights={"bits": bits, **WEIGHTS}, activation_bits=8)


def test_a_dynamic_layer_by_hand():
    # The row's range [-1, 2] in 3 cells: scale 1, zero 1; 0.6 -> 2 stands for 1. Weights 2 and 3
    # of scale 0.5 make 0.5 (2 (-1) + 2 (2) + 3 (1)) + 10, and the ReLU takes no part.
    layer = DynamicLayer(
        weight=np.array([[2, 2, 3]], np.int8),
        scale=np.array([0.5], np.float32),
        bias=np.array([10.0], np.float32),
        bits=4,
        top=3,
        has_relu=True,
    )
    assert layer(np.array([[-1.0, 2.0, 0.6]], np.float32)).tolist() == [[12.5]]


@pytest.mark.parametrize("bits", [8, 4, 2])
def test_the_arrays_compute_what_the_prepared_network_computes(bits):
    module = dynamic(bits).prepare(q_population([0, 1])).eval()
    obs = observations(2, 500)
    converted = dynamic(bits).convert(layers.take_seed(module, 1))
    with torch.no_grad():
        expected = module(obs)[1].numpy()
    np.testing.assert_allclose(converted(obs[1].numpy()), expected, rtol=1e-4, atol=1e-5)


def test_no_rows_outputs_depend_on_its_batch():
    network = dynamic().convert(layers.take_seed(dynamic().prepare(q_population([0])), 0))
    obs = observations(1, 20)[0].numpy()
    alone = np.concatenate([network(row[None]) for row in obs])
    np.testing.assert_allclose(network(obs), alone, rtol=1e-6)


def test_eight_dynamic_bits_stay_close_to_float():
    plain = q_population([0], hidden_sizes=(64, 64))
    network = dynamic().convert(layers.take_seed(dynamic().prepare(plain), 0))
    obs = observations(1, 1000)
    with torch.no_grad():
        expected = plain(obs)[0].numpy()
    assert np.abs(network(obs[0].numpy()) - expected).max() < 0.03 * np.ptp(expected)


@pytest.mark.parametrize("bits", [8, 3])
def test_a_dynamic_network_survives_the_archive(tmp_path, bits):
    network = dynamic(bits).convert(layers.take_seed(dynamic(bits).prepare(q_population([0])), 0))
    npz.save(tmp_path / "policy.npz", network)
    obs = observations(1, 30)[0].numpy()
    assert np.array_equal(npz.load(tmp_path / "policy.npz")(obs), network(obs))


@pytest.mark.parametrize(("name", "bits"), [("float16", 11), ("bfloat16", 8)])
def test_cast_weights_are_rounded_and_stored_in_two_bytes(tmp_path, name, bits):
    quant, plain = PTQCast(number_format=name), q_population([0])
    prepared = quant.prepare(plain)
    for before, after in zip(plain.parameters(), prepared.parameters(), strict=True):
        assert not torch.equal(before, after)
        torch.testing.assert_close(before, after, rtol=2.0**-bits, atol=1e-6)
    network = quant.convert(layers.take_seed(prepared, 0))
    sizes = npz.save(tmp_path / "policy.npz", network)
    assert sizes.weights == 2 * sum(layer.weight.size for layer in network.layers)
    loaded, obs = npz.load(tmp_path / "policy.npz"), observations(1, 30)[0].numpy()
    assert np.array_equal(loaded(obs), network(obs))
    with torch.no_grad():
        expected = prepared(torch.from_numpy(obs)[None])[0].numpy()
    np.testing.assert_allclose(loaded(obs), expected, rtol=1e-4, atol=1e-5)
