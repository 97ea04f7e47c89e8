"""The seed axis: stacking, taking out, and independence of the seeds."""

import pytest
import torch
from torch import nn

from qbench import layers


def make_plain():
    return nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 2))


def plain_of(seed):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return make_plain()


def test_a_population_computes_what_its_members_compute():
    population = layers.populate(make_plain, [4, 9])
    x = torch.randn(2, 6, 3)
    expected = torch.stack([plain_of(4)(x[0]), plain_of(9)(x[1])])
    torch.testing.assert_close(population(x), expected)


def test_keys_are_those_of_the_plain_network():
    population = layers.populate(make_plain, [4, 9])
    assert list(population.state_dict()) == list(make_plain().state_dict())


def test_populate_leaves_the_global_generator_alone():
    torch.manual_seed(1)
    expected = torch.rand(1)
    torch.manual_seed(1)
    layers.populate(make_plain, [4, 9])
    assert torch.equal(torch.rand(1), expected)


def test_take_seed_gives_the_plain_member_with_its_own_memory():
    population = layers.populate(make_plain, [4, 9])
    taken = layers.take_seed(population, 1)
    assert isinstance(taken[0], nn.Linear)
    for name, value in plain_of(9).state_dict().items():
        assert torch.equal(taken.state_dict()[name], value)
    taken[0].weight.data.zero_()
    assert population[0].weight[1].abs().sum() > 0


def test_layers_without_a_seed_axis_are_named():
    with pytest.raises(TypeError, match="LayerNorm has no form with a seed axis"):
        layers.populate(lambda: nn.Sequential(nn.Linear(2, 2), nn.LayerNorm(2)), [0])


def test_swapped_layers_hold_the_very_parameters():
    population = layers.populate(make_plain, [4, 9])
    swapped = layers.swap_layers(population, lambda layer: layers.Linear(layer.weight, layer.bias))
    assert [id(p) for p in swapped.parameters()] == [id(p) for p in population.parameters()]
    assert swapped[0] is not population[0]


def test_parameters_become_views_of_one_tensor():
    population = layers.populate(make_plain, [4, 9])
    before = {name: value.clone() for name, value in population.state_dict().items()}
    flat = layers.flatten_parameters(population)
    assert flat.shape == (2, 64)  # 3 * 5 + 5 + 5 * 2 + 2 = 32, padded
    assert flat[:, 32:].abs().sum() == 0
    for name, value in population.state_dict().items():
        assert torch.equal(value, before[name])
    flat[1].zero_()
    assert population[0].weight[1].abs().sum() == 0
    assert torch.equal(population[0].weight[0], before["0.weight"][0])
