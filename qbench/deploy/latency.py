"""Time per call of the forms of one agent, interleaved in one process on one thread."""

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from torch import nn

from qbench.deploy.cost import Layer
from qbench.quant.dynamic import DynamicNetwork
from qbench.quant.integer import FloatLayer, FloatNetwork, IntegerNetwork
from qbench.types import EnvSpec, FloatArray, IntegerPolicy, ObsArray

Call = Callable[[ObsArray], FloatArray]
BATCH_SIZES = (1, 32, 256)
ROUND_S = 0.005
MAX_ROUNDS = 20
FORM_S = 0.25
"""Rounds end when a form has taken this long, but not before the third."""


def measure(forms: Mapping[str, Call], obs: ObsArray) -> dict[str, float]:
    """Least mean time over rounds, by name, microseconds per call.

    Args:
        forms: name -> policy.
        obs: what each is called with.
    """
    least = {name: _seconds(form, obs, num_calls=1) for name, form in forms.items()}
    counts = {name: max(1, int(ROUND_S / seconds)) for name, seconds in least.items()}
    num_rounds = min(MAX_ROUNDS, max(3, int(FORM_S / max(least.values()))))
    for _ in range(num_rounds):
        for name, form in forms.items():
            least[name] = min(least[name], _seconds(form, obs, counts[name]))
    return {name: 1e6 * seconds for name, seconds in least.items()}


def _seconds(form: Call, obs: ObsArray, num_calls: int) -> float:
    began = time.perf_counter()
    for _ in range(num_calls):
        form(obs)
    return (time.perf_counter() - began) / num_calls


def float_twin(network: IntegerPolicy, spec: EnvSpec) -> FloatNetwork:
    """A float network of the same shapes: what the integers are timed and sized against."""
    assert isinstance(network, FloatNetwork | IntegerNetwork | DynamicNetwork)
    layers: Sequence[Layer] = network.layers
    last = len(layers) - 1
    return FloatNetwork(
        layers=tuple(_float_layer(layer, has_relu=i < last) for i, layer in enumerate(layers)),
        input_high=spec.obs_high,
        box=network.box,
    )


def _float_layer(layer: Layer, *, has_relu: bool) -> FloatLayer:
    if isinstance(layer, FloatLayer):
        return dataclasses.replace(layer, number_format="float32")
    return FloatLayer(
        weight=np.float32(1 / 128) * layer.weight.astype(np.float32),
        bias=np.zeros(len(layer.bias), np.float32),
        has_relu=has_relu,
        stride=layer.stride,
    )


class TorchPolicy:
    """A float network as eager torch modules, as an agent would be played from its training."""

    def __init__(self, network: FloatNetwork) -> None:
        self._scale = None if network.input_high is None else 1.0 / network.input_high
        self._box = network.box
        self._modules = nn.Sequential(*_modules(network.layers)).eval()

    @torch.inference_mode()
    def __call__(self, obs: ObsArray, /) -> FloatArray:
        """Outputs [B, A] float32 at obs [B, *obs_shape]."""
        x = torch.from_numpy(obs)
        x = x if self._scale is None else x.to(torch.float32) * self._scale
        outputs: FloatArray = self._modules(x).numpy()
        return outputs if self._box is None else self._box(outputs)


def _modules(layers: Sequence[FloatLayer]) -> list[nn.Module]:
    modules: list[nn.Module] = []
    was_image = False
    for layer in layers:
        out, fan_in, *kernel = layer.weight.shape
        if was_image and layer.stride is None:
            modules.append(nn.Flatten())
        was_image = layer.stride is not None
        plain: nn.Linear | nn.Conv2d = nn.Linear(fan_in, out)
        if layer.stride is not None:
            plain = nn.Conv2d(fan_in, out, (kernel[0], kernel[1]), layer.stride)
        state = {"weight": layer.weight, "bias": layer.bias}
        plain.load_state_dict({name: torch.from_numpy(a.copy()) for name, a in state.items()})
        modules += [plain, nn.ReLU()] if layer.has_relu else [plain]
    return modules
