"""Diagnoses worked out by hand, on networks of a few weights."""

import numpy as np
import pytest
import torch
from torch import nn

from qbench import layers
from qbench.deploy.population import Population
from qbench.evaluate import diagnose
from qbench.types import EnvSpec
from tests.quant.test_qat import scheme
from tests.toys import Counter

ACTIONS = EnvSpec(id="toy", obs_shape=(2,), num_actions=3)
BOX = EnvSpec(id="box", obs_shape=(2,), action_low=(-1.0, 0.0), action_high=(1.0, 8.0))


def test_action_values_are_compared_by_hand():
    plain = np.array([[1.0, 3.0, 0.0], [2.0, 1.9, 0.0], [0.0, 0.0, 5.0], [1.0, 0.0, 0.5]])
    error = np.array([[0.1, -0.2, 9.0], [0.0, 0.3, 0.0], [0.0, 0.0, 0.0], [0.0, 0.0, 0.1]])
    found = diagnose.compare(plain, plain + error, ACTIONS)
    # Row 0 flips to action 2 and row 1 to action 1.
    assert found["flip_rate"] == 2 / 4
    assert found["q_gap"] == pytest.approx(np.median([2.0, 0.1, 5.0, 0.5]))
    # Errors of the float agent's best two: -0.2 and 0.1; 0 and 0.3; 0 and 0; 0 and 0.1.
    assert found["q_noise"] == pytest.approx(np.median([0.3, 0.3, 0.0, 0.1]))
    assert found["rows_below_noise"] == 1 / 4  # gaps 2, 0.1, 5, 0.5 against 0.2
    squares = (0.1**2 + 0.2**2 + 9.0**2 + 0.3**2 + 0.1**2) / 12
    assert found["output_error"] == pytest.approx(np.sqrt(squares) / plain.std())


def test_actions_of_a_box_are_compared_in_half_widths():
    plain = np.array([[0.0, 4.0], [0.5, 4.0]])
    found = diagnose.compare(plain, plain + np.array([[0.5, 0.0], [0.0, -2.0]]), BOX)
    assert found["action_change"] == pytest.approx((0.5 / 1 + 2.0 / 4) / 4)
    assert found["max_action_change"] == pytest.approx(0.5)
    assert "flip_rate" not in found


def two_layers(num_seeds=2):
    """x -> relu(x) -> sum and difference, the same for every seed."""

    def make():
        network = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2))
        with torch.no_grad():
            network[0].weight.copy_(torch.eye(2))
            network[2].weight.copy_(torch.tensor([[1.0, 0.3], [1.0, -0.3]]))
            network[0].bias.zero_()
            network[2].bias.zero_()
        return network

    return layers.populate(make, range(num_seeds))


def test_one_layer_at_a_time_is_quantized_and_the_others_are_float(tmp_path):
    plain = two_layers()
    # One weight bit pattern of 2 bits, {-1, 0, 1} times a scale: 0.3 becomes 0, 1 stays.
    quant = scheme(2)
    prepared = quant.prepare(plain)
    obs = np.random.default_rng(0).uniform(0, 1, (2000, 2)).astype(np.float32)
    prepared.train()(torch.from_numpy(obs).expand(2, -1, -1))
    prepared.eval()
    modules = dict(diagnose.one_at_a_time(plain, prepared))
    assert list(modules) == ["0", "2"]
    assert type(modules["0"][0]) is type(prepared[0]) and modules["0"][2] is plain[2]
    # The first layer alone: weights 0 and 1 are exact, the input has 8 bits.
    first = diagnose.outputs(modules["0"], 1, obs)
    exact = diagnose.outputs(plain, 1, obs)
    assert 0 < np.abs(first - exact).max() < 2 / 255
    # The second alone: x has 2 bits, and both outputs are the code of x_0, so none is better.
    second = diagnose.outputs(modules["2"], 1, obs)
    assert np.allclose(second[:, 0], second[:, 1])
    assert len(np.unique(second[:, 0].round(4))) == 4
    np.savez(tmp_path / "obs.npz", obs=obs)
    population = Population(
        seeds=[0, 1], scheme=quant, plain=plain, prepared=prepared,
        observations=[tmp_path / "obs.npz"] * 2,
    )  # fmt: skip
    spec = EnvSpec(id="toy", obs_shape=(2,), num_actions=2)
    found = diagnose.measure(population, 1, spec, num_rows=500)
    assert found["rows"] == 500 and [entry["name"] for entry in found["layers"]] == ["0", "2"]
    assert found["layers"][0]["flip_rate"] == 0
    # 0.6 x_1 is the gap, and all of it is lost.
    assert found["layers"][1]["q_noise"] == pytest.approx(found["q_gap"])
    assert found["q_gap"] == pytest.approx(0.6 * 0.5, rel=0.1)


def test_noise_is_counted_in_the_deviations_of_each_feature():
    seen = []
    obs = np.random.default_rng(1).normal(size=(5000, 2)).astype(np.float32) * [1.0, 10.0]
    noisy = diagnose.Noisy(lambda x: seen.append(x) or x, 0.5 * obs.std(axis=0), ACTIONS)
    noisy(np.zeros((5000, 2), np.float32))
    assert seen[0].dtype == np.float32
    np.testing.assert_allclose(seen[0].std(axis=0), [0.5, 5.0], rtol=0.05)


def test_noisy_bytes_stay_bytes():
    seen = []
    spec = EnvSpec(id="image", obs_shape=(1, 2, 2), obs_high=3, num_actions=2)
    noisy = diagnose.Noisy(lambda x: seen.append(x) or x, np.float64(5.0), spec)
    noisy(np.full((50, 1, 2, 2), 2, np.uint8))
    assert seen[0].dtype == np.uint8 and set(np.unique(seen[0])) <= {0, 1, 2, 3}


def test_no_noise_leaves_the_returns_as_they_are():
    spec = EnvSpec(id="toy", obs_shape=(3,), num_actions=2)
    ones = lambda obs: np.tile([0.0, 1.0], (len(obs), 1))  # noqa: E731
    zeros = lambda obs: np.tile([1.0, 0.0], (len(obs), 1))  # noqa: E731
    obs = np.ones((10, 3), np.float32)
    found = diagnose.under_noise(
        {"float": ones, "quantized": zeros}, obs, Counter, spec, num_episodes=2, levels=(0.0, 0.5)
    )
    # An episode of two steps, action 1 is rewarded with 1.
    assert found == [
        {"noise": 0.0, "float": 2.0, "quantized": 0.0},
        {"noise": 0.5, "float": 2.0, "quantized": 0.0},
    ]


def test_the_table_has_a_row_per_layer_and_level():
    found = {
        "seed": 3, "rows": 10, "flip_rate": 0.25, "output_error": 0.125,
        "layers": [{"name": "head", "flip_rate": 0.5, "output_error": 1.0}],
        "noise": [{"noise": 0.0, "float": 500.0, "quantized": 480.25}],
    }  # fmt: skip
    assert diagnose.table(found) == [
        "seed 3, 10 observations of its own replay",
        "quantized   flip_rate  output_error",
        "all layers  0.25       0.125",
        "head alone  0.5        1",
        "",
        "noise  float  quantized",
        "0      500    480.2",
    ]
