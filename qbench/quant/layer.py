"""The quantized layer, linear or convolutional, and its range."""

import copy
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor, nn

from qbench import layers
from qbench.quant import fake

MOMENTUM = 0.01  # weight of the newest minibatch, torch.ao's MovingAverageMinMaxObserver
WIDENED = 2**-12  # of its width, at either end


@dataclass(frozen=True, kw_only=True)
class LayerSpec:
    """How one layer is quantized."""

    weight_bits: int
    input_bits: int
    per_channel: bool  # one weight scale per output unit
    per_feature: bool  # one input range per feature
    range: str  # min_max | moving_average | unit: [0, 1] for good
    grid: str  # zero_point | affine


class QuantLayer(layers.Seeded):
    """A layer on quantized inputs, weights and biases (`qbench.quant.fake`).

    The input's range moves in train mode with gradients on, and nowhere else. Codes are cached
    from one such forward to the next, and until the mode is set anew: whoever changes weights
    sets the mode before the next forward (an optimizer writes past autograd's version counters).

    Args:
        layer: whose Parameters are taken over, a `layers.Linear` or `layers.Conv2d`.
        spec: how it is quantized.
    """

    input_range: Tensor  # low and high: [S, 2, F], [S, 2, 1] or [S, 2, 1, 1, 1]; unseen: inf, -inf

    def __init__(self, layer: layers.Seeded, spec: LayerSpec) -> None:
        super().__init__(layer.weight, layer.bias)
        self.spec = spec
        self.stride: tuple[int, int] | None = getattr(layer, "stride", None)
        num_seeds, _, *rest = layer.weight.shape
        low_high = (0.0, 1.0) if spec.range == "unit" else (float("inf"), float("-inf"))
        shape = rest if spec.per_feature else [1] * len(rest)
        pair = layer.weight.new_tensor(low_high).view(1, 2, *[1] * len(rest))
        self.register_buffer("input_range", pair.repeat(num_seeds, 1, *shape))
        self._cached: tuple[fake.Grid, fake.Codes] | None = None

    def train(self, mode: bool = True) -> Self:
        """Set the mode; the cached codes are dropped."""
        self._cached = None
        return super().train(mode)

    def forward(self, x: Tensor) -> Tensor:
        """[S, B, ...] -> [S, B, out, ...]."""
        is_learning = self.training and torch.is_grad_enabled()
        if is_learning:
            self._observe(x.detach())
            self._cached = self._encode()
        grid, codes = self.codes()
        if is_learning or (x.requires_grad and torch.is_grad_enabled()):
            # In eval mode too: an actor learns through a frozen critic.
            return fake.apply(x, self.weight, self.bias, grid, codes, self.stride)
        return fake.accumulate(fake.encode(x, grid).sub_(grid.centre), codes, self.stride)

    def codes(self) -> tuple[fake.Grid, fake.Codes]:
        """The input's grid and the layer's integers as they stand."""
        if self._cached is None:
            self._cached = self._encode()
        return self._cached

    def cached_tensors(self) -> list[Tensor]:
        """What eval mode keeps beside the parameters, for the memory ledger."""
        grid, codes = self.codes()
        scale = codes.scale[:, :1] if not self.spec.per_channel else codes.scale
        zeros = [grid.zero] if grid.has_integer_zero else [grid.zero, grid.centre]
        return [grid.scale, *zeros, codes.weight, codes.bias, scale]

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        self._cached = None
        super()._load_from_state_dict(*args, **kwargs)

    @torch.no_grad()
    def _encode(self) -> tuple[fake.Grid, fake.Codes]:
        low, high = self.input_range[:, :1], self.input_range[:, 1:]
        unseen = low > high
        low, high = low.masked_fill(unseen, -1.0), high.masked_fill(unseen, 1.0)
        is_hidden = not self.spec.per_feature and self.spec.range != "unit"
        if is_hidden and self.spec.grid == "zero_point":
            # The end of a range is often an accumulator's very value, and its multiples then lie
            # on rounding ties, where integers and floats part.
            margin = (high - low).mul_(WIDENED)
            low, high = low - margin, high + margin
        grid = fake.GRIDS[self.spec.grid](low, high, self.spec.input_bits)
        spec = self.spec
        codes = fake.encode_layer(
            self.weight, self.bias, grid, bits=spec.weight_bits, per_channel=spec.per_channel
        )
        return grid, codes

    @torch.no_grad()
    def _observe(self, x: Tensor) -> None:
        """Move the range by one minibatch [S, B, ...]."""
        if self.spec.range == "unit":
            return
        dims = 1 if self.spec.per_feature else tuple(range(1, x.ndim))
        old = self.input_range
        seen = torch.stack((x.amin(dims), x.amax(dims)), 1).view_as(old)
        # A diverged seed's activations must not reach its range: it is frozen as it was.
        seen = torch.where(seen.sum(1, keepdim=True).isfinite(), seen, old)
        if self.spec.range == "moving_average":
            # The first minibatch is taken whole: the range is then still empty (infinite).
            old.copy_(torch.where(old.isinf(), seen, torch.lerp(old, seen, MOMENTUM)))
        else:
            torch.minimum(old[:, :1], seen[:, :1], out=old[:, :1])
            torch.maximum(old[:, 1:], seen[:, 1:], out=old[:, 1:])

    def take_seed(self, k: int) -> nn.Module:
        """Seed k's layer as a population of one with its own copies."""
        taken = copy.copy(self)
        tensors = {**self._parameters, **self._buffers}
        row = {name: t[k : k + 1].detach().clone() for name, t in tensors.items() if t is not None}
        taken._parameters = {name: nn.Parameter(row[name]) for name in self._parameters}
        taken._buffers = {name: row[name] for name in self._buffers}
        return taken.train(self.training)
