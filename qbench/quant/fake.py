"""Fake quantization: integer arithmetic carried in float32, with straight-through gradients.

A linear layer x W^T + b is computed as the integer network computes it,

    q_x = clamp(round(x / s_x + z), 0, 2^n - 1)        codes of the input
    q_w = round(W s_x / s)                             codes of the weights, symmetric
    q_b = round(b / s - (z - c) q_w^T)                 codes of the bias, int32
    y   = s ((q_x - c) q_w^T + q_b)

(Jacob et al. 2018, section 2, https://arxiv.org/abs/1712.05877). s is the accumulator's
scale per output unit, so that W's own scale is s / s_x; c is z rounded. With an integer
zero point z = c and the last term of q_b vanishes; with the seed paper's real-valued
offset, z = -min / s_x, it does not. Sums of codes below 2^24 are exact in float32.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor

BIAS_CODE_LIMIT = 2**23
"""Scales are floored so that no bias code exceeds this; a dead channel would overflow int32."""


class Grid(NamedTuple):
    """An unsigned grid of 2^bits codes: x = scale (q - zero)."""

    scale: Tensor  # [S, 1, 1], or [S, 1, F] with one range per feature
    zero: Tensor  # as scale; integer-valued, or real for the affine grid
    centre: Tensor  # zero rounded
    top: int  # 2^bits - 1
    has_integer_zero: bool


def affine_grid(low: Tensor, high: Tensor, bits: int) -> Grid:
    """[low, high] in 2^bits - 1 equal cells with a real offset: the seed paper's Table 1."""
    top = 2**bits - 1
    # A range of (nearly) one value cannot be divided: it is widened to include zero.
    is_point = high - low <= 1e-4 * torch.maximum(high.abs(), low.abs())
    low = torch.where(is_point, low.clamp_max(0.0), low)
    high = torch.where(is_point, high.clamp_min(0.0), high)
    scale = ((high - low) / top).clamp_min(1e-8)
    zero = -low / scale
    return Grid(scale, zero, zero.round(), top, has_integer_zero=False)


def zero_point_grid(low: Tensor, high: Tensor, bits: int) -> Grid:
    """As `affine_grid`, widened and shifted so that 0.0 is a code (Jacob et al. 2018)."""
    grid = affine_grid(low.clamp_max(0.0), high.clamp_min(0.0), bits)
    return grid._replace(zero=grid.centre, has_integer_zero=True)


GRIDS = {"affine": affine_grid, "zero_point": zero_point_grid}


def encode(x: Tensor, grid: Grid) -> Tensor:
    """Codes of x, integer-valued float32 in [0, grid.top]; ties go to the even code."""
    return position(x, grid).round_().clamp_(0, grid.top)


def position(x: Tensor, grid: Grid) -> Tensor:
    """Where x lies on the grid, in codes, before rounding."""
    return (x * (1.0 / grid.scale)).add_(grid.zero)


def decode(codes: Tensor, grid: Grid) -> Tensor:
    """The values that codes stand for."""
    return (codes - grid.zero) * grid.scale


class Codes(NamedTuple):
    """A linear layer's integers, carried in float32."""

    weight: Tensor  # q_w [S, out, F]
    bias: Tensor  # q_b [S, out]
    scale: Tensor  # s [S, out]


def encode_layer(
    weight: Tensor, bias: Tensor, grid: Grid, *, bits: int, per_channel: bool
) -> Codes:
    """Integers of a layer whose input lies on `grid`.

    Args:
        weight: [S, out, F] float32.
        bias: [S, out] float32.
        grid: of the layer's input.
        bits: of the weights; the codes lie in [-(2^(bits-1) - 1), 2^(bits-1) - 1].
        per_channel: one scale per output unit; otherwise one per layer.
    """
    top = 2 ** (bits - 1) - 1
    folded = weight * grid.scale
    dims = -1 if per_channel else (-2, -1)
    scale = folded.abs().amax(dim=dims, keepdim=True).squeeze(-1) / top  # [S, out] or [S, 1]
    floor = bias.abs() / BIAS_CODE_LIMIT
    if not per_channel:
        floor = floor.amax(dim=-1, keepdim=True)
    scale = torch.maximum(scale, floor).clamp_min(1e-12).expand(bias.shape)
    codes = folded.div_(scale.unsqueeze(-1)).round_()
    bias_codes = bias / scale
    if not grid.has_integer_zero:
        bias_codes -= (codes * (grid.zero - grid.centre)).sum(-1)
    return Codes(codes, bias_codes.round_(), scale)


class FakeQuantLinear(torch.autograd.Function):
    """y = s ((q_x - c) q_w^T + q_b) with straight-through gradients.

    Backward treats rounding as the identity and clamping as itself: an input outside the
    grid's range receives no gradient (Bengio et al. 2013; Jacob et al. 2018).
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, grid: Grid, codes: Codes
    ) -> Tensor:
        raw = position(x, grid).round_()
        clamped = raw.clamp(0, grid.top)
        outside = raw != clamped
        centred = clamped.sub_(grid.centre)
        ctx.save_for_backward(centred, outside, codes.weight, codes.scale, *grid[:3])
        ctx.has_integer_zero = grid.has_integer_zero
        return accumulate(centred, codes)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        centred, outside, weight, scale, grid_scale, zero, centre = ctx.saved_tensors
        grad_bias = grad.sum(1)
        grad_weight = grad.transpose(1, 2) @ centred  # [S, out, F]
        if not ctx.has_integer_zero:
            grad_weight -= grad_bias.unsqueeze(-1) * (zero - centre)
        grad_weight *= grid_scale
        grad_x = None
        if ctx.needs_input_grad[0]:
            grad_x = ((grad * scale.unsqueeze(1)) @ weight).masked_fill_(outside, 0.0)
            grad_x.div_(grid_scale)
        return grad_x, grad_weight, grad_bias, None, None


def accumulate(centred: Tensor, codes: Codes) -> Tensor:
    """The layer's output [S, B, out] from centred input codes [S, B, F]."""
    accumulator = torch.baddbmm(codes.bias.unsqueeze(1), centred, codes.weight.transpose(1, 2))
    return accumulator.mul_(codes.scale.unsqueeze(1))
