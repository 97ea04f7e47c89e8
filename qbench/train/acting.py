"""What the envs are acted on with while a quantized network trains.

ActorQ (Krishnan et al. 2019, section 4, https://arxiv.org/abs/1910.01055) acts in integers with
a copy of the learner that is taken anew now and then. Evaluations are the learner's own.
"""

import copy
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from qbench import layers
from qbench.quant.layer import QuantLayer
from qbench.quant.population import IntegerPopulation
from qbench.quant.trace import ConversionError
from qbench.train.arrays import ArrayNetwork
from qbench.train.graphs import RecordedOutputs
from qbench.train.phases import Phases
from qbench.types import ActionArray, BehaviourPolicy, EnvSpec, FloatArray, Learner, ObsArray


class Network(Protocol):
    """A network of S seeds that acts, in whatever arithmetic."""

    @property
    def num_bytes(self) -> int:
        """Bytes that it takes beside the learner's network, all seeds."""
        ...

    def refresh(self) -> None:
        """Take the learner's network as it stands."""
        ...

    def __call__(self, obs: ObsArray, /) -> FloatArray:
        """Outputs [S, A] at obs [S, *obs_shape]."""
        ...

    def state(self) -> list[Any]:
        """What `restore` needs, tensors and plain numbers."""
        ...

    def restore(self, state: list[Any]) -> None:
        """Be what was `state`."""
        ...


def behaviour_policy(
    learner: Learner,
    spec: EnvSpec,
    *,
    acting: str,
    refresh_updates: int,
    recorded_phases: Phases | None = None,
) -> BehaviourPolicy:
    """The policy that collects.

    Args:
        learner: whose network it follows.
        spec: of the env.
        acting: "fake" (the network as it trains), "integer" or "float" (its unquantized weights).
        refresh_updates: updates after which it is taken anew; 1: before every action that
            follows one.
        recorded_phases: the learner's, if calls on a GPU are to be recorded as CUDA graphs.
    """
    network: Network
    if acting == "integer":
        network = IntegerPopulation(learner.network)
    elif acting == "float":
        floats = layers.swap_layers(learner.network, _as_float)
        network = ModuleNetwork(
            floats, is_copied=refresh_updates > 1, recorded_phases=recorded_phases
        )
    elif refresh_updates > 1:
        network = ModuleNetwork(learner.network, is_copied=True, recorded_phases=recorded_phases)
    else:
        return LearnerPolicy(learner, spec, recorded_phases)
    return RefreshedPolicy(network, spec, refresh_updates)


class LearnerPolicy:
    """The greedy actions of the learner's own network: always up to date."""

    num_bytes = 0

    def __init__(
        self, learner: Learner, spec: EnvSpec, recorded_phases: Phases | None = None
    ) -> None:
        self._outputs = _outputs_of(learner.network, recorded_phases)
        self._spec = spec

    def __call__(self, obs: ObsArray, /) -> ActionArray:
        """Actions [S, *action_shape] at obs [S, *obs_shape]."""
        return _greedy(self._outputs(obs), self._spec)

    def count_updates(self, num_updates: int) -> None:
        """Nothing: there is nothing to take anew."""

    def state_dict(self) -> dict[str, Any]:
        """Nothing but the learner's."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Nothing."""


class RefreshedPolicy:
    """The greedy actions of a network that is taken from the learner every so many updates.

    It is taken before an action, never for nothing: the first one takes it at any rate.

    Args:
        network: gives outputs.
        spec: says whether they are action values or actions.
        refresh_updates: updates that it may be behind, less one.
    """

    def __init__(self, network: Network, spec: EnvSpec, refresh_updates: int) -> None:
        self._network = network
        self._spec = spec
        self._refresh_updates = refresh_updates
        self._updates_behind = refresh_updates

    @property
    def num_bytes(self) -> int:
        """Bytes that it takes beside the learner's network, all seeds."""
        return self._network.num_bytes

    def __call__(self, obs: ObsArray, /) -> ActionArray:
        """Actions [S, *action_shape] at obs [S, *obs_shape]."""
        if self._updates_behind >= self._refresh_updates:
            self._network.refresh()
            self._updates_behind = 0
        return _greedy(self._network(obs), self._spec)

    def count_updates(self, num_updates: int) -> None:
        """The learner has done so many updates."""
        self._updates_behind += num_updates

    def state_dict(self) -> dict[str, Any]:
        """How far behind it is, and with what network."""
        return {"updates_behind": self._updates_behind, "network": self._network.state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Inverse of `state_dict`."""
        self._updates_behind = state["updates_behind"]
        self._network.restore(state["network"])


class ModuleNetwork:
    """The network of a module, its own or a copy.

    Args:
        source: the network of S seeds that is followed.
        is_copied: as it was at the last refresh; otherwise its Parameters are shared.
    """

    def __init__(
        self, source: nn.Module, *, is_copied: bool, recorded_phases: Phases | None = None
    ) -> None:
        self._source = source
        self._network = copy.deepcopy(source).requires_grad_(False) if is_copied else source
        self._network.eval()
        self._outputs = _outputs_of(self._network, recorded_phases)
        self._pairs = list(zip(_tensors(self._network), _tensors(source), strict=True))
        self._is_copied = is_copied

    @property
    def num_bytes(self) -> int:
        """Bytes of the copy, if it is one."""
        return sum(own.nbytes for own, _ in self._pairs) if self._is_copied else 0

    @torch.no_grad()
    def refresh(self) -> None:
        """Copy parameters and ranges."""
        self._take([theirs for _, theirs in self._pairs])

    def _take(self, values: Sequence[Tensor]) -> None:
        for (own, _), value in zip(self._pairs, values, strict=True):
            if own is not value:
                own.copy_(value)
        self._network.eval()

    def __call__(self, obs: ObsArray, /) -> FloatArray:
        """Outputs [S, A] at obs [S, *obs_shape]."""
        return self._outputs(obs)

    def state(self) -> list[Any]:
        """Its parameters and ranges."""
        return [own.clone() for own, _ in self._pairs] if self._is_copied else []

    @torch.no_grad()
    def restore(self, state: list[Any]) -> None:
        """Inverse of `state`."""
        if state:
            self._take(state)


def _greedy(outputs: FloatArray, spec: EnvSpec) -> ActionArray:
    """Actions [S, *action_shape] that outputs [S, A] say."""
    return outputs if spec.num_actions is None else outputs.argmax(axis=-1)


def _outputs_of(
    module: nn.Module, recorded_phases: Phases | None
) -> Callable[[ObsArray], FloatArray]:
    """What `module` computes in eval mode at one observation per seed, in whatever it can."""
    with suppress(ConversionError):
        return ArrayNetwork(module)
    if recorded_phases is not None:
        return RecordedOutputs(module, recorded_phases)
    device = next(module.parameters()).device

    @torch.no_grad()
    def outputs(obs: ObsArray, /) -> FloatArray:
        if module.training:
            module.eval()
        return module(torch.from_numpy(obs).unsqueeze(1).to(device))[:, 0].cpu().numpy()

    return outputs


def _tensors(module: nn.Module) -> list[Tensor]:
    return [*module.parameters(), *module.buffers()]


def _as_float(layer: layers.Seeded) -> nn.Module:
    """The layer that a quantized one was made from, with the same Parameters."""
    if not isinstance(layer, QuantLayer):
        return layer
    if layer.stride is None:
        return layers.Linear(layer.weight, layer.bias)
    return layers.Conv2d(layer.weight, layer.bias, layer.stride)
