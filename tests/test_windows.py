"""Convolutions as products of windows, against torch's own."""

import pytest
import torch
from torch.nn import functional as F

from qbench import windows


def test_an_image_by_hand():
    x = torch.arange(12.0).view(1, 1, 1, 3, 4)
    weight = torch.tensor([[[[[1.0, 10.0], [100.0, 1000.0]]]]])
    out = windows.convolution(x, weight, torch.tensor([[0.5]]), (1, 2))
    # The window at the left of the first row is 0, 1, 4, 5.
    assert out.tolist() == [[[[[5410.5, 7632.5], [9854.5, 12076.5]]]]]


@pytest.mark.parametrize(
    ("size", "kernel", "stride"),
    [((9, 11), (3, 3), (1, 1)), ((10, 7), (4, 3), (2, 2)), ((9, 9), (4, 4), (3, 1))],
)
def test_values_and_gradients_are_those_of_convolutions(size, kernel, stride):
    generator = torch.Generator().manual_seed(0)

    def draw(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64).requires_grad_()

    x, weight, bias = draw(3, 2, 5, *size), draw(3, 4, 5, *kernel), draw(3, 4)
    members = zip(x, weight, bias, strict=True)
    reference = torch.stack([F.conv2d(*member, stride=stride) for member in members])
    out = windows.convolution(x, weight, bias, stride)
    torch.testing.assert_close(out, reference)

    by_output = draw(*reference.shape).detach()
    expected = torch.autograd.grad(reference, (x, weight), by_output)
    by_autograd = torch.autograd.grad(out, (x, weight), by_output)
    ours = windows.gradients(by_output, x, weight, stride, needs_x=True, needs_weight=True)
    for known, found, own in zip(expected, by_autograd, ours, strict=True):
        torch.testing.assert_close(found, known)
        torch.testing.assert_close(own, known)


def test_only_what_is_needed_is_made():
    x, weight = torch.ones(1, 1, 1, 4, 4), torch.ones(1, 1, 1, 2, 2)
    by_output = torch.ones(1, 1, 1, 3, 3)
    by_x, by_weight = windows.gradients(
        by_output, x, weight, (1, 1), needs_x=False, needs_weight=True
    )
    assert by_x is None
    assert by_weight.tolist() == [[[[[9.0, 9.0], [9.0, 9.0]]]]]


def test_images_are_kept_for_backward_and_not_their_windows():
    x, weight = torch.ones(2, 3, 4, 12, 12), torch.ones(2, 8, 4, 4, 4, requires_grad=True)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.numel()), lambda t: t):
        windows.convolution(x, weight, torch.zeros(2, 8), (2, 2))
    assert sorted(kept) == sorted([x.numel(), weight.numel()])


def test_products_are_autocasts():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1, 2, 3, 8, 8, generator=generator, requires_grad=True)
    weight = torch.randn(1, 4, 3, 3, 3, generator=generator, requires_grad=True)
    bias = torch.zeros(1, 4, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16, cache_enabled=False):
        out = windows.convolution(x, weight, bias, (1, 1))
    assert out.dtype == torch.bfloat16
    grads = torch.autograd.grad(out.float().sum(), (x, weight, bias))
    assert all(grad.dtype == torch.float32 for grad in grads)
    reference = torch.autograd.grad(F.conv2d(x[0], weight[0], bias[0]).sum(), (x, weight, bias))
    for ours, known in zip(grads, reference, strict=True):
        assert (ours - known).norm() < 0.02 * known.norm()
