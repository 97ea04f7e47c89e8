"""What can be converted: networks that `torch.fx` traces into a chain of known layers."""

from typing import Any, NamedTuple

import torch
from torch import fx, nn

from qbench import layers

RELU = (torch.relu, nn.functional.relu, "relu", "relu_")
LEAVES = (layers.Seeded, layers.Flatten, layers.ScaleBytes, layers.TanhToBox)


class Stage(NamedTuple):
    """A linear or convolutional layer, and whether a ReLU follows it."""

    layer: nn.Module
    has_relu: bool


class Chain(NamedTuple):
    """A whole network in the order of execution."""

    input_high: int | None  # observations are bytes up to this; None: float32
    stages: list[Stage]
    box: layers.TanhToBox | None  # what ends an actor


class ConversionError(ValueError):
    """The network holds an operation that the integer network has no form for."""


def seeded_layers(module: nn.Module) -> tuple[list[nn.Module], bool]:
    """The seed-axis layers in order of execution, and whether bytes come in.

    In order of registration where fx cannot trace.
    """
    try:
        nodes = _Tracer().trace(module).nodes
    except (fx.proxy.TraceError, TypeError):
        called = list(module.modules())
    else:
        called = [module.get_submodule(n.target) for n in nodes if n.op == "call_module"]
        called = called or [module]
    takes_bytes = any(isinstance(layer, layers.ScaleBytes) for layer in called)
    return [layer for layer in called if isinstance(layer, layers.Seeded)], takes_bytes


class _Tracer(fx.Tracer):
    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, LEAVES) or super().is_leaf_module(m, module_qualified_name)


def chain(module: nn.Module) -> Chain:
    """The layers of a traced network in the order of execution.

    Raises:
        ConversionError: names the first operation that has no place in a chain.
    """
    try:
        nodes = _Tracer().trace(module).nodes
    except (fx.proxy.TraceError, TypeError) as error:
        raise ConversionError(f"convert cannot trace {type(module).__name__}: {error}") from error
    found = Chain(None, [], None)
    for node in nodes:
        if node.op in ("placeholder", "output"):
            continue
        operation = module.get_submodule(node.target) if node.op == "call_module" else node.target
        is_chain = len(node.all_input_nodes) == 1 and len(node.users) == 1
        longer = _extended(found, operation) if is_chain else None
        if longer is None:
            raise ConversionError(_message(node, operation))
        found = longer
    if not found.stages or found.stages[-1].has_relu:
        raise ConversionError("convert takes networks that end in a Linear layer.")
    return found


def _extended(found: Chain, operation: Any) -> Chain | None:
    """The chain with one more operation; None if it does not fit there."""
    stages = found.stages
    last = stages[-1] if stages else None
    match operation:
        case nn.Identity():
            return found
        case _ if found.box is not None:
            return None
        case layers.ScaleBytes() if not stages and found.input_high is None:
            return found._replace(input_high=operation.high)
        case nn.Linear() | nn.Conv2d() | layers.Seeded():
            is_new = operation not in [stage.layer for stage in stages]
            return found._replace(stages=[*stages, Stage(operation, False)]) if is_new else None
        case layers.Flatten() | nn.Flatten(start_dim=1, end_dim=-1) if last is not None:
            return found
        case layers.TanhToBox() if last is not None and not last.has_relu:
            return found._replace(box=operation)
        case _ if last is not None and (isinstance(operation, nn.ReLU) or operation in RELU):
            return found._replace(stages=[*stages[:-1], last._replace(has_relu=True)])
    return None


def _message(node: fx.Node, operation: Any) -> str:
    name = type(operation).__name__ if isinstance(operation, nn.Module) else operation
    return (
        f"convert cannot take the operation {getattr(name, '__name__', name)} ({node.target}); "
        "a convertible network is a chain of Linear, Conv2d, Flatten and ReLU, each layer used "
        "once."
    )
