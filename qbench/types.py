"""The words that every part of qbench shares: transitions, env descriptions, protocols.

Torch and Gymnasium appear in annotations only: checks before training import neither.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import gymnasium
    import torch
    from torch import Tensor, nn

FloatArray = npt.NDArray[np.floating[Any]]
IntArray = npt.NDArray[np.integer[Any]]
ObsArray = npt.NDArray[Any]
"""Observations: float32, or uint8 where `EnvSpec.obs_high` says so."""
ActionArray = npt.NDArray[Any]
"""Actions: int64 if Discrete, float32 if Box."""
Metrics = Mapping[str, "Tensor"]
"""Scalars of one update, one per seed: name -> [S]."""
State = dict[str, Any]
"""What `state` gives and `load_state` takes, to continue where a training was stopped: tensors,
arrays, numbers, strings, and lists and dicts of them. A checkpoint hands arrays back as tensors."""


class Stateful(Protocol):
    """Something that changes in training and can be put back as it was, bit for bit."""

    def state(self) -> State:
        """What changes; may share memory with the original."""
        ...

    def load_state(self, state: State) -> None:
        """Become what `state` tells; the object is newly built from the same config."""
        ...


class Transition(NamedTuple):
    """A minibatch of transitions, leading axes [S, B].

    Truncation is not stored: a truncated episode bootstraps from its final `next_obs`
    (Pardo et al. 2018, https://arxiv.org/abs/1712.00378).
    """

    obs: Tensor  # [S, B, *obs_shape] float32, or uint8 if `EnvSpec.obs_high` says so
    action: Tensor  # [S, B] int64 if Discrete, [S, B, A] float32 if Box
    reward: Tensor  # [S, B] float32
    terminated: Tensor  # [S, B] bool
    next_obs: Tensor  # as obs


@dataclass(frozen=True, kw_only=True)
class EnvSpec:
    """What the rest of qbench needs to know of an env.

    Images are [planes, height, width] bytes; `frame_stack` of them in a row, oldest first,
    are one observation [frame_stack * planes, height, width].
    """

    id: str
    obs_shape: tuple[int, ...]
    obs_high: int | None = None  # observations are uint8 in [0, obs_high]; None: float32
    frame_stack: int = 1
    num_actions: int | None = None  # of a Discrete action space; None: a Box
    action_low: tuple[float, ...] = ()  # of a Box
    action_high: tuple[float, ...] = ()
    max_episode_steps: int | None = None

    @property
    def action_shape(self) -> tuple[int, ...]:
        """Shape of one action: () if Discrete, (A,) if Box."""
        return () if self.num_actions is not None else (len(self.action_low),)

    @property
    def transition_bytes(self) -> int:
        """Bytes of one seed's transition in replay (`qbench.replay`).

        Vectors are float32 rows of obs, next_obs, action, reward and terminated; of images
        every frame is stored once, with action, reward and three bytes of bookkeeping.
        """
        obs, action = math.prod(self.obs_shape), 4 * math.prod(self.action_shape)
        if self.obs_high is None:
            return 4 * 2 * obs + action + 4 + 4
        return obs // self.frame_stack + action + 4 + 3


class Stepped(NamedTuple):
    """What S envs answer to one action each."""

    next_obs: ObsArray  # [S, *obs_shape]: the observation the action led to, final ones included
    obs: ObsArray  # [S, *obs_shape]: where the next action is chosen; a reset's where one ended
    reward: npt.NDArray[np.float32]  # [S], what is learned from
    terminated: npt.NDArray[np.bool_]  # [S], cuts bootstrapping
    ended: npt.NDArray[np.bool_]  # [S], `obs` is the first of another episode
    score: npt.NDArray[np.float64]  # [S], reward as the env's own rules count it
    is_over: npt.NDArray[np.bool_]  # [S], the env's own episode is over (a life is not a game)


class Envs(Protocol):
    """S envs in lockstep, each with its own generator; whoever has ended is reset at once."""

    def reset(self, seeds: Sequence[int]) -> ObsArray:
        """First observations [S, *obs_shape]; seeds the generators."""
        ...

    def step(self, action: ActionArray) -> Stepped:
        """Step every env by its action [S, *action_shape]."""
        ...

    def state(self) -> list[State]:
        """What each env needs to go on from here."""
        ...

    def load_state(self, states: Sequence[State]) -> tuple[ObsArray, npt.NDArray[np.bool_]]:
        """Go on from there.

        Returns:
            The observations [S, *obs_shape] at which the next actions are chosen, and whether
            each env is known to be where it was [S].
        """
        ...

    def close(self) -> None:
        """Free what the envs hold."""
        ...


class EnvFactory(Protocol):
    """What `conf/env` describes."""

    def describe(self) -> EnvSpec:
        """Shapes and limits."""
        ...

    def make(self) -> gymnasium.Env[Any, Any]:
        """One env as it is evaluated, its observations as `describe` says."""
        ...

    def make_training(self, num_seeds: int) -> Envs:
        """The envs of a population as they are trained on."""
        ...


class Policy(Protocol):
    """Greedy actions of S agents: obs [S, B, *obs_shape] -> actions [S, B, *action_shape]."""

    def __call__(self, obs: ObsArray, /) -> ActionArray: ...


class BehaviourPolicy(Protocol):
    """What the envs are acted on with in training, before exploration."""

    @property
    def num_bytes(self) -> int:
        """Bytes that it takes beside the learner's networks, all seeds."""
        ...

    def __call__(self, obs: ObsArray, /) -> ActionArray:
        """Greedy actions [S, *action_shape] at obs [S, *obs_shape]."""
        ...

    def count_updates(self, num_updates: int) -> None:
        """The learner has done so many updates."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Tensors and plain numbers."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Inverse of `state_dict`."""
        ...


class Exploration(Stateful, Protocol):
    """What is done instead of the greedy action, or added to it."""

    def __call__(self, greedy: Callable[[], ActionArray], env_step: int) -> ActionArray:
        """Actions [S, *action_shape]; `greedy` gives the learner's."""
        ...

    def rates(self, env_step: int) -> dict[str, float]:
        """What is recorded of the exploration at `env_step`."""
        ...


class Optimizer(Protocol):
    """What averaging, the ledger and checkpoints see of an optimizer."""

    flat: Tensor
    """[S, P]: all parameters of one network."""
    grad: Tensor

    @property
    def adam(self) -> torch.optim.Optimizer:
        """The optimizer of torch."""
        ...

    def moments(self) -> list[Tensor]:
        """The moments it keeps."""
        ...


class Learner(Stateful, Protocol):
    """An algorithm over S seeds. It knows nothing of quantization, env libraries or Lightning."""

    network: nn.Module
    """The network that acts and is deployed."""
    alive: Tensor
    """[S] bool: False once a seed's loss or gradient was not finite; the seed is then frozen."""

    def trained(self) -> dict[str, nn.Module]:
        """The networks that are trained, by name; `network` is the deployed one."""
        ...

    def targets(self) -> dict[str, nn.Module]:
        """Their target networks, by name."""
        ...

    def optimizers(self) -> Sequence[Optimizer]:
        """One per trained network, in the same order; that of `network` comes first."""
        ...

    def losses(self, batch: Transition) -> Iterable[Tensor]:
        """Each loss [S] of one update, one after the other, without a step."""
        ...

    def update(self, batch: Transition) -> Metrics:
        """One gradient step for every seed on its own minibatch; reports at least `loss`."""
        ...

    def act(self, obs: Tensor) -> Tensor:
        """Greedy actions [S, B, *action_shape] at obs [S, B, *obs_shape]; moves no range.

        Those that `network` says, as when it collects and is deployed: the action of its greatest
        output, or with a Box its outputs.
        """
        ...

    def sync_target(self, tau: float) -> None:
        """Move the target network towards the online one; 1 copies it."""
        ...

    def set_learning_rate(self, learning_rate: float) -> None:
        """Learning rate of the following updates."""
        ...


@runtime_checkable
class RecordableLearner(Learner, Protocol):
    """A learner whose updates can be recorded as CUDA graphs, which then run none of its Python.

    Updates of one turn are the same operations on the same memory; none waits for its results.
    """

    @property
    def turn(self) -> int:
        """Which of its different updates comes next."""
        ...

    def count_update(self) -> None:
        """An update was replayed: what Python would have counted in it."""
        ...


class IntegerPolicy(Protocol):
    """A converted network of one agent: plain arrays, no torch."""

    def __call__(self, obs: ObsArray, /) -> FloatArray:
        """Outputs [B, A] float32 at obs [B, *obs_shape]: action values, or actions of a Box."""
        ...

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """Everything that has to be stored to run the network."""
        ...


class QuantScheme(Protocol):
    """prepare -> train -> calibrate -> convert, each a transform of any network.

    A scheme whose class is called PTQ-something trains nothing of its own: it takes the
    agents of the `none` cell. The name tells, because sweeps are planned without importing it.
    """

    def prepare(self, module: nn.Module) -> nn.Module:
        """Swap layers for quantized ones that hold the same Parameters under the same names."""
        ...

    def calibrate(self, module: nn.Module, batches: Iterable[Tensor]) -> None:
        """Set the ranges of a prepared module from batches of obs [S, B, *obs_shape]."""
        ...

    def convert(self, module: nn.Module) -> IntegerPolicy:
        """The deployed form of a population of one (see `layers.take_seed`)."""
        ...


@runtime_checkable
class PhasedScheme(Protocol):
    """A scheme whose networks change what they are in the course of training."""

    def advance(self, module: nn.Module, env_step: float, *, is_target: bool) -> None:
        """Make a prepared network what it is at `env_step`."""
        ...

    def next_change(self, env_step: float) -> float:
        """The next env step at which `advance` would change something; infinity if none."""
        ...
