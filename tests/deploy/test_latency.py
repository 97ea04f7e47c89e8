"""Timed forms: the right networks, and sensible times."""

import itertools

import numpy as np
import pytest

from qbench.deploy import latency
from tests.deploy.networks import SPECS, float_policy, integer_policy, observations


@pytest.mark.parametrize("name", list(SPECS))
def test_eager_torch_computes_the_float_network(name):
    policy, obs = float_policy(name), observations(name, 20)
    found = latency.TorchPolicy(policy)(obs)
    np.testing.assert_allclose(found, policy(obs), rtol=1e-4, atol=1e-5)


def test_the_float_twin_has_the_integers_shapes():
    policy = integer_policy("planes", 8)
    twin = latency.float_twin(policy, SPECS["planes"])
    shapes = [layer.weight.shape for layer in policy.layers]
    assert [layer.weight.shape for layer in twin.layers] == shapes
    assert [layer.has_relu for layer in twin.layers] == [True] * (len(shapes) - 1) + [False]
    again = latency.float_twin(twin, SPECS["planes"])
    assert all(a.weight is b.weight for a, b in zip(again.layers, twin.layers, strict=True))


def test_forms_take_turns():
    called = []
    forms = {name: lambda obs, name=name: called.append(name) for name in ("one", "other")}
    found = latency.measure(forms, np.zeros((1, 4), np.float32))
    assert list(found) == ["one", "other"] and min(found.values()) > 0
    turns = [name for name, _ in itertools.groupby(called)]
    assert turns == ["one", "other"] * (1 + latency.MAX_ROUNDS)
