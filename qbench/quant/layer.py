"""The quantized layer, linear or convolutional, and its range."""

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self, cast

import torch
from torch import Tensor, nn

from qbench import layers
from qbench.convolution import in_fastest_order
from qbench.quant import fake, grids, kernels, ranges

MOMENTUM = 0.01  # weight of the newest minibatch, torch.ao's MovingAverageMinMaxObserver
WIDENED = 2**-12  # of its width, at either end


@dataclass(frozen=True, kw_only=True)
class LayerSpec:
    """How one layer is quantized."""

    weight_bits: int
    input_bits: int
    per_channel: bool  # one weight scale per output unit
    weight_range: str  # of `ranges.SCALES`, or learned
    per_feature: bool  # one input range per feature
    range: str  # unit: [0, 1] for good | min_max | of `RANGES` | learned | clipped
    percentile: float  # of range=percentile
    grid: str  # zero_point | affine

    @property
    def is_learned(self) -> bool:
        """Whether the optimizer moves a scale of the layer."""
        return self.weight_range == "learned" or self.range in ("learned", "clipped")


RANGES = ("moving_average", "percentile", "mse")
"""Moving averages over minibatches, of their extremes, percentiles or least-squares ranges."""
COMPILED_RANGES = ("min_max", "moving_average")  # what `kernels.observe` knows


class QuantLayer(layers.Seeded):
    """A layer on quantized inputs, weights and biases (`qbench.quant.fake`).

    The input's range moves in train mode with gradients on, and nowhere else. Codes are cached
    from one such forward to the next, and until the mode is set anew: whoever changes weights
    sets the mode before the next other forward (an optimizer writes past autograd's version
    counters).
    `set_phase` makes it a float layer, or one whose range stands still.

    Args:
        layer: whose Parameters are taken over, a `layers.Linear` or `layers.Conv2d`.
        spec: how it is quantized.
    """

    saved = "codes"
    """What backward keeps of inputs, "codes" or "floats" (`fake.apply`)."""

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
        self.momentum = MOMENTUM
        self.is_quantizing, self.is_frozen = True, False
        # A subclass may make its grid or its range in another way than compiled loops do.
        is_plain = type(self) is QuantLayer
        self._settings = _settings(spec) if is_plain else None
        self._has_compiled_range = is_plain and spec.range in COMPILED_RANGES
        self._cached: tuple[grids.Grid, grids.Codes] | None = None

    def set_phase(self, *, is_quantizing: bool, is_frozen: bool) -> None:
        """Whether the layer quantizes, and whether its range has stopped moving."""
        if (is_quantizing, is_frozen) != (self.is_quantizing, self.is_frozen):
            self.is_quantizing, self.is_frozen = is_quantizing, is_frozen
            self._cached = None

    def train(self, mode: bool = True) -> Self:
        """Set the mode; the cached codes are dropped."""
        self._cached = None
        return super().train(mode)

    def forward(self, x: Tensor) -> Tensor:
        """[S, B, ...] -> [S, B, out, ...]."""
        is_learning = self.training and torch.is_grad_enabled()
        if self.is_quantizing:
            # Compiled loops take dense rows, which those of the replay are not.
            x = x.contiguous() if self.stride is None else in_fastest_order(x)
        if is_learning and not self.is_frozen:
            self._observe(x.detach())
        if not self.is_quantizing:
            return layers.apply(x, self.weight, self.bias, self.stride)
        return self._learn(x) if is_learning else self._infer(x)

    @property
    def joins(self) -> bool:
        return type(self) is QuantLayer and self.stride is None and self.is_quantizing

    @classmethod
    def in_a_row(
        cls, row: Sequence[layers.Seeded], relus: Sequence[bool], x: Tensor
    ) -> Tensor | None:
        members = cast("Sequence[QuantLayer]", row)
        is_training = members[0].training
        if any(m.training != is_training for m in members):
            return None
        is_learning = is_training and torch.is_grad_enabled()
        links = [
            fake.Link(
                m._codes_in_training if is_learning else m._codes_as_they_stand, has_relu, m.saved
            )
            for m, has_relu in zip(members, relus, strict=True)
        ]
        x = x.contiguous()
        if is_learning or (x.requires_grad and torch.is_grad_enabled()):
            return fake.linears(x, links, *layers.parameters_of(row))
        return fake.infer(x, links)

    def _codes_in_training(self, x: Tensor) -> tuple[grids.Grid, grids.Codes]:
        """What a forward of `x` learns on; its range moves first."""
        if not self.is_frozen:
            self._observe(x)
        self._cached = self._encode()
        return self._cached

    def _codes_as_they_stand(self, _: Tensor) -> tuple[grids.Grid, grids.Codes]:
        """What any other forward takes."""
        return self.codes()

    def _learn(self, x: Tensor) -> Tensor:
        """The output in training, on codes that are made anew."""
        self._cached = grid, codes = self._encode()
        return fake.apply(x, self.weight, self.bias, grid, codes, self.stride, self.saved)

    def _infer(self, x: Tensor) -> Tensor:
        """The output by the codes as they stand."""
        grid, codes = self.codes()
        if x.requires_grad and torch.is_grad_enabled():  # An actor learns through a frozen critic.
            return fake.apply(x, self.weight, self.bias, grid, codes, self.stride, self.saved)
        return fake.accumulate(fake.centred_codes(x, grid), codes, self.stride)

    def codes(self) -> tuple[grids.Grid, grids.Codes]:
        """The input's grid and the layer's integers as they stand."""
        if self._cached is None:
            self._cached = self._encode()
        return self._cached

    def latest_codes(self, known: Tensor | None) -> tuple[grids.Grid, grids.Codes]:
        """As `codes`, in either mode: made anew unless their scale is still the one `known`.

        A forward in training leaves others, of the weights before the update that it was for.
        """
        if self._cached is not None and self._cached[1].scale is not known:
            self._cached = None
        return self.codes()

    def cached_tensors(self) -> list[Tensor]:
        """What eval mode keeps beside the parameters, for the memory ledger."""
        if not self.is_quantizing:
            return []
        grid, codes = self.codes()
        scale = codes.scale[:, :1] if not self.spec.per_channel else codes.scale
        zeros = [grid.zero] if grid.has_integer_zero else [grid.zero, grid.centre]
        return [grid.scale, *zeros, codes.weight, codes.bias, scale]

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        self._cached = None
        super()._load_from_state_dict(*args, **kwargs)

    def _encode(self) -> tuple[grids.Grid, grids.Codes]:
        low_high, weight, bias = self.input_range, self.weight, self.bias
        if self._settings and kernels.take(low_high) and kernels.take_strided(weight, bias):
            return fake.encode_compiled(low_high, weight, bias, self._settings)
        spec = self.spec
        with torch.no_grad():
            grid = self._grid()
            codes = fake.encode_layer(
                weight,
                bias,
                grid,
                bits=spec.weight_bits,
                per_channel=spec.per_channel,
                weight_range=spec.weight_range,
            )
        return grid, codes

    def _grid(self) -> grids.Grid:
        """The input's grid, from its range."""
        low, high = self.input_range[:, :1], self.input_range[:, 1:]
        low, high = low.nan_to_num(math.nan, -1.0), high.nan_to_num(math.nan, None, 1.0)  # unseen
        widened = _widened(self.spec)
        if widened:
            margin = (high - low).mul_(widened)
            low, high = low - margin, high + margin
        return grids.GRIDS[self.spec.grid](low, high, self.spec.input_bits)

    def _observe(self, x: Tensor) -> None:
        """Move the range by one minibatch [S, B, ...]."""
        if self.spec.range == "unit":
            return
        if self._has_compiled_range and kernels.take_observed(x, self.input_range):
            is_average = self.spec.range == "moving_average"
            kernels.observe(x, self.input_range, is_average=is_average, momentum=self.momentum)
        else:
            self._observe_plainly(x)

    @torch.no_grad()
    def _observe_plainly(self, x: Tensor) -> None:
        old = self.input_range
        seen = self._seen(x).view_as(old)
        # A diverged seed's activations must not reach its range: it is frozen as it was.
        seen = torch.where(seen.sum(1, keepdim=True).isfinite(), seen, old)
        if self.spec.range in RANGES:
            # The first minibatch is taken whole: the range is then still empty (infinite).
            old.copy_(torch.where(old.isinf(), seen, (seen - old).mul_(self.momentum).add_(old)))
        else:
            torch.minimum(old[:, :1], seen[:, :1], out=old[:, :1])
            torch.maximum(old[:, 1:], seen[:, 1:], out=old[:, 1:])

    def _seen(self, x: Tensor) -> Tensor:
        """The range of one minibatch, [S, 2] or [S, 2, F]."""
        if self.spec.range == "percentile":
            return ranges.percentiles(x, self.spec.percentile)
        if self.spec.range == "mse":
            return ranges.least_squares_range(x, self.spec.input_bits)
        if self.spec.per_feature:
            return torch.stack(torch.aminmax(x, dim=1), 1)
        dims = tuple(range(1, x.ndim))  # aminmax takes one; to flatten for it is slower
        return torch.stack((x.amin(dims), x.amax(dims)), 1)

    def take_seed(self, k: int) -> nn.Module:
        """Seed k's layer as a population of one with its own copies."""
        taken = copy.copy(self)

        def row(tensor: Tensor | None) -> Tensor | None:
            return None if tensor is None else tensor[k : k + 1].detach().clone()

        taken._buffers = {name: row(tensor) for name, tensor in self._buffers.items()}
        taken._parameters = {
            name: None if (own := row(tensor)) is None else nn.Parameter(own)
            for name, tensor in self._parameters.items()
        }
        return taken.train(self.training)


def _widened(spec: LayerSpec) -> float:
    """Share of its width by which a range is widened at either end.

    The end of a range is often an accumulator's very value, and its multiples then lie
    on rounding ties, where integers and floats part.
    """
    is_hidden = not spec.per_feature and spec.range != "unit"
    return WIDENED if is_hidden and spec.grid == "zero_point" else 0.0


def _settings(spec: LayerSpec) -> kernels.Settings | None:
    """What compiled loops need to know; None if they know no such scale."""
    if spec.weight_range != "max":
        return None
    return kernels.Settings(
        widened=_widened(spec),
        is_affine=spec.grid == "affine",
        input_top=2**spec.input_bits - 1,
        top=2 ** (spec.weight_bits - 1) - 1,
        bias_code_limit=fake.BIAS_CODE_LIMIT,
        per_channel=spec.per_channel,
    )
