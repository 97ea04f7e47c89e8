"""Acting in integers: a population computes what each of its converted networks computes."""

import numpy as np
import pytest
import torch

from qbench import layers
from qbench.network.heads import Actor
from qbench.quant import population
from qbench.quant.population import IntegerPopulation
from qbench.quant.trace import ConversionError
from tests.algo.test_ddpg import BOX
from tests.quant.test_conv import images, prepared
from tests.quant.test_qat import Bare, observations, observed, scheme
from tests.toys import mlp, q_population


def assert_same_integers(module, quant, obs):
    """Outputs at obs [S, N, ...], one observation after the other, bit for bit."""
    acting = IntegerPopulation(module)
    acting.refresh()
    policies = [quant.convert(layers.take_seed(module, k)) for k in range(len(obs))]
    expected = np.stack([policy(rows) for policy, rows in zip(policies, obs, strict=True)])
    found = np.stack([acting(obs[:, i]) for i in range(obs.shape[1])], axis=1)
    assert np.array_equal(found, expected, equal_nan=True)


@pytest.mark.parametrize("grid", ["zero_point", "affine"])
@pytest.mark.parametrize("bits", [8, 4, 2])
def test_an_mlps_integers_are_those_of_the_converted_networks(bits, grid):
    quant = scheme(bits, grid=grid)
    assert_same_integers(observed(quant, num_seeds=3), quant, observations(3, 200).numpy())


@pytest.mark.parametrize("grid", ["zero_point", "affine"])
def test_hidden_zero_points_are_folded_into_the_bias(grid):
    quant = scheme(8, grid=grid)
    module = quant.prepare(layers.populate(Bare, [0, 1])).train()
    module(observations(2, 500))
    assert (module.eval().second.codes()[0].centre != 0).all()
    assert_same_integers(module, quant, observations(2, 100).numpy())


@pytest.mark.parametrize("name", ["atari", "planes"])
@pytest.mark.parametrize("bits", [8, 4])
def test_a_cnns_integers_are_those_of_the_converted_networks(name, bits):
    module = prepared(name, bits, num_seeds=2)
    assert_same_integers(module, scheme(bits), images(name, 2, 6, seed=5))


def test_an_actors_actions_are_those_of_the_converted_networks():
    quant = scheme(8)
    make = lambda: Actor(make_torso=mlp([24, 16]), spec=BOX)  # noqa: E731
    module = quant.prepare(layers.populate(make, [3, 4])).train()
    obs = torch.randn(2, 300, *BOX.obs_shape, generator=torch.Generator().manual_seed(0))
    module(obs)
    assert_same_integers(module.eval(), quant, obs.numpy())


def test_a_diverged_seed_acts_as_it_would_be_scored():
    quant = scheme(8)
    module = observed(quant)
    with torch.no_grad():
        module.torso.layers[2].weight[1, 3, :5] = float("inf")
        module.head.weight[1, 0, 0] = float("nan")
    module.eval()
    assert_same_integers(module, quant, observations(2, 50).numpy())


@pytest.mark.parametrize(
    ("size", "limit", "parts"), [(128, 518, 1), (2592, 518, 6), (3136, 518, 7), (7, 3, 7)]
)
def test_sums_fall_into_equal_parts_that_float32_holds(size, limit, parts):
    assert population._num_parts(size, limit) == parts


def test_a_part_at_its_limit_is_exact():
    # 518 products of 255 and 127 are 16,775,430 < 2^24 = 16,777,216; one more is not.
    module = scheme().prepare(q_population([0], obs_size=2 * 518, hidden_sizes=(4,)))
    first = module.torso.layers[0]
    with torch.no_grad():
        first.weight.fill_(1.0), first.bias.fill_(0.0)
    first.train()(torch.stack([torch.zeros(1036), torch.ones(1036)])[None])
    acting = IntegerPopulation(module.eval())
    acting.refresh()
    layer = acting._layers[0]
    inputs, _ = layer._inputs(np.full((1, 1036), 255, np.float32))
    assert inputs.shape == (1, 2, 518, 1)
    assert layer._summed(inputs).ravel().tolist() == [2 * 16_775_430] * 4


def test_what_was_taken_can_be_stored_and_taken_again():
    quant, obs = scheme(8), observations(2, 20).numpy()
    one, other = IntegerPopulation(observed(quant)), IntegerPopulation(quant.prepare(
        q_population([7, 8], hidden_sizes=(120, 84))
    ))  # fmt: skip
    assert one.state() == []
    one.refresh()
    other.restore(one.state())
    for i in range(20):
        assert np.array_equal(one(obs[:, i]).copy(), other(obs[:, i]))


def test_a_float_layer_cannot_act_in_integers():
    with pytest.raises(ConversionError, match="left in float"):
        IntegerPopulation(q_population([0]))


@pytest.mark.parametrize("changes", [{"weight_range": "learned", "range": "learned"}, {"bits": 1}])
def test_learned_steps_and_single_bits_act_as_they_convert(changes):
    quant = scheme(**({"bits": 4} | changes))
    assert_same_integers(observed(quant), quant, observations(2, 100).numpy())
