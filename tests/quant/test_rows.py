"""Quantized linear layers in a row as one node: what they give and learn one by one."""

import copy

import pytest
import torch

from qbench.dense import place_gradient
from qbench.quant import fake, grids, kernels
from qbench.quant.layer import QuantLayer
from tests.quant.test_kernels import assert_same
from tests.quant.test_qat import observations, scheme
from tests.toys import q_population

SCHEMES = {
    "8": {},
    "4 per tensor": {"bits": 4, "granularity": "tensor"},
    "affine": {"grid": "affine"},
    "percentile": {"range": "percentile"},
    "weights of least squares": {"weight_range": "mse"},
    "floats kept": {"saved": "floats"},
}
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(params=["loops", "torch"])
def arithmetic(request, monkeypatch):
    if request.param == "torch":
        monkeypatch.setattr(kernels, "library", lambda: None)
    elif kernels.library() is None:
        pytest.skip("no gcc")


@pytest.fixture
def one_by_one(monkeypatch):
    """A call whose layers do not join."""

    def call(function, *args):
        with monkeypatch.context() as patch:
            patch.setattr(QuantLayer, "joins", False)
            return function(*args)

    return call


@pytest.fixture
def rows(monkeypatch):
    """How many layers each node was made of."""
    sizes = []
    for name in ("linears", "infer"):
        function = getattr(fake, name)

        def counted(x, links, *parameters, function=function):
            sizes.append(len(links))
            return function(x, links, *parameters)

        monkeypatch.setattr(fake, name, counted)
    return sizes


def made(network, *batches):
    """All that a network gives and learns: outputs, gradients, ranges and codes."""
    found = []
    parameters = list(network.parameters())
    for x in batches:
        y = network.train()(x)  # observations want no gradient
        found += [y.detach(), *torch.autograd.grad(y.square().sum(), parameters)]
        x = x.clone().requires_grad_()
        leaves = [x, *parameters]
        y = network(x)
        found += [y.detach(), *torch.autograd.grad(y.square().sum(), leaves)]
        found += [b.clone() for b in network.buffers()]
        for layer in quantized(network):
            grid, codes = layer.codes()
            found += [*grid.tensors, *codes]
        y = network.eval().requires_grad_(False)(x)  # as an actor learns through a critic
        found += [y.detach(), *torch.autograd.grad(y.square().sum(), x)]
        network.requires_grad_(True)
        with torch.no_grad():
            found.append(network(x))
    return found


def quantized(network):
    return [m for m in network.modules() if isinstance(m, QuantLayer)]


@pytest.mark.parametrize("changes", SCHEMES.values(), ids=SCHEMES)
def test_a_row_gives_and_learns_what_its_layers_do(changes, arithmetic, one_by_one, rows):
    network = scheme(**changes).prepare(q_population([0, 1, 2]))
    alone = copy.deepcopy(network)
    batches = observations(3, 99).split(33, dim=1)
    found = made(network, *batches)
    assert set(rows) == {3}
    rows.clear()
    assert_same(found, one_by_one(made, alone, *batches))
    assert set(rows) == {1}


def test_a_frozen_range_stays_and_weights_are_encoded_anew(one_by_one):
    network = scheme().prepare(q_population([0, 1]))
    network(observations(2, 8))
    for layer in quantized(network):
        layer.set_phase(is_quantizing=True, is_frozen=True)
    alone = copy.deepcopy(network)
    ranges = [b.clone() for b in network.buffers()]
    for of in (network, alone):
        with torch.no_grad():
            for parameter in of.parameters():
                parameter.mul_(1.5)
    batches = (observations(2, 8) * 3,)
    assert_same(made(network, *batches), one_by_one(made, alone, *batches))
    assert_same(list(network.buffers()), ranges)


def test_what_is_no_number_stays_with_its_seed(arithmetic, one_by_one):
    network = scheme().prepare(q_population([0, 1]))
    batches = observations(2, 16).split(8, dim=1)
    batches[1][1, 3, 2] = float("nan")
    alone = copy.deepcopy(network)
    found = made(network, *batches)
    assert_same(found, one_by_one(made, alone, *batches))
    assert not any(tensor[0].isnan().any() for tensor in found)
    assert found[-1][1].isnan().any()


def test_layers_that_compute_otherwise_are_called(rows):
    network = scheme().prepare(q_population([0]))
    first, second, last = quantized(network)
    x = observations(1, 8)
    last.set_phase(is_quantizing=False, is_frozen=False)
    network(x)
    assert rows == [2]  # the last one is a float layer
    second.set_phase(is_quantizing=False, is_frozen=False)
    network(x)
    assert rows == [2, 1]
    for layer in (second, last):
        layer.set_phase(is_quantizing=True, is_frozen=False)
    first.eval()
    network(x)
    assert rows == [2, 1, 2]  # the last two learn; the first infers, in no node
    rows.clear()
    handle = second.register_forward_hook(lambda *call: None)
    network.train()(x)
    assert rows == [1, 1, 1]
    handle.remove()
    network(x)
    assert rows == [1, 1, 1, 3]
    scheme(range="learned", weight_range="learned").prepare(q_population([0]))(x)
    assert rows == [1, 1, 1, 3]


def test_by_hand():
    """Two layers of one weight each at codes that can be counted."""
    one, zero = torch.ones(1, 1, 1), torch.zeros(1, 1, 1)
    grid = grids.Grid(one, one, zero, zero, 7, True)
    first = grids.Codes(torch.tensor([[[2.0]]]), torch.tensor([[-3.0]]), torch.tensor([[0.5]]))
    second = grids.Codes(torch.tensor([[[4.0]]]), torch.tensor([[1.0]]), torch.tensor([[0.25]]))
    links = [
        fake.Link(lambda _: (grid, first), has_relu=True, saved="codes"),
        fake.Link(lambda _: (grid, second), has_relu=False, saved="codes"),
    ]
    x = torch.tensor([[[1.2], [3.6], [9.0]]], requires_grad=True)
    # Codes 1, 4, 7 give (2 q - 3) / 2 = -0.5, 2.5, 5.5; the ReLU and the grid make 0, 2, 6 of them
    # (ties to even), and (4 q + 1) / 4 = 0.25, 2.25, 6.25.
    parameters = [torch.zeros(1, 1, 1), torch.zeros(1, 1)] * 2
    leaves = [p.requires_grad_() for p in (p.clone() for p in parameters)]
    y = fake.linears(x, links, *leaves)
    assert y.flatten().tolist() == [0.25, 2.25, 6.25]
    by_x, *by_parameters = torch.autograd.grad(y.sum(), [x, *leaves])
    # Each weight is worth its code times its scale: 1 and 1. The first row is off behind the first
    # layer, the last one was clamped before it.
    assert by_x.flatten().tolist() == [0.0, 1.0, 0.0]
    assert [grad.item() for grad in by_parameters] == [4 + 7, 2, 0 + 2 + 6, 3]
    with torch.no_grad():
        assert torch.equal(fake.infer(x, links), y)


def test_the_last_layer_may_have_a_relu():
    grid = grids.Grid(*[torch.ones(1, 1, 1)] * 2, *[torch.zeros(1, 1, 1)] * 2, 7, True)
    codes = grids.Codes(torch.ones(1, 1, 1), torch.tensor([[-3.0]]), torch.ones(1, 1))
    weight, bias = torch.zeros(1, 1, 1, requires_grad=True), torch.zeros(1, 1, requires_grad=True)
    link = fake.Link(lambda _: (grid, codes), has_relu=True, saved="codes")
    y = fake.linears(torch.tensor([[[2.0], [5.0]]]), [link], weight, bias)
    assert y.flatten().tolist() == [0.0, 2.0]
    slope = torch.ones_like(y)
    by_weight, by_bias = torch.autograd.grad(y, [weight, bias], slope)
    assert (by_weight.item(), by_bias.item()) == (5.0, 1.0)
    assert (slope == 1).all()


@pytest.mark.usefixtures("either_library")
def test_a_gradient_is_written_to_its_place():
    network = scheme().prepare(q_population([0, 1], hidden_sizes=(24, 20)))
    x = observations(2, 33)
    alone = copy.deepcopy(network)
    (expected,) = torch.autograd.grad(alone(x).sum(), quantized(alone)[1].weight)
    weight = quantized(network)[1].weight
    place = torch.zeros(2, weight[0].numel() + 3)[:, 3:].view_as(weight)
    place_gradient(weight, place)
    (found,) = torch.autograd.grad(network(x).sum(), weight)
    assert found.data_ptr() == place.data_ptr()
    assert torch.equal(place, expected)


def test_second_derivatives_are_refused():
    network = scheme().prepare(q_population([0]))
    x = observations(1, 8).requires_grad_()
    with pytest.raises(RuntimeError, match="first derivatives alone"):
        torch.autograd.grad(network(x).square().sum(), x, create_graph=True)
