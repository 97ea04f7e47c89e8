"""Grids of codes: where they lie, and what lies on them."""

from typing import NamedTuple

import torch
from torch import Tensor


class Grid(NamedTuple):
    """An unsigned grid of 2^bits codes: x = scale (q - zero)."""

    scale: Tensor  # [S, 1, 1], [S, 1, F] with one range per feature, [S, 1, 1, 1, 1] of images
    inverse: Tensor  # 1 / scale
    zero: Tensor  # as scale; integer-valued, or real for the affine grid
    centre: Tensor  # zero rounded
    top: int  # 2^bits - 1
    has_integer_zero: bool
    is_compiled: bool = False  # made by compiled loops, which need not look at its tensors again

    @property
    def tensors(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Scale, inverse, zero and centre."""
        return self[:4]


class Codes(NamedTuple):
    """A layer's integers, carried in float32."""

    weight: Tensor  # q_w [S, out, F], or [S, out, in, kh, kw]
    bias: Tensor  # q_b [S, out]
    scale: Tensor  # s [S, out]


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
