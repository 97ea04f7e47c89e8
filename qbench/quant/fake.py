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

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from qbench import layers, product
from qbench.quant import kernels, ranges
from qbench.quant.grids import Codes, Grid, encode, position

Stride = tuple[int, int] | None
BIAS_CODE_LIMIT = 2**23
"""Scales are floored so that no bias code exceeds this; a dead channel would overflow int32."""


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
    made = Codes(codes.view(weight.shape), bias / scale, scale)
    if grid.has_integer_zero:
        made.bias.round_()
    else:
        fold_offset(grid, made)
    return made


def encode_compiled(
    low_high: Tensor, weight: Tensor, bias: Tensor, settings: kernels.Settings
) -> tuple[Grid, Codes]:
    """The grid of an input in [low, high], and `encode_layer` on it, by compiled loops."""
    grid, codes = kernels.encode_layer(low_high, weight, bias, settings)
    if settings.is_affine:
        fold_offset(grid, codes)
    return grid, codes


def fold_offset(grid: Grid, codes: Codes) -> None:
    """Round bias codes after their last term, that of an affine grid's offset, went into them."""
    offset = (grid.zero - grid.centre).flatten(2)
    codes.bias.sub_((codes.weight.flatten(2) * offset).sum(-1)).round_()


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


def centred_codes(x: Tensor, grid: Grid) -> Tensor:
    """`encode` less the grid's centre: what is multiplied by codes of weights."""
    if kernels.take_inputs(x, *grid.tensors):
        return kernels.encode(x, grid)
    return encode(x, grid).sub_(grid.centre)


def _centred(x: Tensor, grid: Grid, saved: str, needs_x: bool) -> tuple[Tensor, Tensor]:
    """Centred codes, and what backward keeps.

    What is kept is enough to clamp anew and to know which codes were clamped.
    """
    top = grid.top
    if saved == "codes" and kernels.take_inputs(x, *grid.tensors):
        kept = torch.empty_like(x, dtype=torch.int16 if needs_x else torch.uint8)
        return kernels.encode(x, grid, kept), kept
    raw = position(x, grid).round_()
    if saved == "floats":
        return raw.clamp(0, top).sub_(grid.centre), raw
    if needs_x:
        kept = raw.clamp_(-1, top + 1).to(torch.int16)
    else:  # Straight from floats to bytes takes three times as long.
        kept = raw.clamp_(0, top).to(torch.int16).to(torch.uint8)
    return raw.clamp_(0, top).sub_(grid.centre), kept


def _values(kept: Tensor, grid_scale: Tensor, zero: Tensor, top: int) -> Tensor:
    """What the codes stand for of which `kept` was kept."""
    if kernels.take_kept(kept, grid_scale, zero):
        return kernels.decode(kept, grid_scale, zero, top)
    return kept.to(torch.float32, copy=True).clamp_(0, top).sub_(zero).mul_(grid_scale)


def _straight_through(grad: Tensor, kept: Tensor, grid_scale: Tensor, top: int) -> Tensor:
    """The gradient by an input, in place, from that by its codes: zero where one was clamped."""
    is_alike = grad.shape == kept.shape and grad.stride() == kept.stride()
    if is_alike and kernels.take_kept(kept, grid_scale) and kernels.take(grad):
        return kernels.mask(grad, kept, grid_scale, top)
    backward = torch.ops.aten.hardtanh_backward.grad_input
    grad.mul_(grid_scale.reciprocal())
    return backward(grad, kept.to(torch.float32), -0.5, top + 0.5, grad_input=grad)


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
        centred, kept = _centred(x, grid, saved, ctx.needs_input_grad[0])
        ctx.save_for_backward(kept, codes.weight, codes.scale, grid.scale, grid.zero)
        ctx.top = grid.top
        return accumulate(centred, codes)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        kept, weight, scale, grid_scale, zero = ctx.saved_tensors
        grad_x = grad_weight = grad_bias = None
        if ctx.needs_input_grad[0]:
            product_of_codes = product.product(grad * scale.unsqueeze(1), weight)
            grad_x = _straight_through(product_of_codes, kept, grid_scale, ctx.top)
        if ctx.needs_input_grad[1]:
            grad_bias = grad.sum(1)
            grad_weight = product.product(grad.mT, _values(kept, grid_scale, zero, ctx.top))
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
        centred, kept = _centred(x, grid, saved, ctx.needs_input_grad[0])
        ctx.save_for_backward(kept, codes.weight, codes.scale, grid.scale, grid.zero)
        ctx.top, ctx.stride = grid.top, stride
        return accumulate(centred, codes, stride)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        kept, codes, scale, grid_scale, zero = ctx.saved_tensors
        needs_x, needs_weight = ctx.needs_input_grad[:2]
        values = _values(kept, grid_scale, zero, ctx.top)
        weight = codes * scale[..., None, None, None]
        grad_x, grad_weight = layers.convolution_gradients(
            grad, values, weight, ctx.stride, needs_x=needs_x, needs_weight=needs_weight
        )
        grad_bias = grad.sum((1, 3, 4)) if needs_weight else None
        if grad_x is not None:
            grad_x = _straight_through(grad_x, kept, grid_scale, ctx.top)
        return grad_x, grad_weight, grad_bias, None, None, None, None


def accumulate(centred: Tensor, codes: Codes, stride: Stride = None) -> Tensor:
    """The layer's output [S, B, out, ...] from centred input codes [S, B, ...]."""
    # A learned scale's gradient is made of the sums, and its codes' of theirs.
    has_gradient = torch.is_grad_enabled() and any(t.requires_grad for t in (centred, *codes))
    if stride is None and not has_gradient:
        sums = product.product(centred, codes.weight.mT)
        if kernels.take(sums, *codes):
            return kernels.finish(sums, codes.bias, codes.scale)
        return sums.add_(codes.bias.unsqueeze(1)).mul_(codes.scale.unsqueeze(1))
    if stride is None:
        sums = product.affine(centred, codes.weight, codes.bias)
        scale = codes.scale.unsqueeze(1)
    else:
        sums = layers.convolution(centred, codes.weight, codes.bias, stride)
        scale = codes.scale[:, None, :, None, None]
    return sums * scale if has_gradient else sums.mul_(scale)
