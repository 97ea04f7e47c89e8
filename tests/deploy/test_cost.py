"""Costs against numbers counted by hand."""

from qbench.deploy.cost import cost
from tests.deploy.networks import SPECS, float_policy, integer_policy


def test_a_multilayer_perceptron_by_hand():
    macs = [4 * 255, 255 * 256, 256 * 2]
    found = cost(integer_policy("mlp", 4), SPECS["mlp"])
    assert found.macs == sum(macs)
    # Weights of 4 bits; the observation has 8, hidden activations 4.
    assert found.bit_operations == 4 * (8 * macs[0] + 4 * macs[1] + 4 * macs[2])
    assert found.activation_bytes == 255 + 256
    plain = cost(float_policy("mlp"), SPECS["mlp"])
    assert plain.bit_operations == 32 * 32 * sum(macs)
    assert plain.activation_bytes == 4 * (255 + 256)


def test_the_seed_papers_network_by_hand():
    found = cost(integer_policy("cnn", 8), SPECS["cnn"])
    convolutions = 16 * 20 * 20 * (4 * 8 * 8) + 32 * 9 * 9 * (16 * 4 * 4)
    assert found.macs == convolutions + 2592 * 256 + 256 * 6
    assert found.activation_bytes == 4 * 84 * 84 + 16 * 20 * 20
