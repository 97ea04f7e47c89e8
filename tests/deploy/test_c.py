"""The C policy: byte for byte the NumPy reference, at every layer."""

import dataclasses

import gymnasium
import numpy as np
import pytest
import torch

from qbench import layers
from qbench.deploy import c
from tests.deploy.networks import (
    SPECS,
    float_policy,
    integer_policy,
    observations,
    population,
)
from tests.quant.test_qat import scheme

needs_gcc = pytest.mark.skipif(c.compiler() is None, reason="no gcc")


@needs_gcc
@pytest.mark.parametrize("bits", [8, 4, 2])
@pytest.mark.parametrize("name", list(SPECS))
def test_every_layer_has_the_reference_s_integers(name, bits):
    policy, obs = integer_policy(name, bits), observations(name, 60, seed=9)
    compiled = c.CompiledPolicy(policy, SPECS[name])
    *codes, outputs = policy.trace(obs)
    sums = policy.layers[-1].accumulate(codes[-1])
    for i, row in enumerate(obs):
        *seen, last = compiled.trace(row)
        for expected, found in zip(codes, seen, strict=True):
            assert np.array_equal(expected[i].ravel(), found)
        assert np.array_equal(sums[i], last)
    np.testing.assert_allclose(compiled(obs), outputs, rtol=1e-6, atol=1e-6)


@needs_gcc
def test_the_paper_s_grid_has_the_same_integers():
    policy, obs = integer_policy("mlp", 8, grid="affine"), observations("mlp", 60, seed=9)
    compiled = c.CompiledPolicy(policy, SPECS["mlp"])
    *codes, _ = policy.trace(obs)
    for i, row in enumerate(obs):
        assert np.array_equal(codes[1][i], compiled.trace(row)[1])


@needs_gcc
@pytest.mark.slow
def test_100_cartpole_episodes_have_the_same_actions_step_by_step():
    """Of an agent that balances the pole: the rule of thumb that its weights are."""
    network = population("mlp", hidden_sizes=(8,))
    rule = torch.tensor([0.0, 0.2, 2.0, 0.6])  # pushes the pole's way, and its fall's
    with torch.no_grad():
        first, last = network.torso.layers[0], network.head
        first.weight[0], last.weight[0] = 0.0, 0.0
        first.weight[0, 0], first.weight[0, 1] = rule, -rule
        last.weight[0, 1, 0], last.weight[0, 0, 1] = 1.0, 1.0
        first.bias.zero_()
        last.bias.zero_()
    quant, env = scheme(8), gymnasium.make("CartPole-v1")
    module = quant.prepare(network).train()
    seen = np.random.default_rng(0).normal(size=(1000, 4)) * [1.0, 1.0, 0.1, 1.0]
    module(torch.from_numpy(seen.astype(np.float32))[None])
    policy = quant.convert(layers.take_seed(module.eval(), 0))
    compiled = c.CompiledPolicy(policy, SPECS["mlp"])
    num_steps = 0
    for episode in range(100):
        obs, _ = env.reset(seed=episode)
        is_over = False
        while not is_over:
            row = np.asarray(obs, np.float32)[None]
            expected, found = policy(row), compiled(row)
            assert np.array_equal(expected, found)
            obs, _, terminated, truncated, _ = env.step(int(expected.argmax()))
            is_over = terminated or truncated
            num_steps += 1
    assert num_steps > 100 * 100  # It balances: more than random play's 22 steps.


@needs_gcc
def test_a_value_that_is_not_finite_is_an_error():
    compiled = c.CompiledPolicy(integer_policy("mlp", 8), SPECS["mlp"])
    for value in (np.nan, np.inf):
        with pytest.raises(ValueError, match="not finite"):
            compiled(np.array([[0.0, value, 0.0, 0.0]], np.float32))


def test_between_quantization_and_dequantization_there_is_no_float():
    source = c.write(integer_policy("planes", 4), SPECS["planes"]).code
    run = source[source.index("void policy_run") : source.index("void policy_dequantize")]
    assert "gather" in run and "float" not in run and "malloc" not in source


def test_const_bytes_are_those_of_the_arrays():
    policy = integer_policy("mlp", 4)
    rows = [(255, 4), (256, 255), (2, 256)]
    weights = sum(out * ((count + 1) // 2) for out, count in rows)  # two codes a byte
    biases = 4 * (255 + 256 + 2)
    requantization = (4 + 1) * (255 + 256)  # multiplier, shift; ReLU's grids start at code 0
    ends = 4 * (4 + 4 + 2)  # scale and zero of every feature, scale of every output
    assert c.write(policy, SPECS["mlp"]).const_bytes == weights + biases + requantization + ends


def test_a_float_network_is_refused():
    with pytest.raises(c.SourceError, match="integer networks only"):
        c.write(float_policy("mlp"), SPECS["mlp"])


def test_a_network_that_ends_in_a_convolution_is_refused_by_its_layer():
    policy = integer_policy("planes", 8)
    cut = dataclasses.replace(policy, layers=policy.layers[:1])
    with pytest.raises(c.SourceError, match=r"layer 0 \(weights 15x4x3x3\) is a convolution"):
        c.write(cut, SPECS["planes"])


def test_without_gcc_there_is_one_sentence(monkeypatch):
    monkeypatch.setattr(c, "compiler", lambda: None)
    with pytest.raises(c.SourceError, match="c needs gcc, which is not on the PATH"):
        c.CompiledPolicy(integer_policy("mlp", 8), SPECS["mlp"])
