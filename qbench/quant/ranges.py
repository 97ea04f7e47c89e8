"""Where grids come from: scales of weights and ranges of activations, as pure functions."""

from collections.abc import Callable

import torch
from torch import Tensor

FRACTIONS = tuple(k / 20 for k in range(4, 21))
"""Shares of the whole range that a least-squares search tries."""

Dims = tuple[int, ...]


def largest_magnitude(weight: Tensor, bits: int, dims: Dims) -> Tensor:
    """The scale at which no weight is clipped: max |w| / (2^(bits-1) - 1).

    Args:
        weight: [S, out, F].
        bits: 2 or more.
        dims: axes that share a scale.

    Returns:
        [S, out, 1] or [S, 1, 1].
    """
    return weight.abs().amax(dims, keepdim=True) / (2 ** (bits - 1) - 1)


def least_squares_scale(weight: Tensor, bits: int, dims: Dims) -> Tensor:
    """The scale, of some shares of the largest, with the least squared error of the weights.

    Banner et al. (2019), https://arxiv.org/abs/1810.05723, by search instead of a model of the
    weights' distribution. Arguments as of `largest_magnitude`.
    """
    top, widest = 2 ** (bits - 1) - 1, largest_magnitude(weight, bits, dims).clamp_min(1e-12)

    def error(fraction: float) -> Tensor:
        scale = fraction * widest
        codes = (weight / scale).round_().clamp_(-top, top)
        return (codes * scale).sub_(weight).square_().sum(dims, keepdim=True)

    return widest * _best_fraction(error)


def mean_magnitude(weight: Tensor, bits: int, dims: Dims) -> Tensor:
    """The scale of binary (1 bit) and ternary (2 bits) weights.

    Binary: mean |w| (Rastegari et al. 2016, equation 6, https://arxiv.org/abs/1603.05279).
    Ternary: mean of the |w| above 0.7 mean |w| (Li et al. 2016, equations 5 and 6,
    https://arxiv.org/abs/1605.04711). Arguments as of `largest_magnitude`.
    """
    magnitude = weight.abs()
    mean = magnitude.mean(dims, keepdim=True)
    if bits == 1:
        return mean
    above = magnitude > 0.7 * mean
    return (magnitude * above).sum(dims, keepdim=True) / above.sum(dims, keepdim=True).clamp_min(1)


SCALES: dict[str, Callable[[Tensor, int, Dims], Tensor]] = {
    "max": largest_magnitude,
    "mse": least_squares_scale,
    "mean": mean_magnitude,
}


def round_weights(scaled: Tensor, bits: int, *, can_clip: bool) -> Tensor:
    """Codes of weights in units of their scale, symmetric, in place; -1 and 1 at one bit."""
    if bits == 1:
        return torch.where(scaled >= 0, 1.0, -1.0)
    top = 2 ** (bits - 1) - 1
    return scaled.round_().clamp_(-top, top) if can_clip else scaled.round_()


def percentiles(x: Tensor, percentile: float) -> Tensor:
    """The values between which lie all but the outermost at either end.

    Args:
        x: [S, ...].
        percentile: in (50, 100], of the upper end; the lower one is at 100 minus it.

    Returns:
        [S, 2].
    """
    ends = x.new_full((2,), percentile / 100)
    ends[:1].fill_(1 - percentile / 100)
    # One seed at a time: torch.quantile takes at most 16 million numbers.
    return torch.stack([torch.quantile(row, ends) for row in x.flatten(1)])


def least_squares_range(x: Tensor, bits: int) -> Tensor:
    """The range, of some shares of [min, max], with the least squared error of its grid.

    Args:
        x: [S, ...].
        bits: of the grid.

    Returns:
        [S, 2].
    """
    rows = x.flatten(1)
    ends = torch.stack((rows.amin(1), rows.amax(1)), 1)
    low, high = ends[:, :1].clamp_max(0.0), ends[:, 1:].clamp_min(0.0)
    width = (high - low).clamp_min(1e-12)

    def error(fraction: float) -> Tensor:
        scale = fraction * width / (2**bits - 1)
        zero = (-fraction * low / scale).round_()
        codes = (rows / scale + zero).round_().clamp_(0, 2**bits - 1)
        return (codes - zero).mul_(scale).sub_(rows).square_().sum(1, keepdim=True)

    return ends * _best_fraction(error)


def _best_fraction(error: Callable[[float], Tensor]) -> Tensor:
    """Elementwise the fraction of least error; the largest of equals."""
    fractions = sorted(FRACTIONS, reverse=True)
    best = torch.full_like(least := error(fractions[0]), fractions[0])
    for fraction in fractions[1:]:
        found = error(fraction)
        best = torch.where(found < least, fraction, best)
        least = torch.minimum(found, least)
    return best
