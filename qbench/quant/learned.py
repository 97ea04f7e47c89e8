"""Scales that the optimizer moves: learned step sizes, and learned clipping."""

from typing import Any

import torch
from torch import Tensor, nn

from qbench import layers
from qbench.quant import fake, grids, ranges
from qbench.quant.layer import LayerSpec, QuantLayer

CLIP_DECAY = 1e-4
"""Weight of the squared clipping level in the loss, which pulls it down (Choi et al. 2018)."""


class LearnedLayer(QuantLayer):
    """A quantized layer whose input's or weights' step is a Parameter.

    `learned`: LSQ, with its start 2 mean |v| / sqrt(top) and its gradient's scale
    1 / sqrt(count top) (Esser et al. 2020, https://arxiv.org/abs/1902.08153). `clipped`: PACT,
    where only values beyond the end of the grid move it, and a decay pulls it down (Choi et al.
    2018, equation 3, https://arxiv.org/abs/1805.06085). What is stored is the step's natural
    logarithm, so that Adam moves it by a share of itself (Jain et al. 2020, section 3.2,
    https://arxiv.org/abs/1903.08066).

    The grid's zero is 0 where the first minibatch holds nothing below it, else the middle.
    Until a minibatch was seen, and as long as the layer does not quantize, steps start anew.
    A count is the inputs of one unit for the input's step, its weights for the weights'.
    """

    input_step: nn.Parameter | None  # log step [S, 1, 1] or [S, 1, 1, 1, 1]
    weight_step: nn.Parameter | None  # log step [S, out] or [S, 1]

    def __init__(self, layer: layers.Seeded, spec: LayerSpec) -> None:
        super().__init__(layer, spec)
        num_seeds, out, *rest = layer.weight.shape
        has_input_step = spec.range in ("learned", "clipped")
        shape = (num_seeds, *[1] * (len(rest) + 1))
        step = nn.Parameter(layer.weight.new_zeros(shape)) if has_input_step else None
        self.register_parameter("input_step", step)
        is_learned = spec.weight_range == "learned"
        start = layer.weight.new_zeros(num_seeds, out if spec.per_channel else 1)
        self.register_parameter("weight_step", nn.Parameter(start) if is_learned else None)
        if self.weight_step is not None:
            self.weight_step.data.copy_(self._weight_start(self.weight.detach().flatten(2)))

    def _observe(self, x: Tensor) -> None:
        """Start the steps of seeds that have none yet; other ranges move as ever."""
        unseen = (self.input_range[:, 0] > self.input_range[:, 1]).flatten(1).any(1)
        starts = unseen if self.is_quantizing else torch.ones_like(unseen)
        if self.input_step is None:
            super()._observe(x)
        elif x.is_cuda or bool(unseen.any()):  # On a GPU the work is cheaper than the wait.
            self._see_sign(x)
        if x.is_cuda or bool(starts.any()):
            self._start(x, starts & x.flatten(1).sum(1).isfinite())

    @torch.no_grad()
    def _see_sign(self, x: Tensor) -> None:
        """The first minibatch's range, whose sign places the grid's zero."""
        unseen = self.input_range[:, :1] > self.input_range[:, 1:]
        rows = x.flatten(1)
        seen = torch.stack((rows.amin(1), rows.amax(1)), 1).view_as(self.input_range)
        is_usable = unseen & seen.sum(1, keepdim=True).isfinite()
        self.input_range.copy_(torch.where(is_usable, seen, self.input_range))

    @torch.no_grad()
    def _start(self, x: Tensor, starts: Tensor) -> None:
        """Set the steps of the seeds `starts` [S] from a minibatch."""
        top = 2**self.spec.input_bits - 1
        if self.input_step is not None:
            if self.spec.range == "clipped":
                step = x.flatten(1).abs().amax(1) / (top - self._zero().flatten())
            else:
                step = 2 * x.flatten(1).abs().mean(1) / top**0.5
            _set(self.input_step, step.clamp_min(1e-8).log().view_as(self.input_step), starts)
        if self.weight_step is not None:
            folded = self.weight.flatten(2) * _relative(self._grid())
            _set(self.weight_step, self._weight_start(folded), starts)

    def _weight_start(self, folded: Tensor) -> Tensor:
        dims = (-1,) if self.spec.per_channel else (-2, -1)
        top = 2 ** (self.spec.weight_bits - 1) - 1
        step = 2 * folded.abs().mean(dims) / top**0.5
        return step.clamp_min(1e-8).log().view(len(folded), -1)

    def _zero(self) -> Tensor:
        middle = float(2 ** (self.spec.input_bits - 1))
        return (self.input_range[:, :1] < 0).float() * middle

    def _learn(self, x: Tensor) -> Tensor:
        grid = self._grid()
        if self.spec.range == "clipped":
            x, grid = _clipped(x, grid), _without_gradient(grid)
        codes = self._codes(grid)
        self._cached = _without_gradient(grid), grids.Codes(*(t.detach() for t in codes))
        centred = _round(x * grid.inverse + grid.zero).clamp(0, grid.top) - grid.centre
        return fake.accumulate(centred, codes, self.stride)

    @torch.no_grad()
    def _encode(self) -> tuple[grids.Grid, grids.Codes]:
        grid = self._grid()
        return grid, self._codes(grid)

    def _grid(self) -> grids.Grid:
        if self.input_step is None:
            return super()._grid()
        top = 2**self.spec.input_bits - 1
        step: Tensor = self.input_step
        if self.spec.range == "learned":
            step = _gradient_scaled(step, (self.weight[0, 0].numel() * top) ** -0.5)
        scale, zero = step.exp(), self._zero()
        return grids.Grid(scale, scale.reciprocal(), zero, zero, top, has_integer_zero=True)

    def _codes(self, grid: grids.Grid) -> grids.Codes:
        """The layer's integers, by operations that have gradients."""
        spec, mean_scale = self.spec, grid.scale.flatten(1).mean(1, keepdim=True)  # [S, 1]
        folded = self.weight.flatten(2) * _relative(grid)
        step = self._weight_step(folded)
        floor = fake.bias_floor(self.bias.detach(), spec.per_channel) / mean_scale.detach()
        step = torch.maximum(step, floor).clamp_min(1e-12)  # [S, out] or [S, 1]
        scaled = folded / step.unsqueeze(-1)
        if self.weight_step is not None:
            top = 2 ** (spec.weight_bits - 1) - 1
            weight = _round(scaled).clamp(-top, top)
        else:
            copied = scaled.detach().clone()
            codes = ranges.round_weights(copied, spec.weight_bits, can_clip=True)
            weight = _straight_through(scaled, codes)
        scale = (step * mean_scale).expand(self.bias.shape)
        bias = self.bias / scale
        if not grid.has_integer_zero:
            bias = bias - (weight * (grid.zero - grid.centre).flatten(2)).sum(-1)
        return grids.Codes(weight.view(self.weight.shape), _round(bias), scale)

    def _weight_step(self, folded: Tensor) -> Tensor:
        spec = self.spec
        if self.weight_step is None:
            dims = (-1,) if spec.per_channel else (-2, -1)
            scale = ranges.SCALES[spec.weight_range](folded.detach(), spec.weight_bits, dims)
            return scale.squeeze(-1)
        count = self.weight[0].numel() // self.weight_step.shape[1]
        top = 2 ** (spec.weight_bits - 1) - 1
        return _gradient_scaled(self.weight_step, (count * top) ** -0.5).exp()


def _relative(grid: grids.Grid) -> Tensor:
    """Scales of the input's features over their mean, [S, 1, F] or [S, 1, 1]; without gradient."""
    scale = grid.scale.detach().flatten(2)
    return scale / scale.mean(-1, keepdim=True)


def _clipped(x: Tensor, grid: grids.Grid) -> Tensor:
    """Values within their grid; the gradient of what lies beyond an end belongs to that end."""
    scale: Tensor = _Decayed.apply(grid.scale)  # type: ignore[no-untyped-call]
    high = torch.minimum(x, (grid.top - grid.zero) * scale)
    return torch.maximum(high, -grid.zero * scale)


def _set(parameter: nn.Parameter, value: Tensor, where: Tensor) -> None:
    where = where.view(-1, *[1] * (parameter.ndim - 1))
    parameter.data.copy_(torch.where(where, value, parameter.data))


def _without_gradient(grid: grids.Grid) -> grids.Grid:
    return grid._replace(scale=grid.scale.detach(), inverse=grid.inverse.detach())


class _StraightThrough(torch.autograd.Function):
    """Values given, with the gradient of what they stand for."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, values: Tensor) -> Tensor:
        return values.view_as(values)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad, None


def _straight_through(x: Tensor, values: Tensor) -> Tensor:
    passed: Tensor = _StraightThrough.apply(x, values)  # type: ignore[no-untyped-call]
    return passed


def _round(x: Tensor) -> Tensor:
    return _straight_through(x, x.detach().round())


def _gradient_scaled(x: Tensor, share: float) -> Tensor:
    scaled: Tensor = _ScaledGradient.apply(x, share)  # type: ignore[no-untyped-call]
    return scaled


class _ScaledGradient(torch.autograd.Function):
    """x, with a scaled gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: float) -> Tensor:
        ctx.scale = scale
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad * ctx.scale, None


class _Decayed(torch.autograd.Function):
    """x, with the gradient of CLIP_DECAY x^2 added."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return grad + 2 * CLIP_DECAY * x
