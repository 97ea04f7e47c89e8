"""What a deployed network must be given, and what a stored one must be, in every runtime."""

import math
from collections.abc import Callable

import numpy as np

from qbench.deploy.cost import Layer, input_shapes, layers_of
from qbench.quant.integer import MAX_SHIFT, IntegerLayer, IntegerNetwork
from qbench.types import EnvSpec, FloatArray, IntegerPolicy, ObsArray

Form = Callable[[ObsArray], FloatArray]
"""One agent in any runtime: outputs [B, A] float32 at obs [B, *obs_shape]."""


def check_obs(obs: ObsArray, spec: EnvSpec) -> None:
    """Refuse observations that a network would answer with garbage.

    Raises:
        ValueError: another shape than [B, *obs_shape], no numbers, values that are not finite,
            or values that a byte would not hold where the env has bytes.
    """
    if obs.ndim == 0 or obs.shape[1:] != tuple(spec.obs_shape):
        raise ValueError(f"obs is {list(obs.shape)}, not [B, *{list(spec.obs_shape)}].")
    if obs.dtype.kind not in "fiu":
        raise ValueError(f"obs is of type {obs.dtype}, not of numbers.")
    if spec.obs_high is None:
        if not np.isfinite(obs).all():
            raise ValueError("obs holds a value that is not finite.")
    elif obs.dtype != np.uint8:
        raise ValueError(f"obs is of type {obs.dtype}; {spec.id} gives bytes, uint8.")


class Checked:
    """A policy that refuses observations which it would answer with garbage.

    Args:
        policy: any form of one agent.
        spec: of its env.
    """

    def __init__(self, policy: Form, spec: EnvSpec) -> None:
        self._policy = policy
        self._spec = spec

    def __call__(self, obs: ObsArray, /) -> FloatArray:
        """Outputs [B, A] float32 at obs [B, *obs_shape].

        Raises:
            ValueError: see `check_obs`.
        """
        check_obs(obs, self._spec)
        return self._policy(obs)


def check_policy(policy: IntegerPolicy, spec: EnvSpec) -> None:
    """Refuse a stored network that conversion could not have made for this env.

    Raises:
        ValueError: names the layer, or the end, that does not fit.
    """
    layers = layers_of(policy)
    if not layers:
        raise ValueError("it has no layers")
    for number, layer in enumerate(layers):
        _check_shape(number, layer, input_shapes(policy, spec)[number])
    num_outputs = len(spec.action_low) if spec.num_actions is None else spec.num_actions
    if len(layers[-1].weight) != num_outputs:
        raise ValueError(f"it has {len(layers[-1].weight)} outputs, {spec.id} takes {num_outputs}")
    if isinstance(policy, IntegerNetwork):
        _check_ends(policy, spec, num_outputs)
        tops = [policy.input_top, *(layer.top for layer in policy.layers)]
        for number, layer in enumerate(policy.layers):
            _check_integers(number, layer, tops[number], is_last=layer is policy.layers[-1])


def _check_shape(number: int, layer: Layer, shape: tuple[int, ...]) -> None:
    fan_in = layer.weight.shape[1:]
    if layer.stride is None:
        fits = fan_in == (math.prod(shape),)
    else:
        fits = len(fan_in) == len(shape) == 3 and fan_in[0] == shape[0] and min(layer.stride) > 0
        fits = fits and fan_in[1] <= shape[1] and fan_in[2] <= shape[2]
    if not fits or layer.bias.shape != (len(layer.weight),):
        raise ValueError(
            f"layer {number} has weights {list(layer.weight.shape)} and biases"
            f" {list(layer.bias.shape)}, and its input is {list(shape)}"
        )


def _check_ends(policy: IntegerNetwork, spec: EnvSpec, num_outputs: int) -> None:
    scales = [policy.input_inverse_scale, policy.input_zero]
    # One range for all, or one of each feature of a vector.
    sizes = {(1,), tuple(spec.obs_shape) if len(spec.obs_shape) == 1 else (1,)}
    if any(s.shape not in sizes or not np.isfinite(s).all() for s in scales):
        raise ValueError("the observation's range is damaged")
    if not 1 <= policy.input_top <= 255:
        raise ValueError(f"the observation's codes go up to {policy.input_top}, not to a byte's")
    ends = [policy.output_scale]
    ends += [] if policy.box is None else [policy.box.scale, policy.box.offset]
    if any(end.shape != (num_outputs,) or not np.isfinite(end).all() for end in ends):
        raise ValueError("the outputs' scales are damaged")
    if (policy.box is None) != (spec.num_actions is not None):
        raise ValueError(f"its outputs are not the actions of {spec.id}")


def _check_integers(number: int, layer: IntegerLayer, taken: int, *, is_last: bool) -> None:
    """What the rule of requantization rests on (`qbench.quant.integer`)."""
    weight = layer.weight.reshape(len(layer.weight), -1).astype(np.int64)
    if layer.weight.dtype != np.int8 or layer.bias.dtype != np.int32:
        raise ValueError(f"layer {number} has weights of another type than int8 or biases of int32")
    reach = taken * np.abs(weight).sum(1) + np.abs(layer.bias.astype(np.int64))
    if reach.max() >= 2**31:
        raise ValueError(f"a sum of layer {number} can be {reach.max()} and leaves int32")
    steps = [layer.multiplier, layer.shift, layer.offset]
    if is_last or any(step is None for step in steps):
        if not is_last or any(step is not None for step in steps):
            raise ValueError(f"layer {number} has a requantization where none belongs, or none")
        return
    multiplier, shift, offset = (np.asarray(step, np.int64) for step in steps)
    conditions = [
        {step.shape for step in (multiplier, shift, offset)} == {(len(weight),)},
        np.all((multiplier >= 0) & (multiplier < 2**31)),
        np.all((shift >= 1) & (shift <= MAX_SHIFT)),
        np.all(np.abs(offset) < 2**61),
        0 <= layer.low <= layer.top <= 255,
    ]
    if not all(conditions):
        raise ValueError(f"the requantization of layer {number} is damaged")
