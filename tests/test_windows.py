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
