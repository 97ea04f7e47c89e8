"""A target network that is stored in int8."""

import torch
from torch import Tensor, nn

from qbench import layers
from qbench.quant import fake, grids
from qbench.quant.layer import QuantLayer

TOP = 127
"""Codes lie in [-127, 127], so that -w and w round alike."""


class StoredTarget:
    """A copy of a network that follows it, its weights as int8 codes; it only takes it whole.

    Of a quantized layer the codes are its own, and the copy computes the same bits. Those of a
    float one are w / s rounded, with s = max |w| / 127 per output unit.

    Args:
        online: network with a seed axis.
    """

    def __init__(self, online: nn.Module) -> None:
        self.network = layers.swap_layers(online, _stored).eval()
        self._online = online
        self._take()

    def sync(self, online_flat: Tensor, tau: float) -> None:
        """Take the online network as it stands.

        Args:
            online_flat: its parameters [S, P], which are its layers' own.
            tau: 1; a soft update moves most weights by less than half a code, and none at all.

        Raises:
            ValueError: any other tau.
        """
        if tau != 1:
            raise ValueError(f"an int8 target cannot follow softly, with tau={tau}")
        self._online.eval()  # Codes of before the last update are dropped.
        self._take()

    @torch.no_grad()
    def _take(self) -> None:
        pairs = zip(self.network.modules(), self._online.modules(), strict=True)
        for target, online in pairs:
            if isinstance(target, StoredLayer | StoredQuantLayer):
                target.take(online)


def _stored(layer: layers.Seeded) -> nn.Module:
    return StoredQuantLayer(layer) if isinstance(layer, QuantLayer) else StoredLayer(layer)


def _constant(tensor: Tensor) -> nn.Parameter:
    """What is stored counts as parameters, in checkpoints and in the memory ledger."""
    return nn.Parameter(tensor.detach().clone(), requires_grad=False)


class StoredLayer(nn.Module):
    """A float layer, linear or convolutional, with int8 weights; floats only while it computes."""

    def __init__(self, layer: layers.Seeded) -> None:
        super().__init__()
        self.weight = _constant(layer.weight.to(torch.int8))
        self.bias = _constant(layer.bias)
        self.scale = _constant(layer.bias)  # [S, out]
        self.stride: tuple[int, int] | None = getattr(layer, "stride", None)

    def take(self, layer: nn.Module) -> None:
        """Codes of a layer of this shape."""
        assert isinstance(layer, layers.Seeded)
        flat = layer.weight.flatten(2)
        # A unit whose weights are all 0 has scale 1e-12 and codes 0.
        scale = flat.abs().amax(-1).div_(TOP).clamp_min_(1e-12)
        self.weight.copy_((flat / scale.unsqueeze(-1)).round_().view(layer.weight.shape))
        self.scale.copy_(scale)
        self.bias.copy_(layer.bias)

    def forward(self, x: Tensor) -> Tensor:
        """[S, B, ...] -> [S, B, out, ...]."""
        scale = self.scale.view(*self.scale.shape, *[1] * (self.weight.ndim - 2))
        weight = self.weight.to(torch.float32).mul_(scale)
        return layers.apply(x, weight, self.bias, self.stride)


class StoredQuantLayer(nn.Module):
    """A quantized layer without its float weights: the codes alone."""

    step: Tensor  # the input's grid: scale, inverse, zero and centre of `grids.Grid`
    inverse: Tensor
    zero: Tensor
    centre: Tensor

    def __init__(self, layer: QuantLayer) -> None:
        super().__init__()
        grid, codes = layer.codes()
        self.weight = _constant(codes.weight.to(torch.int8))
        self.bias, self.scale = _constant(codes.bias), _constant(codes.scale)
        for name, tensor in zip(("step", "inverse", "zero", "centre"), grid.tensors, strict=True):
            self.register_buffer(name, tensor.clone())
        self._top, self._has_integer_zero = grid.top, grid.has_integer_zero
        self.stride = layer.stride

    def take(self, layer: nn.Module) -> None:
        """Codes and grid of a layer of this shape, as they stand."""
        assert isinstance(layer, QuantLayer)
        grid, codes = layer.codes()
        own = (self.weight, self.bias, self.scale, self.step, self.inverse, self.zero, self.centre)
        for mine, theirs in zip(own, (*codes, *grid.tensors), strict=True):
            mine.copy_(theirs)

    def forward(self, x: Tensor) -> Tensor:
        """[S, B, ...] -> [S, B, out, ...]."""
        own = (self.step, self.inverse, self.zero, self.centre)
        grid = grids.Grid(*own, self._top, self._has_integer_zero)
        codes = grids.Codes(self.weight.to(torch.float32), self.bias, self.scale)
        return fake.accumulate(fake.centred_codes(x, grid), codes, self.stride)
