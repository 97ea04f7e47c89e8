"""What can be converted: networks that `torch.fx` traces into a chain of known layers."""

from typing import Any, NamedTuple

import torch
from torch import fx, nn

from qbench import layers

RELU = (torch.relu, nn.functional.relu, "relu")


class Stage(NamedTuple):
    """A linear layer, and whether a ReLU follows it."""

    layer: nn.Module
    has_relu: bool


class ConversionError(ValueError):
    """The network holds an operation that the integer network has no form for."""


def linear_layers(module: nn.Module) -> list[nn.Module]:
    """The seed-axis layers in order of execution; of registration where fx cannot trace."""
    try:
        nodes = _Tracer().trace(module).nodes
    except (fx.proxy.TraceError, TypeError):
        called = list(module.modules())
    else:
        called = [module.get_submodule(n.target) for n in nodes if n.op == "call_module"]
        called = called or [module]
    return [layer for layer in called if isinstance(layer, layers.Linear)]


class _Tracer(fx.Tracer):
    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, layers.Linear) or super().is_leaf_module(m, module_qualified_name)


def stages(module: nn.Module) -> list[Stage]:
    """The layers of a traced network in the order of execution.

    Raises:
        ConversionError: names the first operation that is neither Linear nor ReLU.
    """
    found: list[Stage] = []
    try:
        graph = _Tracer().trace(module)
    except (fx.proxy.TraceError, TypeError) as error:
        raise ConversionError(f"convert cannot trace {type(module).__name__}: {error}") from error
    for node in graph.nodes:
        if node.op in ("placeholder", "output"):
            continue
        operation = module.get_submodule(node.target) if node.op == "call_module" else node.target
        is_new = operation not in [stage.layer for stage in found]
        if isinstance(operation, (nn.Linear, layers.Linear)) and _is_chain(node) and is_new:
            found.append(Stage(operation, has_relu=False))
        elif found and _is_chain(node) and _is_relu(operation):
            found[-1] = found[-1]._replace(has_relu=True)
        else:
            raise ConversionError(_message(node, operation))
    if not found or found[-1].has_relu:
        raise ConversionError("convert takes networks that end in a Linear layer.")
    return found


def _is_chain(node: fx.Node) -> bool:
    return len(node.all_input_nodes) == 1 and len(node.users) == 1


def _is_relu(operation: Any) -> bool:
    return isinstance(operation, nn.ReLU) or operation in RELU


def _message(node: fx.Node, operation: Any) -> str:
    name = type(operation).__name__ if isinstance(operation, nn.Module) else operation
    return (
        f"convert cannot take the operation {getattr(name, '__name__', name)} ({node.target}); "
        "a convertible network is a chain of Linear and ReLU, each Linear used once."
    )
