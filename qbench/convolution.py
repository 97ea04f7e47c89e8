"""Convolutions of S seeds: a loop on a CPU, products of windows on a GPU."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from qbench import windows


def convolution(x: Tensor, weight: Tensor, bias: Tensor, stride: tuple[int, int]) -> Tensor:
    """Images `x` [S, B, in, H, W] by `weight` [S, out, in, kh, kw] -> [S, B, out, H', W']."""
    if x.is_cuda:
        return windows.convolution(x, weight, bias, stride)
    # A loop over the seeds: one grouped convolution was slower on a CPU.
    rows = zip(in_fastest_order(x), weight, bias, strict=True)
    return _joined([F.conv2d(*row, stride=stride) for row in rows])


def gradients(
    by_output: Tensor,
    x: Tensor,
    weight: Tensor,
    stride: tuple[int, int],
    *,
    needs_x: bool,
    needs_weight: bool,
) -> tuple[Tensor | None, Tensor | None]:
    """Gradients of `convolution` by `x` and by `weight`, from that by its output."""
    if x.is_cuda:
        return windows.gradients(
            by_output, x, weight, stride, needs_x=needs_x, needs_weight=needs_weight
        )
    pairs = [
        torch.ops.aten.convolution_backward(
            *members, None, stride, [0, 0], [1, 1], False, [0, 0], 1, [needs_x, needs_weight, False]
        )
        for members in zip(by_output, x, weight, strict=True)
    ]
    by_x = _joined([pair[0] for pair in pairs]) if needs_x else None
    return by_x, _joined([pair[1] for pair in pairs]) if needs_weight else None


def in_fastest_order(x: Tensor) -> Tensor:
    """Images [S, B, in, H, W] in the order in memory that makes a convolution's update fastest.

    On a CPU that of a network's first layer is channels last, which its outputs and all that
    follows then are as well: the gradient of its weights takes a third of the time.
    """
    if x.is_cuda or x.requires_grad or x.shape[2] >= 16 or not torch.is_grad_enabled():
        return x
    images = x.flatten(0, 1).contiguous(memory_format=torch.channels_last)
    return images.unflatten(0, x.shape[:2])


def _joined(members: Sequence[Tensor]) -> Tensor:
    """The outputs of all seeds as one tensor; that of a single one is not copied."""
    return torch.stack(list(members)) if len(members) > 1 else members[0].unsqueeze(0)
