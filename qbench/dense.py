"""Linear layers and their ReLUs in a row as one node of autograd's graph.

A node costs some ten microseconds, of which an MLP has twenty: as one, with the operators that
autograd would call and so with the same bits, a small MLP's update takes nine tenths of the time.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

PLACE = "gradient_place"
threshold_backward = torch.ops.aten.threshold_backward  # ReLU's, by what it gave


def place_gradient(weight: Tensor, place: Tensor | None) -> None:
    """Have the next gradient by `weight` written to `place`, of its shape; None: nowhere.

    Only the next one: a second use of the layer takes memory of its own, and autograd adds the two.
    """
    vars(weight)[PLACE] = place


def take_place(weight: Tensor) -> Tensor | None:
    """Where `place_gradient` wants the gradient that is made now; to be asked once."""
    place: Tensor | None = vars(weight).pop(PLACE, None)
    return place


def dense(x: Tensor, parameters: Sequence[Tensor], relus: Sequence[bool]) -> Tensor:
    """Layers x W^T + b one after the other, with a ReLU behind or without.

    Args:
        x: [S, B, in].
        parameters: weight [S, out, in] and bias [S, out] of each layer.
        relus: whether a ReLU follows it.

    Returns:
        [S, B, out]; it has first derivatives alone.
    """
    turned: Tensor = _Dense.apply(relus, x, *parameters)  # type: ignore[no-untyped-call]
    return turned.transpose(1, 2)


class _Dense(torch.autograd.Function):
    """From x [S, B, in] to [S, out, B]: all values are turned, see `layers.affine`."""

    @staticmethod
    def forward(ctx: Any, relus: Sequence[bool], x: Tensor, *parameters: Tensor) -> Tensor:
        weights, biases = parameters[::2], parameters[1::2]
        values = [x.transpose(1, 2)]
        for weight, bias, has_relu in zip(weights, biases, relus, strict=True):
            value = torch.baddbmm(bias.unsqueeze(2), weight, values[-1])
            values.append(value.relu_() if has_relu else value)
        ctx.relus = relus
        # Outputs are needed by a ReLU alone.
        ctx.save_for_backward(*weights, *(values if relus[-1] else values[:-1]))
        return values[-1]

    @staticmethod
    def backward(ctx: Any, by_output: Tensor) -> tuple[Tensor | None, ...]:
        refuse_second_derivatives()
        num_layers, tensors = len(ctx.relus), ctx.saved_tensors
        weights, values = tensors[:num_layers], tensors[num_layers:]
        _, needs_x, *needs = ctx.needs_input_grad
        grads: list[Tensor | None] = []
        for k in reversed(range(num_layers)):
            if ctx.relus[k]:
                by_output = through_relu(by_output, values[k + 1], is_ours=k < num_layers - 1)
            by_bias = by_output.sum(2) if needs[2 * k + 1] else None
            by_weight = _by_weight(by_output, values[k], weights[k]) if needs[2 * k] else None
            grads = [by_weight, by_bias, *grads]
            if k > 0 or needs_x:
                by_output = torch.bmm(weights[k].transpose(1, 2), by_output)
        return None, by_output.transpose(1, 2) if needs_x else None, *grads


def refuse_second_derivatives() -> None:
    """To be called in a backward; `once_differentiable` would not see all that ask for them.

    Raises:
        RuntimeError: it is to be differentiated.
    """
    if torch.is_grad_enabled():
        raise RuntimeError("Layers in a row have first derivatives alone, without create_graph.")


def through_relu(by_output: Tensor, output: Tensor, *, is_ours: bool) -> Tensor:
    """The gradient by a ReLU's input; it overwrites one that nobody else sees."""
    if is_ours:
        return threshold_backward.grad_input(by_output, output, 0, grad_input=by_output)
    return threshold_backward(by_output, output, 0)


def _by_weight(by_output: Tensor, value: Tensor, weight: Tensor) -> Tensor:
    """The gradient by `weight`, where `place_gradient` wants it."""
    return torch.bmm(by_output, value.transpose(1, 2), out=take_place(weight))
