"""Convolutions of S seeds as products of windows: what is fastest on a GPU.

Every window of kh x kw pixels becomes a row, and all rows of a seed are multiplied by its weights
at once: Nature's trunk took a third of the time of a loop over 64 seeds on an H200; one grouped
convolution lay between. Windows are made anew for backward, which keeps images as others do.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

Pair = tuple[int, int]


def convolution(x: Tensor, weight: Tensor, bias: Tensor, stride: Pair) -> Tensor:
    """Images `x` [S, B, in, H, W] by `weight` [S, out, in, kh, kw] and `bias` [S, out].

    Returns:
        [S, B, out, H', W']; it has first derivatives alone.
    """
    out: Tensor = _Convolution.apply(x, weight, bias, stride)  # type: ignore[no-untyped-call]
    return out


class _Convolution(torch.autograd.Function):
    """What is kept for backward is the images, not their windows."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, stride: Pair) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.stride = stride
        windows = _windows(x, _kernel(weight), stride)
        rows = windows.flatten(4).flatten(1, 3)
        out = torch.baddbmm(bias.unsqueeze(1), rows, weight.flatten(2).transpose(1, 2))
        return out.unflatten(1, windows.shape[1:4]).permute(0, 1, 4, 2, 3)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, by_output: Tensor) -> tuple[Tensor | None, ...]:
        # Autocast is over; its products were of the output's dtype.
        x, weight = (tensor.to(by_output.dtype) for tensor in ctx.saved_tensors)
        needs_x, needs_weight, needs_bias, _ = ctx.needs_input_grad
        by_x, by_weight = gradients(
            by_output, x, weight, ctx.stride, needs_x=needs_x, needs_weight=needs_weight
        )
        return by_x, by_weight, by_output.sum((1, 3, 4)) if needs_bias else None, None


def gradients(
    by_output: Tensor, x: Tensor, weight: Tensor, stride: Pair, *, needs_x: bool, needs_weight: bool
) -> tuple[Tensor | None, Tensor | None]:
    """Gradients by `x` and by `weight` from that by the output, all shaped as in `convolution`."""
    rows = by_output.permute(0, 1, 3, 4, 2).flatten(1, 3)  # [S, B H' W', out]
    by_x = by_weight = None
    if needs_weight:
        windows = _windows(x, _kernel(weight), stride).flatten(4).flatten(1, 3)
        by_weight = torch.bmm(rows.transpose(1, 2), windows).view_as(weight)
    if needs_x:
        by_windows = torch.bmm(rows, weight.flatten(2))
        by_x = _folded(by_windows, x.shape, by_output.shape[3:], _kernel(weight), stride)
    return by_x, by_weight


def _kernel(weight: Tensor) -> Pair:
    return weight.shape[-2], weight.shape[-1]


def _windows(x: Tensor, kernel: Pair, stride: Pair) -> Tensor:
    """Views of `x` [S, B, in, H, W]: [S, B, H', W', in, kh, kw]."""
    windows = x.unfold(3, kernel[0], stride[0]).unfold(4, kernel[1], stride[1])
    return windows.permute(0, 1, 3, 4, 2, 5, 6)


def _folded(
    rows: Tensor, shape: torch.Size, size: torch.Size, kernel: Pair, stride: Pair
) -> Tensor:
    """The gradient by images of `shape` from that by their windows, [S, B H' W', in kh kw].

    `size` is H', W'.
    """
    num_seeds, batch_size, channels, _, width = shape
    windows = rows.view(num_seeds, batch_size, *size, channels, *kernel)
    between = (num_seeds, batch_size, channels, size[0], width, kernel[0])
    fold = torch.ops.aten.unfold_backward
    lines = fold(windows.permute(0, 1, 4, 2, 3, 5, 6), between, 4, kernel[1], stride[1])
    return fold(lines, shape, 3, kernel[0], stride[0])
