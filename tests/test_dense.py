"""Layers in a row as one node of autograd's graph: the bits and the gradients of many."""

import itertools

import pytest
import torch

from qbench import layers
from qbench.dense import dense, place_gradient

SIZES = [5, 24, 16, 3]


def tensors(num_seeds=3, batch_size=33):
    """Inputs, and weights and biases in turn; all want gradients."""
    generator = torch.Generator().manual_seed(0)
    shapes = [(num_seeds, batch_size, SIZES[0])]
    for size, out in itertools.pairwise(SIZES):
        shapes += [(num_seeds, out, size), (num_seeds, out)]
    x, *parameters = (torch.randn(shape, generator=generator).requires_grad_() for shape in shapes)
    return x, parameters


def one_by_one(x, parameters, relus):
    for weight, bias, has_relu in zip(parameters[::2], parameters[1::2], relus, strict=True):
        x = layers.affine(x, weight, bias)
        x = x.relu() if has_relu else x
    return x


@pytest.mark.parametrize("relus", [(1, 1, 1), (1, 1, 0), (0, 1, 0), (0, 0, 0)])
def test_values_and_gradients_are_those_of_the_layers_one_by_one(relus):
    x, parameters = tensors()
    found, expected = dense(x, parameters, relus), one_by_one(x, parameters, relus)
    assert torch.equal(found, expected)
    slope = torch.randn_like(expected)
    leaves = [x, *parameters]
    pairs = zip(
        torch.autograd.grad(found, leaves, slope),
        torch.autograd.grad(expected, leaves, slope),
        strict=True,
    )
    assert all(torch.equal(one, other) for one, other in pairs)


def test_by_hand():
    x = torch.tensor([[[1.0, 2.0]]], requires_grad=True)
    weights = [torch.tensor([[[1.0, 1.0], [1.0, -1.0]]]), torch.tensor([[[3.0, 5.0]]])]
    biases = [torch.tensor([[0.5, 0.0]]), torch.tensor([[-1.0]])]
    parameters = [p.requires_grad_() for pair in zip(weights, biases, strict=True) for p in pair]
    y = dense(x, parameters, (True, False))  # the second unit is off: 1 - 2 < 0
    assert y.tolist() == [[[9.5]]]
    by_x, by_w1, by_b1, by_w2, by_b2 = torch.autograd.grad(y.sum(), [x, *parameters])
    assert by_x.tolist() == [[[3.0, 3.0]]]
    assert by_w1.tolist() == [[[3.0, 6.0], [0.0, 0.0]]]
    assert by_b1.tolist() == [[3.0, 0.0]]
    assert by_w2.tolist() == [[[3.5, 0.0]]]
    assert by_b2.tolist() == [[1.0]]


def test_what_wants_no_gradient_has_none_and_the_slope_is_not_overwritten():
    x, parameters = tensors()
    for frozen in parameters:
        frozen.requires_grad_(False)
    y = dense(x, parameters, (1, 1, 1))
    slope = torch.randn_like(y)
    kept = slope.clone()
    y.backward(slope)
    assert torch.equal(slope, kept)
    assert x.grad is not None and all(p.grad is None for p in parameters)
    alone, parameters = tensors()
    dense(alone.detach(), parameters, (1, 1, 0)).sum().backward()
    assert alone.grad is None and all(p.grad is not None for p in parameters)


def test_a_gradient_is_written_to_its_place_once():
    x, parameters = tensors()
    flat = torch.full((3, 24 * 5 + 7), 9.0)
    place = flat[:, 4:-3].view(3, 24, 5)
    expected = torch.autograd.grad(dense(x, parameters, (1, 1, 0)).sum(), parameters[0])[0]
    y = dense(x, parameters, (1, 1, 0)).sum()
    place_gradient(parameters[0], place)
    (found,) = torch.autograd.grad(y, parameters[:1], retain_graph=True)
    assert found.data_ptr() == place.data_ptr()
    assert torch.equal(place, expected)
    assert (flat[:, :4] == 9).all() and (flat[:, -3:] == 9).all()
    assert torch.autograd.grad(y, parameters[:1])[0].data_ptr() != place.data_ptr()


def test_gradients_are_accumulated_by_backward():
    x, parameters = tensors()
    dense(x, parameters, (1, 1, 0)).sum().backward()
    once = [p.grad.clone() for p in parameters]
    dense(x, parameters, (1, 1, 0)).sum().backward()
    assert all(torch.equal(p.grad, 2 * one) for p, one in zip(parameters, once, strict=True))


@pytest.mark.parametrize("relus", [(1, 1, 0), (1, 0, 0)])
def test_an_output_may_be_written_into(relus):
    x, parameters = tensors()
    found = []
    for run in (dense, one_by_one):
        y = run(x, parameters, relus)
        y -= y.mean(-1, keepdim=True)
        found.append(torch.autograd.grad(y.square().sum(), parameters))
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))


def test_a_layer_that_is_used_twice_has_the_sum_of_both():
    x, parameters = tensors()
    twice = lambda: (dense(x, parameters, (1, 1, 0)) * dense(2 * x, parameters, (1, 1, 0))).sum()  # noqa: E731
    expected = torch.autograd.grad(twice(), parameters)
    loss = twice()
    for parameter in parameters[::2]:
        place_gradient(parameter, torch.zeros_like(parameter))
    for found, right in zip(torch.autograd.grad(loss, parameters), expected, strict=True):
        assert torch.equal(found, right)


def test_a_second_derivative_is_refused():
    x, parameters = tensors()
    y = dense(x, parameters, (1, 1, 0)).sum()
    with pytest.raises(RuntimeError, match="first derivatives alone"):
        torch.autograd.grad(y, x, create_graph=True)


def test_no_more_is_kept_than_by_the_layers_one_by_one():
    def kept(run, relus):
        storages = {}
        x, parameters = tensors()
        pack = lambda t: storages.setdefault(t.untyped_storage().data_ptr(), t)  # noqa: E731
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
            run(x, parameters, relus)
        return sum(t.untyped_storage().nbytes() for t in storages.values())

    for relus in ((1, 1, 1), (1, 1, 0)):
        assert kept(dense, relus) == kept(one_by_one, relus)
