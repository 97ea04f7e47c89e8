"""Fake quantization: integer arithmetic carried in float32, with straight-through gradients.

A layer x W^T + b, or a convolution, is computed as the integer network computes it,

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
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from qbench import layers, product
from qbench.quant import ranges

Stride = tuple[int, int] | None
BIAS_CODE_LIMIT = 2**23
"""Scales are floored so that no bias code exceeds this; a dead channel would overflow int32."""


class Grid(NamedTuple):
    """An unsigned grid of 2^bits codes: x = scale (q - zero)."""

    scale: Tensor  # [S, 1, 1], [S, 1, F] with one range per feature, [S, 1, 1, 1, 1] of images
    inverse: Tensor  # 1 / scale
    zero: Tensor  # as scale; integer-valued, or real for the affine grid
    centre: Tensor  # zero rounded
    top: int  # 2^bits - 1
    has_integer_zero: bool


def affine_grid(low: Tensor, high: Tensor, bits: int) -> Grid:
    """[low, high] in 2^bits - 1 equal cells with a real offset: the seed paper's Table 1."""
    # A range of (nearly) one value cannot be divided: it is widened to include zero.
    is_point = high - low <= 1e-4 * torch.maximum(high.abs(), low.abs())
    low = torch.where(is_point, low.clamp_max(0.0), low)
    high = torch.where(is_point, high.clamp_min(0.0), high)
    scale, zero = _cells(low, high, bits)
    return Grid(scale, scale.reciprocal(), zero, zero.round(), 2**bits - 1, has_integer_zero=False)


def zero_point_grid(low: Tensor, high: Tensor, bits: int) -> Grid:
    """As `affine_grid`, widened and shifted so that 0.0 is a code (Jacob et al. 2018)."""
    scale, zero = _cells(low.clamp_max(0.0), high.clamp_min(0.0), bits)
    zero.round_()
    return Grid(scale, scale.reciprocal(), zero, zero, 2**bits - 1, has_integer_zero=True)


def _cells(low: Tensor, high: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    """Width of a cell, and where 0.0 lies in cells from low."""
    scale = (high - low).div_(2**bits - 1).clamp_min_(1e-8)
    return scale, -low / scale


GRIDS = {"affine": affine_grid, "zero_point": zero_point_grid}


def encode(x: Tensor, grid: Grid) -> Tensor:
    """Codes of x, integer-valued float32 in [0, grid.top]; ties go to the even code."""
    return position(x, grid).round_().clamp_(0, grid.top)


def position(x: Tensor, grid: Grid) -> Tensor:
    """Where x lies on the grid, in codes, before rounding."""
    return (x * grid.inverse).add_(grid.zero)


def decode(codes: Tensor, grid: Grid) -> Tensor:
    """The values that codes stand for."""
    return (codes - grid.zero) * grid.scale


class Codes(NamedTuple):
    """A layer's integers, carried in float32."""

    weight: Tensor  # q_w [S, out, F], or [S, out, in, kh, kw]
    bias: Tensor  # q_b [S, out]
    scale: Tensor  # s [S, out]


def encode_layer(
    weight: Tensor, bias: Tensor, grid: Grid, *, bits: int, per_channel: bool, weight_range: str
) -> Codes:
    """Integers of a layer whose input lies on `grid`.

    Args:
        weight: [S, out, F] or [S, out, in, kh, kw] float32.
        bias: [S, out] float32.
        grid: of the layer's input.
        bits: of the weights; the codes lie in [-(2^(bits-1) - 1), 2^(bits-1) - 1], and at one
            bit are -1 and 1.
        per_channel: one scale per output unit; otherwise one per layer.
        weight_range: what the scale is taken from, of `ranges.SCALES`.
    """
    folded = weight.flatten(2) * grid.scale.flatten(2)
    scale = ranges.SCALES[weight_range](folded, bits, (-1,) if per_channel else (-2, -1))
    scale = torch.maximum(scale.squeeze(-1), bias_floor(bias, per_channel))
    scale = scale.clamp_min(1e-12).expand(bias.shape)
    scaled = folded.div_(scale.unsqueeze(-1))
    codes = ranges.round_weights(scaled, bits, can_clip=weight_range != "max")
    bias_codes = bias / scale
    if not grid.has_integer_zero:
        bias_codes -= (codes * (grid.zero - grid.centre).flatten(2)).sum(-1)
    return Codes(codes.view(weight.shape), bias_codes.round_(), scale)


def bias_floor(bias: Tensor, per_channel: bool) -> Tensor:
    """The least scales [S, out] or [S, 1] at which no bias [S, out] leaves `BIAS_CODE_LIMIT`."""
    floor = bias.abs() / BIAS_CODE_LIMIT
    return floor if per_channel else floor.amax(dim=-1, keepdim=True)


def apply(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    grid: Grid,
    codes: Codes,
    stride: Stride,
    saved: str = "codes",
) -> Tensor:
    """The layer's output with straight-through gradients; a stride makes it a convolution.

    `saved` is what backward keeps of the input: "codes", two bytes each and one where the input
    needs no gradient, or "floats". The gradients are the same.
    """
    if stride is None:
        linear: Tensor = FakeQuantLinear.apply(x, weight, bias, grid, codes, saved)  # type: ignore[no-untyped-call]
        return linear
    image: Tensor = FakeQuantConv2d.apply(x, weight, bias, grid, codes, stride, saved)  # type: ignore[no-untyped-call]
    return image


def _centred(raw: Tensor, grid: Grid, saved: str, needs_x: bool) -> tuple[Tensor, Tensor]:
    """Centred codes from those before clamping, which are used up, and what backward keeps.

    What is kept is enough to clamp anew and to know which codes were clamped.
    """
    top = grid.top
    if saved == "floats":
        return raw.clamp(0, top).sub_(grid.centre), raw
    if needs_x:
        kept = raw.clamp_(-1, top + 1).to(torch.int16)
    else:  # Straight from floats to bytes takes three times as long.
        kept = raw.clamp_(0, top).to(torch.int16).to(torch.uint8)
    return raw.clamp_(0, top).sub_(grid.centre), kept


def _straight_through(grad: Tensor, raw: Tensor, top: int) -> Tensor:
    """A gradient, in place: zero where `raw`, whole numbers, is clamped."""
    backward = torch.ops.aten.hardtanh_backward.grad_input
    return backward(grad, raw, -0.5, top + 0.5, grad_input=grad)


class FakeQuantLinear(torch.autograd.Function):
    """y = s ((q_x - c) q_w^T + q_b) with straight-through gradients.

    Backward treats rounding as the identity and clamping as itself: an input outside the
    grid's range receives no gradient (Bengio et al. 2013; Jacob et al. 2018).
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor,
        grid: Grid,
        codes: Codes,
        saved: str = "codes",
    ) -> Tensor:
        raw = position(x, grid).round_()
        centred, kept = _centred(raw, grid, saved, ctx.needs_input_grad[0])
        ctx.save_for_backward(kept, codes.weight, codes.scale, grid.scale, grid.zero, grid.centre)
        ctx.has_integer_zero, ctx.top = grid.has_integer_zero, grid.top
        return accumulate(centred, codes)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        kept, weight, scale, grid_scale, zero, centre = ctx.saved_tensors
        raw = kept.to(torch.float32, copy=True)  # Floats that are kept are not to be clamped.
        grad_x = grad_weight = grad_bias = None
        if ctx.needs_input_grad[0]:
            values = weight * (scale.unsqueeze(2) / grid_scale)  # of the weights
            grad_x = _straight_through(product.product(grad, values), raw, ctx.top)
        if ctx.needs_input_grad[1]:
            grad_bias = grad.sum(1)
            centred = raw.clamp_(0, ctx.top).sub_(centre)
            grad_weight = product.product(grad.mT, centred)  # [S, out, F]
            if not ctx.has_integer_zero:
                grad_weight -= grad_bias.unsqueeze(-1) * (zero - centre)
            grad_weight *= grid_scale
        return grad_x, grad_weight, grad_bias, None, None, None


class FakeQuantConv2d(torch.autograd.Function):
    """The same for convolutions."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor,
        grid: Grid,
        codes: Codes,
        stride: tuple[int, int],
        saved: str = "codes",
    ) -> Tensor:
        raw = position(x, grid).round_()
        centred, kept = _centred(raw, grid, saved, ctx.needs_input_grad[0])
        ctx.save_for_backward(kept, codes.weight, codes.scale, grid.scale, grid.zero, grid.centre)
        ctx.has_integer_zero, ctx.top, ctx.stride = grid.has_integer_zero, grid.top, stride
        return accumulate(centred, codes, stride)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        kept, codes, scale, grid_scale, zero, centre = ctx.saved_tensors
        needs_x, needs_weight = ctx.needs_input_grad[:2]
        raw = kept.to(torch.float32)
        centred = raw.clamp(0, ctx.top).sub_(centre)
        weight = codes * (scale[..., None, None, None] / grid_scale)  # the values of the weights
        pairs = [
            torch.ops.aten.convolution_backward(
                *members, None, ctx.stride, [0, 0], [1, 1], False, [0, 0], 1,
                [needs_x, needs_weight, False],
            )
            for members in zip(grad, centred, weight, strict=True)
        ]  # fmt: skip
        grad_x = grad_weight = grad_bias = None
        if needs_weight:
            grad_bias = grad.sum((1, 3, 4))
            grad_weight = layers.joined([pair[1] for pair in pairs])
            if not ctx.has_integer_zero:
                grad_weight -= grad_bias[..., None, None, None] * (zero - centre)
            grad_weight *= grid_scale
        if needs_x:
            grad_x = _straight_through(layers.joined([pair[0] for pair in pairs]), raw, ctx.top)
        return grad_x, grad_weight, grad_bias, None, None, None, None


def accumulate(centred: Tensor, codes: Codes, stride: Stride = None) -> Tensor:
    """The layer's output [S, B, out, ...] from centred input codes [S, B, ...]."""
    if stride is None:
        sums = product.affine(centred, codes.weight, codes.bias)
        scale = codes.scale.unsqueeze(1)
    else:
        members = zip(centred, codes.weight, codes.bias, strict=True)
        sums = layers.joined([F.conv2d(*member, stride=stride) for member in members])
        scale = codes.scale[:, None, :, None, None]
    # A learned scale's gradient is made of the sums.
    return sums * scale if scale.requires_grad else sums.mul_(scale)
