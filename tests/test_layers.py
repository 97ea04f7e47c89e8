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


class Constant(nn.Module):
    """Gives the same tensor whatever comes in."""

    def __init__(self):
        super().__init__()
        self.register_buffer("value", -torch.ones(5))

    def forward(self, x):
        return self.value.expand(*x.shape[:-1], 5)


def relus_of_every_kind():
    """ReLUs in front, shared by two layers, of a ReLU, and of what no layer has computed."""
    shared = nn.ReLU()
    return nn.Sequential(
        nn.Identity(), nn.ReLU(), nn.Linear(3, 5), shared, nn.Linear(5, 4), shared, nn.ReLU(),
        nn.Linear(4, 5), Constant(), nn.ReLU(), nn.Linear(5, 1),
    )  # fmt: skip


def test_a_relu_overwrites_nothing_that_anybody_else_sees():
    population = layers.populate(relus_of_every_kind, [0, 1])
    plain = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        plain.append(relus_of_every_kind())
    x = torch.randn(2, 6, 3)
    kept = x.clone()
    with_gradients = population(x)
    with torch.no_grad():
        assert torch.equal(population(x), with_gradients)
        assert torch.equal(x, kept)
        assert (population[8].value == -1).all()
        first = population[2](x)
        assert torch.equal(population[3](first), first.clamp_min(0.0))
        assert (first < 0).any()
    for k in range(2):
        torch.testing.assert_close(plain[k](x[k]), with_gradients[k])
        torch.testing.assert_close(layers.take_seed(population, k)(x[k]), with_gradients[k])


def test_without_gradients_a_relu_takes_no_memory_of_its_own(monkeypatch):
    population = layers.populate(lambda: nn.Sequential(nn.Linear(3, 5), nn.ReLU()), [0])
    given, affine = [], layers.affine
    monkeypatch.setattr(layers, "affine", lambda *call: given.append(affine(*call)) or given[-1])
    with torch.no_grad():
        assert population(torch.randn(1, 6, 3)).data_ptr() == given[0].data_ptr()


def nested():
    """Runs of every kind: in a Sequential of its own, without a ReLU, alone, with one output."""
    inner = nn.Sequential(nn.Linear(3, 6), nn.ReLU(), nn.Linear(6, 5))
    return nn.Sequential(
        inner, nn.ReLU(), nn.ReLU(), nn.Linear(5, 4), nn.LeakyReLU(inplace=True),
        nn.Linear(4, 3), nn.Tanh(),
        nn.Linear(3, 1), nn.ReLU(), nn.Linear(1, 2), nn.ReLU(),
    )  # fmt: skip


def plainly(network, x):
    """Every module of its own, called one after the other."""
    for part in network:
        x = plainly(part, x) if isinstance(part, nn.Sequential) else part(x)
    return x


def test_runs_of_layers_have_the_bits_of_their_modules():
    network = layers.populate(nested, [0, 1])
    x = torch.randn(2, 6, 3)
    found, expected = network(x), plainly(network, x)
    assert torch.equal(found, expected)
    parameters = list(network.parameters())
    for one, other in zip(
        torch.autograd.grad(found.square().sum(), parameters),
        torch.autograd.grad(expected.square().sum(), parameters),
        strict=True,
    ):
        assert torch.equal(one, other)
    with torch.no_grad():
        assert torch.equal(network(x), expected)


def nodes(y):
    """Names of the nodes of the graph of `y`, in depth first order."""
    found, left = [], [y.grad_fn]
    while left:
        node = left.pop()
        if node is not None:
            found.append(node.name())
            left += [following for following, _ in node.next_functions]
    return found


def test_layers_in_a_row_are_one_node_across_sequentials():
    network = layers.populate(
        lambda: nn.Sequential(nn.Sequential(nn.Linear(3, 5), nn.ReLU()), nn.Linear(5, 2)), [0]
    )
    found = nodes(network(torch.randn(1, 6, 3)))
    own = [name for name in found if "Accumulate" not in name]
    assert own == ["TransposeBackward0", "_DenseBackward"]


def test_no_relu_has_autograd_copy_a_view():
    network = layers.populate(lambda: nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU()), [0])
    found = nodes(network(torch.randn(1, 4, 1, 5, 5)))
    assert "ReluBackward0" in found and "CopySlices" not in found


@pytest.mark.parametrize("name", ["0", "0.0", "0.1", "1"])
def test_modules_that_are_hooked_into_are_called(name):
    network = layers.populate(
        lambda: nn.Sequential(nn.Sequential(nn.Linear(3, 5), nn.ReLU()), nn.Linear(5, 2)), [0]
    )
    x, seen = torch.randn(1, 6, 3), []
    expected = network(x)
    part = network.get_submodule(name)
    part.register_forward_hook(lambda *call: seen.append(call[1:]))
    assert torch.equal(network(x), expected)
    with torch.no_grad():
        network(x)
    assert len(seen) == 2
    for inputs, output in tuple(seen):  # a call adds to it
        assert torch.equal(plainly([part], *inputs), output)


def test_autocast_reaches_every_layer():
    network = layers.populate(make_plain, [0])
    with torch.autocast("cpu", torch.bfloat16):
        y = network(torch.randn(1, 6, 3))
    assert y.dtype == torch.bfloat16
    y.float().sum().backward()
    assert all(p.grad.dtype == torch.float32 for p in network.parameters())


@pytest.mark.parametrize("in_", [1, 7, 64])
def test_a_layer_with_one_output_and_its_gradients(in_):
    layer = layers.Linear.stack([nn.Linear(in_, 1) for _ in range(3)])
    x = torch.randn(3, 9, in_, requires_grad=True)
    y = layer(x)
    expected = (x.double() @ layer.weight.double().mT + layer.bias.double().unsqueeze(1)).float()
    torch.testing.assert_close(y, expected)
    leaves = [x, layer.weight, layer.bias]
    found = torch.autograd.grad(y.square().sum(), leaves)
    for one, other in zip(found, torch.autograd.grad(expected.square().sum(), leaves), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
    for k in range(3):
        alone = layers.affine(x[k : k + 1], layer.weight[k : k + 1], layer.bias[k : k + 1])
        assert torch.equal(alone[0], y[k])
