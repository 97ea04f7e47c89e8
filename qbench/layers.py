"""Layers with a leading seed axis S: all that networks and quantization share.

A network author writes a plain `nn.Module`; `populate` builds one per seed and stacks them.
"""

import copy
from collections.abc import Callable, Iterator, Sequence
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from qbench import product
from qbench.convolution import convolution
from qbench.dense import dense


class Seeded(nn.Module):
    """A layer with weights of S seeds.

    What it gives is new and of no more use to itself: a ReLU may overwrite it.
    """

    weight: nn.Parameter  # [S, out, ...]
    bias: nn.Parameter  # [S, out]

    def __init__(self, weight: nn.Parameter, bias: nn.Parameter) -> None:
        super().__init__()
        self.weight = weight
        self.bias = bias

    @property
    def num_seeds(self) -> int:
        """S."""
        return self.weight.shape[0]

    def take_seed(self, k: int) -> nn.Module:
        """Seed k's layer as an ordinary one with its own copy of the weights."""
        plain = self.plain()
        plain.weight.data.copy_(self.weight[k])  # type: ignore[operator]
        plain.bias.data.copy_(self.bias[k])  # type: ignore[operator]
        return plain

    def plain(self) -> nn.Module:
        """An ordinary layer of this shape."""
        raise NotImplementedError

    @property
    def joins(self) -> bool:
        """Whether `in_a_row` takes it."""
        return False

    @classmethod
    def in_a_row(cls, row: Sequence["Seeded"], relus: Sequence[bool], x: Tensor) -> Tensor | None:
        """Layers of this type one after the other; with gradients as one node of the graph.

        Args:
            row: two or more that join.
            relus: whether a ReLU follows each.
            x: what comes into the first.

        Returns:
            The output; None: they are to be called one by one.
        """
        raise NotImplementedError


class Linear(Seeded):
    """S independent linear layers: y[s] = x[s] W[s]^T + b[s], one batched product."""

    @classmethod
    def stack(cls, plain: Sequence[nn.Linear]) -> Self:
        """One layer from one `nn.Linear` per seed.

        Raises:
            TypeError: no bias.
        """
        return cls(*_stacked(plain))

    def forward(self, x: Tensor) -> Tensor:
        """[S, B, in] -> [S, B, out]."""
        return affine(x, self.weight, self.bias)

    def plain(self) -> nn.Linear:
        out_features, in_features = self.weight.shape[1:]
        return nn.Linear(in_features, out_features)

    @property
    def joins(self) -> bool:
        # One output is computed as two: `affine`.
        return type(self) is Linear and self.weight.shape[1] != 1

    @classmethod
    def in_a_row(cls, row: Sequence[Seeded], relus: Sequence[bool], x: Tensor) -> Tensor | None:
        if product.is_by_numpy(x):
            return None
        return dense(x, parameters_of(row), relus)


def apply(x: Tensor, weight: Tensor, bias: Tensor, stride: tuple[int, int] | None) -> Tensor:
    """A layer's output; a stride makes it a convolution."""
    if stride is None:
        return affine(x, weight, bias)
    return convolution(x, weight, bias, stride)


def affine(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Rows of `x` [S, B, in] by `weight` [S, out, in] and `bias` [S, out] -> [S, B, out]."""
    if weight.shape[1] == 1:
        # A product with one column takes another kernel, with other bits, for S=1 alone.
        return affine(x, F.pad(weight, (0, 0, 0, 1)), F.pad(bias, (0, 1)))[..., :1]
    if product.is_by_numpy(x):
        return product.affine(x, weight, bias)
    # W x^T, turned: x W^T would have the weight's gradient [S, in, out] and copy it to turn it,
    # which took a fifth of an MLP's update and half of that of a layer with 3136 inputs.
    return torch.baddbmm(bias.unsqueeze(2), weight, x.transpose(1, 2)).transpose(1, 2)


class Conv2d(Seeded):
    """S independent convolutions without padding or dilation."""

    def __init__(self, weight: nn.Parameter, bias: nn.Parameter, stride: tuple[int, int]) -> None:
        super().__init__(weight, bias)
        self.stride = stride

    @classmethod
    def stack(cls, plain: Sequence[nn.Conv2d]) -> Self:
        """One layer from one `nn.Conv2d` per seed.

        Raises:
            TypeError: no bias, or padding, dilation or groups, which have no form with a seed axis.
        """
        first = plain[0]
        extras = (first.padding, first.dilation, first.groups)
        if extras != ((0, 0), (1, 1), 1):
            raise TypeError("Conv2d with padding, dilation or groups has no form with a seed axis.")
        return cls(*_stacked(plain), stride=(first.stride[0], first.stride[1]))

    def forward(self, x: Tensor) -> Tensor:
        """[S, B, in, H, W] -> [S, B, out, H', W']."""
        return convolution(x, self.weight, self.bias, self.stride)

    def plain(self) -> nn.Conv2d:
        out_channels, in_channels, *kernel = self.weight.shape[1:]
        return nn.Conv2d(in_channels, out_channels, tuple(kernel), self.stride)  # type: ignore[arg-type]


class Sequential(nn.Sequential):
    """As `nn.Sequential`, to the same bits, with less to do.

    Linear layers of one type and ReLUs in a row are one node of autograd's graph, without second
    derivatives, where the layers can join. Other ReLUs overwrite what the layer before them gave,
    which nobody else sees; but for views, which autograd would copy. Modules with hooks of their
    own are called.
    """

    def forward(self, x: Tensor) -> Tensor:
        """The modules one after the other."""
        modules = list(_flattened(self))
        is_new, at = False, 0
        while at < len(modules):
            module, size = modules[at], 1
            row, relus = _row(modules, at) if _is_plain(x) else ([], [])
            y = type(row[0]).in_a_row(row, relus, x) if len(row) > 1 else None
            if y is not None:
                x, size = y, len(row) + sum(relus)
            elif is_new and _is_relu(module) and _is_ours_to_overwrite(x):
                x = x.relu_()
            else:
                x = module(x)
            is_new = size == 1 and isinstance(module, Seeded) and not _is_watched(module)
            at += size
        return x


def _flattened(module: nn.Sequential) -> Iterator[nn.Module]:
    """The modules, with those of a Sequential in its place."""
    for part in module:
        if isinstance(part, Sequential) and type(part).forward is Sequential.forward:
            yield from [part] if _is_watched(part) else _flattened(part)
        else:
            yield part


def _is_watched(module: nn.Module) -> bool:
    """Whether somebody has hooked into its calls."""
    return bool(
        module._forward_hooks
        or module._forward_pre_hooks
        or module._backward_hooks
        or module._backward_pre_hooks
    )


def _is_relu(module: nn.Module) -> bool:
    """Whether it is nothing but a ReLU."""
    return type(module) is nn.ReLU and not _is_watched(module)


def _is_ours_to_overwrite(x: Tensor) -> bool:
    """Whether a new tensor is one, and not a view that autograd follows, which it would copy."""
    return isinstance(x, Tensor) and not (torch.is_grad_enabled() and x._is_view())


def _row(modules: Sequence[nn.Module], start: int) -> tuple[list[Seeded], list[bool]]:
    """Layers of one type that join from `start` on, and whether a ReLU follows each.

    They are looked for anew in every forward: layers are swapped and hooked into.
    """
    row: list[Seeded] = []
    relus: list[bool] = []
    at = start
    while at < len(modules) and type(layer := modules[at]) is type(modules[start]):
        if not isinstance(layer, Seeded) or not layer.joins or _is_watched(layer):
            break
        row.append(layer)
        relus.append(at + 1 < len(modules) and _is_relu(modules[at + 1]))
        at += 1 + relus[-1]
    return row, relus


def _is_plain(x: Tensor) -> bool:
    """Whether it is a tensor, traced by nobody and of the type that it has: no autocast."""
    return isinstance(x, Tensor) and not torch.is_autocast_enabled(x.device.type)


def parameters_of(row: Sequence[Seeded]) -> list[Tensor]:
    """Weights and biases in turn."""
    return [tensor for layer in row for tensor in (layer.weight, layer.bias)]


class Flatten(nn.Module):
    """The three axes of an image as one, with and without a seed axis in front."""

    def forward(self, x: Tensor) -> Tensor:
        """[..., channels, H, W] -> [..., features]."""
        return x.flatten(-3)


class ScaleBytes(nn.Module):
    """Bytes [0, high] as float32 in [0, 1]; a quantized network folds this into its first layer.

    Args:
        high: largest value of an observation.
    """

    def __init__(self, high: int) -> None:
        super().__init__()
        self.high = high

    def forward(self, obs: Tensor) -> Tensor:
        """uint8 -> float32 of the same shape."""
        return obs.to(torch.float32).mul_(1.0 / self.high)


class TanhToBox(nn.Module):
    """tanh, rescaled to the bounds of a Box: what ends an actor, in float also when deployed.

    Args:
        low: lower bounds [A].
        high: upper bounds [A].
    """

    scale: Tensor  # [A], or [S, 1, A] in a population
    offset: Tensor

    def __init__(self, low: Sequence[float], high: Sequence[float]) -> None:
        super().__init__()
        bounds = torch.tensor([low, high], dtype=torch.float64)
        self.register_buffer("scale", ((bounds[1] - bounds[0]) / 2).float())
        self.register_buffer("offset", ((bounds[1] + bounds[0]) / 2).float())

    def forward(self, x: Tensor) -> Tensor:
        """[..., A] -> [..., A] in [low, high]."""
        return torch.tanh(x) * self.scale + self.offset


def _stacked(plain: Sequence[nn.Module]) -> tuple[nn.Parameter, nn.Parameter]:
    if plain[0].bias is None:
        raise TypeError(f"{type(plain[0]).__name__} without a bias has no form with a seed axis.")
    weight = torch.stack([layer.weight.detach() for layer in plain])  # type: ignore[operator]
    bias = torch.stack([layer.bias.detach() for layer in plain])  # type: ignore[operator]
    return nn.Parameter(weight), nn.Parameter(bias)


def swap_layers(module: nn.Module, swap: Callable[[Seeded], nn.Module]) -> nn.Module:
    """A copy of `module` with every seed-axis layer replaced by `swap(layer)`.

    The copy's layers receive the very Parameters of `module`, and names do not change.
    """
    return _replace(module, lambda part: swap(part) if isinstance(part, Seeded) else None)


def _replace(module: nn.Module, replacement: Callable[[nn.Module], nn.Module | None]) -> nn.Module:
    replaced = replacement(module)
    if replaced is not None:
        return replaced
    copied = copy.copy(module)
    copied._modules = {
        name: child and _replace(child, replacement) for name, child in module._modules.items()
    }
    copied._buffers = dict(module._buffers)
    return copied


def populate(make_module: Callable[[], nn.Module], seeds: Sequence[int]) -> nn.Module:
    """The module of `make_module` with a leading seed axis, seed k initialized from seeds[k].

    Buffers become [S, 1, ...], so that they broadcast against [S, B, ...].

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
    match first:
        case nn.Linear():
            return Linear.stack([m for m in members if isinstance(m, nn.Linear)])
        case nn.Conv2d():
            return Conv2d.stack([m for m in members if isinstance(m, nn.Conv2d)])
        case nn.Flatten(start_dim=1, end_dim=-1):
            return Flatten()
    if any(True for _ in first.parameters(recurse=False)):
        raise TypeError(
            f"{type(first).__name__} has no form with a seed axis; "
            "build the network from Linear and Conv2d."
        )
    for name in first._buffers:
        stacked = torch.stack([member.get_buffer(name) for member in members])
        first._buffers[name] = stacked.unsqueeze(1)
    for name, _ in first.named_children():
        setattr(first, name, _stack([member.get_submodule(name) for member in members]))
    if type(first) is nn.Sequential:
        first.__class__ = Sequential  # whose hooks, mode and shared modules stay
    return first


def take_seed(module: nn.Module, k: int) -> nn.Module:
    """Seed k of a population as a module of its own; float layers become plain ones."""

    def take(part: nn.Module) -> nn.Module | None:
        own: Callable[[int], nn.Module] | None = getattr(part, "take_seed", None)
        return None if own is None else own(k)

    taken = _replace(module, take)
    for part in (part for part in taken.modules() if not hasattr(part, "take_seed")):
        part._buffers = {
            name: b if b is None else b[k].clone() for name, b in part._buffers.items()
        }
    return taken


ROW_MULTIPLE = 64
"""Columns of a flat tensor. Vectorized kernels round the last few elements of a tensor by
other instructions than the rest; with whole vectors per row no seed's bits depend on S."""


def flatten_parameters(module: nn.Module, multiple: int = ROW_MULTIPLE) -> Tensor:
    """Move all parameters of `module` into one [S, P] tensor, of which they become views.

    What is done per seed (clipping, soft target updates, freezing, Adam) is then one
    operation on one tensor instead of one per layer. P is padded to a multiple of `multiple`.
    """
    parameters = list(module.parameters())
    sizes = [p[0].numel() for p in parameters]
    padding = parameters[0].new_zeros(len(parameters[0]), -sum(sizes) % multiple)
    flat = torch.cat([*(p.detach().flatten(1) for p in parameters), padding], dim=1)
    columns = flat.split([*sizes, padding.shape[1]], dim=1)
    for parameter, column in zip(parameters, columns, strict=False):
        parameter.data = column.view(parameter.shape)
    return flat
