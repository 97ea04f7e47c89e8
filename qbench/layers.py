"""Layers with a leading seed axis S: all that networks and quantization share.

A network author writes a plain `nn.Module`; `populate` builds one per seed and stacks them.
"""

import copy
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn


class Linear(nn.Module):
    """S independent linear layers: y[s] = x[s] W[s]^T + b[s], one batched product."""

    weight: nn.Parameter  # [S, out, in]
    bias: nn.Parameter  # [S, out]

    def __init__(self, weight: nn.Parameter, bias: nn.Parameter) -> None:
        super().__init__()
        self.weight = weight
        self.bias = bias

    @classmethod
    def stack(cls, plain: Sequence[nn.Linear]) -> "Linear":
        """One layer from one `nn.Linear` per seed."""
        weight = torch.stack([layer.weight.detach() for layer in plain])
        bias = torch.stack([layer.bias.detach() for layer in plain])
        return cls(nn.Parameter(weight), nn.Parameter(bias))

    @property
    def num_seeds(self) -> int:
        """S."""
        return self.weight.shape[0]

    def forward(self, x: Tensor) -> Tensor:
        """[S, B, in] -> [S, B, out]."""
        return torch.baddbmm(self.bias.unsqueeze(1), x, self.weight.transpose(1, 2))

    def take_seed(self, k: int) -> nn.Module:
        """Seed k's layer as a plain `nn.Linear` with its own copy of the weights."""
        out_features, in_features = self.weight.shape[1:]
        plain = nn.Linear(in_features, out_features)
        plain.weight.data.copy_(self.weight[k])
        plain.bias.data.copy_(self.bias[k])
        return plain


def swap_layers(module: nn.Module, swap: Callable[[Linear], nn.Module]) -> nn.Module:
    """A copy of `module` with every seed-axis layer replaced by `swap(layer)`.

    The copy's layers receive the very Parameters of `module`, and names do not change.
    """
    if isinstance(module, Linear):
        return swap(module)
    copied = copy.copy(module)
    copied._modules = {
        name: child and swap_layers(child, swap) for name, child in module._modules.items()
    }
    return copied


def populate(make_module: Callable[[], nn.Module], seeds: Sequence[int]) -> nn.Module:
    """The module of `make_module` with a leading seed axis, seed k initialized from seeds[k].

    Args:
        make_module: builds one plain module from ordinary layers, drawing on torch's RNG.
        seeds: one integer for each of the S members.

    Raises:
        TypeError: the module holds parameters in a layer that has no seed-axis form.
    """
    members = []
    with torch.random.fork_rng(devices=[]):
        for seed in seeds:
            torch.manual_seed(seed)
            members.append(make_module())
    return _stack(members)


def _stack(members: Sequence[nn.Module]) -> nn.Module:
    first = members[0]
    if isinstance(first, nn.Linear):
        return Linear.stack([m for m in members if isinstance(m, nn.Linear)])
    if any(True for _ in first.parameters(recurse=False)):
        raise TypeError(
            f"{type(first).__name__} has no form with a seed axis; build the network from Linear."
        )
    for name, _ in first.named_children():
        setattr(first, name, _stack([member.get_submodule(name) for member in members]))
    return first


def take_seed(module: nn.Module, k: int) -> nn.Module:
    """Seed k of a population as a module of its own; float layers become plain ones."""
    return swap_layers(module, lambda layer: layer.take_seed(k))


ROW_MULTIPLE = 64
"""Columns of a flat tensor. Vectorized kernels round the last few elements of a tensor by
other instructions than the rest; with whole vectors per row no seed's bits depend on S."""


def flatten_parameters(module: nn.Module) -> Tensor:
    """Move all parameters of `module` into one [S, P] tensor, of which they become views.

    What is done per seed (clipping, soft target updates, freezing, Adam) is then one
    operation on one tensor instead of one per layer. P is padded to `ROW_MULTIPLE`.
    """
    parameters = list(module.parameters())
    sizes = [p[0].numel() for p in parameters]
    padding = parameters[0].new_zeros(len(parameters[0]), -sum(sizes) % ROW_MULTIPLE)
    flat = torch.cat([*(p.detach().flatten(1) for p in parameters), padding], dim=1)
    columns = flat.split([*sizes, padding.shape[1]], dim=1)
    for parameter, column in zip(parameters, columns, strict=False):
        parameter.data = column.view(parameter.shape)
    return flat
