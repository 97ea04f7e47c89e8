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

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from qbench import convolution, product
from qbench.dense import refuse_second_derivatives, take_place, through_relu
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


class Link(NamedTuple):
    """A linear layer of a row."""

    codes_at: Callable[[Tensor], tuple[Grid, Codes]]  # inputs [S, B, in], which it may learn from
    has_relu: bool  # behind it
    saved: str  # as of `apply`


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
        link = Link(lambda _: (grid, codes), has_relu=False, saved=saved)
        return linears(x, [link], weight, bias)
    image: Tensor = FakeQuantConv2d.apply(x, weight, bias, grid, codes, stride, saved)  # type: ignore[no-untyped-call]
    return image


def linears(x: Tensor, links: Sequence[Link], *parameters: Tensor) -> Tensor:
    """Linear layers one after the other as one node of autograd's graph.

    Args:
        x: [S, B, in], row by row.
        links: the layers.
        parameters: weight [S, out, in] and bias [S, out] of each.

    Returns:
        [S, B, out] with straight-through gradients.
    """
    rows: Tensor = FakeQuantLinears.apply(links, x, *parameters)  # type: ignore[no-untyped-call]
    return rows


@torch.no_grad()
def infer(x: Tensor, links: Sequence[Link]) -> Tensor:
    """As `linears`, without gradients."""
    for link in links:
        grid, codes = link.codes_at(x)
        x = _linear(centred_codes(x, grid), codes, has_relu=link.has_relu)
    return x


def centred_codes(x: Tensor, grid: Grid) -> Tensor:
    """`encode` less the grid's centre: what is multiplied by codes of weights."""
    if kernels.take_inputs(x, grid):
        return kernels.encode(x, grid)
    return encode(x, grid).sub_(grid.centre)


def _centred(x: Tensor, grid: Grid, saved: str, needs_x: bool) -> tuple[Tensor, Tensor]:
    """Centred codes, and what backward keeps.

    What is kept is enough to clamp anew and to know which codes were clamped.
    """
    top = grid.top
    if saved == "codes" and kernels.take_inputs(x, grid):
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


def _straight_through(
    grad: Tensor, kept: Tensor, grid_scale: Tensor, top: int, relu: Tensor | None = None
) -> Tensor:
    """The gradient by an input, in place, from that by its codes: zero where one was clamped.

    Where the input is what a ReLU gave, `relu`, it is the gradient by what that got.
    """
    is_alike = grad.shape == kept.shape and grad.stride() == kept.stride()
    if is_alike and kernels.take_kept(kept, grid_scale) and kernels.take(grad):
        return kernels.mask(grad, kept, grid_scale, top, relu)
    backward = torch.ops.aten.hardtanh_backward.grad_input
    grad.mul_(grid_scale.reciprocal())
    grad = backward(grad, kept.to(torch.float32), -0.5, top + 0.5, grad_input=grad)
    return grad if relu is None else through_relu(grad, relu, is_ours=True)


class _Saved(NamedTuple):
    """What backward needs of a linear layer."""

    kept: Tensor  # of the input, by `_centred`
    weight: Tensor  # codes
    scale: Tensor
    grid_scale: Tensor
    zero: Tensor
    relu: Tensor | None  # what the ReLU behind it gave
    parameter: Tensor  # the weight itself, whose gradient may have a place

    def by_input(self, by_output: Tensor, top: int, relu: Tensor | None) -> Tensor:
        """The gradient by the input, or by what came into the ReLU that gave it."""
        by_codes = product.product(by_output * self.scale.unsqueeze(1), self.weight)
        return _straight_through(by_codes, self.kept, self.grid_scale, top, relu)

    def by_weight(self, by_output: Tensor, top: int) -> Tensor:
        """The gradient by the weight, where `place_gradient` wants it."""
        values = _values(self.kept, self.grid_scale, self.zero, top)
        return product.product(by_output.mT, values, out=take_place(self.parameter))


class FakeQuantLinears(torch.autograd.Function):
    """y = s ((q_x - c) q_w^T + q_b), layer by layer, with straight-through gradients.

    Backward treats rounding as the identity and clamping as itself: an input outside the
    grid's range receives no gradient (Bengio et al. 2013; Jacob et al. 2018).
    """

    @staticmethod
    def forward(ctx: Any, links: Sequence[Link], x: Tensor, *parameters: Tensor) -> Tensor:
        saved: list[Tensor | None] = []
        ctx.tops = []
        for k, link in enumerate(links):
            grid, codes = link.codes_at(x)
            centred, kept = _centred(x, grid, link.saved, k > 0 or ctx.needs_input_grad[1])
            x = _linear(centred, codes, has_relu=link.has_relu)
            relu = x if link.has_relu else None
            tensors = kept, codes.weight, codes.scale, grid.scale, grid.zero
            saved += _Saved(*tensors, relu, parameters[2 * k])
            ctx.tops.append(grid.top)
        ctx.save_for_backward(*saved)
        return x

    @staticmethod
    def backward(ctx: Any, by_output: Tensor) -> tuple[Tensor | None, ...]:
        refuse_second_derivatives()
        _, needs_x, *needs = ctx.needs_input_grad
        tensors, size = ctx.saved_tensors, len(_Saved._fields)
        saved = [_Saved(*tensors[at : at + size]) for at in range(0, len(tensors), size)]
        grads: list[Tensor | None] = []
        relu = saved[-1].relu
        if relu is not None:
            by_output = through_relu(by_output, relu, is_ours=False)
        for k, top in reversed(list(enumerate(ctx.tops))):
            by_bias = by_output.sum(1) if needs[2 * k + 1] else None
            by_weight = saved[k].by_weight(by_output, top) if needs[2 * k] else None
            grads = [by_weight, by_bias, *grads]
            if k > 0 or needs_x:
                relu = saved[k - 1].relu if k > 0 else None
                by_output = saved[k].by_input(by_output, top, relu)
        return None, by_output if needs_x else None, *grads


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
        grad_x, grad_weight = convolution.gradients(
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
        return _linear(centred, codes, has_relu=False)
    if stride is None:
        sums = product.affine(centred, codes.weight, codes.bias)
        scale = codes.scale.unsqueeze(1)
    else:
        sums = convolution.convolution(centred, codes.weight, codes.bias, stride)
        scale = codes.scale[:, None, :, None, None]
    return sums * scale if has_gradient else sums.mul_(scale)


def _linear(centred: Tensor, codes: Codes, *, has_relu: bool) -> Tensor:
    """The output [S, B, out] of a linear layer and perhaps a ReLU, without gradient."""
    sums = product.product(centred, codes.weight.mT)
    if kernels.take(sums, *codes):
        return kernels.finish(sums, codes.bias, codes.scale, has_relu=has_relu)
    sums.add_(codes.bias.unsqueeze(1)).mul_(codes.scale.unsqueeze(1))
    return sums.relu_() if has_relu else sums
